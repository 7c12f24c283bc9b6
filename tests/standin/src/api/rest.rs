//! Requests for objects: what the apiserver does with method, path, query and body.

use serde_json::{Value, json};

use super::resources::{self, NODES, Target};
use super::{Failure, objects, patch};
use crate::auth::User;
use crate::settings;
use crate::store::Store;

/// One request as far as the API is concerned.
pub struct Request<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Path without the query.
    pub path: &'a str,
    /// Query, undecoded.
    pub query: &'a str,
    /// Content type.
    pub content_type: &'a str,
    /// Body.
    pub body: &'a [u8],
    /// Who asks.
    pub user: &'a User,
}

fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| decode(value))
    })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        match b {
            b'+' => bytes.push(b' '),
            b'%' => {
                let pair = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                bytes.extend(hex::decode(pair).unwrap_or_default());
            }
            b => bytes.push(b),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `a=b,c!=d,e,!f` against labels.
fn selects(selector: &str, object: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    selector.split(',').filter(|s| !s.is_empty()).all(|term| {
        if let Some((key, value)) = term.split_once("!=") {
            return labels[key] != value;
        }
        if let Some((key, value)) = term.split_once('=') {
            return labels[key] == value.trim_start_matches('=');
        }
        match term.strip_prefix('!') {
            Some(key) => labels[key].is_null(),
            None => !labels[term].is_null(),
        }
    })
}

fn selects_field(selector: &str, object: &Value) -> bool {
    selector.split(',').filter(|s| !s.is_empty()).all(|term| {
        let Some((path, value)) = term.split_once('=') else { return true };
        object.pointer(&format!("/{}", path.replace('.', "/"))) == Some(&json!(value.trim_start_matches('=')))
    })
}

/// Whether this user may do this. Administrators may do everything; a kubelet only what the node authorizer grants
/// (its own Node, node leases); everybody else reads nodes and endpoint slices.
fn allowed(request: &Request<'_>, target: &Target) -> bool {
    let user = request.user;
    if user.groups.iter().any(|g| g == "system:masters") {
        return true;
    }
    let reads = request.method == "GET";
    if let Some(node) = user.name.strip_prefix("system:node:") {
        return match target.resource.plural {
            "nodes" => match target.name.as_str() {
                "" => {
                    let own = format!("metadata.name={node}");
                    request.method == "POST"
                        || parameter(request.query, "fieldSelector").as_ref() == Some(&own)
                }
                name => name == node && request.method != "DELETE",
            },
            "leases" => {
                target.namespace == "kube-node-lease" && (target.name.is_empty() || target.name == node)
            }
            "events" => request.method == "POST" || request.method == "PATCH",
            "services" => reads,
            // Its own pods: those it runs, and their eviction, which looks at the pod itself.
            "pods" if target.subresource == "eviction" => request.method == "POST",
            "pods" => {
                let own = format!("spec.nodeName={node}");
                reads && parameter(request.query, "fieldSelector").as_ref() == Some(&own)
            }
            _ => false,
        };
    }
    if user.name == "system:k3s-controller" {
        return reads && matches!(target.resource.plural, "nodes" | "endpointslices" | "endpoints" | "pods");
    }
    false
}

fn forbidden(request: &Request<'_>, target: &Target) -> Failure {
    let verb = match request.method {
        "GET" if target.name.is_empty() => "list",
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        _ => "delete",
    };
    let place = match target.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let more = match request.user.name.strip_prefix("system:node:") {
        Some(node) if target.resource == NODES && verb == "get" => {
            format!(": node '{node}' cannot read '{}', only its own Node object", target.name)
        }
        _ => String::new(),
    };
    let which = if target.name.is_empty() { String::new() } else { format!(" \"{}\"", target.name) };
    Failure::new(
        403,
        format!(
            "{}{which} is forbidden: User \"{}\" cannot {verb} resource \"{}\" in API group \"{}\" {place}{more}",
            target.resource.qualified(),
            request.user.name,
            target.resource.plural,
            target.resource.group
        ),
    )
}

/// Discovery and version documents.
fn document(path: &str) -> Option<Value> {
    let clean = path.trim_end_matches('/');
    if clean == "/version" {
        let version = settings::version();
        let minor = version.trim_start_matches('v').split('.').nth(1).unwrap_or("0").to_owned();
        return Some(json!({"major": "1", "minor": minor, "gitVersion": version, "platform": "linux/amd64",
                           "gitTreeState": "stand-in"}));
    }
    if clean == "/api" {
        return Some(json!({"kind": "APIVersions", "versions": ["v1"]}));
    }
    let mut groups: Vec<&str> = resources::ALL.iter().map(|r| r.group).filter(|g| !g.is_empty()).collect();
    groups.dedup();
    if clean == "/apis" {
        let group = |g: &&str| {
            let version = json!({"groupVersion": format!("{g}/v1"), "version": "v1"});
            json!({"name": g, "versions": [version], "preferredVersion": version})
        };
        let all: Vec<Value> = groups.iter().map(group).collect();
        return Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": all}));
    }
    let group_version = clean.strip_prefix("/apis/").or_else(|| clean.strip_prefix("/api/"))?;
    let list: Vec<Value> = resources::ALL
        .iter()
        .filter(|r| r.api_version() == group_version)
        .map(|r| {
            json!({"name": r.plural, "namespaced": r.namespaced, "kind": r.kind, "singularName": "",
                   "verbs": ["create", "delete", "get", "list", "patch", "update"]})
        })
        .collect();
    (!list.is_empty()).then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list})
    })
}

/// Serves one request for an object, a collection or a document.
///
/// # Errors
/// The Status to send instead.
pub async fn serve(store: &Store, request: &Request<'_>) -> Result<(u16, Value), Failure> {
    if let Some(document) = document(request.path) {
        return Ok((200, document));
    }
    let missing = || Failure::new(404, "the server could not find the requested resource");
    let target = resources::target(request.path).ok_or_else(missing)?;
    let evicts = target.resource.plural == "pods" && target.subresource == "eviction";
    if !evicts && !matches!(target.subresource.as_str(), "" | "status") {
        return Err(missing());
    }
    if !allowed(request, &target) {
        return Err(forbidden(request, &target));
    }
    let Target { resource, namespace, name, subresource } = &target;
    let collection = name.is_empty();
    match request.method {
        // No budgets here: every eviction is granted, and the pod is gone at once.
        "POST" if evicts => {
            let pod = objects::get(store, resource, namespace, name).await?;
            let own = request.user.name.strip_prefix("system:node:");
            if own.is_some_and(|own| pod["spec"]["nodeName"] != own) {
                return Err(forbidden(request, &target));
            }
            objects::delete(store, resource, namespace, name, pod["metadata"]["uid"].as_str()).await?;
            Ok((
                201,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
            ))
        }
        "GET" if collection => {
            if parameter(request.query, "watch").is_some_and(|w| w == "true" || w == "1") {
                return Err(Failure::new(405, "watch is not served by the stand-in"));
            }
            let labels = parameter(request.query, "labelSelector").unwrap_or_default();
            let fields = parameter(request.query, "fieldSelector").unwrap_or_default();
            let (mut items, revision) = objects::list(store, resource, namespace).await?;
            items.retain(|item| selects(&labels, item) && selects_field(&fields, item));
            let list = json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
                              "metadata": {"resourceVersion": revision.to_string()}, "items": items});
            Ok((200, list))
        }
        "GET" => Ok((200, objects::get(store, resource, namespace, name).await?)),
        "POST" if collection => {
            let object = json_body(request)?;
            let own = request.user.name.strip_prefix("system:node:");
            if *resource == NODES && own.is_some_and(|own| object["metadata"]["name"] != own) {
                return Err(forbidden(request, &target));
            }
            Ok((201, objects::create(store, resource, namespace, object).await?))
        }
        "PUT" if !collection => {
            let object = json_body(request)?;
            Ok((200, objects::replace(store, resource, namespace, name, object).await?))
        }
        "PATCH" if !collection => {
            let change = json_body(request)?;
            let kind = request.content_type.split(';').next().unwrap_or_default().trim();
            let wanted = change["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse().ok());
            let edit = |current: &Value| {
                let mut next = current.clone();
                match kind {
                    "application/json-patch+json" => {
                        patch::operations(&mut next, &change).map_err(|e| Failure::new(422, e))?;
                    }
                    "application/strategic-merge-patch+json" => patch::strategic(&mut next, &change),
                    "application/merge-patch+json" => patch::merge(&mut next, &change),
                    _ => {
                        let text = "the body of the request was in an unknown format";
                        return Err(Failure::new(415, text));
                    }
                }
                // The status and everything else are written separately, as with the real thing.
                if *resource == NODES {
                    let keep = if subresource.is_empty() { "status" } else { "spec" };
                    next[keep] = current[keep].clone();
                }
                Ok(next)
            };
            Ok((200, objects::change(store, resource, namespace, name, wanted, edit).await?))
        }
        "DELETE" if !collection => {
            let options: Value = serde_json::from_slice(request.body).unwrap_or(Value::Null);
            let uid = options["preconditions"]["uid"].as_str();
            let gone = objects::delete(store, resource, namespace, name, uid).await?;
            let held = gone["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
            if held {
                return Ok((200, gone));
            }
            // A Node owns its password: with nothing to wait for both go at once.
            if *resource == NODES {
                let secret = crate::nodepassword::secret_name(name);
                match objects::delete(store, &resources::SECRETS, "kube-system", &secret, None).await {
                    Err(error) if error.code != 404 => return Err(error),
                    _ => {}
                }
            }
            let details = json!({"name": name, "group": resource.group, "kind": resource.plural,
                                 "uid": gone["metadata"]["uid"]});
            Ok((
                200,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                            "details": details}),
            ))
        }
        _ => Err(Failure::new(405, "the server does not allow this method on the requested resource")),
    }
}

fn json_body(request: &Request<'_>) -> Result<Value, Failure> {
    serde_json::from_slice(request.body)
        .map_err(|e| Failure::new(400, format!("error decoding the request body: {e}")))
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
