//! Multicast DNS on the local network: this node announces itself, and listens to others. Names are random and the payload is
//! sealed: who has no key learns that some machine runs Muster, and not of which group.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mdns_sd::{IfKind, ServiceDaemon, ServiceEvent, ServiceInfo};

use super::pace::Pace;
use super::{Failure, Found, MOST_OF_ONE, Origin, Scene, Source};
use crate::edge::clock;
use crate::gossip::GossipKeys;
use crate::gossip::note::{open_note, seal_note};

/// The service type.
const SERVICE: &str = "_muster._udp.local.";
/// The property that holds the sealed address.
const PROPERTY: &str = "s";
/// How long the first look waits for answers.
const WAIT: Duration = Duration::from_millis(1_500);
/// How often the announcements are read while it waits.
const EVERY: Duration = Duration::from_millis(100);

pub(super) struct Mdns {
    pub(super) keys: GossipKeys,
    pub(super) cluster: String,
    /// Whether this node announces itself: a command beside the agent only listens.
    pub(super) announce: bool,
    pub(super) running: Option<Running>,
}

pub(super) struct Running {
    daemon: ServiceDaemon,
    own: SocketAddr,
    peers: Peers,
}

/// Addresses by the name of their announcement.
type Peers = Arc<Mutex<BTreeMap<String, SocketAddr>>>;

impl Drop for Running {
    fn drop(&mut self) {
        // Its thread says goodbye on the network, and ends.
        let _ = self.daemon.shutdown();
    }
}

#[async_trait]
impl Source for Mdns {
    fn name(&self) -> String {
        "mdns".to_owned()
    }

    fn origin(&self) -> Origin {
        Origin::Sealed
    }

    fn pace(&self) -> Pace {
        // A look only reads what the thread has heard meanwhile.
        Pace::of(4_000, 1_000, 5, 60)
    }

    async fn look(&mut self, scene: &Scene) -> Result<Found, Failure> {
        if self.running.as_ref().is_some_and(|running| running.own != scene.own) {
            self.running = None;
        }
        let running = match self.running.take() {
            Some(running) => self.running.insert(running),
            None => {
                let begun = self.begin(scene.own).map_err(Failure::new)?;
                let running = self.running.insert(begun);
                let end = tokio::time::Instant::now() + WAIT;
                while tokio::time::Instant::now() < end && running.addresses(scene.own).is_empty() {
                    tokio::time::sleep(EVERY).await;
                }
                running
            }
        };
        Ok(Found { addresses: running.addresses(scene.own), ..Found::default() })
    }
}

impl Running {
    fn addresses(&self, own: SocketAddr) -> Vec<SocketAddr> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.values().copied().filter(|address| *address != own).collect()
    }
}

impl Mdns {
    fn begin(&self, own: SocketAddr) -> Result<Running, String> {
        let said = |error: mdns_sd::Error| format!("mDNS: {error}");
        let daemon = ServiceDaemon::new().map_err(said)?;
        // The interface of this node's address, and no other: containers' bridges are not the group's network.
        daemon.disable_interface(IfKind::All).map_err(said)?;
        daemon.enable_interface(IfKind::Addr(own.ip())).map_err(said)?;
        if self.announce {
            let name: [u8; 16] = clock::random().map_err(|error| error.to_string())?;
            let nonce = clock::random().map_err(|error| error.to_string())?;
            let sealed =
                seal_note(&self.keys, &self.cluster, nonce, own).ok_or("the address cannot be sealed")?;
            let (name, text) = (hex::encode(name), URL_SAFE_NO_PAD.encode(sealed));
            let host = format!("{name}.local.");
            let properties = [(PROPERTY, text.as_str())];
            let info = ServiceInfo::new(SERVICE, &name, &host, own.ip(), own.port(), &properties[..]);
            let mut info = info.map_err(said)?;
            // A name of 128 random bits needs no probing for others of that name.
            info.set_requires_probe(false);
            daemon.register(info).map_err(said)?;
        }
        let events = daemon.browse(SERVICE).map_err(said)?;
        let peers = Peers::default();
        let (heard, keys, cluster) = (Arc::clone(&peers), self.keys.clone(), self.cluster.clone());
        // Ends with the daemon, whose end closes the channel.
        std::thread::Builder::new()
            .name("mdns".to_owned())
            .spawn(move || {
                while let Ok(event) = events.recv() {
                    hear(&mut heard.lock().unwrap_or_else(PoisonError::into_inner), event, &keys, &cluster);
                }
            })
            .map_err(|error| format!("mDNS: {error}"))?;
        Ok(Running { daemon, own, peers })
    }
}

fn hear(peers: &mut BTreeMap<String, SocketAddr>, event: ServiceEvent, keys: &GossipKeys, cluster: &str) {
    match event {
        ServiceEvent::ServiceResolved(service) => {
            let text = service.get_property_val_str(PROPERTY).unwrap_or_default();
            let address = URL_SAFE_NO_PAD.decode(text).ok().and_then(|note| open_note(keys, cluster, &note));
            if let Some(address) = address
                && (peers.len() < MOST_OF_ONE || peers.contains_key(&service.fullname))
            {
                peers.insert(service.fullname.clone(), address);
            }
        }
        ServiceEvent::ServiceRemoved(_, name) => drop(peers.remove(&name)),
        _ => {}
    }
}
