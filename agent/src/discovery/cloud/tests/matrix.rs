//! The same for every cloud, case by case: refused, not permitted, asked too often, and machines that are gone or only not listed.
//! The servers answer in the form that each API documents.

use super::*;

const KINDS: [CloudKind; 6] = [
    CloudKind::Aws,
    CloudKind::Gcp,
    CloudKind::Azure,
    CloudKind::Hetzner,
    CloudKind::OpenStack,
    CloudKind::DigitalOcean,
];

/// What the metadata service says, and who gives tokens.
fn near(kind: CloudKind, seen: &Seen) -> Option<Answer> {
    let path = seen.path.as_str();
    match kind {
        CloudKind::Aws => imds(seen, "canary-token"),
        CloudKind::Gcp => match path {
            "/computeMetadata/v1/instance/?recursive=true" => Some(google(r#"{"zone":"projects/1/zones/zone-1"}"#)),
            "/computeMetadata/v1/project/project-id" => Some(google("p")),
            "/computeMetadata/v1/instance/service-accounts/default/token" => {
                Some(google(r#"{"access_token":"canary-token","expires_in":3599}"#))
            }
            _ => None,
        },
        CloudKind::Azure => path.strip_prefix("/metadata/").map(|path| match path.split('?').next() {
            Some("instance") => reply(
                200,
                r#"{"compute":{"subscriptionId":"s","resourceGroupName":"g","vmScaleSetName":"","name":"vm-1","location":"zone-1","zone":""}}"#,
            ),
            Some("scheduledevents") => reply(200, r#"{"DocumentIncarnation":1,"Events":[]}"#),
            _ => reply(200, r#"{"access_token":"canary-token","expires_in":"86399"}"#),
        }),
        CloudKind::Hetzner => path.starts_with("/hetzner/").then(|| reply(200, "zone-1")),
        CloudKind::OpenStack => match path {
            "/openstack/latest/meta_data.json" => Some(reply(200, r#"{"availability_zone":"zone-1"}"#)),
            "/v3/auth/tokens" => {
                let host = seen.header("host").unwrap();
                let catalog = format!(
                    r#"{{"token":{{"catalog":[{{"type":"compute","endpoints":[{{"interface":"public","region":"r","url":"http://{host}/nova"}}]}}]}}}}"#
                );
                Some(header("X-Subject-Token", "canary-token", catalog))
            }
            _ => None,
        },
        CloudKind::DigitalOcean => (path == "/metadata/v1.json").then(|| reply(200, r#"{"region":"zone-1"}"#)),
    }
}

/// Whether the credential is shown that `near` gave out or the file holds.
fn is_permitted(kind: CloudKind, seen: &Seen) -> bool {
    match kind {
        CloudKind::Aws => seen.header("x-amz-security-token") == Some("canary-session"),
        CloudKind::OpenStack => seen.header("x-auth-token") == Some("canary-token"),
        _ => seen.header("authorization") == Some("Bearer canary-token"),
    }
}

const AZURE_VMS: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines";

/// Whether this asks for one machine and not for the list.
fn is_about_one(kind: CloudKind, seen: &Seen) -> bool {
    match kind {
        CloudKind::Aws => seen.body.contains("InstanceId.1="),
        CloudKind::Gcp => seen.path.starts_with("/compute/v1/projects/p/zones/"),
        CloudKind::Azure => seen.path.starts_with(AZURE_VMS),
        CloudKind::Hetzner => seen.path.starts_with("/v1/servers/"),
        CloudKind::OpenStack => seen.path.starts_with("/nova/servers/") && !seen.path.contains("/detail"),
        CloudKind::DigitalOcean => seen.path.starts_with("/v2/droplets/"),
    }
}

/// Running machines by number, at 10.0.0.N.
fn list(kind: CloudKind, numbers: &[u64]) -> Answer {
    let each = |one: &dyn Fn(u64) -> String, between: &str| {
        numbers.iter().map(|n| one(*n)).collect::<Vec<_>>().join(between)
    };
    reply(
        200,
        match kind {
            CloudKind::Aws => {
                instances(&each(&|n| instance(&format!("i-{n}"), &format!("10.0.0.{n}"), "running"), ""), "")
            }
            CloudKind::Gcp => {
                let all = each(
                    &|n| {
                        format!(
                            r#"{{"id":"{n}","name":"vm-{n}","status":"RUNNING","zone":"x/zones/zone-1","networkInterfaces":[{{"networkIP":"10.0.0.{n}"}}]}}"#
                        )
                    },
                    ",",
                );
                format!(r#"{{"items":{{"zones/zone-1":{{"instances":[{all}]}}}}}}"#)
            }
            CloudKind::Azure => {
                let all = each(
                    &|n| {
                        format!(
                            r#"{{"tags":{{"role":"k3s"}},"properties":{{"virtualMachine":{{"id":"{AZURE_VMS}/{n}"}},"ipConfigurations":[{{"properties":{{"privateIPAddress":"10.0.0.{n}"}}}}]}}}}"#
                        )
                    },
                    ",",
                );
                // A card of nobody, and one without the tag.
                format!(
                    r#"{{"value":[{all}{}{{"tags":{{"role":"k3s"}},"properties":{{}}}},{{"properties":{{"virtualMachine":{{"id":"{AZURE_VMS}/9"}},"ipConfigurations":[{{"properties":{{"privateIPAddress":"10.0.0.9"}}}}]}}}}]}}"#,
                    if all.is_empty() { "" } else { "," }
                )
            }
            CloudKind::Hetzner => {
                let all = each(
                    &|n| format!(r#"{{"id":{n},"status":"running","private_net":[{{"ip":"10.0.0.{n}"}}]}}"#),
                    ",",
                );
                format!(r#"{{"servers":[{all}],"meta":{{"pagination":{{"next_page":null}}}}}}"#)
            }
            CloudKind::OpenStack => {
                let all = each(
                    &|n| {
                        format!(
                            r#"{{"id":"{n}","status":"ACTIVE","metadata":{{"role":"k3s"}},"addresses":{{"net":[{{"addr":"10.0.0.{n}"}}]}}}}"#
                        )
                    },
                    ",",
                );
                format!(r#"{{"servers":[{all}]}}"#)
            }
            CloudKind::DigitalOcean => {
                let all = each(
                    &|n| {
                        format!(
                            r#"{{"id":{n},"status":"active","networks":{{"v4":[{{"ip_address":"10.0.0.{n}","type":"private"}}]}}}}"#
                        )
                    },
                    ",",
                );
                format!(r#"{{"droplets":[{all}],"links":{{}}}}"#)
            }
        },
    )
}

/// The documented error of this status: what the server sends, and what of it is told.
fn error(kind: CloudKind, status: u16) -> (Answer, &'static str) {
    let (body, told) = match (kind, status) {
        (CloudKind::Aws, 401) => {
            ("<Response><Errors><Error><Code>AuthFailure</Code></Error></Errors></Response>", "AuthFailure")
        }
        (CloudKind::Aws, 403) => (
            "<Response><Errors><Error><Code>UnauthorizedOperation</Code></Error></Errors></Response>",
            "UnauthorizedOperation",
        ),
        (CloudKind::Aws, _) => (
            "<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>",
            "RequestLimitExceeded",
        ),
        (CloudKind::Gcp, 401) => (
            r#"{"error":{"code":401,"message":"Invalid Credentials","errors":[{"reason":"authError"}]}}"#,
            "Invalid Credentials",
        ),
        (CloudKind::Gcp, 403) => (
            r#"{"error":{"code":403,"message":"Required 'compute.instances.list' permission for 'projects/p'","errors":[{"reason":"forbidden"}]}}"#,
            "Required 'compute.instances.list' permission for 'projects/p'",
        ),
        (CloudKind::Gcp, _) => (
            r#"{"error":{"code":429,"message":"Quota exceeded","errors":[{"reason":"rateLimitExceeded"}]}}"#,
            "Quota exceeded",
        ),
        (CloudKind::Azure, 401) => (
            r#"{"error":{"code":"ExpiredAuthenticationToken","message":"The access token expiry UTC time is earlier than now"}}"#,
            "The access token expiry UTC time is earlier than now",
        ),
        (CloudKind::Azure, 403) => (
            r#"{"error":{"code":"AuthorizationFailed","message":"The client does not have authorization to perform action"}}"#,
            "The client does not have authorization to perform action",
        ),
        (CloudKind::Azure, _) => (
            r#"{"error":{"code":"OperationNotAllowed","message":"The server rejected the request because too many requests have been received"}}"#,
            "The server rejected the request because too many requests have been received",
        ),
        (CloudKind::Hetzner, 401) => (
            r#"{"error":{"code":"unauthorized","message":"unable to authenticate"}}"#,
            "unable to authenticate",
        ),
        (CloudKind::Hetzner, 403) => (
            r#"{"error":{"code":"forbidden","message":"insufficient permissions"}}"#,
            "insufficient permissions",
        ),
        (CloudKind::Hetzner, _) => {
            (r#"{"error":{"code":"rate_limit_exceeded","message":"limit reached"}}"#, "limit reached")
        }
        (CloudKind::OpenStack, 401) => (
            r#"{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}"#,
            "The request you have made requires authentication.",
        ),
        (CloudKind::OpenStack, 403) => (
            r#"{"forbidden":{"code":403,"message":"Policy doesn't allow os_compute_api:servers:detail to be performed."}}"#,
            "Policy doesn't allow os_compute_api:servers:detail to be performed.",
        ),
        (CloudKind::OpenStack, _) => (
            r#"{"overLimit":{"code":429,"message":"This request was rate-limited."}}"#,
            "This request was rate-limited.",
        ),
        (CloudKind::DigitalOcean, 401) => {
            (r#"{"id":"unauthorized","message":"Unable to authenticate you"}"#, "Unable to authenticate you")
        }
        (CloudKind::DigitalOcean, 403) => (
            r#"{"id":"forbidden","message":"You are not authorized to perform this operation"}"#,
            "You are not authorized to perform this operation",
        ),
        (CloudKind::DigitalOcean, _) => {
            (r#"{"id":"too_many_requests","message":"API Rate limit exceeded."}"#, "API Rate limit exceeded.")
        }
    };
    (reply(status, body), told)
}

/// The API's own word that there is no such machine.
fn not_found(kind: CloudKind) -> Answer {
    match kind {
        CloudKind::Aws => reply(
            400,
            "<Response><Errors><Error><Code>InvalidInstanceID.NotFound</Code></Error></Errors></Response>",
        ),
        CloudKind::Gcp => reply(404, r#"{"error":{"code":404,"message":"The resource was not found"}}"#),
        CloudKind::Azure => reply(404, r#"{"error":{"code":"ResourceNotFound","message":"was not found"}}"#),
        CloudKind::Hetzner => reply(404, r#"{"error":{"code":"not_found","message":"server not found"}}"#),
        CloudKind::OpenStack => reply(404, r#"{"itemNotFound":{"code":404,"message":"could not be found"}}"#),
        CloudKind::DigitalOcean => reply(404, r#"{"id":"not_found","message":"could not be found"}"#),
    }
}

/// One machine that is still there, in the form in which it is asked for; with another number where a name was given again, or in a
/// state.
fn there(kind: CloudKind, number: u64, state: &str) -> Answer {
    match kind {
        CloudKind::Aws => {
            let state = if state.is_empty() { "running" } else { state };
            reply(200, instances(&instance("i-2", "10.0.0.2", state), ""))
        }
        CloudKind::Gcp => reply(200, format!(r#"{{"id":"{number}","name":"vm-2","status":"RUNNING"}}"#)),
        CloudKind::OpenStack => {
            let state = if state.is_empty() { "ACTIVE" } else { state };
            reply(200, format!(r#"{{"server":{{"id":"2","status":"{state}"}}}}"#))
        }
        _ => reply(200, "{}"),
    }
}

/// Answers after one machine.
type One = Box<dyn Fn() -> Answer + Send + Sync>;

/// A cloud at a server that gives lists and answers after one machine by these.
async fn play(
    kind: CloudKind,
    lists: impl Fn() -> Answer + Send + Sync + 'static,
    one: impl Fn() -> Answer + Send + Sync + 'static,
) -> (Cloud, Server, tempfile::NamedTempFile) {
    let server = Server::start(None, move |seen| {
        if let Some(answer) = near(kind, seen) {
            return answer;
        }
        assert!(is_permitted(kind, seen), "{kind:?}: {seen:?}");
        if is_about_one(kind, seen) { one() } else { lists() }
    })
    .await;
    let file = secret("canary-token");
    let find = match kind {
        CloudKind::DigitalOcean => Find::Tag("k3s".to_owned(), None),
        _ => tag("role", "k3s"),
    };
    let mut told = settings(kind, find, &server);
    if kind == CloudKind::OpenStack {
        told.endpoint = Some(format!("http://{}/v3", server.at));
        told.credential = Some("id".to_owned());
    }
    let with_file = matches!(kind, CloudKind::Hetzner | CloudKind::OpenStack | CloudKind::DigitalOcean);
    told.token_file = with_file.then(|| file.path().to_owned());
    (cloud(told), server, file)
}

#[tokio::test]
async fn refused_not_permitted_and_asked_too_often_are_told_and_take_nothing_back() {
    for kind in KINDS {
        for (status, words) in
            [(401, "not permitted, status 401"), (403, "not permitted, status 403"), (429, "asked too often")]
        {
            let bad = Arc::new(AtomicUsize::new(0));
            let now = Arc::clone(&bad);
            let lists = move || match now.load(Ordering::SeqCst) {
                0 => list(kind, &[1, 2]),
                _ => {
                    let answer = error(kind, status).0;
                    let headers = if status == 429 { "Retry-After: 77\r\n" } else { "" };
                    Answer { headers: headers.to_owned(), ..answer }
                }
            };
            let (mut cloud, server, _file) = play(kind, lists, || reply(500, "")).await;
            let found = look(&mut cloud).await.unwrap();
            assert_eq!((addresses(&found).as_str(), found.note), ("10.0.0.1 10.0.0.2", None), "{kind:?}");
            bad.store(1, Ordering::SeqCst);
            let failure = look(&mut cloud).await.unwrap_err();
            let told = error(kind, status).1;
            assert!(failure.cause.ends_with(&format!(": {words} ({told})")), "{kind:?}: {}", failure.cause);
            assert!(!failure.cause.contains("canary"), "{kind:?}: {}", failure.cause);
            let facts = failure.facts.unwrap();
            let zone = if kind == CloudKind::Aws { "eu-west-1b" } else { "zone-1" };
            assert_eq!((facts.zone.as_deref(), facts.held.len()), (Some(zone), 2), "{kind:?}");
            assert!(facts.terminated.is_empty(), "{kind:?}: a failed list is nobody's end");
            assert_eq!(left_alone(&cloud), (status == 429).then_some(77), "{kind:?} {status}");
            // Left alone means left alone; otherwise the next look asks again.
            let asked = |server: &Server| {
                server.seen.lock().unwrap().iter().filter(|seen| near(kind, seen).is_none()).count()
            };
            let before = asked(&server);
            assert!(look(&mut cloud).await.is_err());
            assert_eq!(asked(&server) > before, status != 429, "{kind:?} {status}");
        }
    }
}

#[tokio::test]
async fn a_machine_that_is_not_listed_is_gone_by_the_apis_own_word_alone() {
    for kind in KINDS {
        let word = kind.word();
        let id = match kind {
            CloudKind::Aws => "i-2".to_owned(),
            CloudKind::Gcp => "zone-1/vm-2/2".to_owned(),
            CloudKind::Azure => format!("{AZURE_VMS}/2"),
            _ => "2".to_owned(),
        };
        let mut cases: Vec<(&str, One, bool)> = vec![
            ("its own word", Box::new(move || not_found(kind)), true),
            ("there", Box::new(move || there(kind, 2, "")), false),
            ("404 of somebody on the way", Box::new(|| reply(404, "<html>not found</html>")), false),
            ("an error", Box::new(|| reply(500, "{}")), false),
            ("not permitted", Box::new(move || error(kind, 403).0), false),
        ];
        match kind {
            CloudKind::Aws => {
                cases.push(("terminated", Box::new(move || there(kind, 2, "terminated")), true));
                cases.push(("ending", Box::new(move || there(kind, 2, "shutting-down")), false));
            }
            CloudKind::Gcp => {
                cases.push(("its name is another's now", Box::new(move || there(kind, 3, "")), true))
            }
            CloudKind::OpenStack => {
                cases.push(("deleted", Box::new(move || there(kind, 2, "DELETED")), true));
                cases.push(("stopped", Box::new(move || there(kind, 2, "SHUTOFF")), false));
            }
            _ => {}
        }
        for (what, one, gone) in cases {
            let round = Arc::new(AtomicUsize::new(0));
            let now = Arc::clone(&round);
            let lists = move || list(kind, if now.load(Ordering::SeqCst) == 0 { &[1, 2] } else { &[1] });
            let (mut cloud, _server, _file) = play(kind, lists, one).await;
            look(&mut cloud).await.unwrap();
            round.store(1, Ordering::SeqCst);
            let found = look(&mut cloud).await.unwrap();
            assert_eq!(addresses(&found), "10.0.0.1", "{kind:?}: {what}");
            let told: Vec<String> = found.facts.terminated.values().cloned().collect();
            let wanted: Vec<String> =
                gone.then(|| format!("{word}: {id} no longer exists")).into_iter().collect();
            assert_eq!(told, wanted, "{kind:?}: {what}");
        }
    }
}

#[tokio::test]
async fn openstack_lists_a_deleted_machine_by_its_state() {
    let kind = CloudKind::OpenStack;
    let round = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&round);
    let lists = move || match now.load(Ordering::SeqCst) {
        0 => list(kind, &[1, 2]),
        _ => {
            let answer = list(kind, &[1, 2]);
            let text = String::from_utf8(answer.body)
                .unwrap()
                .replacen("ACTIVE", "SHUTOFF", 1)
                .replacen("ACTIVE", "DELETED", 1);
            reply(200, text)
        }
    };
    let (mut cloud, _server, _file) = play(kind, lists, || reply(500, "")).await;
    look(&mut cloud).await.unwrap();
    round.store(1, Ordering::SeqCst);
    let found = look(&mut cloud).await.unwrap();
    // One is stopped, which is not gone; one is deleted.
    assert_eq!(addresses(&found), "");
    let gone: Vec<String> =
        found.facts.terminated.iter().map(|(ip, words)| format!("{ip} {words}")).collect();
    assert_eq!(gone, ["10.0.0.2 openstack: 2 is terminated"]);
}

#[tokio::test]
async fn google_says_too_often_with_the_status_of_a_missing_permission() {
    let lists = || {
        reply(
            403,
            r#"{"error":{"code":403,"message":"Rate Limit Exceeded","errors":[{"domain":"usageLimits","reason":"rateLimitExceeded"}]}}"#,
        )
    };
    let (mut cloud, _server, _file) = play(CloudKind::Gcp, lists, || reply(500, "")).await;
    assert_eq!(
        look(&mut cloud).await.unwrap_err().cause,
        "instances.list: asked too often (Rate Limit Exceeded)"
    );
    assert_eq!(left_alone(&cloud), Some(30));
}

/// Azure's notices: for this machine alone, and a service that gives none takes none back.
#[tokio::test]
async fn azure_tells_of_its_own_end_and_keeps_zone_and_notice_when_the_events_fail() {
    let event = |kind: &str, resource: &str| {
        reply(
            200,
            format!(r#"{{"Events":[{{"EventType":"{kind}","Resources":["{resource}"],"NotBefore":""}}]}}"#),
        )
    };
    let events: Arc<Mutex<Option<Answer>>> = Arc::default();
    let next = Arc::clone(&events);
    let server = Server::start(None, move |seen| {
        if seen.path.starts_with("/metadata/scheduledevents?") {
            return next.lock().unwrap().take().unwrap();
        }
        near(CloudKind::Azure, seen).unwrap()
    })
    .await;
    let mut azure = cloud(settings(CloudKind::Azure, Find::Metadata, &server));
    let ending = "azure: Terminate, not before any moment";
    let cases = [
        (event("Reboot", "vm-1"), None, None),
        (event("Terminate", "vm-2"), None, None),
        (event("Terminate", "vm-1"), Some(ending), None),
        (reply(503, ""), Some(ending), Some("scheduled events: metadata: asked too often")),
        (reply(200, "<html>"), Some(ending), Some("scheduled events: metadata: the answer is not JSON")),
        (reply(200, r#"{"Events":[]}"#), None, None),
    ];
    for (answer, wanted, note) in cases {
        *events.lock().unwrap() = Some(answer);
        let found = look(&mut azure).await.unwrap();
        assert_eq!(found.facts.zone.as_deref(), Some("zone-1"));
        assert_eq!((found.facts.ending.as_deref(), found.note.as_deref()), (wanted, note));
    }
}

#[tokio::test]
async fn the_largest_size_that_cannot_be_asked_for_is_a_note_and_the_list_counts() {
    let by = "projects/1/zones/zone-1/instanceGroupManagers/web";
    let google_list = move |seen: &Seen| match seen.path.as_str() {
        "/computeMetadata/v1/instance/attributes/created-by" => google(by),
        path if path.contains("/autoscalers") => reply(403, r#"{"error":{"code":403,"message":"no right"}}"#),
        _ => reply(
            200,
            format!(
                r#"{{"items":{{"z":{{"instances":[{{"id":"1","name":"a","status":"RUNNING","zone":"z","networkInterfaces":[{{"networkIP":"10.0.0.1"}}],"metadata":{{"items":[{{"key":"created-by","value":"{by}"}}]}}}}]}}}}}}"#
            ),
        ),
    };
    let azure_list = |seen: &Seen| match seen.path.as_str() {
        path if path.starts_with("/metadata/instance?") => reply(
            200,
            r#"{"compute":{"subscriptionId":"s","resourceGroupName":"g","vmScaleSetName":"web","name":"web_1","location":"l"}}"#,
        ),
        path if path.contains("/autoscalesettings") => {
            reply(403, r#"{"error":{"code":"AuthorizationFailed","message":"no right"}}"#)
        }
        _ => reply(
            200,
            format!(
                r#"{{"value":[{{"properties":{{"virtualMachine":{{"id":"{AZURE_VMS}/1"}},"ipConfigurations":[{{"properties":{{"privateIPAddress":"10.0.0.1"}}}}]}}}}]}}"#
            ),
        ),
    };
    let aws_list = |seen: &Seen| match seen.body.as_str() {
        body if body.starts_with("Action=DescribeAutoScalingInstances&") => reply(
            200,
            "<R><AutoScalingInstances><member><AutoScalingGroupName>web</AutoScalingGroupName></member></AutoScalingInstances></R>",
        ),
        body if body.starts_with("Action=DescribeAutoScalingGroups&") => {
            reply(403, "<R><Error><Code>no right</Code></Error></R>")
        }
        _ => reply(200, instances(&instance("i-1", "10.0.0.1", "running"), "")),
    };
    type Play = Box<dyn Fn(&Seen) -> Answer + Send + Sync>;
    let plays: [(CloudKind, Play); 3] = [
        (CloudKind::Gcp, Box::new(google_list)),
        (CloudKind::Azure, Box::new(azure_list)),
        (CloudKind::Aws, Box::new(aws_list)),
    ];
    for (kind, play) in plays {
        let special =
            |seen: &Seen| seen.path.contains("created-by") || seen.path.starts_with("/metadata/instance?");
        let server = Server::start(None, move |seen| {
            if special(seen) { play(seen) } else { near(kind, seen).unwrap_or_else(|| play(seen)) }
        })
        .await;
        let mut cloud = cloud(settings(kind, Find::Group, &server));
        let found = look(&mut cloud).await.unwrap();
        assert_eq!((addresses(&found).as_str(), found.facts.group_max), ("10.0.0.1", None), "{kind:?}");
        let note = found.note.unwrap();
        assert!(
            note.starts_with("the largest size of the group is not known: ") && note.ends_with("(no right)"),
            "{note}"
        );
    }
}
