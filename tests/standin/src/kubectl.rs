//! The few `k3s kubectl` calls that tests use: get, delete, label, annotate, get --raw.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Certificate, Client, Identity, Method};
use serde_json::{Value, json};

use crate::access;
use crate::api::resources::{self, Resource};
use crate::{clock, kubelet, logs, settings};

struct Api {
    base: String,
    client: Client,
}

fn open() -> Result<Api, String> {
    let path = std::env::var_os("KUBECONFIG")
        .filter(|p| !p.is_empty())
        .map_or_else(|| PathBuf::from("/etc/rancher/k3s/k3s.yaml"), PathBuf::from);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        format!("error: error loading config file \"{}\": open {}: {e}", path.display(), path.display())
    })?;
    let config: Value =
        serde_saphyr::from_str(&text).map_err(|e| format!("error: {}: {e}", path.display()))?;
    let data = |at: &str| {
        let text = config.pointer(at).and_then(Value::as_str).unwrap_or_default();
        STANDARD.decode(text).map_err(|e| format!("error: {at}: {e}"))
    };
    let mut identity = data("/users/0/user/client-certificate-data")?;
    identity.extend(data("/users/0/user/client-key-data")?);
    let roots = Certificate::from_pem_bundle(&data("/clusters/0/cluster/certificate-authority-data")?)
        .map_err(|e| format!("error: {e}"))?;
    let identity = Identity::from_pem(&identity).map_err(|e| format!("error: {e}"))?;
    let client = Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .tls_certs_only(roots)
        .identity(identity)
        .build()
        .map_err(|e| format!("error: {e}"))?;
    let base = config.pointer("/clusters/0/cluster/server").and_then(Value::as_str).unwrap_or_default();
    Ok(Api { base: base.trim_end_matches('/').to_owned(), client })
}

fn resource(word: &str) -> Option<Resource> {
    let plural = match word {
        "node" | "no" => "nodes",
        "secret" => "secrets",
        "cm" | "configmap" => "configmaps",
        "ns" | "namespace" => "namespaces",
        "lease" => "leases",
        "endpointslice" => "endpointslices",
        "event" | "ev" => "events",
        "po" | "pod" => "pods",
        "svc" | "service" => "services",
        other => other,
    };
    resources::ALL.iter().find(|r| r.plural == plural).copied()
}

fn path_of(resource: &Resource, namespace: Option<&str>, name: &str) -> String {
    let root = if resource.group.is_empty() {
        "/api/v1".to_owned()
    } else {
        format!("/apis/{}", resource.api_version())
    };
    let space =
        namespace.filter(|_| resource.namespaced).map(|n| format!("/namespaces/{n}")).unwrap_or_default();
    let tail = if name.is_empty() { String::new() } else { format!("/{name}") };
    format!("{root}{space}/{}{tail}", resource.plural)
}

#[derive(Default)]
struct Words {
    plain: Vec<String>,
    output: String,
    namespace: Option<String>,
    all_namespaces: bool,
    raw: Option<String>,
    selector: Option<String>,
    no_headers: bool,
    ignore_not_found: bool,
}

fn words(arguments: &[String]) -> Result<Words, String> {
    let mut words = Words { namespace: Some("default".to_owned()), ..Words::default() };
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let (name, given) = match word.split_once('=') {
            Some((name, value)) if word.starts_with('-') => (name, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        let mut value = || {
            given
                .clone()
                .or_else(|| rest.next().cloned())
                .ok_or_else(|| format!("error: flag needs an argument: {name}"))
        };
        match name {
            "-o" | "--output" => words.output = value()?,
            "-n" | "--namespace" => words.namespace = Some(value()?),
            "-l" | "--selector" => words.selector = Some(value()?),
            "--raw" => words.raw = Some(value()?),
            "-A" | "--all-namespaces" => words.all_namespaces = true,
            "--no-headers" => words.no_headers = true,
            "--ignore-not-found" => words.ignore_not_found = true,
            "--timeout" | "--grace-period" | "--request-timeout" | "--kubeconfig" => {
                let value = value()?;
                if name == "--kubeconfig" {
                    return Err(format!("error: the stand-in takes KUBECONFIG, not --kubeconfig {value}"));
                }
            }
            "--wait" | "--overwrite" | "--force" | "--show-labels" => {}
            flag if flag.starts_with('-') => return Err(format!("error: unknown flag: {flag}")),
            _ => words.plain.push(word.clone()),
        }
    }
    Ok(words)
}

/// Runs one call; the text goes to standard output.
///
/// # Errors
/// What kubectl prints on standard error; it exits 1.
pub async fn run(arguments: &[String]) -> Result<(), String> {
    let words = words(arguments)?;
    let plain: Vec<&str> = words.plain.iter().map(String::as_str).collect();
    match plain.as_slice() {
        ["version", ..] => {
            logs::out(format_args!("Client Version: {} (stand-in)", settings::version()));
            Ok(())
        }
        ["get"] if words.raw.is_some() => raw(&open()?, words.raw.as_deref().unwrap_or_default()).await,
        ["get", kind, names @ ..] => get(&open()?, &words, kind, names).await,
        ["delete", kind, names @ ..] => delete(&open()?, &words, kind, names).await,
        [verb @ ("label" | "annotate"), kind, name, pairs @ ..] => {
            mark(&open()?, &words, verb, kind, name, pairs).await
        }
        _ => Err(format!("error: the stand-in's kubectl does not know: {}", words.plain.join(" "))),
    }
}

fn refused(e: (u16, String)) -> String {
    match e.0 {
        0 => format!(
            "The connection to the server was refused - did you specify the right host or port? ({})",
            e.1
        ),
        404 => format!("Error from server (NotFound): {}", e.1),
        401 => "error: You must be logged in to the server (Unauthorized)".to_owned(),
        403 => format!("Error from server (Forbidden): {}", e.1),
        409 => format!("Error from server (Conflict): {}", e.1),
        503 => format!("Error from server (ServiceUnavailable): {}", e.1),
        _ => format!("Error from server: {}", e.1),
    }
}

async fn raw(api: &Api, path: &str) -> Result<(), String> {
    let response = api.client.get(format!("{}{path}", api.base)).send().await;
    let response = response.map_err(|e| refused((0, access::cause(&e))))?;
    let good = response.status().is_success();
    let text = response.text().await.map_err(|e| access::cause(&e))?;
    if good {
        let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
        return Ok(());
    }
    Err(format!("Error from server (InternalError): {text}"))
}

fn known(kind: &str) -> Result<Resource, String> {
    resource(kind).ok_or_else(|| format!("error: the server doesn't have a resource type \"{kind}\""))
}

/// `kind name…` or `kind/name`.
fn named<'a>(kind: &'a str, names: &[&'a str]) -> (&'a str, Vec<&'a str>) {
    match kind.split_once('/') {
        Some((kind, name)) => (kind, vec![name]),
        None => (kind, names.to_vec()),
    }
}

async fn get(api: &Api, words: &Words, kind: &str, names: &[&str]) -> Result<(), String> {
    let (kind, names) = named(kind, names);
    let resource = known(kind)?;
    let namespace = words.namespace.as_deref().filter(|_| !words.all_namespaces);
    let ask = |path: String| async move {
        kubelet::ask(&api.client, Method::GET, &format!("{}{path}", api.base), "", &Value::Null).await
    };
    let mut items = Vec::new();
    if names.is_empty() {
        let selector = words.selector.as_ref().map(|s| format!("?labelSelector={s}")).unwrap_or_default();
        let list = ask(format!("{}{selector}", path_of(&resource, namespace, ""))).await.map_err(refused)?;
        if words.output == "json" {
            logs::out(format_args!("{list:#}"));
            return Ok(());
        }
        items.extend(list["items"].as_array().cloned().unwrap_or_default());
    }
    for name in &names {
        match ask(path_of(&resource, namespace, name)).await {
            Ok(item) => items.push(item),
            Err((404, _)) if words.ignore_not_found => {}
            Err(e) => return Err(refused(e)),
        }
    }
    print_items(words, &resource, &items)
}

fn print_items(words: &Words, resource: &Resource, items: &[Value]) -> Result<(), String> {
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    match words.output.as_str() {
        "json" => match items {
            [one] => logs::out(format_args!("{one:#}")),
            all => logs::out(format_args!("{:#}", json!({"kind": "List", "apiVersion": "v1", "items": all}))),
        },
        "name" => items
            .iter()
            .for_each(|item| logs::out(format_args!("{}/{}", resource.kind.to_lowercase(), name(item)))),
        "" | "wide" if items.is_empty() => eprintln!("No resources found"),
        "" | "wide" => {
            let wide = words.output == "wide";
            let mut rows = Vec::new();
            if !words.no_headers {
                rows.push(header(resource, wide));
            }
            rows.extend(items.iter().map(|item| row(resource, item, wide)));
            print_table(&rows);
        }
        other => return Err(format!("error: the stand-in does not print -o {other}")),
    }
    Ok(())
}

fn header(resource: &Resource, wide: bool) -> Vec<String> {
    let words: &[&str] = match (resource.plural, wide) {
        ("nodes", false) => &["NAME", "STATUS", "ROLES", "AGE", "VERSION"],
        ("nodes", true) => &["NAME", "STATUS", "ROLES", "AGE", "VERSION", "INTERNAL-IP"],
        ("leases", _) => &["NAMESPACE", "NAME", "HOLDER", "AGE"],
        _ if resource.namespaced => &["NAMESPACE", "NAME", "AGE"],
        _ => &["NAME", "AGE"],
    };
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn row(resource: &Resource, item: &Value, wide: bool) -> Vec<String> {
    let text = |at: &str| item.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = text("/metadata/name");
    let age = age(&text("/metadata/creationTimestamp"));
    match resource.plural {
        "nodes" => {
            let conditions = item["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            let prefix = "node-role.kubernetes.io/";
            let labels = item["metadata"]["labels"].as_object().cloned().unwrap_or_default();
            let roles: Vec<&str> = labels.keys().filter_map(|k| k.strip_prefix(prefix)).collect();
            let roles = if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") };
            let status = if ready { "Ready" } else { "NotReady" }.to_owned();
            let mut row = vec![name, status, roles, age, text("/status/nodeInfo/kubeletVersion")];
            if wide {
                row.push(text("/status/addresses/0/address"));
            }
            row
        }
        "leases" => vec![text("/metadata/namespace"), name, text("/spec/holderIdentity"), age],
        _ if resource.namespaced => vec![text("/metadata/namespace"), name, age],
        _ => vec![name, age],
    }
}

fn age(since: &str) -> String {
    let seconds = clock::parse(since)
        .and_then(|at| SystemTime::now().duration_since(at).ok())
        .map_or(0, |age| age.as_secs());
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn print_table(rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |at: usize| rows.iter().filter_map(|r| r.get(at)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        logs::out(format_args!("{}", cells.join("   ").trim_end()));
    }
}

/// Deletes and waits until the object is gone, as kubectl does.
async fn delete(api: &Api, words: &Words, kind: &str, names: &[&str]) -> Result<(), String> {
    let (kind, names) = named(kind, names);
    let resource = known(kind)?;
    for name in names {
        let url = format!("{}{}", api.base, path_of(&resource, words.namespace.as_deref(), name));
        kubelet::ask(&api.client, Method::DELETE, &url, "", &Value::Null).await.map_err(refused)?;
        logs::out(format_args!("{} \"{name}\" deleted", resource.kind.to_lowercase()));
        while kubelet::ask(&api.client, Method::GET, &url, "", &Value::Null).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
    Ok(())
}

/// `label` and `annotate`: `key=value` sets, `key-` removes.
async fn mark(
    api: &Api,
    words: &Words,
    verb: &str,
    kind: &str,
    name: &str,
    pairs: &[&str],
) -> Result<(), String> {
    let resource = known(kind)?;
    let mut changes = json!({});
    for pair in pairs {
        match (pair.split_once('='), pair.strip_suffix('-')) {
            (Some((key, value)), _) => changes[key] = json!(value),
            (None, Some(key)) => changes[key] = Value::Null,
            (None, None) => return Err(format!("error: at least one {verb} update is required, not {pair}")),
        }
    }
    let field = if verb == "label" { "labels" } else { "annotations" };
    let url = format!("{}{}", api.base, path_of(&resource, words.namespace.as_deref(), name));
    let body = json!({"metadata": {field: changes}});
    let merge = "application/merge-patch+json";
    kubelet::ask(&api.client, Method::PATCH, &url, merge, &body).await.map_err(refused)?;
    let done = if verb == "label" { "labeled" } else { "annotated" };
    logs::out(format_args!("{}/{name} {done}", resource.kind.to_lowercase()));
    Ok(())
}
