//! The kubelet's part: certificates from a server, registration of the Node, its lease and its conditions.

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::access::{self, Access, Options};
use crate::members::{condition, with_condition};
use crate::paths::{self, Paths};
use crate::settings::{self, Agent};
use crate::{clock, keys, logs, nodepassword, pki};

const BEAT: Duration = Duration::from_secs(10);
const MARK: &str = "muster.test/standin";

/// Everything an agent needs before it can talk to the API.
pub struct Credentials {
    /// Where the API is reached.
    pub api: String,
    kubelet: Client,
    controller: Client,
}

impl Credentials {
    /// A client with the kubelet's identity.
    pub fn kubelet(&self) -> &Client {
        &self.kubelet
    }
    /// A client with the k3s controller's identity.
    pub fn controller(&self) -> &Client {
        &self.controller
    }
}

async fn node_certificate(agent: &Agent, paths: &Paths, access: &Access, name: &str) -> Result<(), String> {
    let key_path = paths.agent(&format!("{name}.key"));
    let key = match std::fs::read_to_string(&key_path) {
        Ok(text) => keys::from_pem(&text)?,
        Err(_) => {
            let key = keys::generate()?;
            paths::write_secret(&key_path, &keys::to_pem(&key))?;
            key
        }
    };
    let request = pki::request(&key)?;
    let path = format!("/v1-k3s/{name}.crt");
    let named = name.ends_with("kubelet");
    let mut headers = Vec::new();
    if named {
        let password = nodepassword::ensure_file(&agent.knobs.node_dir)?;
        headers.push(("k3s-Node-Name", agent.node_name.clone()));
        headers.push(("k3s-Node-Password", password));
        headers.push(("k3s-Node-IP", agent.node_ip.clone()));
    }
    let mut response = access.send(Method::POST, &path, request.clone(), &headers, true).await?;
    if named && response.status() == 401 {
        logs::info("Node authorization rejected, retrying without client certificate authentication");
        response = access.send(Method::POST, &path, request, &headers, false).await?;
    }
    if named && response.status() == 403 {
        return Err(format!(
            "Node password rejected, duplicate hostname or contents of '{}' may not match server node-passwd entry, \
             try enabling a unique node name with the --with-node-id flag",
            agent.knobs.node_dir.join("password").display()
        ));
    }
    let url = format!("{}{path}", access.base);
    if named && !response.status().is_success() {
        return Err(format!("{url}: {}", response.status()));
    }
    let text = access::body(&url, response).await?;
    paths::write(&paths.agent(&format!("{name}.crt")), &text, 0o600)
}

async fn once(agent: &Agent, paths: &Paths, supervisor: &str) -> Result<Credentials, String> {
    let (certificate, key) = (paths.agent("client-kubelet.crt"), paths.agent("client-kubelet.key"));
    let options = Options { certificate: Some((&certificate, &key)), ..Options::default() };
    let access = Access::validate(supervisor, &agent.token, options).await?;
    access
        .get("/v1-k3s/config")
        .await
        .map_err(|e| format!("failed to retrieve configuration from server: {e}"))?;
    for name in ["client-ca.crt", "server-ca.crt"] {
        let text = access.get(&format!("/v1-k3s/{name}")).await?;
        paths::write(&paths.agent(name), &text, 0o600)?;
    }
    for name in ["serving-kubelet", "client-kubelet", "client-kube-proxy", "client-k3s-controller"] {
        node_certificate(agent, paths, &access, name).await?;
    }
    let ca = paths::read(&paths.agent("server-ca.crt"))?;
    let client = |name: &str| {
        let (certificate, key) = (paths.agent(&format!("{name}.crt")), paths.agent(&format!("{name}.key")));
        access::client(ca.as_bytes(), Some((&certificate, &key)), Duration::from_secs(15))
    };
    Ok(Credentials {
        api: supervisor.to_owned(),
        kubelet: client("client-kubelet")?,
        controller: client("client-k3s-controller")?,
    })
}

/// Configuration and certificates from a server, tried until they come (5 s to 10 s apart).
pub async fn credentials(agent: &Agent, paths: &Paths, supervisor: &str) -> Credentials {
    loop {
        match once(agent, paths, supervisor).await {
            Ok(credentials) => return credentials,
            Err(e) => {
                logs::info(format!("Waiting to retrieve agent configuration; server is not ready: {e}"))
            }
        }
        tokio::time::sleep(Duration::from_millis(5_000 + rand::random::<u64>() % 5_000)).await;
    }
}

/// One API request, JSON in and out.
///
/// # Errors
/// Status code (0 without an answer) and text.
pub async fn ask(
    client: &Client,
    method: Method,
    url: &str,
    content_type: &str,
    body: &Value,
) -> Result<Value, (u16, String)> {
    let mut request = client.request(method, url);
    if !body.is_null() {
        request = request.header("content-type", content_type).body(body.to_string());
    }
    let response = request.send().await.map_err(|e| (0, access::cause(&e)))?;
    let code = response.status().as_u16();
    let text = access::body(url, response).await.map_err(|e| (code, e))?;
    serde_json::from_slice(&text).map_err(|e| (code, e.to_string()))
}

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(path)).unwrap_or_default().trim().to_owned()
}

fn node_object(agent: &Agent) -> Value {
    let mut labels = json!({
        "kubernetes.io/hostname": agent.node_name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "k3s", "beta.kubernetes.io/instance-type": "k3s", MARK: "true",
    });
    for (key, value) in &agent.labels {
        labels[key] = json!(value);
    }
    let taint = |text: &String| {
        let (rest, effect) = text.rsplit_once(':').unwrap_or((text, "NoSchedule"));
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        json!({"key": key, "value": value, "effect": effect})
    };
    json!({
        "metadata": {
            "name": agent.node_name,
            "labels": labels,
            "annotations": {MARK: "true", "k3s.io/hostname": agent.node_name, "k3s.io/internal-ip": agent.node_ip},
        },
        "spec": {
            "providerID": format!("k3s://{}", agent.node_name),
            "taints": agent.taints.iter().map(taint).collect::<Vec<_>>(),
        },
        "status": status(agent, false),
    })
}

fn status(agent: &Agent, ready: bool) -> Value {
    let fine = |kind: &str, reason: &str, message: &str| condition(kind, "False", reason, message);
    let ready = if ready {
        condition("Ready", "True", "KubeletReady", "kubelet is posting ready status (stand-in)")
    } else {
        fine("Ready", "KubeletNotReady", "container runtime network not ready (stand-in)")
    };
    let version = settings::node_version();
    json!({
        "addresses": [
            {"type": "InternalIP", "address": agent.node_ip},
            {"type": "Hostname", "address": agent.node_name},
        ],
        "capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"},
        "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"},
        "conditions": [
            fine("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            fine("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            fine("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ready,
        ],
        "nodeInfo": {
            "machineID": file("/etc/machine-id"), "systemUUID": file("/etc/machine-id"),
            "bootID": file("/proc/sys/kernel/random/boot_id"), "kernelVersion": file("/proc/sys/kernel/osrelease"),
            "osImage": "k3s stand-in", "containerRuntimeVersion": "standin://0",
            "kubeletVersion": version, "kubeProxyVersion": version,
            "operatingSystem": "linux", "architecture": "amd64",
        },
    })
}

/// Registers the Node and keeps it alive. Like the kubelet it registers once: a Node deleted meanwhile stays away until
/// the next start.
pub async fn run(agent: Agent, credentials: std::sync::Arc<Credentials>) {
    tokio::spawn(healthz());
    let client = credentials.kubelet();
    let nodes = format!("{}/api/v1/nodes", credentials.api);
    let own = format!("{nodes}/{}", agent.node_name);
    let mut wait = Duration::from_millis(100);
    loop {
        let wanted = node_object(&agent);
        match ask(client, Method::POST, &nodes, "application/json", &wanted).await {
            Ok(_) => {
                logs::info(format!("Successfully registered node {}", agent.node_name));
                break;
            }
            Err((409, _)) => {
                let mut change = wanted.clone();
                if let Some(map) = change.as_object_mut() {
                    map.remove("spec");
                }
                let merge = "application/strategic-merge-patch+json";
                let metadata = ask(client, Method::PATCH, &own, merge, &change).await;
                let status = ask(client, Method::PATCH, &format!("{own}/status"), merge, &change).await;
                if let (Ok(_), Ok(_)) = (metadata, status) {
                    logs::info(format!("Node was previously registered: {}", agent.node_name));
                    break;
                }
            }
            Err((code, e)) => logs::debug(format!("Unable to register node with API server: {code} {e}")),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(1));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    loop {
        if let Err((code, e)) = beat(client, &credentials.api, &own, &agent).await {
            logs::debug(format!("Error updating node status, will retry: {code} {e}"));
        }
        tokio::time::sleep(BEAT).await;
    }
}

/// The kubelet's own health, plain HTTP on loopback.
async fn healthz() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const OK: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let Ok(listener) = tokio::net::TcpListener::bind(("127.0.0.1", 10_248)).await else { return };
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut request = [0_u8; 1_024];
            let asked = tokio::time::timeout(BEAT, stream.read(&mut request)).await;
            if matches!(asked, Ok(Ok(n)) if n > 0) {
                let _ = stream.write_all(OK).await;
            }
        });
    }
}

async fn beat(client: &Client, api: &str, own: &str, agent: &Agent) -> Result<(), (u16, String)> {
    let node = ask(client, Method::GET, own, "", &Value::Null).await?;
    let mut next = node.clone();
    let now = status(agent, true);
    for condition in now["conditions"].as_array().into_iter().flatten() {
        next = with_condition(&next, condition);
    }
    next["status"]["addresses"] = now["addresses"].clone();
    next["status"]["nodeInfo"] = now["nodeInfo"].clone();
    if next != node {
        let change = json!({"status": next["status"]});
        let merge = "application/merge-patch+json";
        ask(client, Method::PATCH, &format!("{own}/status"), merge, &change).await?;
    }
    let leases = format!("{api}/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases");
    let mine = format!("{leases}/{}", agent.node_name);
    let spec = json!({"holderIdentity": agent.node_name, "leaseDurationSeconds": 40, "renewTime": clock::now_micro()});
    match ask(client, Method::GET, &mine, "", &Value::Null).await {
        Ok(mut lease) => {
            lease["spec"] = spec;
            ask(client, Method::PUT, &mine, "application/json", &lease).await?;
        }
        Err((404, _)) => {
            let lease = json!({"metadata": {"name": agent.node_name}, "spec": spec});
            ask(client, Method::POST, &leases, "application/json", &lease).await?;
        }
        Err(e) => return Err(e),
    }
    Ok(())
}
