//! The calls to the Kubernetes API that healing needs: the Lease, marks on Nodes, and moving pods away.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::kube::{KubeApi, KubeError, NodeInfo, encode, refused, says_not_found};
use crate::core::Known;
use crate::edge::http::Write;
use crate::heal::lease::{self, Seen};

/// Path of Leases in the namespace of the system.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// Most bytes of a list of one machine's pods.
const PODS_BYTES: usize = 16 * 1024 * 1024;

/// Path of the Secret in which k3s keeps the hash of a node's password.
fn password_path(node: &str) -> String {
    format!("/api/v1/namespaces/kube-system/secrets/{}.node-password.k3s", node.to_lowercase())
}

/// A pod that is to be moved away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeaseObject {
    metadata: LeaseMetadata,
    #[serde(default)]
    spec: LeaseSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeaseMetadata {
    resource_version: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct LeaseSpec {
    holder_identity: Option<String>,
    renew_time: Option<String>,
    lease_transitions: Option<u64>,
}

impl KubeApi<'_> {
    async fn put(&self, write: Write, path: &str, body: &Value, what: &str) -> Result<(), KubeError> {
        let url = self.url(path);
        let answer = self
            .http
            .write(write, &self.ask(&url, 1024 * 1024), body.to_string().into_bytes())
            .await
            .map_err(KubeError::Http)?;
        if matches!(answer.status, 200..=202) { Ok(()) } else { Err(refused(what, &answer)) }
    }

    /// A Lease of Muster's; absent only when the API says that there is none.
    pub async fn lease(&self, name: &str) -> Known<Seen> {
        let what = format!("the Lease kube-system/{name}");
        let answer = match self.get(&format!("{LEASES}/{name}"), 256 * 1024).await {
            Ok(answer) => answer,
            Err(error) => return Known::unknown(what, error.to_string()),
        };
        match answer.status {
            200 => match serde_json::from_slice::<LeaseObject>(&answer.body) {
                Ok(object) => Known::Yes(Seen {
                    holder: object.spec.holder_identity.unwrap_or_default(),
                    renewed: object.spec.renew_time.unwrap_or_default(),
                    transitions: object.spec.lease_transitions.unwrap_or_default(),
                    version: object.metadata.resource_version,
                }),
                Err(error) => Known::unknown(what, error.to_string()),
            },
            404 if says_not_found(&answer.body) => Known::Absent,
            _ => {
                let cause = refused(&what, &answer).to_string();
                Known::unknown(what, cause)
            }
        }
    }

    /// Creates the Lease, or writes it over the version that was read. `now` is the wall clock as Kubernetes prints it; nobody
    /// compares it with another machine's.
    ///
    /// # Errors
    /// When another one was faster (409), or when it is not known whether it was written.
    pub async fn write_lease(
        &self,
        name: &str,
        over: Option<&Seen>,
        holder: &str,
        now: &str,
    ) -> Result<(), KubeError> {
        let mut metadata = json!({ "name": name, "namespace": "kube-system" });
        let mut transitions = 0;
        if let Some(seen) = over {
            metadata["resourceVersion"] = json!(seen.version);
            transitions = seen.transitions + u64::from(seen.holder != holder);
        }
        let body = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata,
            "spec": {
                "holderIdentity": holder, "renewTime": now, "leaseTransitions": transitions,
                "leaseDurationSeconds": lease::DURATION.as_secs(),
            }
        });
        let what = format!("the Lease kube-system/{name}");
        match over {
            None => self.put(Write::Create, LEASES, &body, &what).await,
            Some(_) => self.put(Write::Replace, &format!("{LEASES}/{name}"), &body, &what).await,
        }
    }

    /// The uid of the Secret with a node's password; absent only when the API says that there is none. Its content is not read.
    pub async fn node_password(&self, node: &str) -> Known<String> {
        #[derive(Deserialize)]
        struct Secret {
            metadata: Metadata,
        }
        #[derive(Deserialize)]
        struct Metadata {
            uid: String,
        }
        let what = format!("the password of node {node}");
        let answer = match self.get(&password_path(node), 256 * 1024).await {
            Ok(answer) => answer,
            Err(error) => return Known::unknown(what, error.to_string()),
        };
        match answer.status {
            200 => match serde_json::from_slice::<Secret>(&answer.body) {
                Ok(secret) => Known::Yes(secret.metadata.uid),
                Err(error) => Known::unknown(what, error.to_string()),
            },
            404 if says_not_found(&answer.body) => Known::Absent,
            _ => {
                let cause = refused(&what, &answer).to_string();
                Known::unknown(what, cause)
            }
        }
    }

    /// Deletes the Secret with a node's password, if it still is the one with this uid: the next machine of that name sets its own.
    /// True when it was there.
    ///
    /// # Errors
    /// When the API refused (409: it is another one now), or when it is not known whether it took the order.
    pub async fn delete_node_password(&self, node: &str, uid: &str) -> Result<bool, KubeError> {
        self.delete(&password_path(node), uid, &format!("the deletion of the password of node {node}")).await
    }

    /// Merges fields into a Node; with a uid only if it still is that one.
    ///
    /// # Errors
    /// When the API refused, or it is not known whether it was written.
    pub async fn merge_node(
        &self,
        name: &str,
        mut fields: Value,
        uid: Option<&str>,
    ) -> Result<(), KubeError> {
        if let Some(uid) = uid {
            // The API refuses a patch that would change the uid.
            fields["metadata"]["uid"] = json!(uid);
        }
        self.put(
            Write::Merge,
            &format!("/api/v1/nodes/{name}"),
            &fields,
            &format!("the change of node {name}"),
        )
        .await
    }

    /// The pods on a machine that can be moved: not those of DaemonSets, not those that the kubelet itself runs from files, and
    /// not those that have ended.
    ///
    /// # Errors
    /// When the list did not come whole.
    pub async fn movable_pods(&self, node: &str) -> Result<Vec<Pod>, KubeError> {
        let what = format!("the pods of node {node}");
        let select = encode(&format!("spec.nodeName={node}"));
        let answer = self
            .get(&format!("/api/v1/pods?fieldSelector={select}"), PODS_BYTES)
            .await
            .map_err(KubeError::Http)?;
        if answer.status != 200 {
            return Err(refused(&what, &answer));
        }
        movable(&answer.body).map_err(|source| KubeError::Body { what, source })
    }

    /// Asks that a pod be moved. True when it is on its way or gone; false when a disruption budget holds it (429).
    ///
    /// # Errors
    /// When the API refused for another reason.
    pub async fn evict(&self, pod: &Pod) -> Result<bool, KubeError> {
        let path = format!("/api/v1/namespaces/{}/pods/{}/eviction", pod.namespace, pod.name);
        let body = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": { "name": pod.name, "namespace": pod.namespace }
        });
        let url = self.url(&path);
        let answer = self
            .http
            .write(Write::Create, &self.ask(&url, 256 * 1024), body.to_string().into_bytes())
            .await
            .map_err(KubeError::Http)?;
        match answer.status {
            200..=202 => Ok(true),
            404 if says_not_found(&answer.body) => Ok(true),
            429 => Ok(false),
            _ => Err(refused(&format!("the eviction of {}/{}", pod.namespace, pod.name), &answer)),
        }
    }

    /// Keeps new pods away from a machine and moves its own away, for at most this long. What is left is returned: it goes down
    /// with k3s's change of role, and its controllers start it elsewhere.
    ///
    /// # Errors
    /// When the machine cannot be cordoned, or its pods not be listed.
    pub async fn drain(&self, node: &NodeInfo, at_most: Duration) -> Result<Vec<Pod>, KubeError> {
        let cordon = json!({
            "spec": { "unschedulable": true },
            "metadata": { "labels": { crate::heal::CORDONED: "muster" } }
        });
        self.merge_node(&node.name, cordon, Some(&node.uid)).await?;
        let end = tokio::time::Instant::now() + at_most;
        loop {
            let left = self.movable_pods(&node.name).await?;
            if left.is_empty() || tokio::time::Instant::now() >= end {
                return Ok(left);
            }
            for pod in &left {
                if let Err(error) = self.evict(pod).await {
                    tracing::warn!(%error, "a pod was not moved; tried again");
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn movable(body: &[u8]) -> Result<Vec<Pod>, serde_json::Error> {
    let list: Value = serde_json::from_slice(body)?;
    let moves = |pod: &&Value| {
        let meta = &pod["metadata"];
        let daemon = meta["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|owner| owner["kind"] == "DaemonSet");
        let mirror = !meta["annotations"]["kubernetes.io/config.mirror"].is_null();
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        !(daemon || mirror || ended)
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = list["items"].as_array().into_iter().flatten().filter(moves);
    Ok(pods
        .map(|pod| Pod {
            namespace: text(&pod["metadata"]["namespace"]),
            name: text(&pod["metadata"]["name"]),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_daemon_sets_files_and_the_past_stay() {
        let pod = |name: &str, more: Value| {
            let mut pod =
                json!({"metadata": {"name": name, "namespace": "n"}, "status": {"phase": "Running"}});
            for (key, value) in more.as_object().into_iter().flatten() {
                pod["metadata"][key] = value.clone();
            }
            pod
        };
        let mut done = pod("done", json!({}));
        done["status"]["phase"] = json!("Succeeded");
        let list = json!({"items": [
            pod("web", json!({"ownerReferences": [{"kind": "ReplicaSet"}]})),
            pod("bare", json!({})),
            pod("daemon", json!({"ownerReferences": [{"kind": "DaemonSet"}]})),
            pod("file", json!({"annotations": {"kubernetes.io/config.mirror": "x"}})),
            done,
        ]});
        let names: Vec<String> =
            movable(list.to_string().as_bytes()).unwrap().into_iter().map(|pod| pod.name).collect();
        assert_eq!(names, ["web", "bare"]);
    }
}
