//! Steps: dull, idempotent, each with its guard.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{Real, chain, lock};
use crate::core::Known;
use crate::decide::{Act, K3sWanted};
use crate::edge::{clock, fs};
use crate::engine::Outcome;
use crate::gossip::Role;
use crate::heal::is_left_behind;
use crate::k3s::discard::{self, Reach};
use crate::k3s::kube::KubeApi;
use crate::k3s::spec::{K3sSpec, NodeNames, SpecError};
use crate::k3s::{K3sRole, place, render};
use crate::ledger::{Data, RecoveryStep};

/// How long k3s may take to stop; its own unit allows 90 s.
pub(super) const STOP: Duration = Duration::from_secs(95);

/// How soon a start is ordered again when the unit still does not run.
const START_AGAIN: Duration = Duration::from_secs(2);

fn k3s_role(role: Role) -> Option<K3sRole> {
    match role {
        Role::Server => Some(K3sRole::Server),
        Role::Agent => Some(K3sRole::Agent),
        Role::Undecided => None,
    }
}

impl Real {
    /// The guard of a step, asked just before it.
    pub(super) async fn guard(&self, act: &Act) -> Known<bool> {
        let data = lock(&self.ledger).record().data.clone();
        match act {
            // Only what the ledger on disk calls discarded is moved, whatever was planned.
            Act::Discard { .. } => Known::Yes(matches!(data, Data::Discarding { .. })),
            // `cluster-init` is written only under the ledger's word.
            Act::Configure { wanted: K3sWanted::Provisional } => {
                Known::Yes(matches!(data, Data::Provisional { .. }))
            }
            Act::Start { .. } => {
                let starts = |step: RecoveryStep| step == RecoveryStep::Starting;
                Known::Yes(match data {
                    Data::None | Data::Discarding { .. } => false,
                    Data::Recovering { step, .. } => starts(step),
                    Data::Provisional { .. } | Data::Joining { .. } | Data::Member { .. } => true,
                })
            }
            // A server that serves is never stopped so; an agent is, whose pods run on meanwhile.
            Act::Stop { role } => Known::Yes(match &data {
                Data::Joining { .. } | Data::Recovering { .. } => true,
                Data::Member { role: own, .. } => own == role && *own == Role::Agent,
                _ => false,
            }),
            Act::Restart { role } => {
                Known::Yes(matches!(&data, Data::Member { role: own, .. } if own == role))
            }
            // Only under the ledger's word, and never beside a k3s that runs.
            Act::ResetEtcd { number, attempt } => {
                let due = matches!(
                    &data,
                    Data::Recovering { number: due, attempt: now, step: RecoveryStep::Resetting, .. }
                        if due == number && now == attempt
                );
                if due { self.server_is_down().await } else { Known::Yes(false) }
            }
            // Only the role that the ledger no longer gives.
            Act::Retire { role } => {
                Known::Yes(matches!(&data, Data::Joining { role: wanted, .. } if wanted != role))
            }
            Act::RemoveNode { name, address, seen_dead, .. } => {
                self.guard_removal(name, *address, *seen_dead).await
            }
            _ => Known::Yes(true),
        }
    }

    /// The Node must not be this one, and must have the address from which the new machine of its name asks, or be an agent's. Where
    /// there is no Node, its password may have been left behind: k3s takes one before it registers the Node, and keeps it for ten
    /// minutes when none comes.
    async fn guard_removal(&self, name: &str, address: IpAddr, seen_dead: bool) -> Known<bool> {
        if name == self.name || address == self.address {
            return Known::Yes(false);
        }
        let api = match self.kube() {
            Known::Yes(api) => api,
            Known::Absent => return Known::Absent,
            Known::Unknown(unread) => return Known::Unknown(unread),
        };
        match api.node(name).await {
            Known::Yes(node) => {
                // Not `not Ready`: so is the newcomer's own Node in its first seconds, when its claim may still be the old one.
                let silent = is_left_behind(&node.ready);
                // An agent's machine may come back at another address: its Node holds no member, and one that lives writes it anew.
                let same_place = node.addresses.contains(&address.to_string());
                let agent = node.etcd_name.is_none() && !node.roles.iter().any(|role| role == "etcd");
                let allowed = if same_place { seen_dead || silent } else { agent && silent };
                Known::Yes(!node.deleting && allowed)
            }
            Known::Absent => Known::Yes(true),
            Known::Unknown(unread) => Known::Unknown(unread),
        }
    }

    pub(super) fn kube(&self) -> Known<KubeApi<'_>> {
        let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 6443);
        KubeApi::local(&self.http, K3sRole::Server, &self.paths, at)
    }

    pub(super) async fn act(&mut self, act: Act) -> Outcome {
        match act {
            Act::PrepareHost => {
                let runs = lock(&self.ledger).record().data != Data::None;
                if self.host.begin(&self.settings, runs) { Outcome::Begun } else { Outcome::AlreadySo }
            }
            Act::FetchK3s => {
                self.fetch.begin(&self.settings, &self.paths);
                Outcome::Begun
            }
            // A silent address is an answer too: the judgement reads it from the next look.
            Act::Check { address } => {
                self.check(address).await;
                Outcome::Done
            }
            Act::AskMembers { address, ca } => match self.ask_members(address, &ca).await {
                Known::Unknown(unread) => Outcome::Failed(unread.to_string()),
                Known::Yes(_) | Known::Absent => Outcome::Done,
            },
            Act::Configure { wanted } => self.configure(&wanted).await,
            Act::Start { role } => self.order(role, Order::Start).await,
            Act::Stop { role } => self.order(role, Order::Stop).await,
            Act::Enable { role } => self.order(role, Order::Enable).await,
            Act::Retire { role } => self.retire(role).await,
            Act::Restart { role } => self.restart(role).await,
            Act::Mark => self.mark().await,
            Act::Heal { remedy, why } => self.heal(remedy, &why).await,
            Act::ResetEtcd { number, attempt } => self.reset_etcd(number, attempt),
            Act::Discard { number } => self.discard(number).await,
            Act::RemoveNode { name, by, seen_dead, .. } => {
                self.remove_node(&name, by.short(), seen_dead).await
            }
        }
    }

    pub(super) fn spec(&self, wanted: &K3sWanted) -> Result<Option<K3sSpec>, SpecError> {
        let node = NodeNames {
            name: self.name.clone(),
            address: self.address,
            second: self.second,
            api_names: self.api_names(),
        };
        let (k3s, paths, passwords) = (&self.settings.k3s, &self.paths, &self.passwords);
        match wanted {
            K3sWanted::Provisional => K3sSpec::founder(&node, k3s, paths, passwords).map(Some),
            K3sWanted::InCluster { role: Role::Server, server, ca } => {
                K3sSpec::disarmed_server(&node, k3s, paths, passwords, ca, *server).map(Some)
            }
            K3sWanted::InCluster { role: Role::Agent, server: Some(server), ca } => {
                K3sSpec::agent(&node, k3s, paths, &passwords.agent, ca, *server).map(Some)
            }
            // An agent keeps its file while no server is known: its own balancer remembers the servers.
            K3sWanted::InCluster { .. } => Ok(None),
        }
    }

    fn api_names(&self) -> Vec<String> {
        let host = |url: &String| {
            let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            let host = rest.split('/').next().unwrap_or(rest);
            let host = host
                .rsplit_once(':')
                .filter(|(_, port)| port.parse::<u16>().is_ok())
                .map_or(host, |(host, _)| host);
            host.trim_matches(['[', ']']).to_owned()
        };
        self.settings.api_addresses.iter().map(host).collect()
    }

    async fn configure(&mut self, wanted: &K3sWanted) -> Outcome {
        let spec = match self.spec(wanted) {
            Ok(Some(spec)) => spec,
            Ok(None) => return Outcome::AlreadySo,
            Err(error) => return Outcome::Failed(chain(&error)),
        };
        let mut files = render::files(&spec, &self.paths);
        files.push(render::service_file(self.init.kind(), spec.role, &self.paths));
        // The unit comes last: while it is missing nothing can start on a half-written configuration.
        let written = match place::put(&files) {
            Ok(written) => written,
            Err(error) => return Outcome::Failed(chain(&error)),
        };
        if written.is_empty() {
            return Outcome::AlreadySo;
        }
        self.k3s = None;
        let unit = files.last().map(|file| &file.path);
        if unit.is_some_and(|unit| written.contains(unit))
            && let Err(error) = self.init.reload().await
        {
            return Outcome::Failed(chain(&error));
        }
        Outcome::Done
    }

    async fn order(&mut self, role: Role, order: Order) -> Outcome {
        let Some(role) = k3s_role(role) else { return Outcome::Refused("no role is decided".to_owned()) };
        let service = role.service();
        let result = match order {
            Order::Enable => {
                let enabled = self
                    .k3s
                    .as_ref()
                    .is_some_and(|(_, facts)| facts.unit(role).yes().is_some_and(|unit| unit.enabled));
                if enabled {
                    return Outcome::AlreadySo;
                }
                self.init.enable(service).await
            }
            Order::Stop => {
                self.ordered = None;
                self.init.stop(service, STOP).await
            }
            Order::Start => {
                // An order that was just given shows its effect only with the next looks.
                let now = clock::since_boot();
                if self.ordered.is_some_and(|at| now.saturating_sub(at) < START_AGAIN) {
                    return Outcome::AlreadySo;
                }
                self.ordered = Some(now);
                self.init.start(service).await
            }
        };
        self.k3s = None;
        match result {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    /// Stops k3s in a role that was given up, and keeps it from starting at boot in it. Its data stay: the other role takes them on.
    async fn retire(&mut self, role: Role) -> Outcome {
        let Some(role) = k3s_role(role) else { return Outcome::AlreadySo };
        self.ordered = None;
        self.k3s = None;
        for result in [self.init.disable(role.service()).await, self.init.stop(role.service(), STOP).await] {
            if let Err(error) = result {
                return Outcome::Failed(chain(&error));
            }
        }
        Outcome::Done
    }

    /// Stops k3s, keeps it from starting at boot, and moves what ties the machine to a cluster aside. Repeated until nothing
    /// is left to move.
    async fn discard(&mut self, number: u64) -> Outcome {
        // The armed configuration goes first: from here on a start by mistake founds nothing.
        if let Err(error) = fs::remove(&self.paths.config()) {
            return Outcome::Failed(chain(&error));
        }
        for role in [K3sRole::Server, K3sRole::Agent] {
            let service = role.service();
            let installed = self.init.states(&[service]).await.first().is_none_or(|state| !state.is_absent());
            if !installed {
                continue;
            }
            for result in [self.init.stop(service, STOP).await, self.init.disable(service).await] {
                if let Err(error) = result {
                    return Outcome::Failed(chain(&error));
                }
            }
        }
        let names = match discard::look(&self.paths) {
            Known::Yes(names) => names,
            Known::Absent => return Outcome::AlreadySo,
            Known::Unknown(unread) => return Outcome::Failed(unread.to_string()),
        };
        let moves = discard::plan(Reach::WholeCluster, &names, &self.paths);
        for step in &moves {
            tracing::warn!(number, from = %step.from.display(), to = %step.to.display(), "moved aside");
        }
        self.k3s = None;
        match discard::perform(&moves) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    async fn remove_node(&mut self, name: &str, by: &str, seen_dead: bool) -> Outcome {
        let (what, result) = match self.kube() {
            Known::Yes(api) => match api.node(name).await {
                Known::Yes(node) if !seen_dead && !is_left_behind(&node.ready) => {
                    return Outcome::Refused(format!("the kubelet of node {name} speaks"));
                }
                Known::Yes(node) => ("node", api.delete_node(name, &node.uid).await),
                Known::Absent => match api.node_password(name).await {
                    Known::Yes(uid) => ("node password", api.delete_node_password(name, &uid).await),
                    Known::Absent => return Outcome::AlreadySo,
                    Known::Unknown(unread) => return Outcome::Failed(unread.to_string()),
                },
                Known::Unknown(unread) => return Outcome::Failed(unread.to_string()),
            },
            Known::Absent => return Outcome::Failed("this server has no admin certificate yet".to_owned()),
            Known::Unknown(unread) => return Outcome::Failed(unread.to_string()),
        };
        match result {
            Ok(true) => {
                tracing::warn!(
                    node = name,
                    new_identity = by,
                    "{what} removed: a new machine of this name asks to join"
                );
                self.k3s = None;
                Outcome::Done
            }
            Ok(false) => Outcome::AlreadySo,
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }
}

#[derive(Clone, Copy)]
enum Order {
    Start,
    Stop,
    Enable,
}
