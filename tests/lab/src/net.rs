//! The lab's network: one switch namespace with a bridge, one namespace per host, a cable between.
//!
//! Every lab has a switch of its own, so labs may use the same addresses at the same time.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::run::Run;

/// The first three octets of every lab's network.
pub const NETWORK: &str = "10.77.0";
/// The address of the switch itself: the hosts' default gateway, and the lab's own place to ask from.
pub const GATEWAY: &str = "10.77.0.254";

/// The network of one lab.
#[derive(Debug, Clone)]
pub struct Net {
    prefix: String,
}

/// The address of host number `index`.
#[must_use]
pub fn address(index: u8) -> String {
    format!("{NETWORK}.{index}")
}

impl Net {
    /// The network of the lab whose names start with `prefix`; nothing is made yet.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The name of the switch's namespace.
    #[must_use]
    pub fn switch(&self) -> String {
        format!("{}sw", self.prefix)
    }

    /// The name of a host's namespace.
    #[must_use]
    pub fn host(&self, index: u8) -> String {
        format!("{}{index}", self.prefix)
    }

    /// The file by which nspawn enters a host's namespace.
    #[must_use]
    pub fn host_path(&self, index: u8) -> PathBuf {
        PathBuf::from("/run/netns").join(self.host(index))
    }

    /// The name of the switch's port towards a host.
    #[must_use]
    pub fn port(index: u8) -> String {
        format!("p{index}")
    }

    /// Makes the switch.
    ///
    /// # Errors
    /// `ip` fails: no root, no bridge in the kernel, or the namespace exists.
    pub fn create(&self) -> Result<()> {
        let sw = self.switch();
        Run::new("ip").args(["netns", "add", &sw]).ok().context("make the switch's namespace")?;
        batch(
            &sw,
            &format!(
                "link set lo up\nlink add br0 type bridge\naddr add {GATEWAY}/24 dev br0\nlink set br0 up\n"
            ),
        )
    }

    /// Makes a host's namespace and plugs it into the switch.
    ///
    /// # Errors
    /// `ip` fails, or the host exists.
    pub fn add_host(&self, index: u8) -> Result<()> {
        let (sw, host, port) = (self.switch(), self.host(index), Self::port(index));
        Run::new("ip").args(["netns", "add", &host]).ok()?;
        batch(
            &sw,
            &format!(
                "link add {port} type veth peer name host0 netns {host}\nlink set {port} master br0 up\n"
            ),
        )?;
        batch(
            &host,
            &format!("link set lo up\naddr add {}/24 dev host0\nlink set host0 up\n", address(index)),
        )?;
        self.default_route(index, true)
    }

    /// Gives a host another address, as a lease that ran out would.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn readdress(&self, index: u8, from: &str, to: &str) -> Result<()> {
        batch(
            &self.host(index),
            &format!(
                "link set host0 up\naddr del {from}/24 dev host0\naddr add {to}/24 dev host0\nroute replace default via {GATEWAY} dev host0\n"
            ),
        )
    }

    /// Adds or removes a host's default route.
    ///
    /// # Errors
    /// `ip` fails, for one because there is nothing to remove.
    pub fn default_route(&self, index: u8, present: bool) -> Result<()> {
        let verb = if present { "add" } else { "del" };
        batch(&self.host(index), &format!("route {verb} default via {GATEWAY}\n"))
    }

    /// Removes a host's namespace, and with it its cable.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn remove_host(&self, index: u8) -> Result<()> {
        Run::new("ip").args(["netns", "del", &self.host(index)]).ok().map(drop)
    }

    /// Loads a text into nft in the switch's namespace.
    ///
    /// # Errors
    /// nft refuses the text.
    pub fn load_rules(&self, rules: &str) -> Result<()> {
        Run::new("ip")
            .args(["netns", "exec", &self.switch(), "nft", "-f", "-"])
            .input(rules)
            .ok()
            .map(drop)
            .context("load the switch's rules")
    }

    /// A program that runs on the switch, which reaches every host whatever the partition.
    #[must_use]
    pub fn on_switch(&self, program: &str) -> Run {
        Run::new("ip").args(["netns", "exec", &self.switch(), program])
    }
}

/// Names of all namespaces on this machine that start with `prefix`.
///
/// # Errors
/// `ip` fails.
pub fn namespaces(prefix: &str) -> Result<Vec<String>> {
    let text = Run::new("ip").args(["netns", "list"]).ok()?;
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    Ok(names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
}

/// Removes one namespace by name.
///
/// # Errors
/// `ip` fails.
pub fn remove_namespace(name: &str) -> Result<()> {
    Run::new("ip").args(["netns", "del", name]).ok().map(drop)
}

fn batch(namespace: &str, commands: &str) -> Result<()> {
    Run::new("ip")
        .args(["-n", namespace, "-batch", "-"])
        .input(commands)
        .ok()
        .map(drop)
        .with_context(|| format!("set up namespace {namespace}"))
}
