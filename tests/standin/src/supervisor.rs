//! What port 6443 answers, in k3s's order: database endpoints first (they work while everything else is 503), then
//! the supervisor, then the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Response};
use serde_json::json;

use crate::api::resources::ENDPOINT_SLICES;
use crate::api::{Failure, objects, rest};
use crate::auth::{self, User};
use crate::http::{self, Request};
use crate::shared::{Phase, Shared};
use crate::{bootstrap, document, issue, logs, paths, snapshot, token};

/// How many GET and POST requests of agents may be in flight.
const MAX_GET: usize = 20;
const MAX_POST: usize = 10;
static GETS: AtomicUsize = AtomicUsize::new(0);
static POSTS: AtomicUsize = AtomicUsize::new(0);

struct InFlight(&'static AtomicUsize);

impl InFlight {
    fn enter(method: &Method) -> Option<Self> {
        let (count, most) = if method == Method::GET { (&GETS, MAX_GET) } else { (&POSTS, MAX_POST) };
        let guard = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(guard)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn authenticate(shared: &Shared, request: &Request) -> Result<Option<User>, String> {
    auth::authenticate(
        &shared.paths.server("cred/passwd"),
        &shared.paths.tls("client-ca.crt"),
        request.header("authorization"),
        &request.certificates,
    )
}

/// The user if it has one of the roles, else the answer to send.
fn with_role(shared: &Shared, request: &Request, roles: &[&str]) -> Result<User, Box<Response<Body>>> {
    if shared.phase() < Phase::Supervisor {
        logs::error("Authenticate not initialized: serverConfig.Runtime.Authenticator is nil");
        return Err(Box::new(http::send_error(request, 401, "not authorized")));
    }
    match authenticate(shared, request) {
        Err(e) => {
            logs::error(format!("Failed to authenticate request from {}: {e}", request.remote));
            Err(Box::new(http::send_error(request, 401, "not authorized")))
        }
        Ok(Some(user)) if user.has_role(roles) => Ok(user),
        Ok(_) => Err(Box::new(http::send_error(request, 403, "forbidden"))),
    }
}

/// One request.
pub async fn handle(shared: Arc<Shared>, request: Request) -> Response<Body> {
    let path = request.uri.path().to_owned();
    if path.starts_with("/db/") && !shared.has_etcd() {
        return http::send_error(&request, 400, "etcd datastore disabled");
    }
    match path.as_str() {
        "/db/info" => return db_info(&shared, &request).await,
        "/db/snapshot" => {
            return match with_role(&shared, &request, &["k3s:server"]) {
                Ok(_) => snapshot::handle(&shared, &request).await,
                Err(answer) => *answer,
            };
        }
        _ => {}
    }
    if shared.phase() == Phase::Prepare {
        return http::send_error(&request, 503, "starting");
    }
    match path.as_str() {
        "/ping" => return http::text_utf8(200, "pong"),
        "/cacerts" => return file(&shared, &request, "server-ca.crt"),
        _ => {}
    }
    if path.starts_with("/static/") {
        return http::text(404, "404 page not found\n");
    }
    match path.strip_prefix("/v1-k3s/") {
        Some(name) => supervisor(&shared, &request, name).await,
        None => api(&shared, &request).await,
    }
}

async fn db_info(shared: &Shared, request: &Request) -> Response<Body> {
    if !request.remote.ip().is_loopback()
        && let Err(answer) = with_role(shared, request, &["k3s:server"])
    {
        return *answer;
    }
    if request.method != Method::GET {
        return http::send_error(request, 405, "method not allowed");
    }
    let Some(client) = shared.etcd.get() else {
        return http::send_error(request, 500, "failed to get etcd MemberList: etcd not started");
    };
    match client.members(Duration::from_secs(2)).await {
        Ok(members) => http::json(200, &json!({"members": members})),
        Err(e) => http::send_error(request, 500, &format!("failed to get etcd MemberList: {e}")),
    }
}

fn file(shared: &Shared, request: &Request, name: &str) -> Response<Body> {
    match paths::read(&shared.paths.tls(name)) {
        Ok(text) => http::text(200, text),
        Err(e) => http::send_error(request, 500, &e),
    }
}

async fn supervisor(shared: &Shared, request: &Request, name: &str) -> Response<Body> {
    match name {
        "server-bootstrap" | "token" | "encrypt/status" | "encrypt/config" | "cert/cacerts" => {
            if let Err(answer) = with_role(shared, request, &["k3s:server"]) {
                return *answer;
            }
            return match name {
                "server-bootstrap" => server_bootstrap(shared, request).await,
                "encrypt/status" => http::json(200, &json!({"stage": "", "activekey": ""})),
                _ => http::send_error(request, 501, "not served by the stand-in"),
            };
        }
        "connect" => {
            return match with_role(shared, request, &["system:nodes"]) {
                Ok(_) => http::send_error(request, 501, "the tunnel is not served by the stand-in"),
                Err(answer) => *answer,
            };
        }
        _ => {}
    }
    const AGENTS: &[&str] =
        &["serving-kubelet.crt", "client-kubelet.crt", "client-kube-proxy.crt", "client-k3s-controller.crt"];
    const READ: &[&str] = &["client-ca.crt", "server-ca.crt", "apiservers", "config", "readyz"];
    if !AGENTS.contains(&name) && !READ.contains(&name) {
        return api(shared, request).await;
    }
    let user = match with_role(
        shared,
        request,
        &["k3s:agent", "system:nodes", "system:bootstrappers:k3s:default-node-token"],
    ) {
        Ok(user) => user,
        Err(answer) => return *answer,
    };
    let Some(_guard) = InFlight::enter(&request.method) else {
        return http::failure(&Failure::new(429, "Too many requests, please try again later."));
    };
    match name {
        "client-ca.crt" | "server-ca.crt" => file(shared, request, name),
        "apiservers" => http::json(200, &json!(apiservers(shared).await)),
        "config" => http::json(200, &document::config(shared)),
        "readyz" if shared.phase() < Phase::Core => http::send_error(request, 503, "runtime core not ready"),
        "readyz" => http::text_utf8(200, "ok"),
        _ => issue::certificate(shared, request, name, &user).await,
    }
}

async fn server_bootstrap(shared: &Shared, request: &Request) -> Response<Body> {
    if !shared.has_etcd() {
        logs::warn(format!(
            "Received HTTP bootstrap request from {}, but embedded etcd is not enabled.",
            request.remote
        ));
        return http::send_error(request, 400, "etcd disabled");
    }
    let answer = |data: Vec<u8>| {
        let mut response = http::text(200, data);
        let json = axum::http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(axum::http::header::CONTENT_TYPE, json);
        response
    };
    match stored_bootstrap(shared).await {
        Ok(data) => {
            logs::info(format!("Serving HTTP bootstrap from datastore for {}", request.remote));
            answer(data)
        }
        Err(e) => {
            logs::warn(format!(
                "Failed to retrieve HTTP bootstrap data from datastore; falling back to disk for {}: {e}",
                request.remote
            ));
            bootstrap::from_disk(&shared.paths).map_or_else(|e| http::send_error(request, 500, &e), answer)
        }
    }
}

async fn stored_bootstrap(shared: &Shared) -> Result<Vec<u8>, String> {
    let client = shared.etcd.get().ok_or("etcd not started")?;
    let key = bootstrap::key_of(&shared.password);
    let entry = client.get(&key, Duration::from_secs(5)).await?.ok_or("no bootstrap data found")?;
    bootstrap::decrypt(&shared.password, &entry.value)
}

/// Addresses of all API servers, from the `kubernetes` endpoint slice.
pub async fn apiservers(shared: &Shared) -> Vec<String> {
    let Some(store) = shared.store() else { return Vec::new() };
    match objects::get(store, &ENDPOINT_SLICES, "default", "kubernetes").await {
        Ok(slice) => document::addresses(&slice),
        Err(_) => Vec::new(),
    }
}

/// One request at the apiserver's own port.
pub async fn handle_api(shared: Arc<Shared>, request: Request) -> Response<Body> {
    api(&shared, &request).await
}

async fn api(shared: &Shared, request: &Request) -> Response<Body> {
    let Some(store) = shared.store().filter(|_| shared.phase() >= Phase::Api) else {
        return http::send_error(request, 503, "apiserver not ready");
    };
    // The API knows certificates only: passwords are the supervisor's.
    let user = auth::authenticate(
        &shared.paths.server("cred/passwd"),
        &shared.paths.tls("client-ca.crt"),
        None,
        &request.certificates,
    );
    let Ok(Some(user)) = user else {
        return http::failure(&Failure::new(401, "Unauthorized"));
    };
    let path = request.uri.path();
    let (check, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    if matches!(check, "readyz" | "livez" | "healthz") {
        return health(shared, store, check, rest, request.uri.query().unwrap_or_default()).await;
    }
    let asked = rest::Request {
        method: request.method.as_str(),
        path,
        query: request.uri.query().unwrap_or_default(),
        content_type: request.header("content-type").unwrap_or_default(),
        body: &request.body,
        user: &user,
    };
    match rest::serve(store, &asked).await {
        Ok((code, value)) => http::json(code, &value),
        Err(failure) => http::failure(&failure),
    }
}

async fn health(
    shared: &Shared,
    store: &crate::store::Store,
    check: &str,
    one: &str,
    query: &str,
) -> Response<Body> {
    let alive = shared.member.get().is_none_or(|m| *m.exit().borrow() == crate::etcd::Exit::Running);
    let good = alive && store.healthy().await;
    let name = if shared.has_etcd() { "etcd" } else { "kine" };
    match one {
        "" => {}
        "ping" => return http::text_utf8(200, "ok"),
        "etcd" if good => return http::text_utf8(200, "ok"),
        "etcd" => return http::text_utf8(500, "internal server error: etcd failed: reason withheld\n"),
        _ => return http::text_utf8(404, "404 page not found\n"),
    }
    let state = if good { "[+]{} ok" } else { "[-]{} failed: reason withheld" };
    let mut lines = format!("[+]ping ok\n{}\n", state.replace("{}", name));
    if check == "readyz" {
        lines.push_str(&format!("{}\n", state.replace("{}", "etcd-readiness")));
    }
    match (good, query.split('&').any(|q| q.starts_with("verbose"))) {
        (true, false) => http::text_utf8(200, "ok"),
        (true, true) => http::text_utf8(200, format!("{lines}{check} check passed\n")),
        (false, _) => http::text_utf8(500, format!("{lines}{check} check failed\n")),
    }
}

/// The full token of this server's agents, for its own agent part.
///
/// # Errors
/// When the CA cannot be read.
pub fn own_agent_token(shared: &Shared, agent_password: &str) -> Result<String, String> {
    let ca = paths::read(&shared.paths.tls("server-ca.crt"))?;
    token::full(&format!("node:{agent_password}"), ca.as_bytes())
}
