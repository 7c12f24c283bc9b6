//! What the parts of one running server share.

use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, watch};

use crate::datastore::Choice;
use crate::etcd::{Client, Process};
use crate::logs;
use crate::paths::Paths;
use crate::settings::Server;
use crate::store::Store;

/// How far the start has come; it decides what 6443 answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The listener is open, nothing is behind it: 503 `starting`.
    Prepare,
    /// The supervisor answers; the API: 503 `apiserver not ready`.
    Supervisor,
    /// The API answers; credentials count.
    Api,
    /// Controllers run: other nodes can get certificates.
    Core,
}

/// One running server.
pub struct Shared {
    /// Its settings.
    pub settings: Server,
    /// Its files.
    pub paths: Paths,
    /// Which datastore it runs on.
    pub choice: Choice,
    /// The password in force.
    pub password: String,
    /// How far the start has come.
    pub phase: watch::Sender<Phase>,
    /// Client of the local etcd member, from the moment etcd is being started or joined.
    pub etcd: OnceLock<Client>,
    /// The local etcd child.
    pub member: OnceLock<Process>,
    /// Name of the local etcd member.
    pub member_name: OnceLock<String>,
    /// Where API objects live.
    pub store: OnceLock<Store>,
    shutdown: mpsc::UnboundedSender<String>,
}

impl Shared {
    /// Before anything has started; the receiver yields reasons to shut down.
    pub fn new(
        settings: Server,
        paths: Paths,
        choice: Choice,
        password: String,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<String>) {
        let (shutdown, reasons) = mpsc::unbounded_channel();
        let shared = Self {
            settings,
            paths,
            choice,
            password,
            phase: watch::channel(Phase::Prepare).0,
            etcd: OnceLock::new(),
            member: OnceLock::new(),
            member_name: OnceLock::new(),
            store: OnceLock::new(),
            shutdown,
        };
        (Arc::new(shared), reasons)
    }

    /// Whether this server runs on embedded etcd.
    pub fn has_etcd(&self) -> bool {
        self.choice != Choice::Lone
    }
    /// How far the start has come.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }
    /// The peer URL of the local member.
    pub fn peer_url(&self) -> String {
        format!("https://{}", crate::network::join(&self.settings.agent.node_ip, 2380))
    }
    /// The store, once there is one.
    pub fn store(&self) -> Option<&Store> {
        self.store.get()
    }
    /// Ends the process in k3s's controlled way: an error line, exit status 0.
    pub fn request_shutdown(&self, reason: &str) {
        logs::error(format!("Shutdown request received: {}", logs::go_quote(reason)));
        let _ = self.shutdown.send(reason.to_owned());
    }
    /// Waits until the start has come this far.
    pub async fn reached(&self, phase: Phase) {
        let mut receiver = self.phase.subscribe();
        // The sender lives as long as this value does, so waiting cannot fail.
        let _ = receiver.wait_for(|p| *p >= phase).await;
    }
}
