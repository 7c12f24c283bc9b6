//! What a change of the ledger and a report of the engine mean, as decisions. Pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Decision, Kind};
use crate::core::{NodeId, Phase};
use crate::decide::Act;
use crate::engine::{Outcome, Report};
use crate::founding::{Ballot, Certificate};
use crate::gossip::Role;
use crate::ledger::{Data, Record};

/// The decisions in a commit of the ledger: `new` is on the disk, `old` was there before.
#[must_use]
pub fn of_record(own: &NodeId, old: &Record, new: &Record) -> Vec<Decision> {
    let mut made = Vec::new();
    if let Some(annulment) = new.annulment.as_ref().filter(|_| old.annulment != new.annulment) {
        let kind = if annulment.by == *own { Kind::Operator } else { Kind::Verdict };
        let cluster = annulment.cluster_id.as_ref().map_or("none known", |cluster| cluster.as_str());
        made.push(
            Decision::new(kind, format!("era {}", annulment.era), "era-annulled", &annulment.reason)
                .on(format!("said on {}", annulment.by.short()))
                .on(format!("its cluster: {cluster}"))
                .on(format!("era now: {}", new.era)),
        );
    }
    if let Some(promised) =
        new.register.promised.as_ref().filter(|_| old.register.promised != new.register.promised)
    {
        let detail = format!("no ballot below it is voted for here in era {}", new.era);
        made.push(Decision::new(Kind::Vote, ballot(promised), "promised", detail));
    }
    if let Some(vote) =
        new.register.accepted.as_ref().filter(|_| old.register.accepted != new.register.accepted)
    {
        let vote_for = certificate(Kind::Vote, "voted", &vote.certificate);
        made.push(Decision { subject: ballot(&vote.ballot), ..vote_for });
    }
    if let Some(proposal) = new.proposal.as_ref().filter(|_| old.proposal != new.proposal) {
        made.push(match &proposal.certificate {
            None => {
                let detail = format!("this node asks for promises in era {}", new.era);
                Decision::new(Kind::Vote, ballot(&proposal.ballot), "nominated", detail)
            }
            Some(proposed) => {
                let proposed = certificate(Kind::Vote, "proposed", proposed);
                Decision { subject: ballot(&proposal.ballot), ..proposed }
            }
        });
    }
    match (&old.certificate, &new.certificate) {
        (old, Some(new)) if old.as_ref() != Some(new) => {
            made.push(certificate(Kind::Verdict, "certificate-stored", new));
        }
        (Some(gone), None) => made.push(certificate(Kind::Verdict, "certificate-dropped", gone)),
        _ => {}
    }
    if old.data != new.data {
        made.push(
            data(&old.data, &new.data).on(format!("directories moved aside so far: {}", new.discarded)),
        );
    }
    if new.served && !old.served {
        let detail = "it serves for the first time under this certificate: what is missing from now on is a degradation";
        made.push(Decision::new(Kind::Verdict, "this node", "served", detail));
    }
    made
}

/// The first line of a start: it stands for whatever a crash kept from the log.
#[must_use]
pub fn of_start(own: &NodeId, name: &str, record: &Record) -> Decision {
    let version = env!("CARGO_PKG_VERSION");
    let (_, data) = data_words(&record.data);
    let vote = record.register.accepted.as_ref();
    let mut line =
        Decision::new(Kind::Phase, name, "agent-started", format!("version {version}, identity {own}"))
            .on(format!("era {}, generation {}", record.era, record.generation))
            .on(format!("k3s data: {data}"))
            .on(format!(
                "promised: {}",
                record.register.promised.as_ref().map_or("nothing".to_owned(), ballot)
            ))
            .on(format!("voted: {}", vote.map_or("never".to_owned(), |vote| ballot(&vote.ballot))));
    if let Some(known) = &record.certificate {
        line = line.on(format!("certificate: cluster {}", known.cluster_id));
    }
    line
}

fn ballot(ballot: &Ballot) -> String {
    format!("ballot {} of {}", ballot.counter, ballot.node.short())
}

fn certificate(kind: Kind, rule: &str, about: &Certificate) -> Decision {
    let detail = format!("era {}: founded by {} at {}", about.era, about.founder_name, about.founder_address);
    Decision::new(kind, format!("cluster {}", about.cluster_id.short()), rule, detail)
        .on(format!("cluster {}", about.cluster_id))
        .on(format!("founder {}", about.founder))
        .on(format!("CA {}", about.ca_hash))
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Undecided => "undecided",
        Role::Server => "server",
        Role::Agent => "agent",
    }
}

fn data_words(data: &Data) -> (&'static str, String) {
    match data {
        Data::None => ("data-none", "none of ours".to_owned()),
        Data::Provisional { ballot: under } => {
            ("data-provisional", format!("provisional, {}", ballot(under)))
        }
        Data::Joining { role: as_what, cluster } => {
            ("data-joining", format!("{} on its way into cluster {cluster}", role(*as_what)))
        }
        Data::Member { role: as_what, cluster } => {
            ("data-member", format!("{} of cluster {cluster}", role(*as_what)))
        }
        Data::Recovering { cluster, number, attempt, step } => (
            "data-recovering",
            format!("survivor of cluster {cluster} under recovery {number}, reset {attempt}: {step:?}"),
        ),
        Data::Discarding { reason } => ("data-discarding", format!("to be moved aside: {reason}")),
    }
}

fn data(old: &Data, new: &Data) -> Decision {
    let (rule, detail) = data_words(new);
    let kind = if matches!(new, Data::Discarding { .. } | Data::Recovering { .. }) {
        Kind::Remedy
    } else {
        Kind::Verdict
    };
    Decision::new(kind, "k3s data", rule, detail).on(format!("before: {}", data_words(old).1))
}

/// What was told already: so that a node that tries again every second does not tell it every second.
#[derive(Debug, Default)]
pub struct Told {
    phase: Option<Phase>,
    rule: Option<Cow<'static, str>>,
    /// The step that was last not done, or done in vain, by what it is about: with what was said of it.
    outcomes: BTreeMap<String, String>,
    /// What was not done about other machines, by rule, in the last tick.
    undone: BTreeSet<Cow<'static, str>>,
    /// When reasons were told, for the limit below.
    reasons: VecDeque<Duration>,
    left_out: u64,
}

/// Changes of the first reason that are told within [`LATELY`]: one that flaps must not push remedies out of the log. Changes of
/// the phase are always told.
const MOST_REASONS: usize = 30;
const LATELY: Duration = Duration::from_secs(600);

/// Reasons why nothing is done about the cluster, which stand behind a node's own reason: each is told when it comes up.
const UNDONE: [&str; 9] = [
    "removal-refused",
    "no-spare",
    "member-without-node",
    "members-differ",
    "servers-missing",
    "servers-surplus",
    "heal-waits-for-learner",
    "leave-refused",
    "leaving-waits",
];

impl Told {
    /// What is told before an irreversible step is taken; none for other steps, and for one that is tried again.
    pub fn before(&self, act: &Act) -> Option<Decision> {
        let (subject, rule, detail) = deed(act)?;
        if self.outcomes.contains_key(&key(act)) {
            return None;
        }
        Some(Decision::new(Kind::Remedy, subject, rule, format!("begins: {detail}")))
    }

    /// What is told after a tick: another phase, another first reason, what became of irreversible steps, refused guards.
    pub fn after(&mut self, now: Duration, node: &str, report: &Report) -> Vec<Decision> {
        let mut made = Vec::new();
        let outcomes = std::mem::take(&mut self.outcomes);
        for (act, outcome) in &report.done {
            let said = match outcome {
                Outcome::Refused(cause) => format!("refused: {cause}"),
                Outcome::Failed(cause) => format!("failed, tried again: {cause}"),
                Outcome::Done => "done".to_owned(),
                Outcome::AlreadySo => "nothing was left to do".to_owned(),
                Outcome::Begun => "goes on".to_owned(),
            };
            let again = outcomes.get(&key(act)) == Some(&said);
            let refused = matches!(outcome, Outcome::Refused(_));
            let (subject, rule, detail) = match deed(act) {
                Some(deed) => deed,
                None if refused => (node.to_owned(), "step-refused", words(act)),
                None => continue,
            };
            if !again {
                let kind = if refused { Kind::Refusal } else { Kind::Remedy };
                made.push(Decision::new(kind, subject, rule, said.clone()).on(detail));
            }
            if matches!(outcome, Outcome::Refused(_) | Outcome::Failed(_)) {
                self.outcomes.insert(key(act), said);
            }
        }
        let plan = &report.plan;
        let undone = std::mem::take(&mut self.undone);
        for why in plan.why.iter().skip(1).filter(|why| UNDONE.contains(&&*why.rule)) {
            let again = undone.contains(&why.rule);
            if self.undone.insert(why.rule.clone()) && !again && self.may_tell(now) {
                made.push(Decision::new(Kind::Refusal, node, why.rule.clone(), why.detail.clone()));
            }
        }
        let first = plan.why.first();
        let rule = first.map(|why| why.rule.clone());
        let phase = self.phase.replace(plan.phase);
        let other = self.rule != rule;
        self.rule.clone_from(&rule);
        if phase == Some(plan.phase) && !other {
            return made;
        }
        let mut line = Decision::new(
            if phase == Some(plan.phase) { Kind::Verdict } else { Kind::Phase },
            node,
            rule.unwrap_or_else(|| plan.phase.word().into()),
            first.map_or(Cow::Borrowed(""), |why| why.detail.clone()),
        );
        line.evidence.push(match phase {
            Some(before) if before != plan.phase => format!("phase: {}, before: {before}", plan.phase),
            _ => format!("phase: {}", plan.phase),
        });
        line.evidence.extend(plan.why.iter().skip(1).map(|why| format!("{}: {}", why.rule, why.detail)));
        if line.kind == Kind::Verdict && !self.may_tell(now) {
            self.left_out += 1;
            return made;
        }
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            line.evidence.insert(0, format!("changes of the reason left out before this one: {left_out}"));
        }
        made.push(line);
        made
    }

    fn may_tell(&mut self, now: Duration) -> bool {
        while self.reasons.front().is_some_and(|at| now.saturating_sub(*at) > LATELY) {
            self.reasons.pop_front();
        }
        let may = self.reasons.len() < MOST_REASONS;
        if may {
            self.reasons.push_back(now);
        }
        may
    }
}

fn words(act: &Act) -> String {
    serde_json::to_string(act).unwrap_or_default()
}

/// What a step is about: one that is tried again has the same key.
fn key(act: &Act) -> String {
    match act {
        // Its reason counts seconds.
        Act::Heal { remedy, .. } => {
            let (name, rule) = remedy.subject();
            format!("{rule} {name}")
        }
        _ => words(act),
    }
}

/// Subject, rule and words of a step that cannot be taken back; none for others.
fn deed(act: &Act) -> Option<(String, &'static str, String)> {
    match act {
        Act::Discard { number } => {
            let detail = format!("stop k3s and move its data aside as number {number}");
            Some(("k3s data".to_owned(), "discard", detail))
        }
        Act::RemoveNode { name, address, by, seen_dead } => {
            let seen = if *seen_dead { "was seen dead" } else { "is not remembered by anybody" };
            let detail = format!(
                "delete the Node {name} at {address}: {} asks for its name and the old identity {seen}",
                by.short()
            );
            Some((name.clone(), "remove-node", detail))
        }
        Act::Stop { role: as_what } => {
            let detail = "stop a k3s that is on its way in, so that it starts with another configuration";
            Some((format!("k3s {}", role(*as_what)), "stop-k3s", detail.to_owned()))
        }
        Act::Retire { role: old } => {
            let detail = "stop the k3s of the role that this machine gives up".to_owned();
            Some((format!("k3s {}", role(*old)), "retire-k3s", detail))
        }
        Act::ResetEtcd { number, attempt } => {
            let detail = format!("reset etcd to this server alone, recovery {number}, attempt {attempt}");
            Some(("k3s data".to_owned(), "reset-etcd", detail))
        }
        Act::Restart { role: as_what } => {
            let detail = "restart k3s, which renews its certificates".to_owned();
            Some((format!("k3s {}", role(*as_what)), "restart-k3s", detail))
        }
        Act::Heal { remedy, why } => {
            let (name, rule) = remedy.subject();
            Some((name.to_owned(), rule, format!("{}: {}", why.rule, why.detail)))
        }
        Act::PrepareHost
        | Act::FetchK3s
        | Act::Check { .. }
        | Act::AskMembers { .. }
        | Act::Configure { .. }
        | Act::Start { .. }
        | Act::Mark
        | Act::Enable { .. } => None,
    }
}
