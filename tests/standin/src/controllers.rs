//! What runs behind the API: leases that elect one server per task, the removal of deleted Nodes' members, the node
//! lifecycle, this server's own labels, and the list of API servers.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::api::resources::{ENDPOINT_SLICES, LEASES, NAMESPACES, NODES, SECRETS};
use crate::api::{Failure, objects};
use crate::members::{self, ADDRESS, ETCD_ROLE, NAME, REMOVE, REMOVED_NAME};
use crate::shared::Shared;
use crate::store::Store;
use crate::{clock, leader, logs, nodepassword, settings};

const RETRY: Duration = Duration::from_secs(2);
/// How long one try to renew a lease may take.
const TRY: Duration = Duration::from_secs(5);
const FINALIZERS: [&str; 2] = ["wrangler.cattle.io/node", "wrangler.cattle.io/managed-etcd-controller"];
/// How soon a failed task is tried again.
const AGAIN: Duration = Duration::from_millis(250);
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const MASTERS: &str = "/registry/masterleases/";

/// Starts everything.
pub fn start(shared: &Arc<Shared>) {
    for (name, seconds, deadline) in [
        ("k3s", 45, 30),
        ("k3s-etcd", 45, 30),
        ("kube-controller-manager", 15, 10),
        ("kube-scheduler", 15, 10),
    ] {
        let shared = Arc::clone(shared);
        tokio::spawn(async move { lead(shared, name, seconds, Duration::from_secs(deadline)).await });
    }
    tokio::spawn(repeat(Arc::clone(shared), Duration::from_secs(2), |s| async move { own_node(&s).await }));
    tokio::spawn(repeat(Arc::clone(shared), Duration::from_secs(10), |s| async move { endpoints(&s).await }));
}

async fn repeat<F>(shared: Arc<Shared>, period: Duration, task: impl Fn(Arc<Shared>) -> F)
where
    F: Future<Output = Result<(), String>>,
{
    loop {
        let wait = match task(Arc::clone(&shared)).await {
            Ok(()) => period,
            Err(e) => {
                logs::debug(format!("controller: {e}"));
                AGAIN
            }
        };
        tokio::time::sleep(wait).await;
    }
}

fn host() -> String {
    nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Tries for ever to hold a lease and does its task while holding it. Losing a lease ends the process, as in k3s.
async fn lead(shared: Arc<Shared>, name: &'static str, seconds: u64, deadline: Duration) {
    let identity = match name {
        "k3s" | "k3s-etcd" => format!("{}_{}", host(), shared.settings.agent.node_name),
        _ => format!("{}_{}", host(), hex::encode(rand::random::<[u8; 16]>())),
    };
    let Some(store) = shared.store() else { return };
    let mut seen: (String, Instant) = (String::new(), Instant::now());
    let mut held: Option<Instant> = None;
    loop {
        if !shared.has_etcd() {
            // A lone server elects nobody.
            held = Some(Instant::now());
        } else {
            let tried =
                tokio::time::timeout(TRY, leader::hold(store, name, &identity, seconds, &mut seen)).await;
            match tried.unwrap_or_else(|_| Err(Failure::store("context deadline exceeded"))) {
                Ok(true) => {
                    if held.is_none() {
                        logs::info(format!("successfully acquired lease kube-system/{name}"));
                    }
                    held = Some(Instant::now());
                }
                Ok(false) if held.is_some() => logs::fatal(format!("leaderelection lost for {name}")),
                Err(_) if held.is_some_and(|since| since.elapsed() > deadline) => {
                    logs::fatal(format!("leaderelection lost for {name}"));
                }
                Ok(false) | Err(_) => {}
            }
        }
        if held.is_some() {
            let done = match name {
                "k3s-etcd" => tokio::time::timeout(Duration::from_secs(20), removals(&shared, store)).await,
                "kube-controller-manager" => {
                    tokio::time::timeout(RETRY * 2, lifecycle(store, shared.settings.node_silence)).await
                }
                _ => Ok(Ok(())),
            };
            if let Ok(Err(e)) = done {
                logs::error(format!("{name}: {e}"));
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Puts the finalizers on Nodes, and for deleted ones removes the etcd member, the password, and then the Node.
async fn removals(shared: &Shared, store: &Store) -> Result<(), String> {
    let (nodes, _) = objects::list(store, &NODES, "").await.map_err(|e| e.message)?;
    for node in nodes {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let held = node["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let etcd = !node["metadata"]["labels"][ETCD_ROLE].is_null();
        if node["metadata"]["deletionTimestamp"].is_null() {
            if etcd && !node["metadata"]["annotations"][REMOVE].is_null() {
                asked_removal(shared, store, name, &node).await?;
            }
            if FINALIZERS.iter().any(|f| !held.contains(&json!(f))) {
                edit(store, name, add_finalizers).await?;
            }
            continue;
        }
        if etcd && node["metadata"]["annotations"][REMOVED_NAME].is_null() {
            let text = |key: &str, what: &str| {
                let value = node["metadata"]["annotations"][key].as_str().map(str::to_owned);
                value.ok_or_else(|| format!("node {what} annotation for node {name} not found"))
            };
            let (member, address) = match (text(NAME, "name"), text(ADDRESS, "address")) {
                (Ok(member), Ok(address)) => (member, address),
                (Err(e), _) | (_, Err(e)) => {
                    logs::error(format!(
                        "error syncing '{name}': handler managed-etcd-controller: {e}, requeuing"
                    ));
                    continue;
                }
            };
            logs::info_with(
                "Removing etcd member from cluster due to node delete",
                &[("address", &address), ("name", &member)],
            );
            if let Some(client) = shared.etcd.get() {
                members::remove(client, &member, &address).await?;
            }
        }
        let secret = nodepassword::secret_name(name);
        match objects::delete(store, &SECRETS, "kube-system", &secret, None).await {
            Err(e) if e.code != 404 => return Err(e.message),
            _ => {}
        }
        edit(store, name, |node| {
            let kept: Vec<Value> = node["metadata"]["finalizers"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|f| !FINALIZERS.iter().any(|ours| *f == ours))
                .cloned()
                .collect();
            node["metadata"]["finalizers"] = json!(kept);
        })
        .await?;
    }
    Ok(())
}

async fn asked_removal(shared: &Shared, store: &Store, name: &str, node: &Value) -> Result<(), String> {
    let annotation = |key: &str| node["metadata"]["annotations"][key].as_str().unwrap_or_default().to_owned();
    let (member, address) = (annotation(NAME), annotation(ADDRESS));
    let removed = annotation(REMOVED_NAME);
    if !removed.is_empty() {
        if !member.is_empty() && removed != member {
            logs::info("Resetting removed node flag as removed node name does not match current node name");
            edit(store, name, |node| {
                drop_annotations(node, &[REMOVE, REMOVED_NAME]);
            })
            .await?;
        }
        return Ok(());
    }
    if !annotation(REMOVE).eq_ignore_ascii_case("true") || member.is_empty() {
        return Ok(());
    }
    logs::info("Removing etcd member from cluster due to remove annotation");
    let Some(client) = shared.etcd.get() else { return Ok(()) };
    match members::remove(client, &member, &address).await {
        Err(e) if e.contains("not enough started members") => {
            logs::error(format!("etcd member removal rejected, clearing remove annotation: {e}"));
            edit(store, name, |node| drop_annotations(node, &[REMOVE])).await
        }
        Err(e) => Err(e),
        Ok(()) => {
            edit(store, name, |node| {
                drop_annotations(node, &[REMOVE, NAME, ADDRESS]);
                node["metadata"]["annotations"][REMOVED_NAME] = json!(member);
            })
            .await
        }
    }
}

fn add_finalizers(node: &mut Value) {
    let mut all = node["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    all.extend(FINALIZERS.iter().map(|f| json!(f)).filter(|f| !all.contains(f)).collect::<Vec<_>>());
    node["metadata"]["finalizers"] = json!(all);
}

fn drop_annotations(node: &mut Value, names: &[&str]) {
    if let Some(map) = node["metadata"]["annotations"].as_object_mut() {
        map.retain(|key, _| !names.contains(&key.as_str()));
    }
}

async fn edit(store: &Store, name: &str, change: impl Fn(&mut Value)) -> Result<(), String> {
    let changed = objects::change(store, &NODES, "", name, None, |node| {
        let mut next = node.clone();
        change(&mut next);
        Ok(next)
    });
    match changed.await {
        Err(e) if e.code != 404 => Err(e.message),
        _ => Ok(()),
    }
}

/// Marks Nodes that have been silent: neither lease nor condition renewed.
async fn lifecycle(store: &Store, silence: Duration) -> Result<(), String> {
    let (nodes, _) = objects::list(store, &NODES, "").await.map_err(|e| e.message)?;
    let (leases, _) = objects::list(store, &LEASES, "kube-node-lease").await.map_err(|e| e.message)?;
    let now = SystemTime::now();
    for node in &nodes {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let renewed = leases.iter().find(|l| l["metadata"]["name"] == name);
        let renewed = renewed.and_then(|l| l["spec"]["renewTime"].as_str()).and_then(clock::parse);
        let ready =
            node["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
        let beat = ready.and_then(|c| c["lastHeartbeatTime"].as_str()).and_then(clock::parse);
        let Some(last) = renewed.into_iter().chain(beat).max() else { continue };
        let silent = now.duration_since(last).unwrap_or_default() > silence;
        let unknown = ready.is_some_and(|c| c["status"] == "Unknown");
        let tainted =
            node["spec"]["taints"].as_array().into_iter().flatten().any(|t| t["key"] == UNREACHABLE);
        if !silent && !unknown && tainted {
            edit(store, name, |node| {
                if let Some(taints) = node["spec"]["taints"].as_array_mut() {
                    taints.retain(|t| t["key"] != UNREACHABLE);
                }
            })
            .await?;
        }
        if !silent || unknown {
            continue;
        }
        logs::info(format!("Node {name} is unresponsive: no heartbeat for {}s", silence.as_secs()));
        let text = "Kubelet stopped posting node status.";
        edit(store, name, |node| {
            for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
                *node = members::with_condition(
                    node,
                    &members::condition(kind, "Unknown", "NodeStatusUnknown", text),
                );
            }
            node["spec"]["taints"] =
                json!([{"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": clock::now()}]);
        })
        .await?;
    }
    Ok(())
}

/// Labels and annotations of this server's own Node.
async fn own_node(shared: &Shared) -> Result<(), String> {
    let Some(store) = shared.store() else { return Ok(()) };
    let name = &shared.settings.agent.node_name;
    if shared.settings.disable_agent {
        return Ok(());
    }
    // Until the kubelet has registered the Node this is worth a quick retry: without its label a deleted server would
    // leave its member behind.
    objects::get(store, &NODES, "", name).await.map_err(|e| e.message)?;
    edit(store, name, |node| {
        if !node["metadata"]["deletionTimestamp"].is_null() {
            return;
        }
        let labels = &mut node["metadata"]["labels"];
        labels["node-role.kubernetes.io/control-plane"] = json!("true");
        if settings::has_master_role() {
            labels["node-role.kubernetes.io/master"] = json!("true");
        }
        if !shared.has_etcd() {
            return;
        }
        labels[ETCD_ROLE] = json!("true");
        // With the label, not some time after it: a Node deleted in between would leave its member behind. In k3s a
        // watch sets them within milliseconds.
        add_finalizers(node);
        let member = shared.member_name.get().cloned().unwrap_or_default();
        if node["metadata"]["annotations"][REMOVED_NAME] != member {
            node["metadata"]["annotations"][NAME] = json!(member);
            node["metadata"]["annotations"][ADDRESS] = json!(shared.settings.agent.node_ip);
        }
    })
    .await
}

/// Registers this API server for 15 s and rewrites the list of all of them.
async fn endpoints(shared: &Shared) -> Result<(), String> {
    let Some(store) = shared.store() else { return Ok(()) };
    let settings = &shared.settings;
    let key = format!("{MASTERS}{}", settings.advertise_ip);
    store.put_for(&key, &settings.port.to_string(), 15).await?;
    let (entries, _) = store.list(MASTERS).await?;
    let addresses: Vec<&str> = entries.iter().filter_map(|e| e.key.strip_prefix(MASTERS)).collect();
    let kind = if settings.advertise_ip.contains(':') { "IPv6" } else { "IPv4" };
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": kind,
        "endpoints": addresses.iter().map(|a| json!({"addresses": [a], "conditions": {"ready": true}})).collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": settings.port, "protocol": "TCP"}],
    });
    let changed = objects::change(store, &ENDPOINT_SLICES, "default", "kubernetes", None, |old| {
        let mut next = old.clone();
        next["endpoints"] = slice["endpoints"].clone();
        next["ports"] = slice["ports"].clone();
        Ok(next)
    });
    match changed.await {
        Err(e) if e.code == 404 => objects::create(store, &ENDPOINT_SLICES, "default", slice)
            .await
            .map(|_| ())
            .map_err(|e| e.message),
        Err(e) => Err(e.message),
        Ok(_) => Ok(()),
    }
}

/// Takes this API server off the list: what the apiserver does when it stops.
pub async fn withdraw(shared: &Shared) {
    let Some(store) = shared.store() else { return };
    let key = format!("{MASTERS}{}", shared.settings.advertise_ip);
    let gone = store.delete(&key);
    let _ = tokio::time::timeout(Duration::from_secs(2), gone).await;
}

/// Makes the namespaces every cluster has.
///
/// # Errors
/// A failure of the store.
pub async fn namespaces(store: &Store) -> Result<(), String> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        match objects::create(store, &NAMESPACES, "", object).await {
            Err(e) if e.code != 409 => return Err(e.message),
            _ => {}
        }
    }
    Ok(())
}

/// After a cluster reset: this node's password Secret and every removal mark belong to the past.
///
/// # Errors
/// A failure of the store, or the flag cannot be removed.
pub async fn after_reset(shared: &Shared, store: &Store) -> Result<(), String> {
    let flag = shared.paths.reset_flag();
    if !flag.exists() {
        return Ok(());
    }
    let secret = nodepassword::secret_name(&shared.settings.agent.node_name);
    let _ = objects::delete(store, &SECRETS, "kube-system", &secret, None).await;
    let (nodes, _) = objects::list(store, &NODES, "").await.map_err(|e| e.message)?;
    for node in nodes.iter().filter(|n| !n["metadata"]["labels"][ETCD_ROLE].is_null()) {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        edit(store, name, |node| drop_annotations(node, &[REMOVE, REMOVED_NAME])).await?;
    }
    std::fs::remove_file(&flag).map_err(|e| format!("Failed to delete etcd cluster-reset file: {e}"))
}
