//! What a cloud as a source makes of answers and failures, in virtual time, with a provider that says what it is told to.

use super::*;
use crate::discovery::run::ask;

#[derive(Default)]
struct Script {
    here: Option<Result<Here, Failure>>,
    list: Option<Result<Listing, Failure>>,
    /// Hangs where there is none.
    gone: Option<Result<bool, Failure>>,
    heres: usize,
    lists: usize,
    asked: Vec<String>,
}

/// A part of the script that is not written hangs.
struct Fake(Arc<Mutex<Script>>);

#[async_trait]
impl Provider for Fake {
    async fn here(&mut self, _: &Api) -> Result<Here, Failure> {
        let said = {
            let mut script = self.0.lock().unwrap();
            script.heres += 1;
            script.here.clone()
        };
        match said {
            Some(said) => said,
            None => std::future::pending().await,
        }
    }
    async fn list(&mut self, _: &Api) -> Result<Listing, Failure> {
        let said = {
            let mut script = self.0.lock().unwrap();
            script.lists += 1;
            script.list.clone()
        };
        match said {
            Some(said) => said,
            None => std::future::pending().await,
        }
    }
    async fn is_gone(&mut self, _: &Api, id: &str) -> Result<bool, Failure> {
        let said = {
            let mut script = self.0.lock().unwrap();
            script.asked.push(id.to_owned());
            script.gone.clone()
        };
        match said {
            Some(said) => said,
            None => std::future::pending().await,
        }
    }
}

fn fake(find: Find) -> (Cloud, Arc<Mutex<Script>>) {
    let script = Arc::new(Mutex::new(Script::default()));
    let told = CloudSettings {
        kind: CloudKind::Aws,
        find,
        endpoint: None,
        metadata: None,
        region: None,
        token_file: None,
        credential: None,
    };
    let provider = Box::new(Fake(Arc::clone(&script)));
    (Cloud { provider, ..cloud(told) }, script)
}

fn here(ending: Option<&str>) -> Option<Result<Here, Failure>> {
    Some(Ok(Here { zone: Some("z".to_owned()), ending: Ok(ending.map(str::to_owned)) }))
}

fn listing(machines: u16, group_max: Result<Option<u32>, Failure>) -> Option<Result<Listing, Failure>> {
    let machine = |n: u16| {
        let ip = IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        Machine { id: format!("i-{n:04}"), ips: vec![ip], state: State::Running }
    };
    Some(Ok(Listing { machines: (1..=machines).map(machine).collect(), group_max }))
}

fn broken(cause: &str) -> Failure {
    Failure::new(cause)
}

async fn settled_look(cloud: &mut Cloud) -> Result<Found, Failure> {
    let scene = Scene { enough: watch::channel(true).1, ..scene() };
    ask(cloud, &scene).await
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn notice_zone_and_largest_size_stand_while_the_questions_for_them_fail_and_not_for_ever() {
    let (mut cloud, script) = fake(Find::Group);
    let facts = |facts: &Facts| (facts.zone.clone(), facts.group_max, facts.ending.clone());
    let all = (Some("z".to_owned()), Some(9), Some("soon".to_owned()));
    script.lock().unwrap().here = here(Some("soon"));
    script.lock().unwrap().list = listing(2, Ok(Some(9)));
    let found = look(&mut cloud).await.unwrap();
    assert_eq!((facts(&found.facts), found.note), (all.clone(), None));
    // The metadata service fails, and so does the question for the size: the list is good.
    script.lock().unwrap().here = Some(Err(broken("metadata: status 500")));
    script.lock().unwrap().list = listing(2, Err(broken("autoscalers: not permitted")));
    let found = look(&mut cloud).await.unwrap();
    assert_eq!((facts(&found.facts), found.addresses.len()), (all.clone(), 2));
    let note = "the largest size of the group is not known: autoscalers: not permitted; metadata: status 500";
    assert_eq!(found.note.as_deref(), Some(note));
    // The list fails, too; and then the service says where it is, and nothing of notices.
    script.lock().unwrap().list = Some(Err(broken("list: status 500")));
    let failure = look(&mut cloud).await.unwrap_err();
    assert_eq!(
        (failure.cause.as_str(), facts(failure.facts.as_ref().unwrap())),
        ("list: status 500", all.clone())
    );
    script.lock().unwrap().here = Some(Ok(Here { zone: None, ending: Err(broken("notices")) }));
    assert_eq!(facts(look(&mut cloud).await.unwrap_err().facts.as_ref().unwrap()), all);
    // A service that hangs is a service that fails.
    script.lock().unwrap().here = None;
    script.lock().unwrap().list = None;
    cloud.listed.at = None;
    let failure = ask(&mut cloud, &scene()).await.unwrap_err();
    assert_eq!(failure.cause, "the list did not come to its end in time");
    assert_eq!(facts(failure.facts.as_ref().unwrap()), all);
    // Not for ever; where it is does not change.
    pass(LASTS.as_secs()).await;
    script.lock().unwrap().here = Some(Err(broken("metadata")));
    script.lock().unwrap().list = Some(Err(broken("list")));
    let late = look(&mut cloud).await.unwrap_err().facts.unwrap();
    assert_eq!(facts(&late), (Some("z".to_owned()), None, None));
}

#[tokio::test(start_paused = true)]
async fn a_notice_is_withdrawn_by_the_service_alone() {
    for find in [Find::Metadata, tag("a", "b")] {
        let (mut cloud, script) = fake(find);
        script.lock().unwrap().here = here(Some("soon"));
        script.lock().unwrap().list = listing(1, Ok(None));
        look(&mut cloud).await.unwrap();
        script.lock().unwrap().here = Some(Err(broken("metadata")));
        let facts = match look(&mut cloud).await {
            Ok(found) => found.facts,
            Err(failure) => *failure.facts.unwrap(),
        };
        assert_eq!(facts.ending.as_deref(), Some("soon"));
        script.lock().unwrap().here = here(None);
        assert_eq!(look(&mut cloud).await.unwrap().facts.ending, None);
    }
}

#[tokio::test(start_paused = true)]
async fn questions_after_missing_machines_that_hang_or_fail_do_not_cost_the_list() {
    let (mut cloud, script) = fake(Find::Group);
    script.lock().unwrap().here = here(None);
    script.lock().unwrap().list = listing(30, Ok(None));
    look(&mut cloud).await.unwrap();
    script.lock().unwrap().list = listing(2, Ok(None));
    let began = Instant::now();
    let found = look(&mut cloud).await.unwrap();
    assert_eq!(found.addresses.len(), 2);
    assert!(began.elapsed() <= MISSING_PATIENCE, "{:?}", began.elapsed());
    assert_eq!(script.lock().unwrap().asked, ["i-0003"]);
    // A failed question says nothing of the machine, and has its turn again after the others.
    script.lock().unwrap().gone = Some(Err(broken("status 500")));
    for _ in 0..4 {
        assert!(look(&mut cloud).await.unwrap().facts.terminated.is_empty());
    }
    let asked: std::collections::BTreeSet<String> = script.lock().unwrap().asked.iter().cloned().collect();
    assert_eq!(asked.len(), 28);
    script.lock().unwrap().gone = Some(Ok(true));
    for _ in 0..4 {
        look(&mut cloud).await.unwrap();
    }
    assert_eq!(cloud.facts().terminated.len(), 28);
}

#[tokio::test(start_paused = true)]
async fn a_settled_node_hears_of_its_end_within_ten_seconds_and_lists_each_minute() {
    let (mut cloud, script) = fake(Find::Group);
    assert_eq!(cloud.pace().settled, Duration::from_secs(10));
    script.lock().unwrap().here = here(None);
    script.lock().unwrap().list = listing(3, Ok(Some(9)));
    for n in 0..60 {
        let found = settled_look(&mut cloud).await.unwrap();
        // Between lists what the last one gave stands: an answer of nobody would take it away.
        assert_eq!(
            (found.part, found.addresses.len()),
            if n % 6 == 0 { (false, 3) } else { (true, 0) },
            "{n}"
        );
        assert_eq!((found.facts.group_max, found.facts.held.len()), (Some(9), 3));
        pass(10).await;
    }
    assert_eq!(script.lock().unwrap().heres, 60);
    assert_eq!(script.lock().unwrap().lists, 10);
    script.lock().unwrap().here = here(Some("soon"));
    assert_eq!(settled_look(&mut cloud).await.unwrap().facts.ending.as_deref(), Some("soon"));
    // Peers are lost: the list is asked for at once, and then ever less often.
    let lists = script.lock().unwrap().lists;
    let mut at = Vec::new();
    for second in 0..200_u64 {
        let before = script.lock().unwrap().lists;
        if second < 6 || second % 10 == 0 {
            ask(&mut cloud, &scene()).await.unwrap();
        }
        if script.lock().unwrap().lists > before {
            at.push(second);
        }
        pass(1).await;
    }
    assert_eq!(at[0], 0);
    assert!((5..12).contains(&at.len()) && script.lock().unwrap().lists - lists == at.len(), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn an_api_that_wants_to_be_left_alone_is_and_the_notice_is_heard_all_the_same() {
    let (mut cloud, script) = fake(Find::Group);
    let throttled =
        |seconds| Some(Err(Failure { again: Some(Duration::from_secs(seconds)), ..broken("too often") }));
    script.lock().unwrap().here = here(None);
    script.lock().unwrap().list = throttled(300);
    let failure = settled_look(&mut cloud).await.unwrap_err();
    assert_eq!((failure.cause.as_str(), failure.again), ("too often", None), "the source itself is asked on");
    script.lock().unwrap().here = here(Some("soon"));
    for n in 0..30 {
        // Even a node that is alone waits.
        let failure = ask(&mut cloud, &scene()).await.unwrap_err();
        assert_eq!(
            (failure.cause.as_str(), failure.facts.unwrap().ending.as_deref()),
            ("too often", Some("soon"))
        );
        assert_eq!(script.lock().unwrap().lists, 1, "{n}");
        pass(10).await;
    }
    // Its wish has a bound.
    script.lock().unwrap().list = throttled(1_000_000);
    assert!(ask(&mut cloud, &scene()).await.is_err());
    assert_eq!((script.lock().unwrap().lists, left_alone(&cloud)), (2, Some(600)));
    script.lock().unwrap().list = listing(1, Ok(None));
    pass(600).await;
    assert_eq!(ask(&mut cloud, &scene()).await.unwrap().addresses.len(), 1);
}
