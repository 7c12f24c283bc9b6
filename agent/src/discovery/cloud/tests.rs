//! Every cloud against a server on loopback that plays its documented API: answers, pages, errors, throttling, tokens that end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, watch};

use super::*;
use crate::core::Secret;
use crate::k3s::testing::{Reply as Answer, Seen, Server, reply};

mod looks;
mod matrix;

const NOW: i64 = 1_440_938_160;

fn settings(kind: CloudKind, find: Find, server: &Server) -> CloudSettings {
    let base = Some(format!("http://{}", server.at));
    CloudSettings {
        kind,
        find,
        endpoint: base.clone(),
        metadata: base,
        region: None,
        token_file: None,
        credential: None,
    }
}

fn cloud(settings: CloudSettings) -> Cloud {
    Cloud::new(settings, 7846, Web::with(None).map(Arc::new), Arc::new(|| NOW))
}

fn scene() -> Scene {
    Scene {
        own: ([10, 0, 0, 1], 7846).into(),
        enough: watch::channel(false).1,
        tell: mpsc::unbounded_channel().0,
    }
}

/// A look for which the list is due, unless the API is left alone.
async fn look(cloud: &mut Cloud) -> Result<Found, Failure> {
    cloud.listed.at = None;
    cloud.look(&scene()).await
}

/// For how many seconds the API is left alone.
fn left_alone(cloud: &Cloud) -> Option<u64> {
    cloud.listed.left_alone.map(|until| (until - Instant::now()).as_secs_f64().ceil() as u64)
}

fn addresses(found: &Found) -> String {
    found.addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(" ")
}

fn header(name: &str, value: &str, body: impl Into<Vec<u8>>) -> Answer {
    Answer { headers: format!("{name}: {value}\r\n"), ..reply(200, body) }
}

fn secret(text: &str) -> tempfile::NamedTempFile {
    use std::io::Write as _;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{text}").unwrap();
    file
}

fn tag(key: &str, value: &str) -> Find {
    Find::Tag(key.to_owned(), Some(value.to_owned()))
}

// --- AWS -----------------------------------------------------------------------------------------------------------------

fn instance(id: &str, ip: &str, state: &str) -> String {
    let address =
        if ip.is_empty() { String::new() } else { format!("<privateIpAddress>{ip}</privateIpAddress>") };
    format!(
        "<item><reservationId>r-1</reservationId><instancesSet><item><instanceId>{id}</instanceId><instanceState><code>16</code>\
         <name>{state}</name></instanceState>{address}<networkInterfaceSet><item><attachment><instanceId>other</instanceId></attachment>\
         <privateIpAddress>10.9.9.9</privateIpAddress></item></networkInterfaceSet></item></instancesSet></item>"
    )
}

fn instances(items: &str, next: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <requestId>x</requestId><reservationSet>{items}</reservationSet>{next}</DescribeInstancesResponse>"
    )
}

/// IMDSv2 as documented: no answer without a token that it gave.
fn imds(seen: &Seen, token: &str) -> Option<Answer> {
    if seen.path == "/latest/api/token" {
        assert_eq!(seen.method, "PUT");
        assert_eq!(seen.header("x-aws-ec2-metadata-token-ttl-seconds"), Some("300"));
        return Some(header("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300", token));
    }
    let path = seen.path.strip_prefix("/latest/")?;
    if seen.header("x-aws-ec2-metadata-token") != Some(token) {
        return Some(reply(401, ""));
    }
    Some(match path {
        "dynamic/instance-identity/document" => reply(
            200,
            r#"{"accountId":"1","availabilityZone":"eu-west-1b","instanceId":"i-1","privateIp":"10.0.0.1","region":"eu-west-1"}"#,
        ),
        "meta-data/iam/security-credentials/" => reply(200, "the-role"),
        "meta-data/iam/security-credentials/the-role" => reply(
            200,
            r#"{"Code":"Success","AccessKeyId":"AKIDEXAMPLE","SecretAccessKey":"canary-secret","Token":"canary-session","Expiration":"2030-01-01T00:00:00Z"}"#,
        ),
        _ => reply(404, "<html>404 - Not Found</html>"),
    })
}

#[tokio::test]
async fn aws_gives_the_group_page_by_page_signed_with_its_largest_size() {
    let server = Server::start(None, |seen| {
        if let Some(answer) = imds(seen, "token-1") {
            return answer;
        }
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/"));
        let authorization = seen.header("authorization").unwrap();
        let service = if seen.body.contains("AutoScaling") { "autoscaling" } else { "ec2" };
        assert!(authorization.starts_with(&format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/eu-west-1/{service}/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature="
        )), "{authorization}");
        // The signature is over what was sent: made again from it.
        let secret = Secret::new("canary-secret".to_owned());
        let headers: Vec<(&str, &str)> = ["content-type", "host", "x-amz-date", "x-amz-security-token"]
            .iter()
            .map(|name| (*name, seen.header(name).unwrap()))
            .collect();
        let signer =
            sigv4::Signer { key_id: "AKIDEXAMPLE", secret: &secret, region: "eu-west-1", service, unix: NOW };
        let signed = sigv4::Signed {
            method: "POST",
            path: "/",
            query: &[],
            headers: &headers,
            body: seen.body.as_bytes(),
        };
        assert_eq!(sigv4::authorization(&signer, &signed), authorization);
        match seen.body.as_str() {
            body if body.starts_with("Action=DescribeAutoScalingInstances&") => {
                assert!(body.contains("InstanceIds.member.1=i-1"), "{body}");
                reply(200, "<R><AutoScalingInstances><member><AutoScalingGroupName>web</AutoScalingGroupName></member></AutoScalingInstances></R>")
            }
            body if body.starts_with("Action=DescribeAutoScalingGroups&") => {
                reply(200, "<R><AutoScalingGroups><member><MinSize>1</MinSize><MaxSize>9</MaxSize></member></AutoScalingGroups></R>")
            }
            body => {
                assert!(body.contains("Filter.1.Name=tag%3Aaws%3Aautoscaling%3AgroupName&Filter.1.Value.1=web"), "{body}");
                if body.contains("NextToken=more") {
                    reply(200, instances(&instance("i-3", "10.0.0.3", "pending"), ""))
                } else {
                    let items = [
                        instance("i-1", "10.0.0.1", "running"),
                        instance("i-2", "10.0.0.2", "running"),
                        instance("i-9", "", "terminated"),
                        instance("i-8", "10.0.0.8", "stopped"),
                    ];
                    reply(200, instances(&items.concat(), "<nextToken>more</nextToken>"))
                }
            }
        }
    })
    .await;
    let mut aws = cloud(settings(CloudKind::Aws, Find::Group, &server));
    let found = look(&mut aws).await.unwrap();
    assert_eq!(addresses(&found), "10.0.0.1 10.0.0.2 10.0.0.3");
    assert_eq!((found.facts.zone.as_deref(), found.facts.group_max), (Some("eu-west-1b"), Some(9)));
    assert_eq!((found.facts.ending, found.facts.terminated.len()), (None, 0));
    let tokens = server.paths().iter().filter(|path| *path == "/latest/api/token").count();
    assert_eq!(tokens, 1, "one token for all of it");
}

#[tokio::test]
async fn aws_takes_a_new_token_when_the_old_one_has_ended_and_tells_of_notices() {
    let round = Arc::new(AtomicUsize::new(0));
    let at = Arc::clone(&round);
    let server = Server::start(None, move |seen| {
        let token = format!("token-{}", at.load(Ordering::SeqCst));
        if seen.path == "/latest/meta-data/spot/instance-action"
            && seen.header("x-aws-ec2-metadata-token") == Some("token-2")
        {
            return reply(200, r#"{"action": "terminate", "time": "2026-11-23T08:22:00Z"}"#);
        }
        if seen.path == "/latest/meta-data/autoscaling/target-lifecycle-state"
            && at.load(Ordering::SeqCst) == 1
        {
            return reply(200, "Terminated");
        }
        imds(seen, &token).unwrap()
    })
    .await;
    let mut aws = cloud(settings(CloudKind::Aws, Find::Metadata, &server));
    assert_eq!(look(&mut aws).await.unwrap().facts.ending, None);
    round.store(1, Ordering::SeqCst);
    let ending = look(&mut aws).await.unwrap().facts.ending.unwrap();
    assert_eq!(ending, "autoscaling: this instance is to be terminated");
    round.store(2, Ordering::SeqCst);
    let ending = look(&mut aws).await.unwrap().facts.ending.unwrap();
    assert_eq!(ending, "spot: terminate at 2026-11-23T08:22:00Z");
    assert!(server.paths().iter().all(|path| path.starts_with("/latest/")), "no API was asked");
}

#[tokio::test]
async fn aws_errors_are_told_by_their_code_without_what_was_sent_and_throttling_is_heeded() {
    let answers = Arc::new(Mutex::new(Vec::new()));
    let next = Arc::clone(&answers);
    let server = Server::start(None, move |seen| {
        imds(seen, "t").unwrap_or_else(|| next.lock().unwrap().pop().unwrap())
    })
    .await;
    let error = |status, code: &str| {
        let body = format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>canary-session</Message></Error></Errors></Response>"
        );
        reply(status, body)
    };
    let cases: [(Answer, &str, bool); 5] = [
        (
            error(403, "UnauthorizedOperation"),
            "DescribeInstances: not permitted, status 403 (UnauthorizedOperation)",
            false,
        ),
        (
            error(503, "RequestLimitExceeded"),
            "DescribeInstances: asked too often (RequestLimitExceeded)",
            true,
        ),
        (error(400, "Throttling"), "DescribeInstances: asked too often (Throttling)", true),
        (reply(200, "<unfinished"), "DescribeInstances: not XML", false),
        (reply(200, "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>"), "DescribeInstances: not XML", false),
    ];
    for (answer, wanted, throttled) in cases {
        let mut aws = cloud(settings(CloudKind::Aws, tag("role", "k3s"), &server));
        answers.lock().unwrap().push(answer);
        let failure = look(&mut aws).await.unwrap_err();
        assert!(failure.cause.starts_with(wanted), "{}", failure.cause);
        assert!(!failure.cause.contains("canary"), "{}", failure.cause);
        assert_eq!(left_alone(&aws), throttled.then_some(30), "{wanted}");
        // What the metadata service says is known all the same.
        assert_eq!(failure.facts.unwrap().zone.as_deref(), Some("eu-west-1b"));
    }
}

#[tokio::test]
async fn aws_names_the_addresses_of_machines_that_are_gone_and_of_no_running_one() {
    let answers = Arc::new(Mutex::new(Vec::<Answer>::new()));
    let next = Arc::clone(&answers);
    let server =
        Server::start(None, move |seen| imds(seen, "t").unwrap_or_else(|| next.lock().unwrap().remove(0)))
            .await;
    let mut aws = cloud(settings(CloudKind::Aws, tag("role", "k3s"), &server));
    let list = |items: &[String]| reply(200, instances(&items.concat(), ""));
    let i = instance;
    let not_found = reply(
        400,
        "<Response><Errors><Error><Code>InvalidInstanceID.NotFound</Code></Error></Errors></Response>",
    );
    answers.lock().unwrap().extend([
        list(&[
            i("i-1", "10.0.0.1", "running"),
            i("i-2", "10.0.0.2", "running"),
            i("i-3", "10.0.0.3", "running"),
            i("i-4", "10.0.0.4", "running"),
        ]),
        // 2 is gone, its address not told any more; 3 is gone, its address another's; 4 is not listed: asked for, and unknown to AWS.
        list(&[
            i("i-1", "10.0.0.1", "running"),
            i("i-2", "", "terminated"),
            i("i-3", "", "terminated"),
            i("i-5", "10.0.0.3", "running"),
        ]),
        not_found,
        reply(500, ""),
    ]);
    assert!(look(&mut aws).await.unwrap().facts.terminated.is_empty());
    let gone = |facts: &Facts| {
        facts.terminated.iter().map(|(ip, words)| format!("{ip} {words}")).collect::<Vec<_>>().join("; ")
    };
    let found = look(&mut aws).await.unwrap();
    assert_eq!(gone(&found.facts), "10.0.0.2 aws: i-2 is terminated; 10.0.0.4 aws: i-4 no longer exists");
    // A list that fails takes nothing back, and adds nothing.
    let failure = look(&mut aws).await.unwrap_err();
    assert_eq!(gone(&failure.facts.unwrap()), gone(&found.facts));
}

// --- GCP -----------------------------------------------------------------------------------------------------------------

fn google(body: &str) -> Answer {
    header("Metadata-Flavor", "Google", body)
}

#[tokio::test]
async fn gcp_gives_the_machines_of_its_managed_group_and_its_largest_size() {
    let tokens = Arc::new(AtomicUsize::new(0));
    let given = Arc::clone(&tokens);
    let by = "projects/123/zones/europe-west1-b/instanceGroupManagers/web";
    let server = Server::start(None, move |seen| {
        if seen.path.starts_with("/computeMetadata") {
            assert_eq!(seen.header("metadata-flavor"), Some("Google"));
        }
        let one = |name: &str, id: u64, ip: &str, status: &str, by: &str| {
            format!(
                r#"{{"id":"{id}","name":"{name}","status":"{status}","zone":"https://www.googleapis.com/compute/v1/projects/p/zones/europe-west1-b","networkInterfaces":[{{"networkIP":"{ip}"}}],"metadata":{{"items":[{{"key":"created-by","value":"{by}"}}]}}}}"#
            )
        };
        let path = seen.path.as_str();
        if path.starts_with("/compute/") && seen.header("authorization") != Some("Bearer canary-1") {
            // The first token is refused, as one that has ended.
            return reply(401, r#"{"error":{"code":401,"message":"Invalid Credentials"}}"#);
        }
        match path {
            "/computeMetadata/v1/instance/?recursive=true" => {
                google(r#"{"id":1,"zone":"projects/123/zones/europe-west1-b","preempted":"FALSE","maintenanceEvent":"NONE"}"#)
            }
            "/computeMetadata/v1/project/project-id" => google("p"),
            "/computeMetadata/v1/instance/attributes/created-by" => google(by),
            "/computeMetadata/v1/instance/service-accounts/default/token" => {
                let n = given.fetch_add(1, Ordering::SeqCst);
                google(&format!(r#"{{"access_token":"canary-{n}","expires_in":3599,"token_type":"Bearer"}}"#))
            }
            "/compute/v1/projects/p/zones/europe-west1-b/autoscalers" => reply(
                200,
                r#"{"items":[{"target":"https://x/other/instanceGroupManagers/webs","autoscalingPolicy":{"maxNumReplicas":99}},
                    {"target":"https://x/zones/europe-west1-b/instanceGroupManagers/web","autoscalingPolicy":{"maxNumReplicas":7}}]}"#,
            ),
            "/compute/v1/projects/p/aggregated/instances?maxResults=500" => {
                let ours = one("web-a", 1, "10.0.0.1", "RUNNING", by);
                let other = one("db-a", 2, "10.0.0.2", "RUNNING", "projects/123/zones/europe-west1-b/instanceGroupManagers/db");
                let body = format!(r#"{{"items":{{"zones/europe-west1-b":{{"instances":[{ours},{other}]}},"zones/x":{{"warning":{{}}}}}},"nextPageToken":"p/2"}}"#);
                reply(200, body)
            }
            "/compute/v1/projects/p/aggregated/instances?maxResults=500&pageToken=p%2F2" => {
                let ours = one("web-b", 3, "10.0.0.3", "STAGING", by);
                let stopped = one("web-c", 4, "10.0.0.4", "TERMINATED", by);
                reply(200, format!(r#"{{"items":{{"zones/b":{{"instances":[{ours},{stopped}]}}}}}}"#))
            }
            other => reply(404, format!("unexpected {other}")),
        }
    })
    .await;
    let mut gcp = cloud(settings(CloudKind::Gcp, Find::Group, &server));
    let found = look(&mut gcp).await.unwrap();
    assert_eq!(addresses(&found), "10.0.0.1 10.0.0.3");
    assert_eq!((found.facts.zone.as_deref(), found.facts.group_max), (Some("europe-west1-b"), Some(7)));
    assert_eq!(tokens.load(Ordering::SeqCst), 2, "the good token is kept");
    // A machine that was stopped may be started again.
    assert!(found.facts.terminated.is_empty());
}

#[tokio::test]
async fn gcp_tells_of_preemption_takes_no_strangers_metadata_and_heeds_throttling() {
    let mode = Arc::new(AtomicUsize::new(0));
    let at = Arc::clone(&mode);
    let server = Server::start(None, move |seen| match (at.load(Ordering::SeqCst), seen.path.as_str()) {
        (0, _) => reply(200, r#"{"zone":"projects/1/zones/z"}"#),
        (1, _) => google(r#"{"zone":"projects/1/zones/z","preempted":"TRUE"}"#),
        (_, "/computeMetadata/v1/instance/?recursive=true") => google(r#"{"zone":"projects/1/zones/z"}"#),
        (_, "/computeMetadata/v1/project/project-id") => google("p"),
        (_, path) if path.ends_with("/token") => google(r#"{"access_token":"canary","expires_in":3599}"#),
        (_, path) => {
            assert!(path.ends_with("&filter=labels.role%3Dk3s"), "{path}");
            let body = r#"{"error":{"code":403,"message":"Quota exceeded","errors":[{"reason":"rateLimitExceeded"}]}}"#;
            Answer { headers: "Retry-After: 17\r\n".to_owned(), ..reply(429, body) }
        }
    })
    .await;
    let mut near = cloud(settings(CloudKind::Gcp, Find::Metadata, &server));
    let failure = look(&mut near).await.unwrap_err();
    assert_eq!(failure.cause, "metadata: the answer is not that of Google's server");
    mode.store(1, Ordering::SeqCst);
    let facts = look(&mut near).await.unwrap().facts;
    assert_eq!(facts.ending.as_deref(), Some("gcp: this instance is preempted"));
    mode.store(2, Ordering::SeqCst);
    let mut far = cloud(settings(CloudKind::Gcp, tag("role", "k3s"), &server));
    let failure = look(&mut far).await.unwrap_err();
    assert_eq!(left_alone(&far), Some(17));
    assert_eq!(failure.cause, "instances.list: asked too often (Quota exceeded)");
}

// --- Azure ---------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn azure_gives_the_scale_sets_addresses_page_by_page_and_asks_no_other_server() {
    let away = Arc::new(AtomicUsize::new(0));
    let elsewhere = Arc::clone(&away);
    let server = Server::start(None, move |seen| {
        let host = seen.header("host").unwrap().to_owned();
        if seen.path.starts_with("/metadata/") {
            assert_eq!(seen.header("metadata"), Some("true"));
        } else if seen.header("authorization") != Some("Bearer canary") {
            return reply(401, "{}");
        }
        let card = |n: u8| {
            format!(
                r#"{{"properties":{{"virtualMachine":{{"id":"/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/web/virtualMachines/{n}"}},"ipConfigurations":[{{"properties":{{"privateIPAddress":"10.0.0.{n}"}}}}]}}}}"#
            )
        };
        let top = "/subscriptions/s/resourceGroups/g/providers";
        match seen.path.as_str() {
            path if path.starts_with("/metadata/instance?") => reply(
                200,
                r#"{"compute":{"subscriptionId":"s","resourceGroupName":"g","vmScaleSetName":"web","name":"web_1","location":"westeurope","zone":"2"}}"#,
            ),
            path if path.starts_with("/metadata/scheduledevents?") => reply(
                200,
                r#"{"DocumentIncarnation":1,"Events":[{"EventType":"Preempt","Resources":["web_1"],"NotBefore":"Mon, 19 Sep 2026 18:29:47 GMT"},{"EventType":"Reboot","Resources":["web_2"]}]}"#,
            ),
            "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F" => {
                reply(200, r#"{"access_token":"canary","expires_in":"86399","token_type":"Bearer"}"#)
            }
            path if path.starts_with(&format!("{top}/Microsoft.Insights/autoscalesettings?")) => reply(
                200,
                r#"{"value":[{"properties":{"targetResourceUri":"/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/Web","profiles":[{"capacity":{"minimum":"1","maximum":"5","default":"3"}},{"capacity":{"maximum":"12"}}]}}]}"#,
            ),
            path if path.ends_with("/virtualMachineScaleSets/web/networkInterfaces?api-version=2018-10-01") => {
                let to = if elsewhere.load(Ordering::SeqCst) == 1 { "evil.example".to_owned() } else { host };
                reply(200, format!(r#"{{"value":[{},{}],"nextLink":"http://{to}/more?page=2"}}"#, card(1), card(2)))
            }
            "/more?page=2" => reply(200, format!(r#"{{"value":[{}]}}"#, card(3))),
            other => reply(404, format!("unexpected {other}")),
        }
    })
    .await;
    let mut azure = cloud(settings(CloudKind::Azure, Find::Group, &server));
    let found = look(&mut azure).await.unwrap();
    assert_eq!(addresses(&found), "10.0.0.1 10.0.0.2 10.0.0.3");
    assert_eq!((found.facts.zone.as_deref(), found.facts.group_max), (Some("westeurope-2"), Some(12)));
    assert_eq!(
        found.facts.ending.as_deref(),
        Some("azure: Preempt, not before Mon, 19 Sep 2026 18:29:47 GMT")
    );
    away.store(1, Ordering::SeqCst);
    assert_eq!(look(&mut azure).await.unwrap_err().cause, "the next page is at another server");
}

// --- Hetzner, DigitalOcean, OpenStack ------------------------------------------------------------------------------------

#[tokio::test]
async fn hetzner_gives_private_addresses_by_label_and_knows_who_was_deleted() {
    let round = Arc::new(AtomicUsize::new(0));
    let at = Arc::clone(&round);
    let server = Server::start(None, move |seen| {
        if seen.path == "/hetzner/v1/metadata/availability-zone" {
            return reply(200, "fsn1-dc14\n");
        }
        if seen.header("authorization") != Some("Bearer canary-token") {
            return reply(401, r#"{"error":{"code":"unauthorized","message":"unable to authenticate"}}"#);
        }
        let one = |id: u64, status: &str, private: &str| {
            let net = if private.is_empty() { String::new() } else { format!(r#"{{"network":1,"ip":"{private}"}}"#) };
            format!(
                r#"{{"id":{id},"status":"{status}","private_net":[{net}],"public_net":{{"ipv4":{{"ip":"203.0.113.{id}"}},"ipv6":{{"ip":"2001:db8:{id}::/64"}}}}}}"#
            )
        };
        let page = |servers: &[String], next: &str| {
            reply(200, format!(r#"{{"servers":[{}],"meta":{{"pagination":{{"next_page":{next}}}}}}}"#, servers.join(",")))
        };
        match (at.load(Ordering::SeqCst), seen.path.as_str()) {
            (_, "/v1/servers/2") => reply(404, r#"{"error":{"code":"not_found","message":"server not found"}}"#),
            (0, "/v1/servers?label_selector=role%3D%3Dk3s&per_page=50&page=1") => {
                page(&[one(1, "running", "10.0.0.1"), one(2, "starting", "10.0.0.2"), one(9, "off", "10.0.0.9")], "2")
            }
            (0, "/v1/servers?label_selector=role%3D%3Dk3s&per_page=50&page=2") => page(&[one(3, "running", "")], "null"),
            (1, path) if path.ends_with("page=1") => page(&[one(1, "running", "10.0.0.1"), one(3, "running", "")], "null"),
            (2, _) => Answer { headers: "Retry-After: 5\r\n".to_owned(), ..reply(429, r#"{"error":{"code":"rate_limit_exceeded","message":"limit reached"}}"#) },
            (_, other) => reply(404, format!("unexpected {other}")),
        }
    })
    .await;
    let file = secret("canary-token");
    let told = CloudSettings {
        token_file: Some(file.path().to_owned()),
        ..settings(CloudKind::Hetzner, tag("role", "k3s"), &server)
    };
    let mut hetzner = cloud(told.clone());
    let found = look(&mut hetzner).await.unwrap();
    assert_eq!(addresses(&found), "10.0.0.1 2001:db8:1::1 10.0.0.2 2001:db8:2::1 203.0.113.3 2001:db8:3::1");
    assert_eq!(found.facts.zone.as_deref(), Some("fsn1-dc14"));
    round.store(1, Ordering::SeqCst);
    let gone = look(&mut hetzner).await.unwrap().facts.terminated;
    assert_eq!(gone[&"10.0.0.2".parse().unwrap()], "hetzner: 2 no longer exists");
    round.store(2, Ordering::SeqCst);
    assert!(look(&mut hetzner).await.unwrap_err().cause.starts_with("servers: asked too often"));
    assert_eq!(left_alone(&hetzner), Some(5));
    let wrong = secret("canary-wrong");
    let mut hetzner = cloud(CloudSettings { token_file: Some(wrong.path().to_owned()), ..told.clone() });
    let cause = look(&mut hetzner).await.unwrap_err().cause;
    assert_eq!(cause, "servers: not permitted, status 401 (unable to authenticate)");
    let mut hetzner = cloud(CloudSettings { token_file: Some("/nowhere/token".into()), ..told });
    assert_eq!(look(&mut hetzner).await.unwrap_err().cause, "/nowhere/token: it is not there");
}

#[tokio::test]
async fn a_token_that_everybody_can_read_is_not_sent() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start(None, |_| reply(200, "x")).await;
    let file = secret("canary-token");
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).unwrap();
    let told = CloudSettings {
        token_file: Some(file.path().to_owned()),
        ..settings(CloudKind::Hetzner, tag("role", "k3s"), &server)
    };
    let cause = look(&mut cloud(told)).await.unwrap_err().cause;
    assert!(cause.contains("mode 644") && !cause.contains("canary"), "{cause}");
    assert!(server.seen.lock().unwrap().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn digitalocean_gives_droplets_by_tag() {
    let server = Server::start(None, |seen| {
        let host = seen.header("host").unwrap();
        match seen.path.as_str() {
            "/metadata/v1.json" => reply(200, r#"{"droplet_id":1,"region":"fra1"}"#),
            "/v2/droplets?tag_name=k3s%3Aweb&per_page=200" => reply(
                200,
                format!(
                    r#"{{"droplets":[{{"id":1,"status":"active","networks":{{"v4":[{{"ip_address":"203.0.113.1","type":"public"}},{{"ip_address":"10.0.0.1","type":"private"}}],"v6":[]}}}}],"links":{{"pages":{{"next":"http://{host}/v2/droplets?page=2"}}}}}}"#
                ),
            ),
            "/v2/droplets?page=2" => reply(
                200,
                r#"{"droplets":[{"id":2,"status":"new","networks":{"v4":[{"ip_address":"10.0.0.2","type":"private"}]}},{"id":3,"status":"off","networks":{"v4":[{"ip_address":"10.0.0.3","type":"private"}]}}],"links":{}}"#,
            ),
            other => reply(404, format!("unexpected {other}")),
        }
    })
    .await;
    let file = secret("canary-token");
    let told = CloudSettings {
        token_file: Some(file.path().to_owned()),
        ..settings(CloudKind::DigitalOcean, Find::Tag("k3s:web".to_owned(), None), &server)
    };
    let found = look(&mut cloud(told)).await.unwrap();
    assert_eq!(
        (addresses(&found).as_str(), found.facts.zone.as_deref()),
        ("10.0.0.1 10.0.0.2", Some("fra1"))
    );
}

#[tokio::test]
async fn openstack_logs_in_finds_nova_and_logs_in_again_when_its_token_has_ended() {
    let logins = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&logins);
    let server = Server::start(None, move |seen| {
        let host = seen.header("host").unwrap();
        let now = count.load(Ordering::SeqCst);
        match seen.path.as_str() {
            "/openstack/latest/meta_data.json" => reply(200, r#"{"uuid":"u","availability_zone":"nova"}"#),
            "/v3/auth/tokens" => {
                let sent: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
                let credential = &sent["auth"]["identity"]["application_credential"];
                assert_eq!((credential["id"].as_str(), credential["secret"].as_str()), (Some("cred"), Some("canary")));
                count.fetch_add(1, Ordering::SeqCst);
                let catalog = format!(
                    r#"{{"token":{{"catalog":[{{"type":"image","endpoints":[]}},{{"type":"compute","endpoints":[{{"interface":"internal","region":"r1","url":"http://no"}},{{"interface":"public","region":"r2","url":"http://no"}},{{"interface":"public","region":"r1","url":"http://{host}/nova/v2.1/"}}]}}]}}}}"#
                );
                header("X-Subject-Token", &format!("tok-{}", now + 1), catalog)
            }
            // The first token has ended by the time that it is used.
            _ if seen.header("x-auth-token") != Some("tok-2") => reply(401, r#"{"error":{"message":"The request you have made requires authentication."}}"#),
            "/nova/v2.1/servers/detail?limit=500" => reply(
                200,
                format!(
                    r#"{{"servers":[{{"id":"a","status":"ACTIVE","metadata":{{"role":"k3s"}},"addresses":{{"net":[{{"addr":"10.0.0.1","OS-EXT-IPS:type":"fixed"}},{{"addr":"203.0.113.1","OS-EXT-IPS:type":"floating"}}]}}}},{{"id":"b","status":"ACTIVE","metadata":{{}},"addresses":{{"net":[{{"addr":"10.0.0.2"}}]}}}}],"servers_links":[{{"rel":"next","href":"http://{host}/nova/v2.1/servers/detail?marker=b"}}]}}"#
                ),
            ),
            "/nova/v2.1/servers/detail?marker=b" => reply(200, r#"{"servers":[{"id":"c","status":"BUILD","metadata":{"role":"k3s"},"addresses":{"net":[{"addr":"10.0.0.3"}]}}]}"#),
            other => reply(404, format!("unexpected {other}")),
        }
    })
    .await;
    let file = secret("canary");
    let told = CloudSettings {
        endpoint: Some(format!("http://{}/v3", server.at)),
        region: Some("r1".to_owned()),
        credential: Some("cred".to_owned()),
        token_file: Some(file.path().to_owned()),
        ..settings(CloudKind::OpenStack, tag("role", "k3s"), &server)
    };
    let mut openstack = cloud(told);
    let found = look(&mut openstack).await.unwrap();
    assert_eq!(
        (addresses(&found).as_str(), found.facts.zone.as_deref()),
        ("10.0.0.1 10.0.0.3", Some("nova"))
    );
    look(&mut openstack).await.unwrap();
    assert_eq!(logins.load(Ordering::SeqCst), 2, "the good token is kept");
}

#[tokio::test]
async fn a_list_without_end_is_given_up_and_bad_answers_are_no_peers() {
    let server = Server::start(None, |seen| {
        if seen.path.starts_with("/hetzner") {
            return reply(404, "");
        }
        let page: u64 = seen.path.rsplit('=').next().unwrap().parse().unwrap();
        reply(200, format!(r#"{{"servers":[],"meta":{{"pagination":{{"next_page":{}}}}}}}"#, page + 1))
    })
    .await;
    let file = secret("t");
    let with = |server: &Server| CloudSettings {
        token_file: Some(file.path().to_owned()),
        ..settings(CloudKind::Hetzner, tag("a", "b"), server)
    };
    let cause = look(&mut cloud(with(&server))).await.unwrap_err().cause;
    assert_eq!(cause, "servers: the list has no end (20 pages)");
    for body in ["", "[]x", "<html>", "{"] {
        let server = Server::start(None, move |_| reply(200, body)).await;
        let cause = look(&mut cloud(with(&server))).await.unwrap_err().cause;
        assert_eq!(cause, "servers: the answer is not JSON", "{body:?}");
    }
    let dead = CloudSettings {
        endpoint: Some(format!("http://127.0.0.1:{}", crate::k3s::testing::closed_port())),
        ..with(&server)
    };
    assert!(look(&mut cloud(dead)).await.unwrap_err().cause.starts_with("servers: nothing listens at"));
}
