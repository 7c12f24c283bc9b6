//! A cluster of stand-ins over a real etcd, in network namespaces of its own. Needs root, `ip` and `etcd`; says so and
//! passes where one is missing.

mod common;

use common::{Net, missing, secret};
use serde_json::Value;

const TOKEN: &str = "a-token-of-some-length";

fn members(net: &Net, from: usize) -> Vec<(String, bool)> {
    let list = net.raw(from, "/db/info");
    let member = |m: &Value| {
        let name = m["name"].as_str().unwrap_or_default();
        let node = name.rsplit_once('-').map_or(name, |(node, _)| node).to_owned();
        (node, m["isLearner"].as_bool().unwrap_or(false))
    };
    let mut all: Vec<_> = list["members"].as_array().into_iter().flatten().map(member).collect();
    all.sort();
    all
}

fn voters(names: &[&str]) -> Vec<(String, bool)> {
    names.iter().map(|n| ((*n).to_owned(), false)).collect()
}

fn condition(node: &Value, kind: &str) -> String {
    let all = node["status"]["conditions"].as_array().into_iter().flatten();
    let found = all.filter(|c| c["type"] == kind).filter_map(|c| c["status"].as_str()).next();
    found.unwrap_or_default().to_owned()
}

fn joining(net: &Net, to: usize, token: &str) -> String {
    format!("{{\"server\": \"https://{}:6443\", \"token\": \"{token}\"}}", net.address(to))
}

#[test]
fn a_cluster_forms_loses_a_member_and_takes_it_back() {
    if let Some(what) = missing() {
        eprintln!("NOT RUN: {what}");
        return;
    }
    let net = Net::new(4);
    let founding = format!("{{\"cluster-init\": true, \"token\": \"{TOKEN}\"}}");

    // The founder: READY, token and kubeconfig for nobody else's eyes, a Node that says what it is.
    let mut first = net.start(1, "server", &founding);
    first.logs("k3s is up and running");
    first.ready();
    assert!(first.has_logged("stand-in for k3s"));
    let full = secret(&net.path(1, "data/server/token"));
    assert!(full.starts_with("K10") && full.ends_with(&format!("::server:{TOKEN}")));
    secret(&net.path(1, "kubeconfig"));
    net.until("node1 Ready", || condition(&net.raw(1, "/api/v1/nodes/node1"), "Ready") == "True");
    let node = net.raw(1, "/api/v1/nodes/node1");
    assert!(node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap().ends_with("standin"));
    assert_eq!(node["metadata"]["labels"]["muster.test/standin"], "true");
    assert_eq!(members(&net, 1), voters(&["node1"]));

    // Wrong secrets: a server ends with status 1, an agent asks for ever.
    let mut wrong = net.start(2, "server", &joining(&net, 1, "not-the-right-token"));
    wrong.logs("not authorized");
    assert_eq!(wrong.code(), Some(1));
    let pinned = format!("K10{}::server:{TOKEN}", "0".repeat(64));
    let mut wrong = net.start(2, "server", &joining(&net, 1, &pinned));
    wrong.logs("token CA hash does not match the Cluster CA certificate hash");
    assert_eq!(wrong.code(), Some(1));
    let mut wrong = net.start(4, "agent", &joining(&net, 1, "not-the-right-token"));
    wrong.logs("Waiting to retrieve agent configuration; server is not ready");
    wrong.kill();

    // Two servers at once: one learner at a time, both become voters. An agent with the full token.
    let mut second = net.start(2, "server", &joining(&net, 1, &full));
    let mut third = net.start(3, "server", &joining(&net, 1, &full));
    let mut agent = net.start(4, "agent", &joining(&net, 1, &full));
    agent.logs("k3s agent is up and running");
    agent.ready();
    second.logs("k3s is up and running");
    third.logs("k3s is up and running");
    second.ready();
    third.ready();
    assert_eq!(members(&net, 2), voters(&["node1", "node2", "node3"]));
    // The loser is refused, or, when both asked in the same instant, etcd drops its request and k3s asks again.
    let queued = ["Waiting for other members to finish joining etcd cluster", "MemberAdd request timed out"];
    let waited = [&second, &third].iter().any(|host| queued.iter().any(|words| host.has_logged(words)));
    assert!(waited, "two joiners at once must have queued");
    for n in 1..=4 {
        let path = format!("/api/v1/nodes/node{n}");
        net.until(&path, || condition(&net.raw(2, &path), "Ready") == "True");
    }
    net.until("node3 votes", || condition(&net.raw(1, "/api/v1/nodes/node3"), "EtcdIsVoter") == "True");

    // A second machine with a name that is taken: refused, with status 0 as in k3s.
    drop(agent);
    let mut twin = net.start_as(4, "node2", "server", &joining(&net, 1, &full));
    twin.logs("etcd cluster join failed: duplicate node name found, please use a unique name for this node");
    assert_eq!(twin.code(), Some(0));

    // Deleting a Node removes its member; the removed one writes a tombstone and rejoins under a new name.
    assert!(net.kubectl(1, &["delete", "node", "node3"]).status.success());
    third.logs("This node has been removed from the cluster - please restart k3s to rejoin the cluster");
    assert_eq!(members(&net, 1), voters(&["node1", "node2"]));
    assert!(net.path(3, "data/server/db/etcd/tombstone").exists());
    assert_eq!(third.terminate(), Some(0));
    let before = std::fs::read_to_string(net.path(3, "data/server/db/etcd/name")).unwrap();
    let mut third = net.start(3, "server", &joining(&net, 2, &full));
    third.logs("tombstone file has been detected, removing ${datadir}/server/db to rejoin the cluster");
    third.logs("k3s is up and running");
    assert_ne!(std::fs::read_to_string(net.path(3, "data/server/db/etcd/name")).unwrap(), before);

    // A power cut of the founder: its etcd dies with it, the others go on, and it comes back by its own data.
    first.kill();
    net.until("the API on node2", || condition(&net.raw(2, "/api/v1/nodes/node2"), "Ready") == "True");
    let mut first = net.start(1, "server", &founding.replace(TOKEN, "some-other-token"));
    first.logs("bootstrap data already found and encrypted with different token");
    assert_eq!(first.code(), Some(1));
    let mut first = net.start(1, "server", &founding);
    first.logs("Managed etcd cluster bootstrap already complete and initialized");
    first.logs("k3s is up and running");
}
