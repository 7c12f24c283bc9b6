//! The one thing asked of etcd itself, by a server on its own machine: the removal of a member that has no Node. k3s removes a
//! member with its Node alone.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;

use super::Paths;
use crate::core::{Known, Secret};
use crate::edge::fs;
use crate::edge::http::{Ask, ClientCertificate, Http, HttpError, Show, Trust, Write};

/// k3s keeps HTTP, which etcd's gateway to gRPC speaks, on a port of its own (`listen-client-http-urls`); where etcd has one port for
/// both it is the other one.
const PORTS: [u16; 2] = [2382, 2379];
/// A removal goes through the quorum.
const DEADLINE: Duration = Duration::from_secs(8);

/// etcd on this machine.
pub struct EtcdApi<'a> {
    http: &'a Http,
    at: Vec<SocketAddr>,
    trust: Trust,
    certificate: ClientCertificate,
}

impl<'a> EtcdApi<'a> {
    /// With the certificates that k3s made for it.
    #[must_use]
    pub fn local(http: &'a Http, paths: &Paths) -> Known<Self> {
        let loopback = |port| {
            [
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
                SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
            ]
        };
        Self::at(http, paths, PORTS.into_iter().flat_map(loopback).collect())
    }

    fn at(http: &'a Http, paths: &Paths, at: Vec<SocketAddr>) -> Known<Self> {
        let directory = paths.data_dir.join("server/tls/etcd");
        let read = |name: &str| fs::known_text(&directory.join(name));
        match (read("server-ca.crt"), read("client.crt"), read("client.key").map(Secret::new)) {
            (Known::Yes(ca), Known::Yes(certificate), Known::Yes(key)) => Known::Yes(Self {
                http,
                at,
                trust: Trust::Only(ca.into_bytes()),
                certificate: ClientCertificate::new(&certificate, &key),
            }),
            (Known::Unknown(unread), _, _)
            | (_, Known::Unknown(unread), _)
            | (_, _, Known::Unknown(unread)) => Known::Unknown(unread),
            _ => Known::Absent,
        }
    }

    /// Removes a member; false when etcd has none of this id.
    ///
    /// # Errors
    /// etcd refuses, as it does where the others would be no quorum, or does not answer: whether the member is removed is then
    /// unknown.
    pub async fn remove_member(&self, id: u64) -> Result<bool, String> {
        // As text: JSON's numbers end before 64 bits do.
        let body = json!({ "ID": id.to_string() }).to_string().into_bytes();
        let mut failed = "etcd is asked nowhere".to_owned();
        for at in &self.at {
            let url = format!("https://{at}/v3/cluster/member/remove");
            let show = Show::Certificate(&self.certificate);
            let ask = Ask { url: &url, trust: &self.trust, show, deadline: DEADLINE, most_bytes: 64 * 1024 };
            match self.http.write(Write::Create, &ask, body.clone()).await {
                Ok(answer) if answer.status == 200 => return Ok(true),
                Ok(answer) => {
                    let said = String::from_utf8_lossy(&answer.body).trim().to_owned();
                    if said.contains("member not found") {
                        return Ok(false);
                    }
                    return Err(format!("etcd at {at} answers {}: {said}", answer.status));
                }
                // Nothing was said to anybody there; a machine without IPv6 has no such loopback.
                Err(error @ (HttpError::Refused { .. } | HttpError::Other { connected: false, .. })) => {
                    failed = error.to_string();
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::fs::{create_directory, write_atomic};
    use crate::k3s::testing::{Authority, Reply, Server, closed_port, reply};

    fn placed(ca: &Authority, client: (String, String)) -> (tempfile::TempDir, Paths) {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::under(directory.path());
        let tls = paths.data_dir.join("server/tls/etcd");
        create_directory(&tls, 0o755).unwrap();
        for (name, text) in [("server-ca.crt", ca.pem()), ("client.crt", client.0), ("client.key", client.1)]
        {
            write_atomic(&tls.join(name), text.as_bytes(), 0o600).unwrap();
        }
        (directory, paths)
    }

    async fn removes(answer: fn() -> Reply) -> (Result<bool, String>, Vec<crate::k3s::testing::Seen>) {
        let ca = Authority::new("etcd");
        let (_kept, paths) = placed(&ca, ca.client("client"));
        let server = Server::start(Some(ca.server(&["127.0.0.1"], Some(&ca))), move |_| answer()).await;
        let http = Http::new();
        // Nothing listens on the first port: the second is asked.
        let at = vec![SocketAddr::from(([127, 0, 0, 1], closed_port())), server.at];
        let Known::Yes(api) = EtcdApi::at(&http, &paths, at) else { panic!("no certificates") };
        let result = api.remove_member(u64::MAX - 1).await;
        let seen = server.seen.lock().unwrap().clone();
        (result, seen)
    }

    #[tokio::test]
    async fn a_member_is_removed_by_its_id_and_a_refusal_is_quoted() {
        let (removed, seen) = removes(|| reply(200, r#"{"header":{},"members":[]}"#)).await;
        assert_eq!(removed, Ok(true));
        assert_eq!((seen[0].path.as_str(), seen[0].certified), ("/v3/cluster/member/remove", true));
        assert_eq!(seen[0].body, r#"{"ID":"18446744073709551614"}"#);
        let (gone, _) = removes(|| reply(404, r#"{"error":"etcdserver: member not found","code":5}"#)).await;
        assert_eq!(gone, Ok(false));
        let (refused, _) = removes(|| reply(503, r#"{"error":"etcdserver: unhealthy cluster"}"#)).await;
        assert!(refused.unwrap_err().contains("etcdserver: unhealthy cluster"));
    }

    #[tokio::test]
    async fn a_machine_without_etcds_certificates_asks_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::under(directory.path());
        assert!(EtcdApi::local(&Http::new(), &paths).is_absent());
    }
}
