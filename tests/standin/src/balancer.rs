//! The agent's client load balancer: a TCP proxy on loopback to whichever server answers, with the list of servers
//! kept in a state file.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::{logs, paths};

const DIAL: Duration = Duration::from_secs(5);

#[derive(Clone, Serialize, Deserialize)]
struct State {
    #[serde(rename = "ServerURL")]
    url: String,
    #[serde(rename = "ServerAddresses", default)]
    addresses: Vec<String>,
}

/// A running load balancer.
pub struct Balancer {
    file: PathBuf,
    default: String,
    state: Mutex<State>,
    port: u16,
}

fn host_port(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let has_port = rest.rsplit_once(':').is_some_and(|(_, p)| !p.contains(']') && p.parse::<u16>().is_ok());
    if has_port { rest.to_owned() } else { format!("{rest}:443") }
}

impl Balancer {
    /// Listens on loopback; the servers of the state file count only for the same URL.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start(file: PathBuf, url: &str, port: u16) -> Result<Arc<Self>, String> {
        let kept = std::fs::read_to_string(&file).ok().and_then(|t| serde_json::from_str::<State>(&t).ok());
        let mut state = State { url: url.to_owned(), addresses: Vec::new() };
        if let Some(kept) = kept.filter(|kept| kept.url == url) {
            state.addresses = kept.addresses;
        }
        let listener = TcpListener::bind(("127.0.0.1", port))
            .await
            .map_err(|e| format!("listen tcp 127.0.0.1:{port}: bind: {e}"))?;
        let balancer = Arc::new(Self { file, default: host_port(url), state: Mutex::new(state), port });
        logs::info(format!(
            "Running load balancer k3s-agent-load-balancer 127.0.0.1:{port} -> [{}] [default: {}]",
            balancer.state.lock().map(|s| s.addresses.join(" ")).unwrap_or_default(),
            balancer.default
        ));
        balancer.save();
        let serving = Arc::clone(&balancer);
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let balancer = Arc::clone(&serving);
                tokio::spawn(async move { balancer.forward(client).await });
            }
        });
        Ok(balancer)
    }

    /// Where clients reach the servers.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Servers in the order they are tried: the known ones, the configured one last.
    fn servers(&self) -> Vec<String> {
        let mut all = self.state.lock().map(|s| s.addresses.clone()).unwrap_or_default();
        if !all.contains(&self.default) {
            all.push(self.default.clone());
        }
        all
    }

    async fn forward(&self, mut client: TcpStream) {
        for server in self.servers() {
            let Ok(Ok(mut upstream)) = tokio::time::timeout(DIAL, TcpStream::connect(&server)).await else {
                self.demote(&server);
                continue;
            };
            let _ = copy_bidirectional(&mut client, &mut upstream).await;
            return;
        }
    }

    /// A server that does not answer is tried last from now on.
    fn demote(&self, server: &str) {
        if let Ok(mut state) = self.state.lock()
            && let Some(at) = state.addresses.iter().position(|a| a == server)
        {
            let down = state.addresses.remove(at);
            state.addresses.push(down);
        }
    }

    /// Replaces the list of servers.
    pub fn update(&self, mut addresses: Vec<String>) {
        addresses.sort();
        {
            let Ok(mut state) = self.state.lock() else { return };
            let mut known = state.addresses.clone();
            known.sort();
            if addresses.is_empty() || known == addresses {
                return;
            }
            for added in addresses.iter().filter(|a| !known.contains(a)) {
                logs::info(format!("Adding server to load balancer k3s-agent-load-balancer: {added}"));
            }
            for gone in known.iter().filter(|a| !addresses.contains(a)) {
                logs::info(format!("Removing server from load balancer k3s-agent-load-balancer: {gone}"));
            }
            state.addresses = addresses;
        }
        self.save();
    }

    fn save(&self) {
        let text = self.state.lock().ok().and_then(|s| serde_json::to_string_pretty(&*s).ok());
        if let Some(Err(e)) = text.map(|text| paths::write_secret(&self.file, &text)) {
            logs::warn(format!("Failed to save load balancer configuration: {e}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_and_port() {
        assert_eq!(host_port("https://10.0.0.1:6443"), "10.0.0.1:6443");
        assert_eq!(host_port("https://vip.example/x"), "vip.example:443");
        assert_eq!(host_port("https://[fd00::1]:6443/"), "[fd00::1]:6443");
    }

    #[tokio::test]
    async fn the_list_survives_a_restart_but_not_another_url() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("etc/k3s-agent-load-balancer.json");
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let first = Balancer::start(file.clone(), "https://10.0.0.1:6443", free()).await.unwrap();
        first.update(vec!["10.0.0.2:6443".into(), "10.0.0.1:6443".into()]);
        let again = Balancer::start(file.clone(), "https://10.0.0.1:6443", free()).await.unwrap();
        assert_eq!(again.servers(), ["10.0.0.1:6443", "10.0.0.2:6443"]);
        let other = Balancer::start(file, "https://10.0.0.9:6443", free()).await.unwrap();
        assert_eq!(other.servers(), ["10.0.0.9:6443"]);
    }
}
