use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::*;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// Records by name and type: their time to live and data. A name that is not there does not exist; one with a type that has no
/// record has none of it.
type Zone = BTreeMap<(&'static str, u16), Vec<(u32, Vec<u8>)>>;

fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.trim_end_matches('.').split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn srv(priority: u16, port: u16, target: &str) -> Vec<u8> {
    [&priority.to_be_bytes()[..], &[0, 0], &port.to_be_bytes(), &name(target)].concat()
}

/// The answer of a name server, RFC 1035 4.1.
fn answer(query: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..at + 1 + length]).to_lowercase());
        at += 1 + length;
    }
    let asked = labels.join(".");
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    if asked.starts_with("silent") {
        return None;
    }
    let question = &query[12..at + 5];
    let exists = zone.keys().any(|(name, _)| *name == asked);
    let mut records = Vec::new();
    for wanted in [kind, CNAME] {
        let found = zone.iter().filter(|((name, of), _)| *name == asked && *of == wanted);
        for (ttl, data) in found.flat_map(|(_, found)| found) {
            records.extend_from_slice(&[0xc0, 12]);
            records.extend_from_slice(&wanted.to_be_bytes());
            records.extend_from_slice(&1_u16.to_be_bytes());
            records.extend_from_slice(&ttl.to_be_bytes());
            records.extend_from_slice(&(data.len() as u16).to_be_bytes());
            records.extend_from_slice(data);
        }
    }
    let count = zone
        .iter()
        .filter(|((name, of), _)| *name == asked && (*of == kind || *of == CNAME))
        .map(|(_, found)| found.len() as u16)
        .sum::<u16>();
    let code = if asked.starts_with("broken")
        || ["broken", &asked].iter().any(|name| zone.contains_key(&(*name, 0)))
    {
        2
    } else if asked.starts_with("refused") {
        5
    } else if exists {
        0
    } else {
        3
    };
    let mut bytes = query[..2].to_vec();
    bytes.extend_from_slice(&[0x85, 0x80 | code]);
    bytes.extend_from_slice(&1_u16.to_be_bytes());
    bytes.extend_from_slice(&count.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(question);
    bytes.extend_from_slice(&records);
    if asked.starts_with("garbage") {
        bytes.truncate(15);
    }
    Some(bytes)
}

async fn server(zone: Zone) -> (SocketAddr, Arc<Mutex<Zone>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let zone = Arc::new(Mutex::new(zone));
    let shared = Arc::clone(&zone);
    tokio::spawn(async move {
        let mut buffer = [0; 2_000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let answer = answer(&buffer[..length], &shared.lock().unwrap());
            if let Some(answer) = answer {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    (at, zone)
}

fn source(at: SocketAddr, names: &[&str]) -> Dns {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Dns::new(DnsSettings { names, servers: vec![at] }, 7846)
}

async fn look(source: &mut Dns, own: &str) -> Result<Found, Failure> {
    let scene = Scene {
        own: own.parse().unwrap(),
        enough: watch::channel(false).1,
        tell: mpsc::unbounded_channel().0,
    };
    source.look(&scene).await
}

fn zone() -> Zone {
    let a = |ttl, last| (ttl, vec![10, 0, 0, last]);
    let mut six = vec![0xfd; 1];
    six.extend_from_slice(&[0; 14]);
    six.push(7);
    Zone::from([
        (("peers.example", A), vec![a(30, 1), a(7, 2)]),
        (("peers.example", AAAA), vec![(30, six)]),
        (("alias.example", CNAME), vec![(30, name("peers.example"))]),
        (
            ("_muster._udp.example", SRV),
            vec![
                (30, srv(10, 99, "one.example")),
                (30, srv(20, 98, "two.example")),
                (30, srv(30, 97, "gone.example")),
            ],
        ),
        (("one.example", A), vec![a(30, 11)]),
        (("two.example", A), vec![a(30, 12)]),
        (("loop-a.example", CNAME), vec![(30, name("loop-b.example"))]),
        (("loop-b.example", CNAME), vec![(30, name("loop-a.example"))]),
        (("dangling.example", CNAME), vec![(30, name("nobody.example"))]),
        (("_loop.example", SRV), vec![(30, srv(10, 99, "loop-b.example"))]),
        (("empty.example", SRV), vec![]),
        (("many.example", A), (0..60).map(|n| a(30, n)).collect()),
    ])
}

fn shown(found: &Found) -> String {
    found.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn addresses_and_services_are_found_for_as_long_as_the_shortest_time_to_live() {
    let (at, _) = server(zone()).await;
    let found = look(&mut source(at, &["peers.example"]), "10.0.0.9:1").await.unwrap();
    assert_eq!(shown(&found), "10.0.0.1:7846 10.0.0.2:7846");
    let good = found.good_for.unwrap();
    assert!(good <= Duration::from_secs(7) && good > Duration::from_secs(4), "{good:?}");
    let found = look(&mut source(at, &["peers.example"]), "[fd00::9]:1").await.unwrap();
    assert_eq!(shown(&found), "[fd00::7]:7846");
    // A target that is not there is no reason to forget the others.
    let found = look(&mut source(at, &["_muster._udp.example"]), "10.0.0.9:1").await.unwrap();
    assert_eq!(shown(&found), "10.0.0.11:99 10.0.0.12:98");
    let found = look(&mut source(at, &["alias.example"]), "10.0.0.9:1").await.unwrap();
    assert_eq!(shown(&found), "10.0.0.1:7846 10.0.0.2:7846");
}

#[tokio::test]
async fn a_name_that_is_not_there_is_an_answer_and_a_server_that_fails_is_none() {
    let (at, records) = server(zone()).await;
    for name in ["nobody.example", "empty.example", "dangling.example"] {
        let found = look(&mut source(at, &[name]), "10.0.0.9:1").await.unwrap();
        assert_eq!((found.addresses, found.note), (vec![], None), "{name}");
    }
    for (name, wanted) in [
        ("broken.example", "broken.example: "),
        ("refused.example", "refused.example: "),
        ("garbage.example", "garbage.example: "),
        ("loop-a.example", "loop-a.example: its aliases lead in a circle, or further than eight names"),
        ("_loop.example", "loop-b.example.: its aliases lead in a circle"),
    ] {
        let cause = look(&mut source(at, &[name]), "10.0.0.9:1").await.unwrap_err().cause;
        assert!(cause.contains(wanted), "{name}: {cause}");
    }
    // One name that fails keeps nothing from another.
    let found = look(&mut source(at, &["broken.example", "one.example"]), "10.0.0.9:1").await.unwrap();
    assert_eq!(shown(&found), "10.0.0.11:7846");
    assert!(found.note.unwrap().starts_with("broken.example: "));
    // Records change, and no cache of ours hides it.
    records.lock().unwrap().insert(("nobody.example", A), vec![(30, vec![10, 0, 0, 42])]);
    let found = look(&mut source(at, &["nobody.example"]), "10.0.0.9:1").await.unwrap();
    assert_eq!(shown(&found), "10.0.0.42:7846");
}

#[tokio::test]
async fn a_server_that_is_silent_is_given_up_within_the_deadline() {
    let (at, _) = server(zone()).await;
    let mut source = source(at, &["silent.example"]);
    let deadline = source.pace().deadline;
    let answer = tokio::time::timeout(deadline, look(&mut source, "10.0.0.9:1")).await;
    assert!(answer.expect("within its deadline").is_err());
}

#[tokio::test]
async fn a_name_or_a_target_that_fails_keeps_the_addresses_it_had_beside_those_that_answer() {
    let mut of = zone();
    of.insert(
        ("_both.example", SRV),
        vec![(30, srv(1, 99, "one.example")), (30, srv(2, 98, "flaky.example"))],
    );
    of.insert(("flaky.example", A), vec![(30, vec![10, 0, 0, 13])]);
    let (at, records) = server(of).await;
    let mut source = source(at, &["flaky.example", "peers.example", "_both.example"]);
    let all = "10.0.0.1:7846 10.0.0.2:7846 10.0.0.11:99 10.0.0.13:98 10.0.0.13:7846";
    let found = look(&mut source, "10.0.0.9:1").await.unwrap();
    assert_eq!((shown(&found).as_str(), found.note), (all, None));
    // The name fails, once for itself and once as a target: nothing is lost, and it is said.
    records.lock().unwrap().insert(("flaky.example", 0), vec![]);
    let found = look(&mut source, "10.0.0.9:1").await.unwrap();
    assert_eq!(shown(&found), all);
    let note = found.note.unwrap();
    assert!(note.contains("flaky.example: ") && note.contains("flaky.example.: "), "{note}");
    assert_eq!(note.matches("s ago stands").count(), 2, "{note}");
    assert_eq!(found.good_for, Some(Duration::ZERO), "asked again soon");
    // That the name is not there any more is an answer, and ends it.
    records.lock().unwrap().retain(|(name, _), _| *name != "flaky.example");
    let found = look(&mut source, "10.0.0.9:1").await.unwrap();
    assert_eq!((shown(&found).as_str(), found.note), ("10.0.0.1:7846 10.0.0.2:7846 10.0.0.11:99", None));
    // When all of them fail, that is no answer.
    records.lock().unwrap().insert(("broken", 0), vec![]);
    assert!(look(&mut source, "10.0.0.9:1").await.is_err());
}

#[tokio::test]
async fn a_target_that_never_answered_is_said_beside_the_others() {
    let mut of = zone();
    of.insert(
        ("_both.example", SRV),
        vec![(30, srv(1, 99, "one.example")), (30, srv(2, 98, "broken.example"))],
    );
    let (at, _) = server(of).await;
    let found = look(&mut source(at, &["_both.example"]), "10.0.0.9:1").await.unwrap();
    assert_eq!(shown(&found), "10.0.0.11:99");
    assert!(found.note.unwrap().starts_with("broken.example.: "));
}
