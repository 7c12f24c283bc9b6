//! etcd's v3 API through its own JSON gateway: keys and values in base64, 64-bit numbers as text.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use crate::access;
use crate::paths::Paths;

/// One value with the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Key.
    pub key: String,
    /// Value, text.
    pub value: String,
    /// Revision of the last write.
    pub revision: i64,
}

/// A member as `/db/info` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Member {
    /// Member id, a JSON number.
    #[serde(rename = "ID")]
    pub id: u64,
    /// Empty until the member has started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Peer URLs.
    #[serde(rename = "peerURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub peer_urls: Vec<String>,
    /// Client URLs; empty until the member has started.
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
    /// Absent for voters.
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
}

/// What one member says of itself.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Status {
    pub member_id: u64,
    pub leader: u64,
    pub is_learner: bool,
    pub raft_applied: u64,
    pub db_size: u64,
    pub db_in_use: u64,
    pub version: String,
    pub errors: Vec<String>,
}

/// A client of one or more members.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    bases: Vec<String>,
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|t| t.parse().ok()).or_else(|| value.as_u64()).unwrap_or(0)
}

fn signed(value: &Value) -> i64 {
    value.as_str().and_then(|t| t.parse().ok()).or_else(|| value.as_i64()).unwrap_or(0)
}

fn encode(text: &str) -> String {
    STANDARD.encode(text)
}

fn decode(value: &Value) -> String {
    let bytes = value.as_str().and_then(|t| STANDARD.decode(t).ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The first key after every key with this prefix.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn entry(kv: &Value) -> Entry {
    Entry { key: decode(&kv["key"]), value: decode(&kv["value"]), revision: signed(&kv["mod_revision"]) }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Client {
    /// With the etcd client certificate of this data directory.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub fn new(paths: &Paths, bases: Vec<String>) -> Result<Self, String> {
        let ca = crate::paths::read(&paths.tls("etcd/server-ca.crt"))?;
        let (certificate, key) = (paths.tls("etcd/client.crt"), paths.tls("etcd/client.key"));
        Self::with(ca.as_bytes(), &certificate, &key, bases)
    }

    fn with(ca: &[u8], certificate: &Path, key: &Path, bases: Vec<String>) -> Result<Self, String> {
        let http = access::client(ca, Some((certificate, key)), Duration::from_secs(10))?;
        Ok(Self { http, bases })
    }

    /// The same client for other members.
    pub fn at(&self, bases: Vec<String>) -> Self {
        Self { http: self.http.clone(), bases }
    }

    /// One call to the first member that answers.
    ///
    /// # Errors
    /// etcd's own text, or the connection's.
    pub async fn call(&self, path: &str, body: &Value, limit: Duration) -> Result<Value, String> {
        let mut last = "no etcd endpoints".to_owned();
        for base in &self.bases {
            let url = format!("{base}/v3/{path}");
            let response = match self.http.post(&url).timeout(limit).json(body).send().await {
                Ok(response) => response,
                Err(e) if e.is_timeout() => {
                    last = "context deadline exceeded".to_owned();
                    continue;
                }
                Err(e) => {
                    last = format!("connection error: desc = \"transport: {}\"", access::cause(&e));
                    continue;
                }
            };
            let good = response.status().is_success();
            let text = response.text().await.map_err(|e| access::cause(&e))?;
            let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
            if good {
                return Ok(value);
            }
            return Err(match value["error"].as_str().or(value["message"].as_str()) {
                Some(error) => error.to_owned(),
                None => format!("etcd answered {text}"),
            });
        }
        Err(last)
    }

    /// One key; linearizable, so it proves a quorum.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn get(&self, key: &str, limit: Duration) -> Result<Option<Entry>, String> {
        let answer = self.call("kv/range", &json!({"key": encode(key)}), limit).await?;
        Ok(answer["kvs"].as_array().and_then(|kvs| kvs.first()).map(entry))
    }

    /// Every key with a prefix, and the store's revision.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn list(&self, prefix: &str, limit: Duration) -> Result<(Vec<Entry>, i64), String> {
        let end = STANDARD.encode(prefix_end(prefix));
        let answer = self.call("kv/range", &json!({"key": encode(prefix), "range_end": end}), limit).await?;
        let entries = answer["kvs"].as_array().into_iter().flatten().map(entry).collect();
        Ok((entries, signed(&answer["header"]["revision"])))
    }

    /// Writes unconditionally, optionally bound to a lease.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn put(
        &self,
        key: &str,
        value: &str,
        lease: Option<&str>,
        limit: Duration,
    ) -> Result<(), String> {
        let mut body = json!({"key": encode(key), "value": encode(value)});
        if let Some(lease) = lease {
            body["lease"] = json!(lease);
        }
        self.call("kv/put", &body, limit).await.map(|_| ())
    }

    /// Writes if the key's revision is `expected` (0: absent). `None` when it is not.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn put_if(
        &self,
        key: &str,
        value: &str,
        expected: i64,
        limit: Duration,
    ) -> Result<Option<i64>, String> {
        let put = json!({"request_put": {"key": encode(key), "value": encode(value)}});
        self.when(key, expected, put, limit).await
    }

    /// Deletes if the key's revision is `expected`. `None` when it is not.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn delete_if(&self, key: &str, expected: i64, limit: Duration) -> Result<Option<i64>, String> {
        let delete = json!({"request_delete_range": {"key": encode(key)}});
        self.when(key, expected, delete, limit).await
    }

    async fn when(
        &self,
        key: &str,
        expected: i64,
        then: Value,
        limit: Duration,
    ) -> Result<Option<i64>, String> {
        let compare = json!({"key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": expected.to_string()});
        let answer = self.call("kv/txn", &json!({"compare": [compare], "success": [then]}), limit).await?;
        let done = answer["succeeded"].as_bool().unwrap_or(false);
        Ok(done.then(|| signed(&answer["header"]["revision"])))
    }

    /// Deletes whatever is there.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn delete(&self, key: &str, limit: Duration) -> Result<(), String> {
        self.call("kv/deleterange", &json!({"key": encode(key)}), limit).await.map(|_| ())
    }

    /// A lease of `seconds`, its id as text.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn lease(&self, seconds: u64, limit: Duration) -> Result<String, String> {
        let answer = self.call("lease/grant", &json!({"TTL": seconds.to_string()}), limit).await?;
        answer["ID"].as_str().map(str::to_owned).ok_or_else(|| "etcd gave no lease id".to_owned())
    }

    /// The member list. etcd 3.4 answers it from local state; k3s's etcd asks the quorum first, so this does too.
    ///
    /// # Errors
    /// As [`Client::call`]; a learner refuses with `etcdserver: rpc not supported for learner`.
    pub async fn members(&self, limit: Duration) -> Result<Vec<Member>, String> {
        self.get("health", limit).await?;
        self.local_members(limit).await
    }

    /// The member list as this member knows it.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn local_members(&self, limit: Duration) -> Result<Vec<Member>, String> {
        let answer = self.call("cluster/member/list", &json!({}), limit).await?;
        let member = |m: &Value| Member {
            id: number(&m["ID"]),
            name: m["name"].as_str().unwrap_or_default().to_owned(),
            peer_urls: texts(&m["peerURLs"]),
            client_urls: texts(&m["clientURLs"]),
            is_learner: m["isLearner"].as_bool().unwrap_or(false),
        };
        Ok(answer["members"].as_array().into_iter().flatten().map(member).collect())
    }

    /// Status of the first member of this client.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn status(&self, limit: Duration) -> Result<Status, String> {
        let answer = self.call("maintenance/status", &json!({}), limit).await?;
        Ok(Status {
            member_id: number(&answer["header"]["member_id"]),
            leader: number(&answer["leader"]),
            is_learner: answer["isLearner"].as_bool().unwrap_or(false),
            raft_applied: number(&answer["raftAppliedIndex"]),
            db_size: number(&answer["dbSize"]),
            db_in_use: number(&answer["dbSizeInUse"]),
            version: answer["version"].as_str().unwrap_or_default().to_owned(),
            errors: texts(&answer["errors"]),
        })
    }

    /// Adds a learner.
    ///
    /// # Errors
    /// etcd's: `too many learner members in cluster`, `unhealthy cluster`, `Peer URLs already exists`, …
    pub async fn add_learner(&self, peer_url: &str, limit: Duration) -> Result<(), String> {
        let body = json!({"peerURLs": [peer_url], "isLearner": true});
        self.call("cluster/member/add", &body, limit).await.map(|_| ())
    }

    /// Removes, promotes, or hands leadership to a member: `verb` is the gateway's path.
    ///
    /// # Errors
    /// etcd's own.
    pub async fn on_member(&self, verb: &str, id: u64, limit: Duration) -> Result<(), String> {
        let body = match verb {
            "maintenance/transfer-leadership" => json!({"targetID": id.to_string()}),
            _ => json!({"ID": id.to_string()}),
        };
        self.call(verb, &body, limit).await.map(|_| ())
    }

    /// Replaces a member's peer URL.
    ///
    /// # Errors
    /// etcd's own.
    pub async fn update_peer(&self, id: u64, peer_url: &str, limit: Duration) -> Result<(), String> {
        let body = json!({"ID": id.to_string(), "peerURLs": [peer_url]});
        self.call("cluster/member/update", &body, limit).await.map(|_| ())
    }

    /// Active alarms: member and name.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn alarms(&self, limit: Duration) -> Result<Vec<(u64, String)>, String> {
        let answer = self.call("maintenance/alarm", &json!({"action": "GET"}), limit).await?;
        let alarm = |a: &Value| (number(&a["memberID"]), a["alarm"].as_str().unwrap_or_default().to_owned());
        Ok(answer["alarms"].as_array().into_iter().flatten().map(alarm).collect())
    }

    /// Disarms one alarm.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn disarm(&self, member: u64, alarm: &str, limit: Duration) -> Result<(), String> {
        let body = json!({"action": "DEACTIVATE", "memberID": member.to_string(), "alarm": alarm});
        self.call("maintenance/alarm", &body, limit).await.map(|_| ())
    }

    /// The whole database of the first member: a snapshot as `etcdctl snapshot restore` reads it.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn snapshot(&self) -> Result<Vec<u8>, String> {
        let base = self.bases.first().ok_or("no etcd endpoints")?;
        let request = self.http.post(format!("{base}/v3/maintenance/snapshot")).json(&json!({}));
        let response =
            request.timeout(Duration::from_secs(120)).send().await.map_err(|e| access::cause(&e))?;
        let text = response.text().await.map_err(|e| access::cause(&e))?;
        let mut all = Vec::new();
        for part in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
            let part = part.map_err(|e| format!("etcd sent a broken snapshot: {e}"))?;
            if let Some(error) = part["error"]["message"].as_str() {
                return Err(error.to_owned());
            }
            let blob = part["result"]["blob"].as_str().unwrap_or_default();
            all.extend(STANDARD.decode(blob).map_err(|e| format!("etcd sent a broken snapshot: {e}"))?);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key() {
        assert_eq!(prefix_end("/registry/"), b"/registry0");
        assert_eq!(prefix_end("a\u{7f}"), b"a\x80");
    }

    #[test]
    fn a_member_is_printed_as_k3s_prints_it() {
        let member = Member {
            id: u64::MAX,
            name: "node1-0a1b2c3d".into(),
            peer_urls: vec!["https://10.0.0.1:2380".into()],
            client_urls: vec![],
            is_learner: false,
        };
        assert_eq!(
            serde_json::to_string(&member).unwrap(),
            "{\"ID\":18446744073709551615,\"name\":\"node1-0a1b2c3d\",\"peerURLs\":[\"https://10.0.0.1:2380\"]}"
        );
    }
}
