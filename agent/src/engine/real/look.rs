//! Looks: one [`Observed`] from the ledger, the gossip view and the probes.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Real, lock};
use crate::core::{CaHash, ClusterId, Known, Why};
use crate::decide::{AnnulRequest, Binary, HostSeen, K3sSeen, MemberSeen, NodeFacts, Observed, UnitSeen};
use crate::edge::systemd::UnitState;
use crate::edge::{clock, fs};
use crate::gossip::{PeerView, Role};
use crate::k3s::facts::{K3sFacts, LiveFacts, Member};
use crate::k3s::gate::{GateLedger, may_start};
use crate::k3s::logtext::Finding;
use crate::k3s::spec::server_url;
use crate::k3s::supervisor::SupervisorApi;
use crate::k3s::{self, K3sRole, Paths};
use crate::ledger::{Data, Record, RecoveryStep};

/// Answers of other machines count this long.
const RECENT: Duration = Duration::from_secs(5);
/// How often a configured API address is asked while a founding is possible.
const API_AGAIN: Duration = Duration::from_secs(5);

/// Where `muster founding annul` leaves its request: in the state directory, which only root may write.
pub(crate) fn request_path(state_dir: &Path) -> PathBuf {
    state_dir.join("annul.json")
}

impl Real {
    pub(super) async fn look(&mut self) -> Observed {
        let now = clock::since_boot();
        let (record, id) = {
            let ledger = lock(&self.ledger);
            (ledger.record().clone(), self.id.clone())
        };
        let mut peers = (**self.view.borrow_and_update()).clone();
        peers.counters = self.gossip.counters();
        // Without random bytes no cluster id can be drawn; the fixed one is refused by nobody, so the look is tried again.
        let random: [u8; 32] = loop {
            match clock::random() {
                Ok(bytes) => break bytes,
                Err(error) => {
                    tracing::error!(%error, "cannot draw random bytes");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        };
        let dice = u64::from_be_bytes([
            random[24], random[25], random[26], random[27], random[28], random[29], random[30], random[31],
        ]);
        self.take_new_name(&record);
        if self.host.is_due(now) {
            self.host.begin(&self.settings, record.data != Data::None);
        }
        self.look_at_k3s(now, &record).await;
        self.look_at_api(now, &record).await;
        let k3s = self.k3s_seen(now);
        let wal = self.k3s.as_ref().map_or(Known::Absent, |(_, facts)| facts.disk.wal.clone());
        let watch = self.watcher.look(now, &peers, &record, &k3s, &wal, dice);
        let host = self.host_seen(&peers);
        self.checks.retain(|_, (at, _)| now.saturating_sub(*at) < RECENT);
        let kept = record.clone();
        let mut seen = Observed {
            now,
            fresh_cluster: ClusterId::from_digest(&random),
            node: NodeFacts {
                id,
                name: self.name.clone(),
                address: self.address,
                generation: record.generation,
                counter: self.claim.as_ref().map_or(0, |claim| claim.counter),
                fitness: self.host.class(),
            },
            annul: self.annulment_request(),
            record: Arc::new(record),
            host,
            peers: Arc::new(peers),
            shared: Arc::clone(&self.shared),
            watch,
            checks: self.checks.iter().map(|(address, (_, served))| (*address, served.clone())).collect(),
            members: match &self.members {
                Some((at, members)) if now.saturating_sub(*at) < RECENT => members.clone(),
                _ => Known::unknown("the members of the cluster", "not asked lately"),
            },
            api: self.api.iter().map(|(address, (_, answer))| (address.clone(), answer.clone())).collect(),
            k3s,
            discovery: self.discovery.seen(),
            heal: Arc::default(),
        };
        self.look_at_healing(&mut seen, &kept);
        self.look_at_recovery(&mut seen, &kept).await;
        seen
    }

    /// The host, and what it shares with others: said once in the log, and shown while it is so.
    fn host_seen(&mut self, peers: &PeerView) -> HostSeen {
        let alike = super::alike::alike(&self.marks, self.address, peers);
        for why in alike.iter().filter(|why| !self.alike.contains(why)) {
            tracing::warn!(rule = %why.rule, "{}: {}", why.detail, why.next);
        }
        self.alike.clone_from(&alike);
        let mut seen = self.host.seen();
        seen.short.extend(alike);
        seen
    }

    /// A machine that is renamed before it has any data of k3s takes the new name: a person mended a duplicate.
    fn take_new_name(&mut self, record: &Record) {
        if self.settings.node_name.is_some() || record.data != Data::None {
            return;
        }
        if let Ok(name) = super::start::node_name(&self.settings)
            && name != self.name
        {
            tracing::info!(from = %self.name, to = %name, "the host was renamed");
            self.name = name;
            self.probe =
                super::start::probe(&self.paths, &self.name, &self.passwords, &self.init, &self.http);
            self.k3s = None;
        }
    }

    /// What `muster founding annul` asked for; removed once its era is over.
    fn annulment_request(&self) -> Option<AnnulRequest> {
        let path = request_path(&self.settings.state_dir);
        let text = fs::known_text(&path);
        let request: AnnulRequest = serde_json::from_str(text.yes()?).ok()?;
        if request.era < lock(&self.ledger).record().era
            && let Err(error) = fs::remove(&path)
        {
            tracing::warn!(%error, "an annulment that was carried out could not be cleared");
        }
        Some(request)
    }

    /// Probes k3s as often as the moment asks for: several times a second while it comes up, every few seconds else.
    async fn look_at_k3s(&mut self, now: Duration, record: &Record) {
        let pace = match &record.data {
            Data::None => Duration::from_secs(2),
            Data::Member { .. } if record.served && self.is_well() => Duration::from_secs(4),
            _ => Duration::from_millis(400),
        };
        if self.k3s.as_ref().is_some_and(|(at, _)| now.saturating_sub(*at) < pace) {
            return;
        }
        let facts = self.probe.look().await;
        if facts.binary.is_absent() {
            self.fetch.gone();
        }
        // What was seen counts from the end of the look: a slow one must not be followed by another at once.
        self.k3s = Some((clock::since_boot(), facts));
    }

    fn is_well(&self) -> bool {
        self.k3s.as_ref().is_some_and(|(_, facts)| facts.node_ready() == Known::Yes(true))
    }

    /// A founding must not happen beside a cluster that answers at a configured address.
    async fn look_at_api(&mut self, now: Duration, record: &Record) {
        if record.certificate.is_some() {
            self.api.clear();
            return;
        }
        for address in &self.settings.api_addresses {
            let fresh = self.api.get(address).is_some_and(|(at, _)| now.saturating_sub(*at) < API_AGAIN);
            if !fresh {
                let answer = SupervisorApi::new(&self.http).cacerts_hash(address).await;
                self.api.insert(address.clone(), (now, answer));
            }
        }
    }

    fn k3s_seen(&self, now: Duration) -> K3sSeen {
        let mut binary = self.fetch.binary(now);
        if let (Binary::Fetching { progress }, Some(why)) = (&mut binary, self.fetch.failure()) {
            progress.push_str(&why.detail);
        }
        match &self.k3s {
            Some((_, facts)) => {
                let mut seen = seen(facts, binary);
                let refused = gated(facts, lock(&self.ledger).record(), &self.paths);
                seen.trouble.splice(0..0, refused);
                seen
            }
            None => unseen(binary),
        }
    }

    /// Asks an address for its CA now.
    pub(super) async fn check(&mut self, address: IpAddr) -> Known<CaHash> {
        let served = SupervisorApi::new(&self.http).cacerts_hash(&server_url(address)).await;
        self.checks.insert(address, (clock::since_boot(), served.clone()));
        served
    }

    /// Asks a server for its etcd members, verified against the CA of the certificate.
    pub(super) async fn ask_members(&mut self, address: IpAddr, ca: &CaHash) -> Known<Vec<MemberSeen>> {
        let api = SupervisorApi::new(&self.http);
        let base = server_url(address);
        let members = match api.cacerts(&base).await {
            Known::Yes(bundle) if bundle.hash() == ca => api
                .members(&base, &bundle, Some(&self.passwords.server))
                .await
                .map(|list| list.iter().map(member).collect()),
            Known::Yes(bundle) => {
                Known::unknown(base, format!("it serves CA {}, not the certificate's", bundle.hash().short()))
            }
            Known::Absent => Known::unknown(base, "nothing listens there"),
            Known::Unknown(unread) => Known::Unknown(unread),
        };
        self.members = Some((clock::since_boot(), members.clone()));
        members
    }
}

pub(super) fn member(member: &Member) -> MemberSeen {
    let host = member.peer_urls.iter().find_map(|url| {
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
        host.trim_matches(['[', ']']).parse::<IpAddr>().ok()
    });
    MemberSeen { node: member.node_name().to_owned(), learner: member.is_learner, address: host }
}

fn unit(state: &Known<UnitState>) -> Known<UnitSeen> {
    match state {
        Known::Yes(state) => Known::Yes(match state.active.as_str() {
            "active" | "reloading" => UnitSeen::Active,
            "activating" | "deactivating" => UnitSeen::Starting,
            "failed" => UnitSeen::Failed,
            _ => UnitSeen::Inactive,
        }),
        // A unit that is not installed does not run.
        Known::Absent => Known::Yes(UnitSeen::Inactive),
        Known::Unknown(unread) => Known::Unknown(unread.clone()),
    }
}

/// Whether any of several things is there: yes as soon as one is, absent only when all are known to be.
fn any(parts: &[&Known<()>]) -> Known<()> {
    if parts.iter().any(|part| part.yes().is_some()) {
        return Known::Yes(());
    }
    match parts.iter().find(|part| part.is_unknown()) {
        Some(unknown) => (*unknown).clone(),
        None => Known::Absent,
    }
}

fn seen(facts: &K3sFacts, binary: Binary) -> K3sSeen {
    let disk = &facts.disk;
    let disk_ca = disk.ca.as_ref().map(|_| ());
    let live = |f: &dyn Fn(&LiveFacts) -> Known<bool>| match &facts.live {
        Known::Yes(live) => f(live),
        Known::Absent => Known::Absent,
        Known::Unknown(unread) => Known::Unknown(unread.clone()),
    };
    let healthy = live(&|live| live.etcd_healthy.clone());
    // A learner's etcd calls itself healthy, and a voter without a quorum is still listed as one: both must say yes.
    let voter = match (facts.voter(), healthy) {
        (Known::Yes(true), Known::Yes(true)) => Known::Yes(true),
        (Known::Yes(false), _) | (_, Known::Yes(false)) => Known::Yes(false),
        (Known::Unknown(unread), _) | (_, Known::Unknown(unread)) => Known::Unknown(unread),
        _ => Known::Absent,
    };
    K3sSeen {
        binary,
        server_unit: unit(&facts.server_unit),
        agent_unit: unit(&facts.agent_unit),
        server_data: any(&[&disk.wal, &disk.sqlite, &disk_ca]),
        agent_data: disk.kubelet_certificate.clone(),
        disk_ca: disk.ca.clone(),
        served_ca: match &facts.live {
            Known::Yes(live) => live.ca.clone(),
            Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread.clone()),
        },
        voter,
        members: match &facts.live {
            Known::Yes(live) => live.members.clone().map(|list| list.iter().map(member).collect()),
            Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread.clone()),
        },
        api: facts.api_ready(),
        ready: facts.node_ready(),
        configuration: match &facts.config {
            Known::Yes(_) => Known::Yes(()),
            Known::Absent => Known::Absent,
            // Something is there, whole or not.
            Known::Unknown(unread) => Known::Unknown(unread.clone()),
        },
        configured_server: match &facts.config {
            Known::Yes(config) => {
                config.server.as_deref().and_then(address_of).map_or(Known::Absent, Known::Yes)
            }
            Known::Absent => Known::Absent,
            Known::Unknown(unread) => Known::Unknown(unread.clone()),
        },
        trouble: trouble(facts),
    }
}

fn unseen(binary: Binary) -> K3sSeen {
    let not_yet = || Known::unknown("k3s", "not looked at yet");
    K3sSeen {
        binary,
        server_unit: Known::unknown("k3s", "not looked at yet"),
        agent_unit: Known::unknown("k3s", "not looked at yet"),
        server_data: Known::unknown("k3s", "not looked at yet"),
        agent_data: Known::unknown("k3s", "not looked at yet"),
        disk_ca: Known::unknown("k3s", "not looked at yet"),
        served_ca: Known::unknown("k3s", "not looked at yet"),
        voter: not_yet(),
        members: Known::unknown("k3s", "not looked at yet"),
        api: not_yet(),
        ready: not_yet(),
        configuration: Known::unknown("k3s", "not looked at yet"),
        configured_server: Known::unknown("k3s", "not looked at yet"),
        trouble: Vec::new(),
    }
}

/// The address in `https://10.0.0.1:6443`.
fn address_of(url: &str) -> Option<IpAddr> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.trim_end_matches('/').rsplit_once(':').map_or(rest, |(host, _)| host);
    host.trim_matches(['[', ']']).parse().ok()
}

/// What the ledger says about a start, for the gate.
#[must_use]
pub fn gate_word(record: &Record) -> GateLedger {
    let role = match &record.data {
        Data::Provisional { .. } => Some(K3sRole::Server),
        Data::Joining { role, .. } | Data::Member { role, .. } => match role {
            Role::Server => Some(K3sRole::Server),
            Role::Agent => Some(K3sRole::Agent),
            Role::Undecided => None,
        },
        Data::Recovering { step, .. } => (*step == RecoveryStep::Starting).then_some(K3sRole::Server),
        Data::None | Data::Discarding { .. } => None,
    };
    let unfinished = match (&record.data, &record.recovery) {
        (Data::Recovering { step, number, .. }, _) if *step != RecoveryStep::Starting => {
            Some(format!("recovery {number} is not over: etcd's members are not reset yet"))
        }
        (Data::Discarding { .. }, Some(recovery)) => {
            Some(format!("recovery {} gave this member up: {} survives", recovery.number, recovery.name))
        }
        _ => None,
    };
    GateLedger {
        fenced: unfinished,
        certificate: record.certificate.as_ref().map(|certificate| certificate.ca_hash.clone()),
        provisional_armed: matches!(record.data, Data::Provisional { .. }),
        member: matches!(record.data, Data::Member { .. } | Data::Recovering { .. }),
        // A provisional cluster beside an annulment is the next era's own: what the annulled era left is being discarded, in the
        // same write that opened the era.
        annulled: record.certificate.is_none()
            && record.annulment.is_some()
            && !matches!(record.data, Data::Provisional { .. }),
        role,
    }
}

/// Why the gate refused the last start, asked again here, so that a refusal is never a silent wait.
fn gated(facts: &K3sFacts, record: &Record, paths: &Paths) -> Option<Why> {
    let ledger = gate_word(record);
    let role = ledger.role?;
    facts.unit(role).yes().filter(|unit| unit.was_gated() && unit.is_down())?;
    let asked = may_start(role, &k3s::probe::gate_facts(paths, Known::Yes(ledger)), paths);
    let unsaid = || {
        Why::new(
            "gate-refused",
            "the gate refused the last start",
            "started again by itself; journalctl -u k3s",
        )
    };
    Some(asked.err().unwrap_or_else(unsaid))
}

/// What k3s says of itself and what else would be read by it, the newest first.
fn trouble(facts: &K3sFacts) -> Vec<Why> {
    let said = facts.findings.yes().into_iter().flatten().rev().map(reason);
    let next = "remove these keys: muster owns them";
    let foreign = facts.foreign.yes().into_iter().flatten().filter(|foreign| !foreign.keys.is_empty());
    let foreign = foreign.map(|foreign| {
        Why::new(
            "foreign-k3s-config",
            format!("{} sets {}", foreign.path.display(), foreign.keys.join(", ")),
            next,
        )
    });
    foreign.chain(said).collect()
}

/// Hazards 6 and 23 both say that another machine of this name is known to the cluster: the name under which a server sees
/// to it.
fn reason(finding: &Finding) -> Why {
    let mut why = finding.why();
    if matches!(finding.hazard.number, 6 | 23) {
        why.rule = "name-held".into();
    }
    why
}
