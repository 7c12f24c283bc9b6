use std::collections::BTreeSet;

use proptest::prelude::*;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::gossip::GossipKeys;
use crate::gossip::seal::Sealer;

fn network(text: &str, prefix: u8) -> Network {
    Network::around(text.parse().unwrap(), prefix)
}

/// A machine on loopback.
struct Loopback;

impl Ground for Loopback {
    fn local(&self, _own: IpAddr) -> Result<(Network, u32), String> {
        Ok((network("10.0.0.1", 8), 1))
    }
    fn source(&self, _to: SocketAddr) -> Option<IpAddr> {
        Some([127, 0, 0, 1].into())
    }
}

/// Answers probes at an address of loopback under a key; port 0 takes a free one. Gives the address and what it saw.
async fn holder(key: u8, at: SocketAddr) -> (SocketAddr, mpsc::UnboundedReceiver<usize>) {
    let socket = tokio::net::UdpSocket::bind(at).await.unwrap();
    let at = socket.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut sealer = Sealer::new(&GossipKeys::single([key; 32]), "lab", [key; 16], [9; 32]);
        sealer.set_address(at);
        let mut buffer = [0; 2_000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let mut out = Vec::new();
            sealer.open(Duration::from_secs(5), from, &buffer[..length], &mut out);
            for answer in &out {
                socket.send_to(&answer.bytes, answer.to).await.unwrap();
            }
            if tell.send(out.len()).is_err() {
                return;
            }
        }
    });
    (at, told)
}

async fn sweep(port: u16, networks: Vec<Network>) -> Sweep {
    let keys = GossipKeys::single([1; 32]);
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    Sweep {
        settings: SweepSettings { networks: vec![SweepNetwork::Local], rate: 10_000 },
        port,
        prober: Prober::alone(&keys, "lab", any).await.unwrap(),
        ground: Box::new(Loopback),
        dice: Box::new(|| 77),
        pass: (!networks.is_empty()).then(|| Pass::over(networks, 77)),
        met: Vec::new(),
    }
}

fn scene(enough: bool) -> (Scene, watch::Sender<bool>, mpsc::UnboundedReceiver<SocketAddr>) {
    let (set, get) = watch::channel(enough);
    let (tell, told) = mpsc::unbounded_channel();
    (Scene { own: ([127, 0, 0, 1], 7_846).into(), enough: get, tell }, set, told)
}

#[tokio::test]
async fn only_holders_of_the_key_answer_and_they_are_told_at_once() {
    let (peer, _) = holder(1, ([127, 0, 0, 5], 0).into()).await;
    let (_, mut stranger) = holder(2, ([127, 0, 0, 6], peer.port()).into()).await;
    let mut sweep = sweep(peer.port(), vec![network("127.0.0.0", 28)]).await;
    let (scene, _set, mut told) = scene(false);
    let found = sweep.look(&scene).await.unwrap();
    assert_eq!((found.addresses, found.note), (vec![peer], None));
    assert_eq!(told.recv().await, Some(peer));
    assert_eq!(stranger.recv().await, Some(0), "knocked at, and nothing was answered");
    assert!(sweep.pass.is_none());
}

/// Two halves that never met are both whole for themselves: nothing but this look brings them together.
#[tokio::test]
async fn the_slow_check_of_a_settled_group_goes_over_every_address_and_finds_who_was_never_met() {
    let (peer, _) = holder(1, ([127, 0, 0, 5], 0).into()).await;
    let mut sweep = sweep(peer.port(), vec![network("127.0.0.0", 28)]).await;
    let (scene, _set, mut told) = scene(true);
    let found = sweep.look(&scene).await.unwrap();
    assert_eq!(found, Found { addresses: vec![peer], ..Found::default() });
    assert_eq!(told.recv().await, Some(peer));
    assert!(sweep.pass.is_none());
}

#[tokio::test]
async fn a_sweep_stops_when_enough_are_known_and_goes_on_where_it_was() {
    let (peer, _) = holder(1, ([127, 0, 0, 5], 0).into()).await;
    let mut sweep = sweep(peer.port(), Vec::new()).await;
    // In the order of the addresses, 16 a second: the peer is among the first 16.
    let networks = vec![network("127.0.0.0", 24)];
    sweep.pass = Some(Pass { networks, total: 254, step: 1, start: 0, next: 0 });
    sweep.settings.rate = 16;
    let (scene, set, mut told) = scene(false);
    let part = {
        let look = sweep.look(&scene);
        tokio::pin!(look);
        // Enough are known as soon as the first has answered: most addresses are still to come.
        tokio::select! {
            _ = &mut look => panic!("it went on to its end"),
            met = told.recv() => assert_eq!(met, Some(peer)),
        }
        set.send(true).unwrap();
        look.await.unwrap()
    };
    assert!(part.part && part.addresses == [peer], "{part:?}");
    let gone = sweep.pass.as_ref().unwrap().progress().0;
    let note = format!("stopped after {gone} of 254 addresses: enough peers are known");
    assert!((16..254).contains(&gone) && part.note.as_deref() == Some(note.as_str()), "{part:?}");
    // The rest, from there on; whoever answered before is in the answer of the whole.
    sweep.settings.rate = 10_000;
    set.send(false).unwrap();
    let whole = sweep.look(&scene).await.unwrap();
    assert_eq!(whole, Found { addresses: vec![peer], ..Found::default() });
    assert!(sweep.pass.is_none(), "the rest was gone over");
}

#[tokio::test]
async fn a_network_that_is_too_large_is_refused_and_said() {
    let mut sweep = sweep(7_846, Vec::new()).await;
    let (scene, _set, _told) = scene(false);
    let cause = sweep.look(&scene).await.unwrap_err().cause;
    assert_eq!(cause, "10.0.0.0/8: it is larger than /16; name the parts that machines are in");
}

proptest! {
    #[test]
    fn a_pass_meets_every_address_once_in_an_order_of_its_own(dice: u64, prefix in 20_u8..=32, other in 22_u8..=31) {
        let networks = vec![network("10.0.0.0", prefix), network("10.9.0.0", other)];
        let total: u64 = networks.iter().map(|network| network.hosts()).sum();
        let met: Vec<Ipv4Addr> = Pass::over(networks.clone(), dice).collect();
        prop_assert_eq!(met.len() as u64, total);
        let distinct: BTreeSet<_> = met.iter().collect();
        prop_assert_eq!(distinct.len() as u64, total);
        prop_assert!(met.iter().all(|ip| networks.iter().any(|network| network.contains((*ip).into()))));
    }
}

#[test]
fn the_usual_pace_goes_over_a_24_in_a_second_and_over_a_20_in_ten() {
    // The default of discovery.sweep.rate.
    let rate = 450.0;
    for (prefix, seconds) in [(24, 1.0), (20, 10.0)] {
        let hosts = network("10.0.0.0", prefix).hosts() as f64;
        assert!(hosts / rate + LINGER.as_secs_f64() < seconds, "/{prefix}");
    }
}
