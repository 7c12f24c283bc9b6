//! Rows that need more than files: measurements, peers, certificates, the configuration. They are judged when somebody looked.

use super::{HostWanted, Judged, Verdict};
use crate::core::Known;
use crate::host::facts::examined::{free_space, latency, offset};
use crate::host::profile::Check;
use crate::host::{Answer, CertificateSeen, Examined, LiveFacts, PEER_PORTS, PeerAnswer};

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
    let (servers, founders) = wanted.counts?;
    Some(if servers % 2 == 1 {
        Judged::ok(format!(
            "{servers}, of which {} may fail; {founders} votes found, among at most {} voters",
            (servers - 1) / 2,
            (2 * founders).saturating_sub(1)
        ))
    } else {
        Judged::missing(
            format!("{servers} servers survive no more failures than {}", servers.saturating_sub(1)),
            "an odd number for servers",
        )
    })
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_even_number_of_servers_is_told() {
        let counts = |servers, founders| {
            odd_servers(&HostWanted { counts: Some((servers, founders)), ..HostWanted::default() }).unwrap()
        };
        assert_eq!(counts(3, 3).detail, "3, of which 1 may fail; 3 votes found, among at most 5 voters");
        assert_eq!(counts(4, 3).verdict, Verdict::Missing);
    }
}
