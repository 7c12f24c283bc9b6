//! A lab: a switch, some hosts, and the layer they share.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::conf::Conf;
use crate::faults::{self, Fault};
use crate::host::Host;
use crate::net::{self, Net};
use crate::process::Process;
use crate::run::Run;
use crate::setup::binaries::Binaries;
use crate::setup::layer::Layer;
use crate::{cgroup, paths, sweep};

/// What a lab is made from.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// How many hosts.
    pub hosts: u8,
    /// The configuration that all get.
    pub conf: Conf,
    /// Whether `muster.service` starts at boot.
    pub enabled: bool,
    /// Whether k3s is already installed, for a cluster that is made by hand.
    pub bare_k3s: bool,
    /// Whether the lab belongs to this program alone, as a scenario's does: `down --all` leaves it while that runs.
    pub owned: bool,
}

/// A lab that exists on this machine. Kept as `lab.json` for later commands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lab {
    /// Its name.
    pub name: String,
    /// Servers wanted.
    pub servers: u8,
    /// Version of k3s.
    pub version: String,
    /// Whether k3s is a real one.
    pub real: bool,
    /// The hosts.
    pub hosts: Vec<Host>,
    owner: Option<Process>,
    layers: Vec<PathBuf>,
}

impl Spec {
    /// A lab of `hosts` hosts that want `servers` servers, with a configuration as a person would write it.
    #[must_use]
    pub fn new(name: &str, hosts: u8, servers: u8, binaries: &Binaries) -> Self {
        let minor = binaries.version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
        let mut conf = Conf {
            cluster: "lab".to_owned(),
            servers,
            founders: founders(hosts, servers),
            seeds: if hosts > 1 { seeds(hosts) } else { Vec::new() },
            version: binaries.version.clone(),
            disable: Vec::new(),
            kubelet_args: Vec::new(),
        };
        if binaries.real {
            // No image can be pulled in the lab; nodes are Ready without these.
            let packaged = ["coredns", "traefik", "servicelb", "local-storage", "metrics-server"];
            conf.disable = packaged.map(str::to_owned).to_vec();
            if cgroup::mode() == cgroup::Mode::V1 && minor.is_some_and(|minor| minor >= 35) {
                conf.kubelet_args = vec!["fail-cgroupv1=false".to_owned()];
            }
        }
        Self { name: name.to_owned(), hosts, conf, enabled: true, bare_k3s: false, owned: false }
    }
}

/// With `founders` votes a certificate is unique among fewer than twice as many machines: a larger group needs more.
fn founders(hosts: u8, servers: u8) -> Option<u8> {
    let needed = hosts / 2 + 1;
    (hosts > 1 && needed > servers).then_some(needed)
}

/// Seeds as a person would write them: most by address, one by name.
fn seeds(hosts: u8) -> Vec<String> {
    (1..=hosts).map(|index| if index == 3 { format!("node{index}") } else { net::address(index) }).collect()
}

impl Lab {
    /// Makes the switch, the common layer and the hosts; nothing is powered on.
    ///
    /// # Errors
    /// A lab of that name exists, or something cannot be made; what was made so far is removed.
    pub fn create(spec: &Spec, binaries: &Binaries, rootfs: &Path) -> Result<Self> {
        paths::check_name(&spec.name)?;
        if sweep::labs().contains(&spec.name) {
            bail!("a lab named `{0}` exists: `cargo lab down --name {0}` removes it", spec.name);
        }
        Self::build(spec, binaries, rootfs).inspect_err(|_| drop(sweep::remove(&spec.name)))
    }

    fn build(spec: &Spec, binaries: &Binaries, rootfs: &Path) -> Result<Self> {
        for dir in [paths::run_dir(&spec.name), paths::work_dir(&spec.name)] {
            fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        }
        disk_for(&paths::work_dir(&spec.name))?;
        let layer = Layer {
            lab: &spec.name,
            binaries,
            conf: &spec.conf,
            enabled: spec.enabled,
            bare_k3s: spec.bare_k3s,
        };
        let mut lab = Self {
            name: spec.name.clone(),
            servers: spec.conf.servers,
            version: binaries.version.clone(),
            real: binaries.real,
            hosts: Vec::new(),
            owner: if spec.owned { Process::current() } else { None },
            layers: vec![layer.build()?, rootfs.to_owned()],
        };
        lab.net().create()?;
        for index in 1..=spec.hosts {
            lab.add_host(index, &format!("node{index}"))?;
        }
        Ok(lab)
    }

    /// The lab of that name.
    ///
    /// # Errors
    /// There is none, or its record cannot be read.
    pub fn load(name: &str) -> Result<Self> {
        let file = paths::run_dir(name).join("lab.json");
        let Ok(text) = fs::read(&file) else {
            bail!("there is no lab named `{name}`: `cargo lab up` makes one");
        };
        serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))
    }

    fn save(&self) -> Result<()> {
        let file = paths::run_dir(&self.name).join("lab.json");
        fs::write(&file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("write {}", file.display()))
    }

    /// The running program that this lab belongs to.
    #[must_use]
    pub fn owner(&self) -> Option<i32> {
        self.owner.filter(|owner| owner.alive()).map(|owner| owner.pid)
    }

    /// The lab's network.
    #[must_use]
    pub fn net(&self) -> Net {
        Net::new(&paths::prefix(&self.name))
    }

    /// Adds a host with the same layers and an empty disk; it is not powered on. Gives a copy of it.
    ///
    /// # Errors
    /// The number is taken, or something cannot be made.
    pub fn add_host(&mut self, index: u8, name: &str) -> Result<Host> {
        if self.hosts.iter().any(|host| host.index == index) {
            bail!("host number {index} exists");
        }
        let host = Host {
            lab: self.name.clone(),
            index,
            name: name.to_owned(),
            layers: self.layers.clone(),
            real: self.real,
        };
        self.net().add_host(index)?;
        host.create_disk()?;
        self.hosts.push(host.clone());
        self.save()?;
        Ok(host)
    }

    /// The host of that number or name.
    ///
    /// # Errors
    /// There is none.
    pub fn host(&self, name: &str) -> Result<&Host> {
        if let Some(host) = self.hosts.iter().find(|host| host.name == name) {
            return Ok(host);
        }
        let index = faults::parse_host(name, &self.numbers())?;
        self.hosts.iter().find(|host| host.index == index).context("no such host")
    }

    /// The same lab seen as if it had only these hosts.
    #[must_use]
    pub fn part(&self, hosts: &[Host]) -> Self {
        Self { hosts: hosts.to_vec(), ..self.clone() }
    }

    /// The numbers of all hosts.
    #[must_use]
    pub fn numbers(&self) -> Vec<u8> {
        self.hosts.iter().map(|host| host.index).collect()
    }

    /// Powers hosts on, all at once.
    ///
    /// # Errors
    /// One of them cannot be powered on.
    pub fn start(&self, hosts: &[Host]) -> Result<()> {
        all(hosts, |host| host.start().map(drop))
    }

    /// Waits until the given hosts have booted.
    ///
    /// # Errors
    /// One of them does not boot in time.
    pub fn booted(&self, hosts: &[Host], within: Duration) -> Result<()> {
        all(hosts, |host| host.booted(within).map(drop))
    }

    /// Replaces all network faults by these.
    ///
    /// # Errors
    /// nft refuses them.
    pub fn set_faults(&self, faults: &[Fault]) -> Result<()> {
        self.net().load_rules(&faults::rules(faults))
    }

    /// Ends all network faults.
    ///
    /// # Errors
    /// nft fails.
    pub fn heal(&self) -> Result<()> {
        self.set_faults(&[])
    }

    /// Removes the lab from this machine.
    ///
    /// # Errors
    /// Something is left.
    pub fn destroy(&self) -> Result<()> {
        sweep::remove(&self.name)
    }
}

/// Does something with several hosts at the same time.
///
/// # Errors
/// The first failure, by the hosts' order; the others have still been tried.
pub fn all(hosts: &[Host], act: impl Fn(&Host) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = hosts.iter().map(|host| (host, scope.spawn(|| act(host)))).collect();
        let mut first = Ok(());
        for (host, thread) in threads {
            let result = thread.join().unwrap_or_else(|_| bail!("the thread for {} panicked", host.name));
            first = first.and(result.with_context(|| host.name.clone()));
        }
        first
    })
}

/// An overlay cannot have its upper layer on another overlay, as inside a container: there memory serves as disk.
fn disk_for(work: &Path) -> Result<()> {
    let kind = Run::new("stat").args(["-f", "-c", "%T"]).arg(work).ok()?;
    if kind.trim() == "overlayfs" {
        let memory = ["-t", "tmpfs", "-o", "mode=0755,size=75%", "tmpfs"];
        Run::new("mount").args(memory).arg(work).ok().context("mount memory for the hosts' disks")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_larger_than_its_servers_can_vouch_for_needs_more_founders() {
        let cases =
            [(1, 1, None), (5, 3, None), (6, 3, Some(4)), (7, 3, Some(4)), (5, 1, Some(3)), (3, 3, None)];
        for (hosts, servers, wanted) in cases {
            assert_eq!(founders(hosts, servers), wanted, "{hosts} hosts, {servers} servers");
        }
    }
}
