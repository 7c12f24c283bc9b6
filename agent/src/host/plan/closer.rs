//! Rows that need more than files: measurements, peers, certificates, the configuration. They are judged when somebody looked.

use super::{HostWanted, Judged, Verdict};
use crate::core::{Known, Why};
use crate::host::facts::examined::{free_space, latency, offset};
use crate::host::profile::Check;
use crate::host::{Answer, CertificateSeen, Examined, LiveFacts, PEER_PORTS, PathSeen, PeerAnswer};

/// k3s renews what ends within 120 days (90 in older releases) when it starts; less than this is left only of a k3s that was not
/// started again for most of a year.
const RENEW_DAYS: i64 = 30;
const DAY: i64 = 86_400;

pub(super) fn configuration(wanted: &HostWanted) -> Option<Judged> {
    let (problem, token_only) = wanted.misconfigured.as_ref()?;
    let judged =
        Judged::missing(problem.clone(), "see docs/configuration.md; muster config show prints what holds");
    // A machine is looked at before it is given its token.
    Some(if *token_only { judged.harmless() } else { judged })
}

pub(super) fn odd_servers(wanted: &HostWanted) -> Option<Judged> {
    // The configuration refuses an even number; a cluster may have one all the same, between two changes or by hand.
    if let Some(voters) = wanted.voters.filter(|voters| *voters > 0) {
        return Some(if voters % 2 == 1 {
            Judged::ok(format!("{voters} voters, of which {} may fail", (voters - 1) / 2))
        } else {
            Judged::missing(
                format!(
                    "etcd has {voters} voters: {} may fail, as of {}, and one more must answer every write",
                    (voters - 1) / 2,
                    voters - 1
                ),
                "one server more, or one fewer: muster leave takes one out",
            )
        });
    }
    let (servers, founders) = wanted.counts?;
    Some(Judged::ok(format!(
        "{servers}, of which {} may fail; {founders} votes found, among at most {} voters",
        servers.saturating_sub(1) / 2,
        (2 * founders).saturating_sub(1)
    )))
}

pub(super) fn judge(check: Check, seen: &Examined, live: &LiveFacts, wanted: &HostWanted) -> Option<Judged> {
    let limits = &wanted.limits;
    Some(match check {
        Check::DiskLatency => limited(&seen.measured, |measured| latency(measured, limits)),
        Check::DiskFree => limited(&seen.disk_free_mib, |free| free_space(*free, limits)),
        Check::TimeOffset => limited(&seen.clock, |clock| offset(*clock, limits)),
        Check::TimeSync => limited(&seen.clock, |clock| match clock.synchronised {
            true => Ok("the clock is synchronised".to_owned()),
            false => Err((
                "nothing keeps the clock to a time source".to_owned(),
                "install or start chrony, systemd-timesyncd or another NTP client",
            )),
        }),
        Check::Certificates => return certificates(&seen.certificates, &live.clock),
        Check::PathMtu => return paths(&seen.paths),
        Check::Peers(port) => return peers(port, &seen.peers),
        _ => return None,
    })
}

fn limited<T>(seen: &Known<T>, judge: impl FnOnce(&T) -> Result<String, (String, &'static str)>) -> Judged {
    match seen {
        Known::Yes(value) => match judge(value) {
            Ok(detail) => Judged::ok(detail),
            Err((detail, next)) => Judged::missing(detail, next),
        },
        Known::Absent => Judged::ok("there is none"),
        Known::Unknown(unread) => Judged::unknown(unread),
    }
}

fn certificates(seen: &Known<Vec<CertificateSeen>>, clock: &Known<i64>) -> Option<Judged> {
    let (seen, now) = match (seen, clock) {
        (Known::Absent, _) => return None,
        (Known::Unknown(unread), _) | (_, Known::Unknown(unread)) => return Some(Judged::unknown(unread)),
        (Known::Yes(_), Known::Absent) => return None,
        (Known::Yes(seen), Known::Yes(now)) => (seen, *now),
    };
    let first = seen.iter().min_by_key(|certificate| certificate.ends)?;
    let days = (first.ends - now).div_euclid(DAY);
    let next = "restart k3s: it renews its certificates when it starts (k3s certificate check tells more)";
    if first.ends <= now {
        return Some(Judged::missing(format!("{} has ended {} days ago", first.path, -days - 1), next));
    }
    if let Some(later) = seen.iter().find(|certificate| certificate.begins > now) {
        return Some(Judged::missing(
            format!("{} is not valid yet: the clock is behind the one it was made under", later.path),
            "set the clock",
        ));
    }
    if days < RENEW_DAYS {
        return Some(Judged::missing(format!("{} ends in {days} days", first.path), next));
    }
    Some(Judged::ok(format!("{} of them; the first ends in {days} days", seen.len())))
}

/// What one port of the peers says. A peer alone that is silent may be switched off; that none answers tells of this machine or
/// of the network.
fn peers(port: Option<u16>, answers: &[PeerAnswer]) -> Option<Judged> {
    let asked: Vec<&PeerAnswer> = answers
        .iter()
        .filter(|answer| port.map_or(!PEER_PORTS.contains(&answer.port), |port| answer.port == port))
        .collect();
    if asked.is_empty() {
        return None;
    }
    let words = |answer: &&PeerAnswer| {
        let what = match &answer.answer {
            Answer::Open => "open".to_owned(),
            Answer::Refused => "reached, nothing listens".to_owned(),
            Answer::Silent => "silent".to_owned(),
            Answer::Unreachable(cause) => cause.clone(),
        };
        format!("{} TCP {}: {what}", answer.peer, answer.port)
    };
    let lost: Vec<&PeerAnswer> = asked.iter().copied().filter(|answer| !answer.is_reached()).collect();
    let Some(first) = lost.first() else {
        return Some(Judged::ok(asked.iter().map(words).collect::<Vec<_>>().join("; ")));
    };
    let next = format!("open TCP {} between the nodes, or look whether the machine is on", first.port);
    let detail = lost.iter().map(words).collect::<Vec<_>>().join("; ");
    Some(if lost.len() == asked.len() {
        Judged::missing(detail, next)
    } else {
        let reached: Vec<_> = asked.iter().filter(|answer| answer.is_reached()).map(words).collect();
        Judged::ok(reached.join("; ")).also(Verdict::Missing, detail, next).harmless()
    })
}

/// IPv6 asks for 1,280 bytes, and VXLAN takes 50.
const LEAST_WAY: u32 = 1_330;

/// The largest packets that get to the peers. Flannel gives pods the size of the interface less its own header, whatever lies in
/// between.
fn paths(seen: &[PathSeen]) -> Option<Judged> {
    let mut well = Vec::new();
    let mut judged: Vec<(Verdict, String, String)> = Vec::new();
    for one in seen {
        match way(one) {
            None => {}
            Some(Ok(said)) => well.push(said),
            Some(Err(finding)) => judged.push(finding),
        }
    }
    let worst = judged.iter().map(|(verdict, ..)| *verdict).find(|verdict| *verdict == Verdict::Missing);
    let detail = match judged.first() {
        None if well.is_empty() => return None,
        None => well.join("; "),
        Some((_, detail, _)) => detail.clone(),
    };
    let verdict = worst.or_else(|| judged.first().map(|(verdict, ..)| *verdict)).unwrap_or(Verdict::Ok);
    Some(Judged { verdict, findings: judged, ..Judged::ok(detail) })
}

/// One way: what gets there, or what is wrong with it; none where nothing was found out.
fn way(PathSeen { peer, mtu }: &PathSeen) -> Option<Result<String, (Verdict, String, String)>> {
    let (bytes, own) = match (&mtu.bytes, mtu.own) {
        (Known::Yes(bytes), own) => (*bytes, own.unwrap_or(*bytes)),
        (Known::Unknown(unread), _) => {
            let next =
                "let it answer on a closed UDP port (ICMP port unreachable), or compare the networks by hand";
            return Some(Err((Verdict::Unknown, format!("{peer}: {unread}"), next.to_owned())));
        }
        (Known::Absent, _) => return None,
    };
    let next = || format!("set the mtu of the interface to {bytes} on every machine, before k3s starts");
    let (detail, next) = if mtu.silent {
        (
            format!(
                "of packets to {peer}, those of {bytes} bytes arrive and those of {own} are lost in silence: large ones of etcd and pods \
                 never get there"
            ),
            format!("{}, or let ICMP's \"fragmentation needed\" through", next()),
        )
    } else if bytes < own {
        (format!("the way to {peer} carries packets of {bytes} bytes, and the interface sends {own}"), next())
    } else if bytes < LEAST_WAY {
        (
            format!("the way to {peer} carries {bytes} bytes, which leaves pods less than IPv6 needs"),
            format!("raise the mtu of the network to {LEAST_WAY} or more"),
        )
    } else {
        return Some(Ok(format!("{bytes} bytes to {peer}")));
    };
    Some(Err((Verdict::Missing, detail, next)))
}

/// What is wrong with the way to a peer, for a running agent; none where all is well or nothing could be told.
#[must_use]
pub fn narrow(seen: &PathSeen) -> Option<Why> {
    match way(seen)? {
        Err((Verdict::Missing, detail, next)) => Some(Why::new("host.peer.mtu", detail, next)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::path::PathMtu;

    fn answer(peer: &str, port: u16, answer: Answer) -> PeerAnswer {
        PeerAnswer { peer: peer.into(), port, answer }
    }

    fn verdict(judged: Option<Judged>) -> (Verdict, bool, usize) {
        judged.map(|judged| (judged.verdict, judged.blocks, judged.findings.len())).unwrap()
    }

    #[test]
    fn peers_block_only_when_none_answers() {
        let all = [
            answer("a", 6443, Answer::Open),
            answer("b", 6443, Answer::Silent),
            answer("a", 2380, Answer::Silent),
            answer("b", 2380, Answer::Unreachable("no route".into())),
            answer("a", 10250, Answer::Refused),
            answer("a", 7000, Answer::Open),
        ];
        assert_eq!(verdict(peers(Some(6443), &all)), (Verdict::Ok, false, 1));
        assert_eq!(verdict(peers(Some(2380), &all)), (Verdict::Missing, true, 1));
        assert_eq!(verdict(peers(Some(10250), &all)), (Verdict::Ok, true, 0));
        assert_eq!(verdict(peers(None, &all)), (Verdict::Ok, true, 0));
        assert!(peers(Some(2379), &all).is_none());
    }

    #[test]
    fn a_way_that_is_narrower_than_the_interface_is_named_and_a_silent_one_says_what_is_lost() {
        let seen = |peer: &str, bytes: Option<u32>, own, silent| PathSeen {
            peer: peer.into(),
            mtu: PathMtu {
                bytes: bytes
                    .map_or_else(|| Known::unknown("the packets that get there", "silence"), Known::Yes),
                own: Some(own),
                silent,
            },
        };
        let good = seen("a", Some(1_500), 1_500, false);
        for (name, all, verdict, findings, words) in [
            ("well", vec![good.clone()], Verdict::Ok, 0, "1500 bytes to a"),
            (
                "told",
                vec![good.clone(), seen("b", Some(1_420), 1_500, false)],
                Verdict::Missing,
                1,
                "the way to b carries packets of 1420 bytes, and the interface sends 1500",
            ),
            (
                "lost",
                vec![seen("b", Some(1_400), 1_500, true)],
                Verdict::Missing,
                1,
                "of packets to b, those of 1400 bytes arrive and those of 1500 are lost in silence",
            ),
            (
                "small",
                vec![seen("b", Some(1_300), 1_300, false)],
                Verdict::Missing,
                1,
                "the way to b carries 1300 bytes, which leaves pods less",
            ),
            ("unknown", vec![good, seen("b", None, 1_500, false)], Verdict::Unknown, 1, "b: "),
        ] {
            let judged = paths(&all).unwrap();
            assert_eq!((judged.verdict, judged.findings.len()), (verdict, findings), "{name}");
            assert!(judged.detail.starts_with(words), "{name}: {}", judged.detail);
        }
        assert!(paths(&[]).is_none());
    }

    #[test]
    fn certificates_are_judged_by_the_first_that_ends() {
        let now = 1_800_000_000;
        let seen = |path: &str, begins: i64, ends: i64| CertificateSeen {
            path: path.into(),
            begins: now + begins * DAY,
            ends: now + ends * DAY,
        };
        let judged = |all: &[CertificateSeen]| {
            let judged = certificates(&Known::Yes(all.to_vec()), &Known::Yes(now)).unwrap();
            (judged.verdict, judged.detail)
        };
        let ca = seen("/ca.crt", -100, 3_550);
        for (leaf, verdict, words) in [
            (seen("/a.crt", -100, 265), Verdict::Ok, "2 of them; the first ends in 265 days"),
            (seen("/a.crt", -340, 25), Verdict::Missing, "/a.crt ends in 25 days"),
            (seen("/a.crt", -400, -35), Verdict::Missing, "/a.crt has ended 34 days ago"),
            (seen("/a.crt", 1, 300), Verdict::Missing, "/a.crt is not valid yet"),
        ] {
            let said = judged(&[ca.clone(), leaf]);
            assert!(said.0 == verdict && said.1.starts_with(words), "{said:?}");
        }
        assert!(certificates(&Known::Absent, &Known::Yes(now)).is_none());
        let unread = certificates(&Known::unknown("a.crt", "nonsense"), &Known::Yes(now)).unwrap();
        assert_eq!(unread.verdict, Verdict::Unknown);
    }

    #[test]
    fn an_even_number_of_voters_is_told_whatever_was_configured() {
        let judged = |counts, voters| {
            odd_servers(&HostWanted { counts, voters, ..HostWanted::default() })
                .map(|judged| (judged.verdict, judged.detail))
        };
        let counts = Some((3, 3));
        let said = "3, of which 1 may fail; 3 votes found, among at most 5 voters".to_owned();
        assert_eq!(judged(counts, None), Some((Verdict::Ok, said.clone())));
        assert_eq!(judged(counts, Some(0)), Some((Verdict::Ok, said)), "an agent knows of none");
        assert_eq!(judged(counts, Some(5)), Some((Verdict::Ok, "5 voters, of which 2 may fail".to_owned())));
        for (voters, words) in [
            (2, "etcd has 2 voters: 0 may fail, as of 1, and one more must answer every write"),
            (4, "etcd has 4 voters: 1 may fail, as of 3, and one more must answer every write"),
        ] {
            assert_eq!(judged(counts, Some(voters)), Some((Verdict::Missing, words.to_owned())));
        }
        assert_eq!(judged(None, None), None);
    }
}
