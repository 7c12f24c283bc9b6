//! Certificates for agents, and the check of the node password before one is issued.

use axum::body::Body;
use axum::http::{Method, Response};

use crate::api::objects;
use crate::auth::User;
use crate::http::{self, Request};
use crate::pki::{Leaf, Use};
use crate::shared::{Phase, Shared};
use crate::{keys, logs, material, nodepassword};

/// The node a kubelet certificate may be issued for, or status and text of the refusal.
async fn node_of(shared: &Shared, request: &Request, user: &User) -> Result<String, (u16, String)> {
    let header = |name: &str, missing: &str| {
        let value = request.header(name).filter(|v| !v.is_empty()).map(str::to_owned);
        value.ok_or_else(|| (400, missing.to_owned()))
    };
    let node = header("k3s-node-name", "node name not set")?.to_lowercase();
    let password = header("k3s-node-password", "node password not set")?;
    let identity = user.name.strip_prefix("system:node:");
    if identity.is_some_and(|name| name != node) {
        return Err((400, "header node name does not match auth node name".to_owned()));
    }
    let Some(store) = shared.store().filter(|_| shared.phase() >= Phase::Core) else {
        if node != shared.settings.agent.node_name {
            return Err((503, "runtime core not ready".to_owned()));
        }
        let own = nodepassword::ensure_file(&shared.settings.agent.knobs.node_dir)
            .map_err(|e| (500, format!("unable to read node password file: {e}")))?;
        if own != password {
            return Err((403, "unable to verify local node password: hash does not match".to_owned()));
        }
        logs::info(format!("Password verified locally for node {node}"));
        return Ok(node);
    };
    if identity.is_some()
        && let Err(e) = objects::get(store, &crate::api::resources::NODES, "", &node).await
    {
        return Err((401, format!("unable to verify node identity: {}", e.message)));
    }
    match nodepassword::ensure(store, &node, &password).await {
        Ok(()) => Ok(node),
        Err(nodepassword::Refusal::Wrong(e)) => Err((403, e)),
        Err(nodepassword::Refusal::Store(e)) => {
            logs::warn(format!("Failed to ensure node-password secret for node {node}: {e}"));
            Ok(node)
        }
    }
}

/// Serves one of the `.crt` endpoints.
pub async fn certificate(shared: &Shared, request: &Request, name: &str, user: &User) -> Response<Body> {
    let mut groups: &[&str] = &[];
    let mut sans = Vec::new();
    let (mut signer, mut usage) = ("client-ca", Use::Client);
    let subject = match name {
        "client-kube-proxy.crt" => "system:kube-proxy".to_owned(),
        "client-k3s-controller.crt" => "system:k3s-controller".to_owned(),
        _ => {
            let node = match node_of(shared, request, user).await {
                Ok(node) => node,
                Err((code, text)) => return http::send_error(request, code, &text),
            };
            if name == "client-kubelet.crt" {
                groups = &["system:nodes"];
                format!("system:node:{node}")
            } else {
                (signer, usage) = ("server-ca", Use::Server);
                sans = vec![node.clone(), "localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
                sans.extend(request.header("k3s-node-ip").unwrap_or_default().split(',').map(str::to_owned));
                node
            }
        }
    };
    let leaf = Leaf { name: &subject, groups, sans: &sans, usage };
    let signed = material::authority(&shared.paths, signer).and_then(|ca| {
        if request.method == Method::POST && !request.body.is_empty() {
            return ca.sign_request(&leaf, &request.body);
        }
        // A client without a request of its own gets a key with the certificate.
        let key = keys::generate()?;
        Ok(format!("{}{}", ca.sign(&leaf, &key)?, keys::to_pem(&key)))
    });
    match signed {
        Ok(text) => http::text(200, text),
        Err(e) => http::send_error(request, 500, &e),
    }
}
