//! `k3s agent`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;

use crate::access::{Access, Options};
use crate::balancer::Balancer;
use crate::paths::Paths;
use crate::settings::{self, Agent};
use crate::{document, kubelet, logs};

/// How long an agent or server waits for a ready API before it gives up and is restarted.
pub const WATCHDOG: Duration = Duration::from_secs(15 * 60);

/// Runs an agent until the process ends.
///
/// # Errors
/// The text k3s dies with.
pub async fn run(mut agent: Agent) -> Result<(), String> {
    logs::info(format!("Starting k3s agent {} (stand-in)", settings::version()));
    logs::chatter();
    let paths = Paths::new(&agent.data_dir);
    crate::paths::make_dir(&paths.agent("etc"))?;
    let state = paths.agent("etc/k3s-agent-load-balancer.json");
    let balancer = Balancer::start(state, &agent.server_url, agent.lb_port).await?;
    let supervisor = balancer.url();
    agent.token = validated(&agent, &paths, &supervisor).await;
    let credentials = Arc::new(kubelet::credentials(&agent, &paths, &supervisor).await);
    logs::info("Starting kubelet (stand-in): no container will run");
    tokio::spawn(kubelet::run(agent.clone(), Arc::clone(&credentials)));
    wait_for_api(&credentials).await?;
    balancer.update(first_servers(&agent, &paths, &supervisor).await);
    // k3s says so only where somebody waits for it.
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        logs::info("k3s agent is up and running");
        crate::notify_ready();
    }
    loop {
        let slices = format!(
            "{}/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
            credentials.api
        );
        match kubelet::ask(credentials.controller(), Method::GET, &slices, "", &Value::Null).await {
            Ok(slice) => balancer.update(document::addresses(&slice)),
            Err((code, e)) => logs::debug(format!("Failed to get apiserver addresses: {code} {e}")),
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// The servers as the supervisor lists them, before the agent's own look at the API.
async fn first_servers(agent: &Agent, paths: &Paths, supervisor: &str) -> Vec<String> {
    let (certificate, key) = (paths.agent("client-kubelet.crt"), paths.agent("client-kubelet.key"));
    let options = Options { certificate: Some((&certificate, &key)), ..Options::default() };
    let asked = async {
        let access = Access::validate(supervisor, &agent.token, options).await?;
        let list = access.get("/v1-k3s/apiservers").await?;
        serde_json::from_slice::<Vec<String>>(&list).map_err(|e| e.to_string())
    };
    match asked.await {
        Ok(list) => {
            logs::info(format!("Got apiserver addresses from supervisor: [{}]", list.join(" ")));
            list
        }
        Err(e) => {
            logs::info(format!("Failed to retrieve list of apiservers from server: {e}"));
            Vec::new()
        }
    }
}

/// Loops until a server answers and its CA agrees with the token; the token in full form.
async fn validated(agent: &Agent, paths: &Paths, supervisor: &str) -> String {
    let (certificate, key) = (paths.agent("client-kubelet.crt"), paths.agent("client-kubelet.key"));
    let options =
        Options { user: Some("node"), certificate: Some((&certificate, &key)), ..Options::default() };
    loop {
        let checked = Access::validate(supervisor, &agent.token, options).await;
        match checked.and_then(|access| access.full_token()) {
            Ok(token) => return token,
            Err(e) => {
                logs::error(format!("Failed to validate connection to cluster at {}: {e}", agent.server_url));
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Polls `/readyz` every two seconds, at most [`WATCHDOG`] long.
///
/// # Errors
/// `failed to wait for API server to become ready: …`.
pub async fn wait_for_api(credentials: &kubelet::Credentials) -> Result<(), String> {
    let url = format!("{}/readyz?verbose=", credentials.api);
    let until = Instant::now() + WATCHDOG;
    let mut last = String::new();
    loop {
        let error = match credentials.controller().get(&url).send().await {
            Ok(response) if response.status().is_success() => return Ok(()),
            Ok(response) => match response.status().as_u16() {
                503 => "apiserver not ready".to_owned(),
                401 => "Unauthorized".to_owned(),
                code => format!("an error on the server ({code}) has prevented the request from succeeding"),
            },
            Err(e) => crate::access::go_failure("Get", &url, &e),
        };
        if error != last {
            logs::info(format!("Polling for API server readiness: GET /readyz failed: {error}"));
            last = error;
        }
        if Instant::now() > until {
            return Err(format!(
                "failed to wait for API server to become ready: context deadline exceeded, {last}"
            ));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
