//! The handle by which a sweep sends probes and hears their answers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use chitchat::transport::Transport;
use tokio::sync::broadcast;
use tokio::task::JoinSet;

use super::keys::GossipKeys;
use super::network::{Network, UdpNetwork};
use super::seal::Sealer;
use super::task::StartError;
use super::transport::{Link, SealedTransport};
use crate::edge::clock;

/// Knocks at addresses that nobody was heard from. Only holders of the key answer.
#[derive(Clone)]
pub struct Prober {
    link: Arc<Link>,
    /// What receives, where no gossip does.
    _receives: Option<Arc<JoinSet<()>>>,
}

impl Prober {
    /// One that goes through a gossip's own socket.
    pub(super) fn of(link: Arc<Link>) -> Self {
        Self { link, _receives: None }
    }

    /// One that needs no gossip: on a free port of its own, for a command beside the agent.
    ///
    /// # Errors
    /// When no socket can be had, or the kernel has no random bytes.
    pub async fn alone(keys: &GossipKeys, cluster: &str, listen: SocketAddr) -> Result<Self, StartError> {
        let bound = UdpNetwork.bind(listen).await;
        let wire = bound.map_err(|source| StartError::Bind { address: listen, source })?;
        let session = clock::random().map_err(StartError::Random)?;
        let secret = clock::random().map_err(StartError::Random)?;
        let sealer = Sealer::new(keys, cluster, session, secret);
        let link = Arc::new(Link::new(sealer, Duration::from_secs(1)));
        let transport = SealedTransport { link: Arc::clone(&link), wire };
        let opened = transport.open(listen).await;
        let failed = |error: anyhow::Error| io::Error::other(error.to_string());
        let mut socket =
            opened.map_err(|error| StartError::Bind { address: listen, source: failed(error) })?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { while socket.recv().await.is_ok() {} });
        Ok(Self { link, _receives: Some(Arc::new(tasks)) })
    }

    /// Sends one probe. `source` is the address that it leaves from, which the answer goes to.
    ///
    /// # Errors
    /// Whatever the system said; nothing was sent.
    pub async fn probe(&self, source: IpAddr, to: SocketAddr) -> io::Result<()> {
        self.link.probe(source, to).await
    }

    /// The addresses that answer from here on.
    #[must_use]
    pub fn answers(&self) -> broadcast::Receiver<SocketAddr> {
        self.link.here()
    }
}
