//! Snapshots: the server's `/db/snapshot`, and the `k3s etcd-snapshot` command that talks to it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::{Method, Response};
use reqwest::Method as Verb;
use serde_json::{Value, json};

use crate::access::{self, Access, Options};
use crate::args::Parsed;
use crate::http::{self, Request};
use crate::paths::{self, Paths};
use crate::settings::Server;
use crate::shared::Shared;
use crate::{clock, logs, token};

static SAVING: AtomicBool = AtomicBool::new(false);

struct File {
    name: String,
    path: PathBuf,
    size: u64,
    created: u64,
}

fn files(shared: &Shared) -> Vec<File> {
    let Ok(entries) = std::fs::read_dir(&shared.settings.snapshots.dir) else { return Vec::new() };
    let mut all: Vec<File> = entries
        .flatten()
        .filter_map(|entry| {
            let meta = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let created = name.rsplit('-').next()?.parse().ok()?;
            Some(File { name, path: entry.path(), size: meta.len(), created })
        })
        .collect();
    all.sort_by_key(|file| file.created);
    all
}

fn record(shared: &Shared, file: &File) -> Value {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(file.created);
    json!({
        "metadata": {
            "name": format!("local-{}", file.name),
            "annotations": {"etcd.k3s.cattle.io/snapshot-token-hash": &token::sha256_hex(shared.password.as_bytes())[..12]},
        },
        "spec": {"snapshotName": file.name, "nodeName": shared.settings.agent.node_name,
                 "location": format!("file://{}", file.path.display())},
        "status": {"size": file.size.to_string(), "creationTime": clock::rfc3339(at), "readyToUse": true},
    })
}

/// One snapshot operation.
pub async fn handle(shared: &Shared, request: &Request) -> Response<Body> {
    if request.method != Method::POST {
        return http::send_error(request, 405, "method not allowed");
    }
    let Ok(asked) = serde_json::from_slice::<Value>(&request.body) else {
        return http::send_error(request, 400, "the request cannot be read");
    };
    let names: Vec<String> =
        asked["name"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let done = match asked["operation"].as_str().unwrap_or_default() {
        "save" => save(shared, names.first()).await.map(|name| json!({"created": [name]})),
        "list" => {
            let items: Vec<Value> = files(shared).iter().map(|file| record(shared, file)).collect();
            Ok(json!({"kind": "ETCDSnapshotFileList", "apiVersion": "k3s.cattle.io/v1", "items": items}))
        }
        "delete" => Ok(json!({"deleted": delete(shared, |file| names.contains(&file.name), 0)})),
        "prune" => {
            let base = names.first().cloned().unwrap_or_else(|| shared.settings.snapshots.name.clone());
            let prefix = format!("{base}-{}-", shared.settings.agent.node_name);
            let keep = asked["retention"].as_u64().and_then(|n| usize::try_from(n).ok());
            let keep = keep.unwrap_or(shared.settings.snapshots.retention);
            Ok(json!({"deleted": delete(shared, |file| file.name.starts_with(&prefix), keep)}))
        }
        other => Err(format!("invalid operation: {other}")),
    };
    match done {
        Ok(value) => http::json(200, &value),
        Err(e) => http::send_error(request, 500, &e),
    }
}

async fn save(shared: &Shared, name: Option<&String>) -> Result<String, String> {
    if SAVING.swap(true, Ordering::SeqCst) {
        return Err("snapshot save already in progress".to_owned());
    }
    let saved = save_alone(shared, name).await;
    SAVING.store(false, Ordering::SeqCst);
    saved
}

async fn save_alone(shared: &Shared, name: Option<&String>) -> Result<String, String> {
    let client = shared.etcd.get().ok_or("etcd datastore is not started")?;
    let base = name.unwrap_or(&shared.settings.snapshots.name);
    let file = format!("{base}-{}-{}", shared.settings.agent.node_name, clock::unix_now());
    let path = shared.settings.snapshots.dir.join(&file);
    logs::info(format!("Saving etcd snapshot to {}", path.display()));
    let data = client.snapshot().await?;
    paths::write(&path, &data, 0o600)?;
    Ok(file)
}

/// Deletes the files that match, but never the newest `keep`.
fn delete(shared: &Shared, matches: impl Fn(&File) -> bool, keep: usize) -> Vec<String> {
    let all: Vec<File> = files(shared).into_iter().filter(|file| matches(file)).collect();
    let gone = all.len().saturating_sub(keep);
    let removed = all.into_iter().take(gone).filter(|file| std::fs::remove_file(&file.path).is_ok());
    removed.map(|file| file.name).collect()
}

/// `k3s etcd-snapshot save|ls|delete|prune`, against the local server.
///
/// # Errors
/// The text k3s dies with.
pub async fn command(verb: &str, parsed: &Parsed, settings: &Server) -> Result<(), String> {
    let paths = Paths::new(&settings.agent.data_dir);
    let token = match settings.agent.token.as_str() {
        "" => paths::read(&paths.server("token"))?.trim().to_owned(),
        token => token.to_owned(),
    };
    let ca = paths.tls("server-ca.crt");
    let options = Options { user: Some("server"), ca_file: Some(&ca), ..Options::default() };
    let url = parsed
        .value("etcd-server")
        .map_or_else(|| format!("https://127.0.0.1:{}", settings.port), str::to_owned);
    let access = Access::validate(&url, &token, options).await?;
    let mut names = parsed.rest.clone();
    if let Some(name) = parsed.value("name") {
        names.insert(0, name.to_owned());
    }
    let operation = match verb {
        "save" | "delete" | "prune" => verb,
        "ls" | "list" | "l" => "list",
        other => return Err(format!("No help topic for '{other}'")),
    };
    if operation == "delete" && names.is_empty() {
        return Err("no snapshots given for removal".to_owned());
    }
    let mut asked = json!({"operation": operation, "name": names});
    if parsed.value("etcd-snapshot-retention").is_some() {
        asked["retention"] = json!(settings.snapshots.retention);
    }
    let response =
        access.send(Verb::POST, "/db/snapshot", asked.to_string().into_bytes(), &[], false).await?;
    let body = access::body(&format!("{url}/db/snapshot"), response).await?;
    let answer: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    if operation == "list" {
        return print(&answer, parsed.value("output").unwrap_or("table"));
    }
    for name in answer["created"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        logs::info(format!("Snapshot {name} saved."));
    }
    for name in answer["deleted"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        logs::info(format!("Snapshot {name} deleted."));
    }
    Ok(())
}

fn print(list: &Value, output: &str) -> Result<(), String> {
    match output {
        "json" => logs::out(format_args!("{list}")),
        "table" | "" => {
            logs::out(format_args!("Name\tLocation\tSize\tCreated"));
            for item in list["items"].as_array().into_iter().flatten() {
                let text = |at: &str| item.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
                logs::out(format_args!(
                    "{}\t{}\t{}\t{}",
                    text("/spec/snapshotName"),
                    text("/spec/location"),
                    text("/status/size"),
                    text("/status/creationTime")
                ));
            }
        }
        other => return Err(format!("invalid output format: {other}")),
    }
    Ok(())
}
