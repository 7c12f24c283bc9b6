//! Brings the real world up from settings: address, ledger, gossip, probes. Whatever is in the way is named, and tried again
//! by the caller; nothing is half-done by a failure.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ring::signature::Ed25519KeyPair;
use tokio::sync::Notify;

use super::metrics::Metrics;
use super::scribe::Scribe;
use super::{Real, SharedLedger, alike, background, chain, lock, tell};
use crate::config::{Seed, Settings};
use crate::core::{Known, Why};
use crate::discovery::{self, Counts, Discovery, Means, Surroundings};
use crate::edge::http::Http;
use crate::edge::{clock, fs, netif, systemd};
use crate::engine::Watcher;
use crate::gossip::{Gossip, GossipConfig, GossipKeys, GroupNetwork, Network, Signer, UdpNetwork};
use crate::identity::Fingerprint;
use crate::identity::keys::{ClusterKeys, KeyRing};
use crate::identity::marks::tells_nothing;
use crate::k3s::Paths;
use crate::k3s::fetch::RunIt;
use crate::k3s::probe::Probe;
use crate::k3s::spec::Passwords;
use crate::ledger::{Ledger, LedgerError};
use crate::report::Timeline;
use crate::report::decisions::derive::of_start;

/// A world that is up.
pub type Begun = Real;

/// What was in the way. The caller shows it and tries again.
#[derive(Debug)]
pub struct StartFailure {
    /// The reason, as `muster why` prints it.
    pub why: Why,
}

fn failure(rule: &'static str, detail: impl Into<Cow<'static, str>>, next: &'static str) -> StartFailure {
    StartFailure { why: Why::new(rule, detail, next) }
}

/// Brings the world up.
///
/// # Errors
/// With the first thing in the way; what was opened before it is closed again.
pub async fn begin(settings: &Settings) -> Result<Real, StartFailure> {
    let name = node_name(settings)?;
    let chosen = node_address(settings).map_err(|error| {
        let rule = match error {
            netif::AddressError::NoRoute => "no-default-route",
            _ => "no-node-address",
        };
        failure(
            rule,
            error.to_string(),
            "add a default route, or set node-ip or interface; looked at again by itself",
        )
    })?;
    tracing::info!(address = %chosen, "node address");
    let address = chosen.ip;
    let init = match systemd::detect() {
        Known::Yes(init) => init,
        Known::Absent => {
            return Err(failure(
                "no-init-system",
                "neither systemd nor OpenRC runs here",
                "k3s runs as a service of one of them",
            ));
        }
        Known::Unknown(unread) => {
            return Err(failure("no-init-system", unread.to_string(), "looked at again by itself"));
        }
    };
    let ledger = open_ledger(settings)?;
    let id = ledger.key().id().clone();
    let signer = signer(&ledger)?;
    let ledger: SharedLedger = Arc::new(Mutex::new(ledger));

    let keys = ClusterKeys::derive(&settings.cluster, &settings.token);
    let passwords = Passwords {
        server: settings.k3s.token.clone().unwrap_or_else(|| keys.server_password.clone()),
        agent: settings.k3s.agent_token.clone().unwrap_or_else(|| keys.agent_password.clone()),
    };
    let gossip = start_gossip(settings, address, signer, &ledger).await?;
    let view = gossip.view();
    let wake = Arc::new(Notify::new());
    let http = Arc::new(Http::new());
    let program = std::env::current_exe().ok();
    let paths =
        Paths::new(&settings.k3s.data_dir, &settings.state_dir).with_muster_run_from(program.as_deref());
    let probe = probe(&paths, &name, &passwords, &init, &http);
    let started = clock::since_boot();
    let mut scribe = Scribe::new(&settings.state_dir);
    scribe.note(&of_start(&id, &name, lock(&ledger).record()));
    let discovery = discover(settings, &gossip, &ledger, &wake);
    let host = background::Host::new(view.clone(), Arc::clone(&wake));
    Ok(Real {
        settings: settings.clone(),
        shared: Arc::new(settings.parameters().into()),
        paths,
        id,
        name,
        address,
        second: chosen.second,
        ledger,
        gossip,
        view,
        wake: Arc::clone(&wake),
        http,
        init,
        probe,
        passwords,
        host,
        fetch: background::Fetch::new(wake),
        discovery,
        k3s: None,
        checks: std::collections::BTreeMap::new(),
        members: None,
        api: std::collections::BTreeMap::new(),
        watcher: Watcher::new(started),
        claim: None,
        marks: alike::marks(settings, &chosen.interface),
        alike: Vec::new(),
        ordered: None,
        survey: super::survey::Survey::new(),
        reset: super::recover::Reset::default(),
        healing: crate::heal::Watch::default(),
        certificates: None,
        restarted: None,
        verdicts: std::collections::BTreeMap::new(),
        teller: tell::Teller::new(&settings.run_dir),
        scribe,
        metrics: Metrics::default(),
        timeline: Timeline::new(started),
    })
}

/// The node's address under these settings, as `muster run` and `muster doctor` choose it.
///
/// # Errors
/// As [`netif::choose`].
pub fn node_address(settings: &Settings) -> Result<netif::Choice, netif::AddressError> {
    let literal = |seed: &Seed| match seed {
        Seed::Address(address) => Some(*address),
        // A name may not resolve yet, and the choice must not depend on when it does.
        Seed::Name(..) => None,
    };
    let seeds: Vec<SocketAddr> = settings.seeds.iter().filter_map(literal).collect();
    let wish = netif::Wish {
        ips: &settings.node_ips,
        interface: settings.interface.as_deref(),
        v6_first: settings.k3s.cluster_cidr.split(',').next().is_some_and(|pods| pods.contains(':')),
        both: settings.k3s.cluster_cidr.contains(','),
    };
    netif::node_address(wish, &seeds)
}

/// The look at k3s under a node's name.
pub(super) fn probe(
    paths: &Paths,
    name: &str,
    passwords: &Passwords,
    init: &Arc<dyn systemd::Init>,
    http: &Arc<Http>,
) -> Probe {
    let password = Some(passwords.server.clone());
    Probe::new(paths.clone(), name.to_owned(), password, Arc::clone(init), Arc::new(RunIt), Arc::clone(http))
}

/// The node's name, lower-cased as Kubernetes wants it.
pub(super) fn node_name(settings: &Settings) -> Result<String, StartFailure> {
    let name = match &settings.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()
            .map_err(|error| {
                failure("host-name", format!("the host name cannot be read: {error}"), "set node-name")
            })?
            .to_string_lossy()
            .into_owned(),
    };
    let name = name.to_ascii_lowercase();
    if name.is_empty() || name == "localhost" || name.starts_with("localhost.") {
        let detail =
            format!("the host name is {name:?}, and every node of a cluster needs a name of its own");
        return Err(failure(
            "host-name",
            detail,
            "set the host name, or node-name; looked at again by itself",
        ));
    }
    Ok(name)
}

fn open_ledger(settings: &Settings) -> Result<Ledger, StartFailure> {
    let ledger = Ledger::open(&settings.state_dir, &settings.cluster, &fingerprint()).map_err(|error| {
        let detail = chain(&error);
        match error {
            LedgerError::Damaged { .. } => {
                let next = "an unreadable ledger is not an empty one: restore it, or move the state directory away to start \
                            anew as another node";
                failure("ledger-unreadable", detail, next)
            }
            LedgerError::Held { .. } => failure("already-running", detail, "stop the other one"),
            LedgerError::Io(_) | LedgerError::Key(_) => {
                let next = "make the state directory writable, with room for a few kilobytes; tried again by itself";
                failure("ledger-unwritable", detail, next)
            }
        }
    })?;
    if let Some(part) = ledger.cloned_from {
        tracing::warn!(
            differs = part,
            "the ledger was another machine's: put aside, and a new identity was made"
        );
    }
    Ok(ledger)
}

/// What tells this machine from others; a part that is empty or a known filler tells nothing.
pub(super) fn fingerprint() -> Fingerprint {
    let read = |path: &str| {
        let text = fs::known_text(Path::new(path)).yes().map(|text| text.trim().to_ascii_lowercase())?;
        (!tells_nothing(&text)).then_some(text)
    };
    Fingerprint { machine_id: read("/etc/machine-id"), product_uuid: read("/sys/class/dmi/id/product_uuid") }
}

fn signer(ledger: &Ledger) -> Result<Signer, StartFailure> {
    Ed25519KeyPair::from_pkcs8(ledger.key().pkcs8()).map(Signer::new).map_err(|_| {
        failure("ledger-unreadable", "the node key in the ledger is damaged", "restore the ledger")
    })
}

async fn start_gossip(
    settings: &Settings,
    address: IpAddr,
    signer: Signer,
    ledger: &SharedLedger,
) -> Result<Gossip, StartFailure> {
    let next = Arc::clone(ledger);
    let next_generation = move || lock(&next).next_generation().map_err(Into::into);
    let generation = next_generation().map_err(|error: Box<dyn std::error::Error + Send + Sync>| {
        failure(
            "ledger-unwritable",
            chain(error.as_ref()),
            "make the state directory writable; tried again by itself",
        )
    })?;
    let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let config = GossipConfig {
        cluster: settings.cluster.clone(),
        generation,
        next_generation: Arc::new(next_generation),
        listen: SocketAddr::new(any, settings.gossip_port),
        advertise: SocketAddr::new(address, settings.gossip_port),
        keys: gossip_keys(settings),
        signer,
        interval: Duration::from_millis(settings.timing.gossip_interval_ms),
        network: network(address),
    };
    Gossip::start(config).await.map_err(|error| {
        let next = "free the port, or set gossip-port on every machine; tried again by itself";
        failure("gossip-port-taken", chain(&error), next)
    })
}

/// Discovery beside the loop: it greets peers over gossip, and rings when it knows something new.
fn discover(settings: &Settings, gossip: &Gossip, ledger: &SharedLedger, changed: &Arc<Notify>) -> Discovery {
    let ledger = Arc::clone(ledger);
    let memory =
        move || Ok(lock(&ledger).record().peers.values().map(|peer| peer.address).collect::<Vec<_>>());
    let means = Means {
        port: settings.gossip_port,
        keys: gossip_keys(settings),
        prober: gossip.prober(),
        memory: Box::new(memory),
        announce: true,
    };
    // Jitter alone hangs on it: a kernel without randomness stops the start elsewhere.
    let dice = || clock::random().map_or(0, u64::from_be_bytes);
    let around = Surroundings {
        own: gossip.address(),
        counts: Counts { founders: settings.founders, servers: settings.servers },
        view: gossip.view(),
        meet: Box::new(gossip.greeter()),
        dice: Arc::new(dice),
        changed: Arc::clone(changed),
    };
    Discovery::start(discovery::sources(settings, means), around)
}

/// The keys of gossip under these settings.
pub(crate) fn gossip_keys(settings: &Settings) -> GossipKeys {
    let ring = KeyRing::gossip(&settings.cluster, &settings.token, settings.previous_token.as_ref());
    GossipKeys {
        seal: *ring.sealing().expose(),
        open: ring.iter().skip(1).map(|key| *key.expose()).collect(),
    }
}

/// The host's UDP; with IPv6 in the group by which sweeps reach all of the link.
fn network(address: IpAddr) -> Arc<dyn Network> {
    if address.is_ipv6()
        && let Ok((_, interface)) = netif::network_of(address)
    {
        return Arc::new(GroupNetwork { group: discovery::sweep::GROUP, interface });
    }
    Arc::new(UdpNetwork)
}
