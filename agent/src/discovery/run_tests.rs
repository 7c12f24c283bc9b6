use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::*;
use crate::discovery::pace::Pace;

/// A source that gives what it was told to, one after the other, the last again and again; `None` hangs.
struct Told {
    name: &'static str,
    answers: Vec<Option<Result<Found, Failure>>>,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl Source for Told {
    fn name(&self) -> String {
        self.name.to_owned()
    }
    fn origin(&self) -> Origin {
        Origin::Kept
    }
    fn pace(&self) -> Pace {
        Pace::of(2_000, 1_000, 8, 60)
    }
    async fn look(&mut self, _scene: &Scene) -> Result<Found, Failure> {
        let at = self.asked.fetch_add(1, Ordering::SeqCst).min(self.answers.len() - 1);
        match self.answers[at].clone() {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

fn found(addresses: &[&str]) -> Option<Result<Found, Failure>> {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Some(Ok(Found { addresses, ..Found::default() }))
}

struct World {
    discovery: Discovery,
    asked: Vec<Arc<AtomicUsize>>,
    met: Arc<Mutex<Vec<SocketAddr>>>,
    view: watch::Sender<Arc<PeerView>>,
}

type Script = (&'static str, Vec<Option<Result<Found, Failure>>>);

fn world(scripts: Vec<Script>) -> World {
    let asked: Vec<Arc<AtomicUsize>> = scripts.iter().map(|_| Arc::default()).collect();
    let sources = scripts.into_iter().zip(&asked).map(|((name, answers), asked)| {
        Box::new(Told { name, answers, asked: Arc::clone(asked) }) as Box<dyn Source>
    });
    let sources = sources.collect();
    world_of(sources, asked)
}

fn world_of(sources: Vec<Box<dyn Source>>, asked: Vec<Arc<AtomicUsize>>) -> World {
    let (view, seen) = watch::channel(Arc::new(PeerView::default()));
    let met = Arc::new(Mutex::new(Vec::new()));
    let meets = Arc::clone(&met);
    let around = Surroundings {
        own: "10.0.0.1:7846".parse().unwrap(),
        counts: Counts { founders: 3, servers: 3 },
        view: seen,
        meet: Box::new(move |address| lock(&meets).push(address)),
        dice: Arc::new(|| 20),
        changed: Arc::default(),
    };
    World { discovery: Discovery::start(sources, around), asked, met, view }
}

async fn after(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn times(world: &World, address: &str) -> usize {
    let address: SocketAddr = address.parse().unwrap();
    lock(&world.met).iter().filter(|met| **met == address).count()
}

/// As many live peers as said.
fn peers(count: u8) -> Arc<PeerView> {
    let mut view = PeerView::default();
    for n in 0..count {
        let id = NodeId::from_digest(&[n; 32]);
        let claim = crate::gossip::testing::claim(&id, 1, 1).into();
        let gossip_address = SocketAddr::from(([10, 0, 1, n], 7846));
        view.peers.insert(id, crate::gossip::Peer { claim, parameters: None, live: true, gossip_address });
    }
    Arc::new(view)
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_or_fails_keeps_no_other_from_being_heard() {
    let failure = || Some(Err(Failure::new("broken")));
    let world = world(vec![
        ("hangs", vec![None]),
        ("fails", vec![failure()]),
        ("works", vec![found(&["10.0.0.2:7846", "10.0.0.1:7846", "224.0.0.1:7846"])]),
    ]);
    after(1).await;
    assert!(times(&world, "10.0.0.2:7846") >= 1);
    assert_eq!(times(&world, "10.0.0.1:7846") + times(&world, "224.0.0.1:7846"), 0);
    after(5).await;
    let states: Vec<String> = world.discovery.seen().sources.iter().map(SourceSeen::state).collect();
    assert_eq!(
        states,
        ["hangs: unknown (no answer within 2.0 s)", "fails: unknown (broken)", "works: 3 addresses"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_look_up_is_not_no_peers_and_an_empty_answer_is() {
    let failure = Some(Err(Failure::new("broken")));
    let world = world(vec![("one", vec![found(&["10.0.0.2:7846"]), failure, found(&[])])]);
    after(2).await;
    assert_eq!(world.discovery.seen().sources[0].found, Some(1));
    assert_eq!(world.discovery.seen().sources[0].error.as_deref(), Some("broken"));
    assert!(world.discovery.seen().sources[0].age_ms.unwrap() >= 1_000);
    after(3).await;
    let seen = world.discovery.seen();
    assert_eq!((seen.sources[0].found, seen.sources[0].error.clone()), (Some(0), None));
    let before = times(&world, "10.0.0.2:7846");
    after(60).await;
    assert_eq!(times(&world, "10.0.0.2:7846"), before, "nobody greets what is not said any more");
}

#[tokio::test(start_paused = true)]
async fn looks_are_seldom_once_settled_and_soon_again_when_peers_are_lost() {
    let world = world(vec![("one", vec![found(&["10.0.0.2:7846"])])]);
    let asked = || world.asked[0].load(Ordering::SeqCst);
    after(30).await;
    let seeking = asked();
    assert!((5..=8).contains(&seeking), "{seeking} looks in 30 s");
    world.view.send(peers(2)).unwrap();
    after(10).await;
    let at = asked();
    after(600).await;
    assert!((9..=12).contains(&(asked() - at)), "{} looks in 10 min", asked() - at);
    let at = asked();
    world.view.send(Arc::new(PeerView::default())).unwrap();
    after(1).await;
    assert_eq!(asked(), at + 1, "alone again: looked at once");
}

/// The file is watched by being read again: every 2 seconds at the latest while peers are looked for, every 10 once they are there.
#[tokio::test(start_paused = true)]
async fn a_list_that_changes_is_seen_and_one_that_vanishes_leaves_what_it_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("peers");
    let write = |text: &str| crate::edge::fs::write_atomic(&path, text.as_bytes(), 0o644).unwrap();
    write("10.0.0.2\n");
    let file = super::super::file::File { path: path.clone(), port: 7846 };
    let world = world_of(vec![Box::new(file)], Vec::new());
    after(20).await;
    assert!(times(&world, "10.0.0.2:7846") >= 1);
    write("10.0.0.3\n");
    after(3).await;
    assert!(times(&world, "10.0.0.3:7846") >= 1);
    world.view.send(peers(2)).unwrap();
    after(20).await;
    write("10.0.0.4\n");
    after(13).await;
    assert!(times(&world, "10.0.0.4:7846") >= 1);
    crate::edge::fs::remove(&path).unwrap();
    after(30).await;
    let seen = &world.discovery.seen().sources[0];
    assert_eq!(seen.found, Some(1));
    assert!(seen.error.as_ref().unwrap().ends_with("is not there") && seen.age_ms.unwrap() >= 10_000);
}

#[tokio::test(start_paused = true)]
async fn whom_the_slow_check_of_a_settled_group_finds_is_greeted_at_once() {
    let world = world(vec![("one", vec![found(&[]), found(&[]), found(&["10.0.0.2:7846"])])]);
    world.view.send(peers(2)).unwrap();
    after(40).await;
    assert_eq!(times(&world, "10.0.0.2:7846"), 0);
    // Settled: a look each minute.
    after(100).await;
    assert!(times(&world, "10.0.0.2:7846") >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_part_adds_to_the_answer_before_and_an_empty_one_takes_nothing_away() {
    let part = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Some(Ok(Found { addresses, note: Some("stopped".to_owned()), part: true, ..Found::default() }))
    };
    let world = world(vec![
        ("one", vec![found(&["10.0.0.2:7846"]), part(&[])]),
        ("two", vec![found(&["10.0.0.2:7846"]), part(&["10.0.0.3:7846"])]),
        ("three", vec![part(&[])]),
    ]);
    after(2).await;
    let states: Vec<_> = world
        .discovery
        .seen()
        .sources
        .iter()
        .map(|seen| (seen.found, seen.age_ms.map(|age| age / 1_000)))
        .collect();
    assert_eq!(states, [(Some(1), Some(2)), (Some(2), Some(1)), (None, None)]);
    assert_eq!(world.discovery.seen().sources[0].error.as_deref(), Some("stopped"));
}

#[tokio::test(start_paused = true)]
async fn a_source_is_not_asked_again_before_its_answer_has_ended_or_it_wants_to_be() {
    let ttl = Found { good_for: Some(Duration::from_secs(40)), ..Found::default() };
    let throttled = Failure { again: Some(Duration::from_secs(90)), ..Failure::new("asked too often") };
    let world = world(vec![("ttl", vec![Some(Ok(ttl))]), ("throttled", vec![Some(Err(throttled))])]);
    after(39).await;
    assert_eq!(world.asked[0].load(Ordering::SeqCst), 1);
    after(2).await;
    assert_eq!(world.asked[0].load(Ordering::SeqCst), 2);
    // Losing peers hurries nobody who asked to be left alone.
    world.view.send(peers(2)).unwrap();
    after(1).await;
    world.view.send(Arc::new(PeerView::default())).unwrap();
    after(40).await;
    assert_eq!(world.asked[1].load(Ordering::SeqCst), 1);
    after(10).await;
    assert_eq!(world.asked[1].load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_addresses_are_greeted_a_few_at_a_time_and_a_bounded_number_in_all() {
    let many: Vec<SocketAddr> =
        (0..10_000_u16).map(|n| SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 7846))).collect();
    let world = world(vec![("one", vec![Some(Ok(Found { addresses: many, ..Found::default() }))])]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(lock(&world.met).len() <= 2 * TOGETHER);
    after(60).await;
    let met: std::collections::BTreeSet<SocketAddr> = lock(&world.met).iter().copied().collect();
    assert_eq!(met.len(), merge::MOST, "every candidate had its turn");
}

#[tokio::test(start_paused = true)]
async fn facts_of_a_failing_source_stay_and_a_change_rings() {
    let facts = |ending: Option<&str>| Facts {
        zone: Some("z".to_owned()),
        group_max: Some(9),
        ending: ending.map(str::to_owned),
        ..Facts::default()
    };
    let first = Found { facts: facts(None), ..Found::default() };
    let second = Failure { facts: Some(Box::new(facts(Some("soon")))), ..Failure::new("broken") };
    let world =
        world(vec![("one", vec![Some(Ok(first)), Some(Err(second)), Some(Err(Failure::new("dead")))])]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let seen = world.discovery.seen();
    assert_eq!((seen.zone.as_deref(), seen.group_max, seen.ending), (Some("z"), Some(9), None));
    after(10).await;
    assert_eq!(world.discovery.seen().ending.as_deref(), Some("soon"));
}
