//! Recovery decisions as tables, and the survivor's steps under a crash at every line.

use std::collections::BTreeSet;

use super::*;
use crate::core::Recovery;
use crate::engine::gate_word;
use crate::heal::{FoldRequest, RecoverRequest, ResetSeen};
use crate::ledger::{Fold, RecoveryStep};

fn recovery(number: u64, survivor: u8) -> Recovery {
    Recovery {
        number,
        cluster: certificate(1).cluster_id.clone(),
        survivor: id(survivor),
        name: format!("node{survivor}"),
        reason: "rack burnt".into(),
    }
}

fn member(role: Role) -> Data {
    Data::Member { role, cluster: certificate(1).cluster_id.clone() }
}

fn recovering(number: u64, attempt: u32, step: RecoveryStep) -> Data {
    Data::Recovering { cluster: certificate(1).cluster_id.clone(), number, attempt, step }
}

/// Node 1, a server of three whose others are silent, k3s up and without a quorum.
fn stranded(ours: &Settings) -> Observed {
    let mut seen = alone(ours);
    for n in [2, 3] {
        hears(&mut seen, server(n, &certificate(1), ours), ours);
    }
    for peer in view(&mut seen).peers.values_mut() {
        peer.live = false;
    }
    let kept = record(&mut seen);
    kept.certificate = Some(certificate(1));
    kept.ever_certified = true;
    kept.served = true;
    kept.data = member(Role::Server);
    kept.voters = (1..=3).map(|n| (format!("node{n}"), address(n))).collect();
    seen.k3s.server_unit = Known::Yes(UnitSeen::Active);
    seen.k3s.server_data = Known::Yes(());
    seen.k3s.disk_ca = Known::Yes(certificate(1).ca_hash.clone());
    seen.k3s.configuration = Known::Yes(());
    seen.k3s.voter = Known::Yes(false);
    seen.k3s.api = Known::Yes(false);
    seen
}

fn request() -> RecoverRequest {
    RecoverRequest {
        after: 0,
        survivor: "node1".into(),
        reason: "rack burnt".into(),
        destroyed: BTreeSet::from(["node2".to_owned(), "node3".to_owned()]),
        may_return: false,
        asked_unix: 0,
    }
}

#[test]
fn a_request_is_carried_out_only_while_the_quorum_is_lost() {
    let ours = settings(&[]);
    type Change = fn(&mut Observed, &Settings);
    let cases: &[(&str, bool, Change)] = &[
        ("recovering", true, |_, _| {}),
        // A request of an earlier state of things does nothing, and is no refusal either.
        ("quorum-lost", false, |seen, _| record(seen).recovery = Some(recovery(3, 1))),
        ("recovery-refused", false, |seen, _| {
            heal_of(seen).recover.as_mut().unwrap().survivor = "node2".into();
        }),
        ("recovery-refused", false, |seen, _| {
            heal_of(seen).recover.as_mut().unwrap().destroyed.clear();
        }),
        ("recovery-refused", false, |seen, _| seen.k3s.voter = Known::Yes(true)),
        ("recovery-refused", false, |seen, ours| hears(seen, server(2, &certificate(1), ours), ours)),
        ("recovery-refused", false, |seen, ours| {
            hears(seen, Claim { voter: Some(false), ..server(2, &certificate(1), ours) }, ours);
        }),
        ("recovery-refused", false, |seen, _| record(seen).data = member(Role::Agent)),
        ("recovery-refused", false, |seen, _| seen.k3s.server_data = Known::unknown("data", "I/O error")),
        ("recovery-waits-for-gossip", false, |seen, _| seen.watch.started = Duration::from_secs(99)),
    ];
    for (wanted, done, change) in cases {
        let mut seen = stranded(&ours);
        heal_of(&mut seen).recover = Some(request());
        change(&mut seen, &ours);
        let plan = decide(&seen, &ours);
        assert_eq!(rule(&plan), *wanted, "{:?}", plan.why);
        let next = plan.commit.as_deref();
        assert_eq!(next.is_some_and(|next| matches!(next.data, Data::Recovering { .. })), *done, "{wanted}");
        if *done {
            let next = next.unwrap();
            assert_eq!(next.recovery, Some(recovery(1, 1)));
            assert_eq!(next.data, recovering(1, 1, RecoveryStep::Fencing));
            assert!(plan.acts.is_empty(), "the decision is on disk before anything is done: {:?}", plan.acts);
        }
    }
}

#[test]
fn who_hears_of_a_decision_keeps_it_and_servers_of_the_time_before_give_up() {
    let ours = settings(&[]);
    let joining = |role| Data::Joining { role, cluster: certificate(1).cluster_id.clone() };
    let cases = [
        (member(Role::Server), None, true),
        (joining(Role::Server), None, true),
        (recovering(1, 1, RecoveryStep::Resetting), Some(recovery(1, 1)), true),
        (member(Role::Agent), None, false),
        (joining(Role::Agent), None, false),
        (Data::None, None, false),
    ];
    for (data, known, discards) in cases {
        let mut seen = stranded(&ours);
        record(&mut seen).data = data.clone();
        record(&mut seen).recovery = known;
        // Over what parks, too.
        seen.host.blocks_all = vec![Why::new("no-default-route", "", "")];
        hears(&mut seen, Claim { recovery: Some(recovery(2, 4)), ..claim(4, &ours) }, &ours);
        let plan = decide(&seen, &ours);
        assert_eq!(rule(&plan), "recovery-heard", "{data:?}");
        let next = plan.commit.unwrap();
        assert_eq!(next.recovery, Some(recovery(2, 4)));
        assert_eq!(matches!(next.data, Data::Discarding { .. }), discards, "{data:?}");
        assert!(discards || next.data == data, "{data:?}");
        // The gate refuses a server from that write on.
        let gate = gate_word(&next);
        assert!(!discards || (gate.role.is_none() && gate.fenced.is_some()), "{gate:?}");
    }
}

#[test]
fn a_decision_that_is_known_or_of_another_cluster_or_this_servers_own_changes_nothing() {
    let ours = settings(&[]);
    let foreign = Recovery { cluster: certificate(7).cluster_id.clone(), ..recovery(9, 4) };
    for (known, heard, wanted) in [
        (Some(recovery(2, 4)), recovery(2, 4), "quorum-lost"),
        (Some(recovery(2, 4)), recovery(1, 3), "quorum-lost"),
        (None, foreign, "quorum-lost"),
        (None, recovery(1, 1), "recovery-rolled-back"),
        (Some(recovery(2, 4)), recovery(2, 3), "two-recoveries"),
    ] {
        let mut seen = stranded(&ours);
        record(&mut seen).recovery = known;
        hears(&mut seen, Claim { recovery: Some(heard), ..claim(4, &ours) }, &ours);
        let plan = decide(&seen, &ours);
        assert_eq!(rule(&plan), wanted, "{:?}", plan.why);
        let data = plan.commit.map(|next| next.data);
        assert!(data.is_none_or(|data| data == member(Role::Server)), "{wanted}");
        assert!(!plan.acts.iter().any(|act| matches!(act, Act::Discard { .. } | Act::Stop { .. })));
    }
}

#[test]
fn nobody_joins_through_a_server_of_the_time_before() {
    let ours = settings(&[]);
    for (theirs, wanted) in [(None, false), (Some(recovery(1, 2)), true), (Some(recovery(2, 2)), true)] {
        let mut seen = alone(&ours);
        record(&mut seen).certificate = Some(certificate(1));
        record(&mut seen).recovery = theirs.clone().filter(|one| one.number == 2).or(Some(recovery(1, 2)));
        hears(&mut seen, Claim { recovery: theirs, ..server(2, &certificate(1), &ours) }, &ours);
        assert_eq!(roles::target(&seen, &certificate(1)).is_some(), wanted);
        // Where a machine was told where to go, nobody else is asked.
        record(&mut seen).fold = Some(Fold { name: "node9".into(), address: address(9) });
        assert!(roles::target(&seen, &certificate(1)).is_none());
    }
}

#[test]
fn a_live_server_that_has_not_given_up_holds_the_reset_back() {
    let ours = settings(&[]);
    let other = |ours: &Settings| server(2, &certificate(1), ours);
    type Make = fn(&Claim) -> Claim;
    let cases: &[(Make, bool)] = &[
        (|other| other.clone(), false),
        // It heard, and its data are being moved still.
        (|other| Claim { role: Role::Undecided, recovery: Some(recovery(1, 1)), ..other.clone() }, false),
        // Nothing runs there, by its role; whether it heard is not known.
        (|other| Claim { role: Role::Undecided, ..other.clone() }, false),
        (
            |other| Claim {
                role: Role::Undecided,
                recovery: Some(recovery(1, 1)),
                fenced: true,
                ..other.clone()
            },
            true,
        ),
        (|other| Claim { role: Role::Agent, ..other.clone() }, true),
    ];
    for (make, done) in cases {
        let mut seen = stranded(&ours);
        record(&mut seen).recovery = Some(recovery(1, 1));
        record(&mut seen).data = recovering(1, 1, RecoveryStep::Fencing);
        seen.k3s.server_unit = Known::Yes(UnitSeen::Inactive);
        hears(&mut seen, make(&other(&ours)), &ours);
        let plan = decide(&seen, &ours);
        let wanted = if *done { "recovering" } else { "recovery-waits-for-fence" };
        assert_eq!((rule(&plan), plan.commit.is_some()), (wanted, *done), "{:?}", plan.why);
    }
}

#[test]
fn a_machine_goes_over_only_to_a_server_that_is_proven_and_another_cluster() {
    let ours = settings(&[]);
    let ca = || Known::Yes(certificate(1).ca_hash.clone());
    let list = |names: &[u8]| {
        Known::Yes(
            names
                .iter()
                .map(|n| MemberSeen { node: format!("node{n}"), learner: false, address: Some(address(*n)) })
                .collect(),
        )
    };
    let fixture = |into: &str| {
        let mut seen = stranded(&ours);
        view(&mut seen).peers.clear();
        hears(&mut seen, server(2, &certificate(1), &ours), &ours);
        seen.k3s.voter = Known::Yes(true);
        seen.k3s.api = Known::Yes(true);
        seen.k3s.members = list(&[1]);
        seen.checks.insert(address(2), ca());
        seen.members = list(&[2, 3]);
        heal_of(&mut seen).fold = Some(FoldRequest { into: into.into(), asked_unix: 0 });
        seen
    };
    type Change<'a> = &'a dyn Fn(&mut Observed);
    let cases: [(&str, &str, Change<'_>); 9] = [
        ("folding", "node2", &|_| {}),
        ("folding", "10.0.0.2", &|_| {}),
        // The other side lists this machine as its dead member, and this one's own list shows that there are two.
        ("folding", "node2", &|seen| seen.members = list(&[1, 2, 3])),
        ("fold-refused", "node2", &|seen| {
            seen.members = list(&[1, 2, 3]);
            seen.k3s.members = list(&[1, 2, 3]);
        }),
        ("fold-refused", "node2", &|seen| {
            seen.members = list(&[1, 2, 3]);
            seen.k3s.members = Known::unknown("members", "no answer");
        }),
        ("fold-refused", "node7", &|_| {}),
        ("fold-refused", "node2", &|seen| {
            seen.checks.insert(address(2), Known::Yes(certificate(7).ca_hash.clone()));
        }),
        ("fold-asks", "node2", &|seen| seen.checks.clear()),
        ("fold-asks", "node2", &|seen| seen.members = Known::unknown("members", "not asked")),
    ];
    for (wanted, into, change) in cases {
        let mut seen = fixture(into);
        change(&mut seen);
        let plan = decide(&seen, &ours);
        assert_eq!(rule(&plan), wanted, "{:?}", plan.why);
        let discards = plan.commit.is_some_and(|next| matches!(next.data, Data::Discarding { .. }));
        assert_eq!(discards, wanted == "folding");
    }
    let mut seen = fixture("node2");
    view(&mut seen).peers.get_mut(&id(2)).unwrap().claim_mut().certificate = Some(certificate(7));
    assert_eq!(rule(&decide(&seen, &ours)), "fold-refused");
}

#[test]
fn a_claim_and_a_ledger_of_before_are_read_and_say_nothing_of_a_recovery() {
    let ours = settings(&[]);
    let text = serde_json::to_string(&claim(2, &ours)).unwrap();
    assert!(!text.contains("recovery") && !text.contains("fenced"), "{text}");
    let read: Claim = serde_json::from_str(&text).unwrap();
    assert_eq!((read.recovery, read.fenced), (None, false));
    let mut old = serde_json::to_value(Record::new("muster")).unwrap();
    for key in ["recovery", "fold"] {
        assert!(old.as_object_mut().unwrap().remove(key).is_some());
    }
    let record: Record = serde_json::from_value(old).unwrap();
    assert_eq!((record.recovery, record.fold), (None, None));
}

// --- the survivor under crashes --------------------------------------------------------------------------------------------

/// What a crash takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    /// The agent alone: k3s and its reset go on.
    Agent,
    /// The machine.
    Power,
}

/// How a reset ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Good,
    /// With an error in its log and its flag left.
    Fails,
    /// It says that it is done, and the members are as they were.
    Lies,
}

/// The survivor's disk and processes, and one other live server.
struct World {
    ours: Settings,
    now: u64,
    started: u64,
    record: Record,
    runs: bool,
    members: Vec<u8>,
    kept: bool,
    flag: bool,
    log: Option<End>,
    resets: Option<u32>,
    begun: Option<u64>,
    ends: Vec<End>,
    done: usize,
    other: u8,
    events: usize,
    crash: Option<(usize, Crash)>,
}

/// A crash in the middle of a tick.
struct Died;

impl World {
    fn new(ours: &Settings, ends: &[End], crash: Option<(usize, Crash)>) -> Self {
        Self {
            ours: ours.clone(),
            now: 100,
            started: 40,
            record: Record::clone(&stranded(ours).record),
            runs: true,
            members: vec![1, 2, 3],
            kept: false,
            flag: false,
            log: None,
            resets: None,
            begun: None,
            ends: ends.to_vec(),
            done: 0,
            other: 0,
            events: 0,
            crash,
        }
    }

    /// Every line at which a crash may fall.
    fn line(&mut self) -> Result<(), Died> {
        self.events += 1;
        let Some((at, crash)) = self.crash else { return Ok(()) };
        if self.events != at {
            return Ok(());
        }
        self.begun = None;
        self.started = self.now;
        if crash == Crash::Power {
            self.resets = None;
            let gate = gate_word(&self.record);
            self.runs = gate.fenced.is_none() && gate.role.is_some();
        }
        Err(Died)
    }

    fn look(&self) -> Observed {
        let ours = &self.ours;
        let mut seen = stranded(ours);
        seen.now = Duration::from_secs(self.now);
        seen.watch.started = Duration::from_secs(self.started);
        *record(&mut seen) = self.record.clone();
        view(&mut seen).peers.retain(|owner, _| *owner != id(2));
        // The other server hears of the decision, discards, and has discarded: one after the other.
        let decision = self.record.recovery.clone();
        let other = Claim { voter: Some(false), api: Some(false), ..server(2, &certificate(1), ours) };
        let other = match self.other {
            0 => Claim { name: "node9".into(), ..other },
            1 => Claim { role: Role::Undecided, recovery: decision, ..other },
            _ => Claim { role: Role::Undecided, recovery: decision, fenced: true, ..other },
        };
        hears(&mut seen, other, ours);
        *record(&mut seen) = self.record.clone();
        heal_of(&mut seen).recover = self.record.recovery.is_none().then(|| RecoverRequest {
            destroyed: BTreeSet::new(),
            may_return: true,
            ..request()
        });
        let alone = self.members == [1];
        let unit = if self.runs { UnitSeen::Active } else { UnitSeen::Inactive };
        seen.k3s.server_unit = Known::Yes(unit);
        seen.k3s.voter = if self.runs { Known::Yes(alone) } else { Known::Absent };
        seen.k3s.api = seen.k3s.voter.clone();
        seen.k3s.members = if self.runs && self.record.recovery.is_some() {
            Known::Yes(
                self.members
                    .iter()
                    .map(|n| MemberSeen {
                        node: format!("node{n}"),
                        learner: false,
                        address: Some(address(*n)),
                    })
                    .collect(),
            )
        } else {
            Known::unknown("members", "no quorum")
        };
        let attempt = match self.record.data {
            Data::Recovering { attempt, .. } => attempt,
            _ => 0,
        };
        heal_of(&mut seen).reset = match (self.resets, self.log) {
            (Some(_), _) => ResetSeen::Running,
            // Every attempt has a log of its own.
            (None, _) if self.done < attempt as usize && self.log.is_none() => ResetSeen::NotRun,
            (None, None) => ResetSeen::NotRun,
            (None, Some(End::Fails)) => {
                let since = self.begun.map(|begun| Duration::from_secs(self.now - begun));
                ResetSeen::Failed("failed".into(), since)
            }
            (None, Some(End::Good | End::Lies)) => ResetSeen::Succeeded,
        };
        seen
    }

    fn tick(&mut self) -> Result<(), Died> {
        let seen = self.look();
        let plan = decide(&seen, &self.ours);
        if let Some(next) = plan.commit {
            self.line()?;
            let attempt = |record: &Record| match record.data {
                Data::Recovering { attempt, .. } => attempt,
                _ => 0,
            };
            if attempt(&next) > attempt(&self.record) {
                self.log = None;
            }
            if matches!(next.data, Data::Member { .. }) && next.recovery.is_some() {
                assert_eq!(self.members, [1], "a member again, and not alone");
            }
            self.record = *next;
            self.line()?;
        }
        for act in plan.acts {
            self.line()?;
            match act {
                Act::Stop { .. } => self.runs = false,
                Act::Start { .. } => {
                    let gate = gate_word(&self.record);
                    assert!(gate.fenced.is_none(), "started against the gate: {:?}", self.record.data);
                    self.runs = true;
                    self.flag = false;
                }
                Act::ResetEtcd { number, attempt } => {
                    let due = recovering(number, attempt, RecoveryStep::Resetting);
                    assert_eq!(self.record.data, due);
                    assert!(!self.runs && self.resets.is_none(), "a reset beside a k3s that runs");
                    assert!(self.other >= 2, "a reset while another server may still run");
                    self.begun = Some(self.now);
                    self.kept = true;
                    self.line()?;
                    self.log = None;
                    self.line()?;
                    self.flag = false;
                    self.line()?;
                    self.resets = Some(3);
                }
                _ => {}
            }
            self.line()?;
        }
        Ok(())
    }

    /// A second passes for everything beside the agent.
    fn pass(&mut self) {
        self.now += 1;
        if self.record.recovery.is_some() && self.other < 2 && self.now.is_multiple_of(4) {
            self.other += 1;
        }
        if let Some(left) = self.resets {
            self.flag = true;
            self.resets = Some(left - 1).filter(|left| *left > 0);
            if self.resets.is_none() {
                assert!(self.kept && !self.runs);
                let end = self.ends.get(self.done).copied().unwrap_or(End::Good);
                self.done += 1;
                self.log = Some(end);
                if end == End::Good {
                    self.members = vec![1];
                }
            }
        }
        let between = matches!(self.record.data, Data::Recovering { step: RecoveryStep::Resetting, .. });
        assert!(!(between && self.runs && self.resets.is_some()));
    }

    fn run(&mut self) -> bool {
        for _ in 0..400 {
            // A dead agent is started again; what it had begun is told by the disk.
            let _ = self.tick();
            self.pass();
            let over = matches!(self.record.data, Data::Member { .. }) && self.record.recovery.is_some();
            if over && self.runs {
                return true;
            }
        }
        false
    }
}

#[test]
fn a_crash_at_any_line_of_a_recovery_is_resumed() {
    let ours = settings(&[]);
    let mut crashes = 0;
    for ends in [&[End::Good][..], &[End::Fails], &[End::Fails, End::Fails], &[End::Lies]] {
        let mut whole = World::new(&ours, ends, None);
        assert!(whole.run(), "{ends:?}: {:?}", whole.record.data);
        assert_eq!(whole.done, ends.len() + usize::from(ends[0] != End::Good));
        for at in 1..=whole.events {
            for crash in [Crash::Agent, Crash::Power] {
                let mut world = World::new(&ours, ends, Some((at, crash)));
                assert!(world.run(), "{ends:?}, {crash:?} at line {at}: {:?}", world.record.data);
                assert_eq!(world.members, [1]);
                assert_eq!(world.record.voters.keys().collect::<Vec<_>>(), ["node1"]);
                assert!(world.kept);
                crashes += 1;
            }
        }
    }
    assert!(crashes > 100, "{crashes} crashes are too few to mean anything");
}

#[test]
fn a_reset_that_never_makes_a_cluster_of_one_waits_for_a_person() {
    let ours = settings(&[]);
    let mut world = World::new(&ours, &[End::Lies; 9], None);
    assert!(!world.run());
    assert_eq!(world.done, 3);
    let plan = decide(&world.look(), &ours);
    assert_eq!(rule(&plan), "recovery-not-alone");
}

#[test]
fn an_unheard_decision_is_in_every_claim_and_fenced_says_what_is_moved() {
    let ours = settings(&[]);
    for (data, fenced) in [
        (member(Role::Agent), true),
        (Data::None, true),
        (Data::Discarding { reason: "old".into() }, false),
        (recovering(1, 1, RecoveryStep::Fencing), false),
    ] {
        let mut seen = stranded(&ours);
        record(&mut seen).recovery = Some(recovery(1, 1));
        record(&mut seen).data = data.clone();
        let plan = decide(&seen, &ours);
        let claim = crate::engine::ClaimInput::new(&seen, &ours, &plan, &seen.record).claim;
        assert_eq!((claim.recovery, claim.fenced), (Some(recovery(1, 1)), fenced), "{data:?}");
    }
}
