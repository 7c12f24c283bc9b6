//! The survey of a server that serves: the Lease, the servers' Nodes, and a direct question to every member. It runs beside the
//! loop, because a dead machine answers nothing for seconds; the loop reads its latest findings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::lock;
use crate::core::{Known, Secret};
use crate::edge::http::{Ask, ClientCertificate, Http, HttpError, Show, Trust};
use crate::edge::{clock, fs};
use crate::heal::labels::Labelled;
use crate::heal::lease::{self, Memory, Todo};
use crate::heal::{CORDONED, HealSeen, Holder, IDENTITY, NodeSeen, ORDER, Order, Reach};
use crate::k3s::kube::{KubeApi, NodeInfo};
use crate::k3s::spec::server_url;
use crate::k3s::{K3sRole, Paths};

/// The pace while all is well.
const CALM: Duration = Duration::from_secs(3);
/// The pace while something is not.
const ALERT: Duration = Duration::from_secs(1);
/// Findings older than this count as unknown.
const FRESH: Duration = Duration::from_secs(12);
/// How often all Nodes are listed for their labels.
const LABELS: Duration = Duration::from_secs(60);
/// Bound on a direct question.
const QUESTION: Duration = Duration::from_millis(2_500);

/// The survey, running or not.
pub(super) struct Survey {
    state: Arc<Mutex<State>>,
    task: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    questions: Questions,
    at: Duration,
    lease: Option<Known<Holder>>,
    turn: Option<Known<Holder>>,
    nodes: Option<Known<Vec<NodeSeen>>>,
    reach: BTreeMap<IpAddr, Reach>,
    labelled: Option<(Duration, Vec<Labelled>)>,
    draining: Option<String>,
    drained: Option<String>,
}

/// What the loop wants to know.
#[derive(Debug, Clone, Default)]
pub(super) struct Questions {
    /// Addresses of the members.
    pub(super) ask: BTreeSet<IpAddr>,
    /// Their names.
    pub(super) names: BTreeSet<String>,
    /// Whether this server asks for its turn to restart k3s.
    pub(super) turn_wanted: bool,
}

impl Survey {
    pub(super) fn new() -> Self {
        Self { state: Arc::default(), task: None }
    }

    /// Runs while this node is a server that serves, and not otherwise.
    pub(super) fn keep(&mut self, wanted: bool, surveyor: impl FnOnce() -> Surveyor, questions: Questions) {
        lock(&self.state).questions = questions;
        match (&self.task, wanted) {
            (None, true) => {
                let (state, surveyor) = (Arc::clone(&self.state), surveyor());
                self.task = Some(tokio::spawn(async move { surveyor.run(&state).await }));
            }
            (Some(task), false) => {
                task.abort();
                self.task = None;
                let mut state = lock(&self.state);
                (state.lease, state.nodes) = (None, None);
                state.reach.clear();
            }
            _ => {}
        }
    }

    /// The latest findings.
    pub(super) fn fill(&self, now: Duration, seen: &mut HealSeen) {
        let state = lock(&self.state);
        seen.draining.clone_from(&state.draining);
        seen.drained.clone_from(&state.drained);
        if now.saturating_sub(state.at) > FRESH {
            return;
        }
        if let Some(lease) = &state.lease {
            seen.lease = lease.clone();
        }
        if let Some(turn) = &state.turn {
            seen.turn = turn.clone();
        }
        if let Some(nodes) = &state.nodes {
            seen.nodes = nodes.clone();
        }
        seen.reach.clone_from(&state.reach);
        seen.labelled = state.labelled.as_ref().map(|(_, nodes)| nodes.clone());
    }

    /// The labels were changed: what was listed is old.
    pub(super) fn forget_labels(&self) {
        lock(&self.state).labelled = None;
    }

    /// Moves the pods of a machine away beside the loop; its name stands under `draining` meanwhile, and under `drained` when
    /// that is done. False when another one is being drained.
    pub(super) fn drain(&self, surveyor: Surveyor, node: NodeInfo, at_most: Duration) -> bool {
        {
            let mut state = lock(&self.state);
            if state.draining.is_some() {
                return false;
            }
            state.draining = Some(node.name.clone());
            state.drained = None;
        }
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            let drained = match surveyor.kube() {
                Known::Yes(api) => api.drain(&node, at_most).await.map_err(|error| super::chain(&error)),
                Known::Absent => Err("there is no admin certificate".to_owned()),
                Known::Unknown(unread) => Err(unread.to_string()),
            };
            let mut state = lock(&state);
            state.draining = None;
            match drained {
                Ok(left) => {
                    if !left.is_empty() {
                        let left: Vec<&str> = left.iter().map(|pod| pod.name.as_str()).collect();
                        tracing::warn!(node = %node.name, ?left, "pods that were not moved in time go down with k3s");
                    }
                    state.drained = Some(node.name);
                }
                Err(error) if surveyor.role == K3sRole::Agent => {
                    // It leaves by a person's word, and does not wait for what it may be refused.
                    tracing::warn!(node = %node.name, %error, "the pods of this agent were not moved: they go down with k3s");
                    state.drained = Some(node.name);
                }
                Err(error) => {
                    tracing::warn!(node = %node.name, %error, "the machine was not drained; tried again")
                }
            }
            surveyor.wake.notify_one();
        });
        true
    }

    /// Whether a machine was drained by this agent, and nothing else since.
    pub(super) fn is_drained(&self, name: &str) -> bool {
        lock(&self.state).drained.as_deref() == Some(name)
    }

    /// A machine that is schedulable again is drained anew before the next change.
    pub(super) fn forget_drain(&self, name: &str) {
        lock(&self.state).drained.take_if(|drained| drained == name);
    }

    /// Ends it. The Lease is left to run out: whoever takes it looks for itself first.
    pub(super) fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Everything the survey needs, of its own.
#[derive(Clone)]
pub(super) struct Surveyor {
    pub(super) http: Arc<Http>,
    pub(super) paths: Paths,
    pub(super) id: String,
    pub(super) own: IpAddr,
    /// Whose certificate speaks to Kubernetes: only an agent that leaves asks with its kubelet's.
    pub(super) role: K3sRole,
    pub(super) target: usize,
    /// Whether the configuration asks for labels.
    pub(super) labels: bool,
    pub(super) wake: Arc<Notify>,
}

impl Surveyor {
    pub(super) fn kube(&self) -> Known<KubeApi<'_>> {
        let port = match self.role {
            K3sRole::Server => 6443,
            // Its balancer in front of the servers.
            K3sRole::Agent => 6444,
        };
        let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        KubeApi::local(&self.http, self.role, &self.paths, at)
    }

    async fn run(&self, state: &Mutex<State>) {
        let (mut memory, mut turns) = (Memory::default(), Memory::default());
        loop {
            let Questions { ask, names, turn_wanted } = lock(state).questions.clone();
            let (lease, nodes, reach) =
                tokio::join!(self.lease(lease::NAME, &mut memory), self.nodes(&names), self.reach_all(&ask));
            let turn = if turn_wanted {
                Some(self.lease(lease::TURN, &mut turns).await)
            } else {
                turns = Memory::default();
                None
            };
            let calm = self.is_calm(&lease, &nodes, &reach);
            if self.labels && lease.yes().is_some_and(|holder| holder.until.is_some()) {
                self.look_at_labels(state).await;
            }
            {
                let mut state = lock(state);
                let before = (state.lease.clone(), state.nodes.clone(), state.reach.clone());
                state.at = clock::since_boot();
                state.turn = turn;
                (state.lease, state.nodes, state.reach) = (Some(lease), Some(nodes), reach);
                // The Lease's own deadline moves with every renewal and is no news.
                let holder = |lease: &Option<Known<Holder>>| match lease {
                    Some(Known::Yes(holder)) => Some((holder.id.clone(), holder.until.is_some())),
                    _ => None,
                };
                let news = holder(&before.0) != holder(&state.lease)
                    || before.1 != state.nodes
                    || before.2 != state.reach;
                if news {
                    self.wake.notify_one();
                }
            }
            tokio::time::sleep(if calm { CALM } else { ALERT }).await;
        }
    }

    fn is_calm(
        &self,
        lease: &Known<Holder>,
        nodes: &Known<Vec<NodeSeen>>,
        reach: &BTreeMap<IpAddr, Reach>,
    ) -> bool {
        let nodes = match nodes {
            Known::Yes(nodes) => nodes,
            Known::Absent | Known::Unknown(_) => return false,
        };
        let well = |node: &NodeSeen| {
            node.ready == Known::Yes(true) && node.order.is_none() && !node.cordoned && !node.deleting
        };
        lease.yes().is_some()
            && nodes.iter().filter(|node| node.server).count() == self.target
            && nodes.iter().all(well)
            && reach.values().all(|reach| *reach == Reach::Answers)
    }

    async fn lease(&self, name: &str, memory: &mut Memory) -> Known<Holder> {
        let api = match self.kube() {
            Known::Yes(api) => api,
            Known::Absent => return Known::Absent,
            Known::Unknown(unread) => return Known::Unknown(unread),
        };
        let seen = match api.lease(name).await {
            Known::Yes(seen) => Some(seen),
            Known::Absent => None,
            Known::Unknown(unread) => {
                memory.lost();
                return Known::Unknown(unread);
            }
        };
        // The moment before the write counts: the Lease is never believed longer than it was written.
        let sent = clock::since_boot();
        let over = match memory.look(sent, &self.id, seen) {
            Todo::Wait => None,
            Todo::Create => Some(None),
            Todo::Take(seen) | Todo::Renew(seen) => Some(Some(seen)),
        };
        if let Some(over) = over {
            match api.write_lease(name, over.as_ref(), &self.id, &clock::wall_text()).await {
                Ok(()) => {
                    if over.as_ref().is_none_or(|seen| seen.holder != self.id) {
                        tracing::info!(lease = name, "this server holds the Lease now");
                    }
                    memory.written(sent);
                    return Known::Yes(Holder { id: self.id.clone(), until: memory.until() });
                }
                Err(error) => {
                    memory.lost();
                    tracing::debug!(%error, "the Lease was not written");
                }
            }
        }
        match memory.holder() {
            Some(holder) => Known::Yes(Holder { id: holder.to_owned(), until: memory.until() }),
            None => Known::Absent,
        }
    }

    /// Nodes with an etcd member, and Nodes that Muster cordoned: every order follows a cordon. A member's Node that is in neither
    /// list, because it lacks k3s's label, is asked for by its name: to be in no list is not to be.
    async fn nodes(&self, names: &BTreeSet<String>) -> Known<Vec<NodeSeen>> {
        let what = "the servers' Nodes";
        let api = match self.kube() {
            Known::Yes(api) => api,
            Known::Absent => return Known::unknown(what, "there is no admin certificate"),
            Known::Unknown(unread) => return Known::Unknown(unread),
        };
        let mut found: BTreeMap<String, NodeSeen> = BTreeMap::new();
        for selector in ["node-role.kubernetes.io/etcd=true", CORDONED] {
            match api.nodes(selector).await {
                Ok(nodes) => found.extend(nodes.iter().map(|node| (node.name.clone(), seen(node)))),
                Err(error) => return Known::unknown(what, super::chain(&error)),
            }
        }
        for name in names.iter().filter(|name| !name.is_empty()) {
            if found.contains_key(name) {
                continue;
            }
            match api.node(name).await {
                Known::Yes(node) => {
                    found.insert(name.clone(), seen(&node));
                }
                Known::Absent => {}
                Known::Unknown(unread) => return Known::Unknown(unread),
            }
        }
        Known::Yes(found.into_values().collect())
    }

    /// All Nodes with their labels: a long list in a large cluster, so once a minute.
    async fn look_at_labels(&self, state: &Mutex<State>) {
        let now = clock::since_boot();
        let due = |at: Duration| now.saturating_sub(at) >= LABELS;
        if lock(state).labelled.as_ref().is_some_and(|(at, _)| !due(*at)) {
            return;
        }
        let Known::Yes(api) = self.kube() else { return };
        match api.nodes("").await {
            Ok(nodes) => {
                let labelled = nodes.into_iter().filter(|node| !node.deleting).map(|node| Labelled {
                    server: node.roles.iter().any(|role| role == "etcd"),
                    name: node.name,
                    labels: node.labels,
                });
                lock(state).labelled = Some((now, labelled.collect()));
                self.wake.notify_one();
            }
            Err(error) => tracing::debug!(error = %super::chain(&error), "the Nodes' labels were not listed"),
        }
    }

    pub(super) async fn reach_all(&self, ask: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Reach> {
        let mut questions = tokio::task::JoinSet::new();
        for address in ask.iter().copied().filter(|address| *address != self.own) {
            let one = self.clone();
            questions.spawn(async move { (address, one.reach(address).await) });
        }
        questions.join_all().await.into_iter().collect()
    }

    /// Asks a server's supervisor, and its etcd if that says nothing. k3s's etcd speaks nothing but gRPC there, and whatever it says
    /// to HTTP is a sign of life: under the cluster's own authority, so that no other program passes for it.
    pub(super) async fn reach(&self, address: IpAddr) -> Reach {
        let supervisor = format!("{}/ping", server_url(address));
        let first = self.question(&supervisor, &Trust::Anyone, Show::Nothing).await;
        if first == Reach::Answers {
            return first;
        }
        let etcd = self.paths.data_dir.join("server/tls/etcd");
        let (ca, certificate, key) = (
            fs::known_text(&etcd.join("server-ca.crt")),
            fs::known_text(&etcd.join("client.crt")),
            fs::known_text(&etcd.join("client.key")).map(Secret::new),
        );
        let (Known::Yes(ca), Known::Yes(certificate), Known::Yes(key)) = (ca, certificate, key) else {
            return first;
        };
        let certificate = ClientCertificate::new(&certificate, &key);
        let url = format!("https://{}/health", SocketAddr::new(address, 2379));
        match self.question(&url, &Trust::Only(ca.into_bytes()), Show::Certificate(&certificate)).await {
            Reach::Answers => Reach::Answers,
            _ => first,
        }
    }

    async fn question(&self, url: &str, trust: &Trust, show: Show<'_>) -> Reach {
        match self.http.get(&Ask { url, trust, show, deadline: QUESTION, most_bytes: 64 * 1024 }).await {
            Ok(_) => Reach::Answers,
            Err(error) if error.spoke() && !matches!(trust, Trust::Anyone) => Reach::Answers,
            Err(HttpError::Refused { .. }) => Reach::Refuses,
            Err(_) => Reach::Silent,
        }
    }
}

fn seen(node: &NodeInfo) -> NodeSeen {
    NodeSeen {
        name: node.name.clone(),
        uid: node.uid.clone(),
        ready: node.ready.clone(),
        identity: node.annotations.get(IDENTITY).cloned(),
        order: node.labels.get(ORDER).and_then(|word| Order::read(word)),
        cordoned: node.labels.contains_key(CORDONED),
        server: node.roles.iter().any(|role| role == "etcd"),
        deleting: node.deleting,
        addresses: node.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
    }
}
