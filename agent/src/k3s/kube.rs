//! The few calls to the Kubernetes API that are needed: is it ready, a node, all nodes, and a node's deletion.
//!
//! Credentials are k3s's own on this host: the admin certificate on a server, the kubelet's certificate on an agent, each with the
//! cluster's CA as the only authority.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::{K3sRole, Paths};
use crate::core::{Known, Secret, brief};
use crate::edge::fs;
use crate::edge::http::{Answer, Ask, ClientCertificate, Http, HttpError, Show, Trust};

/// Bound on one call.
const DEADLINE: Duration = Duration::from_secs(3);
/// Most bytes of one page of nodes: 50 of them, each some ten kilobytes.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Nodes asked for at once, to keep memory small.
const PAGE: usize = 50;
/// Most pages that are read: 5,000 nodes, the size Kubernetes itself is tested to.
const PAGES: usize = 100;

/// Annotation with the etcd member name of a server.
pub const ETCD_NAME: &str = "etcd.k3s.cattle.io/node-name";
/// Annotation with the address of that member.
pub const ETCD_ADDRESS: &str = "etcd.k3s.cattle.io/node-address";
/// Label prefix of roles.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

/// A call that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// No whole answer. A deletion may or may not have been taken.
    #[error("the API did not answer")]
    Http(#[source] HttpError),
    /// An answer with a status that is not success; nothing changed.
    #[error("the API answered {status} to {what}: {message}")]
    Status {
        /// The request in words.
        what: String,
        /// HTTP status.
        status: u16,
        /// The API's own words.
        message: String,
    },
    /// An answer that is not what the API gives there.
    #[error("the API's answer to {what} cannot be read")]
    Body {
        /// The request in words.
        what: String,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
}

/// A node, as far as Muster looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Name.
    pub name: String,
    /// Uid: tells a node from another one that later took its name.
    pub uid: String,
    /// The Ready condition; absent when no kubelet has written one, unknown when Kubernetes says `Unknown`.
    pub ready: Known<bool>,
    /// Roles from its labels, sorted: `control-plane`, `etcd`, ...
    pub roles: Vec<String>,
    /// Internal addresses.
    pub addresses: Vec<String>,
    /// Name of its etcd member.
    pub etcd_name: Option<String>,
    /// Address of its etcd member.
    pub etcd_address: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Version of its kubelet.
    pub version: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Muster's own annotations, and k3s's of its etcd member.
    pub annotations: BTreeMap<String, String>,
    /// Whether new pods are kept away.
    pub unschedulable: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    unschedulable: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    conditions: Vec<Condition>,
    addresses: Vec<Address>,
    node_info: System,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct System {
    kubelet_version: String,
}

#[derive(Deserialize)]
struct NodeList {
    items: Vec<Node>,
    #[serde(default)]
    metadata: ListMetadata,
}

#[derive(Deserialize, Default)]
struct ListMetadata {
    #[serde(rename = "continue", default)]
    next: String,
}

impl From<Node> for NodeInfo {
    fn from(node: Node) -> Self {
        let ready = match node.status.conditions.iter().find(|condition| condition.kind == "Ready") {
            None => Known::Absent,
            Some(condition) => match condition.status.as_str() {
                "True" => Known::Yes(true),
                "False" => Known::Yes(false),
                _ => Known::unknown("the Ready condition", condition.reason.clone()),
            },
        };
        let annotations = node.metadata.annotations;
        let labels = node.metadata.labels;
        let kept = |key: &str| key.starts_with("muster.internal/") || key.starts_with("etcd.k3s.cattle.io/");
        Self {
            name: node.metadata.name,
            uid: node.metadata.uid,
            ready,
            roles: labels.keys().filter_map(|key| key.strip_prefix(ROLE_PREFIX).map(str::to_owned)).collect(),
            addresses: node
                .status
                .addresses
                .into_iter()
                .filter(|address| address.kind == "InternalIP")
                .map(|address| address.address)
                .collect(),
            etcd_name: annotations.get(ETCD_NAME).cloned(),
            etcd_address: annotations.get(ETCD_ADDRESS).cloned(),
            deleting: node.metadata.deletion_timestamp.is_some(),
            version: node.status.node_info.kubelet_version,
            annotations: annotations.into_iter().filter(|(key, _)| kept(key)).collect(),
            labels,
            unschedulable: node.spec.unschedulable,
        }
    }
}

/// The API as this host may use it.
pub struct KubeApi<'a> {
    pub(super) http: &'a Http,
    base: String,
    trust: Trust,
    certificate: ClientCertificate,
}

impl<'a> KubeApi<'a> {
    /// The API of this host in a role: a server's own, or an agent's local balancer. Absent while k3s has not written the
    /// certificates.
    #[must_use]
    pub fn local(http: &'a Http, role: K3sRole, paths: &Paths, at: SocketAddr) -> Known<Self> {
        let data = &paths.data_dir;
        let (ca, certificate, key) = match role {
            K3sRole::Server => {
                let tls = data.join("server/tls");
                (tls.join("server-ca.crt"), tls.join("client-admin.crt"), tls.join("client-admin.key"))
            }
            K3sRole::Agent => {
                let agent = data.join("agent");
                (
                    agent.join("server-ca.crt"),
                    agent.join("client-kubelet.crt"),
                    agent.join("client-kubelet.key"),
                )
            }
        };
        let (ca, certificate, key) =
            (fs::known_text(&ca), fs::known_text(&certificate), fs::known_text(&key));
        match (ca, certificate, key.map(Secret::new)) {
            (Known::Yes(ca), Known::Yes(certificate), Known::Yes(key)) => {
                Known::Yes(Self::new(http, at, ca.into_bytes(), ClientCertificate::new(&certificate, &key)))
            }
            (Known::Unknown(unread), _, _)
            | (_, Known::Unknown(unread), _)
            | (_, _, Known::Unknown(unread)) => Known::Unknown(unread),
            _ => Known::Absent,
        }
    }

    /// The API at an address, with an authority (PEM) and a client certificate.
    #[must_use]
    pub fn new(http: &'a Http, at: SocketAddr, ca: Vec<u8>, certificate: ClientCertificate) -> Self {
        Self { http, base: format!("https://{at}"), trust: Trust::Only(ca), certificate }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(super) fn ask<'b>(&'b self, url: &'b str, most_bytes: usize) -> Ask<'b> {
        Ask {
            url,
            trust: &self.trust,
            show: Show::Certificate(&self.certificate),
            deadline: DEADLINE,
            most_bytes,
        }
    }

    pub(super) async fn get(&self, path: &str, most_bytes: usize) -> Result<Answer, HttpError> {
        let url = format!("{}{path}", self.base);
        self.http.get(&self.ask(&url, most_bytes)).await
    }

    /// `/readyz`. False is the API's own word (it answered, and not with 200); absent when nothing listens.
    pub async fn ready(&self) -> Known<bool> {
        match self.get("/readyz", 64 * 1024).await {
            Ok(answer) if answer.status == 401 || answer.status == 403 => {
                Known::unknown("/readyz", format!("{} to this node's certificate", answer.status))
            }
            Ok(answer) => Known::Yes(answer.status == 200),
            Err(HttpError::Refused { .. }) => Known::Absent,
            Err(error) => Known::unknown("/readyz", error.to_string()),
        }
    }

    /// How many objects a list holds; absent when nothing listens.
    pub async fn count(&self, path: &str) -> Known<usize> {
        #[derive(Deserialize)]
        struct List {
            items: Vec<serde::de::IgnoredAny>,
        }
        match self.get(path, 8 * PAGE_BYTES).await {
            Ok(answer) if answer.status == 200 => match serde_json::from_slice::<List>(&answer.body) {
                Ok(list) => Known::Yes(list.items.len()),
                Err(error) => Known::unknown(path.to_owned(), error.to_string()),
            },
            Ok(answer) => Known::unknown(path.to_owned(), format!("the API answered {}", answer.status)),
            Err(HttpError::Refused { .. }) => Known::Absent,
            Err(error) => Known::unknown(path.to_owned(), error.to_string()),
        }
    }

    /// A node by name; absent only when the API says that there is none.
    pub async fn node(&self, name: &str) -> Known<NodeInfo> {
        let what = format!("node {name}");
        let answer = match self.get(&format!("/api/v1/nodes/{name}"), 1024 * 1024).await {
            Ok(answer) => answer,
            Err(error) => return Known::unknown(what, error.to_string()),
        };
        match answer.status {
            200 => match read_node(&answer.body) {
                Ok(node) => Known::Yes(node),
                Err(error) => Known::unknown(what, error.to_string()),
            },
            404 if says_not_found(&answer.body) => Known::Absent,
            status => Known::unknown(what, format!("the API answered {status}: {}", message(&answer))),
        }
    }

    /// All nodes, or those that a label selector names. Needs the admin certificate: a kubelet may not list them on every release.
    ///
    /// # Errors
    /// When a page is missing: there is no half list.
    pub async fn nodes(&self, selector: &str) -> Result<Vec<NodeInfo>, KubeError> {
        let what = "the list of nodes";
        let select =
            if selector.is_empty() { String::new() } else { format!("&labelSelector={}", encode(selector)) };
        let (mut nodes, mut next) = (Vec::new(), String::new());
        for _ in 0..PAGES {
            let path = format!(
                "/api/v1/nodes?limit={PAGE}{select}{}{}",
                if next.is_empty() { "" } else { "&continue=" },
                next
            );
            let answer = self.get(&path, PAGE_BYTES).await.map_err(KubeError::Http)?;
            if answer.status != 200 {
                return Err(refused(what, &answer));
            }
            let (page, more) = read_page(&answer.body)
                .map_err(|source| KubeError::Body { what: what.to_owned(), source })?;
            nodes.extend(page);
            match more {
                Some(more) => next = more,
                None => return Ok(nodes),
            }
        }
        Err(KubeError::Status {
            what: what.to_owned(),
            status: 200,
            message: format!("more than {PAGES} pages"),
        })
    }

    /// Deletes the node of that name if it still is the one with this uid. On a server's node k3s then removes its etcd member
    /// and its password secret. True when it was there.
    ///
    /// # Errors
    /// When the API refused (409: another node has the name now), or when it is not known whether it took the order.
    pub async fn delete_node(&self, name: &str, uid: &str) -> Result<bool, KubeError> {
        self.delete(&format!("/api/v1/nodes/{name}"), uid, &format!("the deletion of node {name}")).await
    }

    /// Deletes what stands at a path and has this uid. True when it was there.
    pub(super) async fn delete(&self, path: &str, uid: &str, what: &str) -> Result<bool, KubeError> {
        let url = self.url(path);
        let body = serde_json::json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": uid }
        });
        let answer = self
            .http
            .delete(&self.ask(&url, 1024 * 1024), body.to_string().into_bytes())
            .await
            .map_err(KubeError::Http)?;
        match answer.status {
            200 | 202 => Ok(true),
            404 if says_not_found(&answer.body) => Ok(false),
            _ => Err(refused(what, &answer)),
        }
    }
}

/// Reads a node.
pub(super) fn read_node(body: &[u8]) -> Result<NodeInfo, serde_json::Error> {
    serde_json::from_slice::<Node>(body).map(NodeInfo::from)
}

/// Reads a page of nodes, and the mark of the next page as a query takes it; none after the last.
pub(super) fn read_page(body: &[u8]) -> Result<(Vec<NodeInfo>, Option<String>), serde_json::Error> {
    let NodeList { items, metadata } = serde_json::from_slice(body)?;
    let more = (!metadata.next.is_empty()).then(|| encode(&metadata.next));
    Ok((items.into_iter().map(NodeInfo::from).collect(), more))
}

pub(super) fn refused(what: &str, answer: &Answer) -> KubeError {
    KubeError::Status { what: what.to_owned(), status: answer.status, message: message(answer) }
}

/// A 404 that comes from the API's registry, and not from a stub listener or a proxy in front of it.
pub(super) fn says_not_found(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct ApiStatus {
        #[serde(default)]
        reason: String,
    }
    serde_json::from_slice::<ApiStatus>(body).is_ok_and(|status| status.reason == "NotFound")
}

fn message(answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct ApiStatus {
        message: String,
    }
    serde_json::from_slice::<ApiStatus>(&answer.body)
        .map_or_else(|_| answer.excerpt(), |status| brief(&status.message))
}

/// A continue token as a query value.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
