//! Starting the local etcd member: as an existing one, as the first of a new cluster, or by joining as a learner.

use std::sync::Arc;
use std::time::Duration;

use crate::access::Access;
use crate::etcd::{Client, Exit, Member, Plan, Process};
use crate::paths;
use crate::shared::Shared;
use crate::{bootstrap, logs};

const ATTEMPT: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_secs(1);

/// The name of the local member, `<node>-<8 hex>`, drawn once and kept; `fresh` draws a new one.
///
/// # Errors
/// When the file cannot be read or written.
pub fn member_name(paths: &crate::paths::Paths, node: &str, fresh: bool) -> Result<String, String> {
    let file = paths.etcd_name();
    if !fresh && file.exists() {
        return paths::read(&file);
    }
    let name = format!("{node}-{}", hex::encode(rand::random::<[u8; 4]>()));
    paths::write_secret(&file, &name)?;
    Ok(name)
}

/// A plan for the local member.
pub fn plan(shared: &Shared, initial_cluster: String, state: &'static str, reset: bool) -> Plan {
    Plan {
        program: shared.settings.agent.knobs.etcd.clone(),
        name: shared.member_name.get().cloned().unwrap_or_default(),
        address: shared.settings.agent.node_ip.clone(),
        initial_cluster,
        initial_state: state,
        reset,
        expose_metrics: shared.settings.expose_metrics,
    }
}

/// Starts the child and watches it for the rest of the run.
///
/// # Errors
/// When it cannot be started.
pub fn start_process(shared: &Arc<Shared>, plan: &Plan) -> Result<(), String> {
    let process = Process::start(plan, &shared.paths)?;
    let mut exit = process.exit();
    if shared.member.set(process).is_err() {
        return Err("etcd datastore already started".to_owned());
    }
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let Ok(reason) = exit.wait_for(|e| *e != Exit::Running).await.map(|e| *e) else { return };
        if reason != Exit::Failed {
            return;
        }
        // k3s has etcd inside: what ends etcd ends k3s. A member that never got going is reported as the start's error.
        let error = shared.member.get().map(Process::last_error).unwrap_or_default();
        if shared.phase() < crate::shared::Phase::Api {
            logs::fatal(format!(
                "Error: starting kubernetes: failed to start cluster: start managed database: {error}"
            ));
        }
        logs::fatal(format!("etcd: {error}"));
    });
    Ok(())
}

/// Makes the client of the local member known: from now on `/db/info` asks it.
///
/// # Errors
/// When the certificates cannot be read.
pub fn start_client(shared: &Shared) -> Result<Client, String> {
    let client = Client::new(&shared.paths, vec!["https://127.0.0.1:2379".to_owned()])?;
    // A second start keeps the first client: it is the same.
    let _ = shared.etcd.set(client.clone());
    Ok(client)
}

/// A new cluster of this member alone.
///
/// # Errors
/// When etcd cannot be started.
pub fn new_cluster(shared: &Arc<Shared>, reset: bool) -> Result<(), String> {
    logs::info(format!("Starting etcd for new cluster, cluster-reset={reset}"));
    let name = shared.member_name.get().cloned().unwrap_or_default();
    let plan = plan(shared, format!("{name}={}", shared.peer_url()), "new", reset);
    start_process(shared, &plan)
}

/// What a failed attempt means.
enum Attempt {
    Retry(String),
    Give(String),
}

/// Joins, retrying what k3s retries, and otherwise ends the process in its way.
pub async fn poll_join(shared: Arc<Shared>, access: Access) {
    loop {
        let attempt = match tokio::time::timeout(ATTEMPT, attempt(&shared, &access)).await {
            Ok(attempt) => attempt,
            Err(_) => {
                Err(Attempt::Retry("Retrying etcd cluster join: MemberAdd request timed out".to_owned()))
            }
        };
        match attempt {
            Ok(plan) => {
                remember(&shared);
                if let Err(e) = start_process(&shared, &plan) {
                    shared.request_shutdown(&format!("etcd cluster join failed: {e}"));
                }
                return;
            }
            Err(Attempt::Retry(line)) => logs::info(line),
            Err(Attempt::Give(error)) => {
                shared.request_shutdown(&format!("etcd cluster join failed: {error}"));
                return;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// k3s finds the bootstrap data in the replicated store at the next start; the stand-in keeps its copy from now on.
fn remember(shared: &Shared) {
    let kept = bootstrap::from_disk(&shared.paths)
        .and_then(|data| bootstrap::encrypt(&shared.password, &data))
        .and_then(|sealed| bootstrap::remember(&shared.paths, &bootstrap::key_of(&shared.password), &sealed));
    if let Err(e) = kept {
        logs::warn(format!("cannot keep a copy of the bootstrap data: {e}"));
    }
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((host, _)) => host,
        None => rest.split([':', '/']).next().unwrap_or_default(),
    }
}

/// Client URLs of the voters, the contacted server's first, this node's left out.
fn client_urls(members: &[Member], own: &str, contacted: &str) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for member in members {
        let has = |host: &str| member.client_urls.iter().any(|u| host_of(u) == host);
        if member.is_learner || has(own) {
            continue;
        }
        let at = if has(contacted) { 0 } else { urls.len() };
        for (n, url) in member.client_urls.iter().enumerate() {
            urls.insert(at + n, url.clone());
        }
    }
    urls
}

/// Whether a member of this name would be the same node: the suffix after the last hyphen is random.
fn node_of(member: &str) -> &str {
    match member.rfind('-') {
        Some(at) if at > 1 => &member[..at],
        _ => member,
    }
}

async fn attempt(shared: &Arc<Shared>, access: &Access) -> Result<Plan, Attempt> {
    let waiting = |e: String| {
        Attempt::Retry(format!(
            "Waiting to retrieve etcd cluster member list: failed to get MemberList from server: {e}"
        ))
    };
    let body = access.get("/db/info").await.map_err(waiting)?;
    #[derive(serde::Deserialize)]
    struct List {
        #[serde(default)]
        members: Vec<Member>,
    }
    let List { mut members } = serde_json::from_slice(&body).map_err(|e| Attempt::Give(e.to_string()))?;
    let own = shared.settings.agent.node_ip.as_str();
    let name = shared.member_name.get().cloned().unwrap_or_default();
    let urls = client_urls(&members, own, host_of(&access.base));
    let client =
        shared.etcd.get().ok_or_else(|| Attempt::Give("etcd datastore is not started".to_owned()))?;
    let client = client.at(urls);
    let mut cluster = Vec::new();
    let mut add = true;
    for member in &mut members {
        for url in &member.peer_urls {
            // A member that was added and never started has no name; with our address it is us.
            if member.name.is_empty() && host_of(url) == own {
                member.name.clone_from(&name);
            }
            if member.name == name && host_of(url) == own {
                add = false;
            }
        }
        if let Some(url) = member.peer_urls.first() {
            cluster.push(format!("{}={url}", member.name));
        }
        if member.name != name && node_of(&member.name) == shared.settings.agent.node_name {
            let file = shared.paths.etcd_name();
            if let Err(e) = std::fs::remove_file(&file) {
                logs::error(format!("Failed to remove etcd name file {}: {e}", file.display()));
            }
            let text = "duplicate node name found, please use a unique name for this node";
            return Err(Attempt::Give(text.to_owned()));
        }
    }
    let state = if add {
        let url = shared.peer_url();
        logs::info(format!("Adding member {name}={url} to etcd cluster [{}]", cluster.join(" ")));
        client.add_learner(&url, ATTEMPT).await.map_err(|e| match e.as_str() {
            e if e.contains("too many learner members") || e.contains("unhealthy cluster") => {
                Attempt::Retry(format!("Waiting for other members to finish joining etcd cluster: {e}"))
            }
            e if e.contains("deadline exceeded") || e.contains("timed out") => {
                Attempt::Retry("Retrying etcd cluster join: MemberAdd request timed out".to_owned())
            }
            e => Attempt::Give(e.to_owned()),
        })?;
        cluster.push(format!("{name}={url}"));
        "existing"
    } else if cluster.len() > 1 {
        logs::info(format!("Starting etcd to join cluster with members [{}]", cluster.join(" ")));
        "existing"
    } else {
        logs::info("Starting etcd for new cluster");
        "new"
    };
    Ok(plan(shared, cluster.join(","), state, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, host: &str, is_learner: bool) -> Member {
        Member {
            id: 1,
            name: name.into(),
            peer_urls: vec![format!("https://{host}:2380")],
            client_urls: vec![format!("https://{host}:2379")],
            is_learner,
        }
    }

    #[test]
    fn hosts_and_node_names() {
        assert_eq!(host_of("https://10.0.0.1:2380"), "10.0.0.1");
        assert_eq!(host_of("https://[fd00::1]:2380/x"), "fd00::1");
        assert_eq!(node_of("node-1-0a1b2c3d"), "node-1");
        assert_eq!(node_of("plain"), "plain");
    }

    #[test]
    fn the_contacted_server_is_asked_first_and_learners_never() {
        let list = [
            member("a-1", "10.0.0.1", false),
            member("b-1", "10.0.0.2", true),
            member("c-1", "10.0.0.3", false),
        ];
        assert_eq!(
            client_urls(&list, "10.0.0.9", "10.0.0.3"),
            ["https://10.0.0.3:2379".to_owned(), "https://10.0.0.1:2379".to_owned()]
        );
        assert_eq!(client_urls(&list, "10.0.0.1", "10.0.0.9"), ["https://10.0.0.3:2379".to_owned()]);
    }
}
