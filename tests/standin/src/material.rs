//! The files a server makes for itself: authorities if the cluster has none yet, leaves, passwords, tokens, kubeconfig.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::auth::{self, Password};
use crate::paths::{self, Paths};
use crate::pki::{Authority, Leaf, Use};
use crate::settings::Server;
use crate::{clock, keys, logs, token};

/// Authorities: file below `server/tls` without its suffix, and the start of its name.
const AUTHORITIES: &[(&str, &str)] = &[
    ("server-ca", "k3s-server-ca"),
    ("client-ca", "k3s-client-ca"),
    ("request-header-ca", "k3s-request-header-ca"),
    ("etcd/server-ca", "etcd-server-ca"),
    ("etcd/peer-ca", "etcd-peer-ca"),
];

/// Client certificates: file, authority, user, groups.
const CLIENTS: &[(&str, &str, &str, &[&str])] = &[
    ("client-admin", "client-ca", "system:admin", &["system:masters"]),
    ("client-supervisor", "client-ca", "system:k3s-supervisor", &["system:masters"]),
    ("client-controller", "client-ca", "system:kube-controller-manager", &[]),
    ("client-scheduler", "client-ca", "system:kube-scheduler", &[]),
    ("client-kube-apiserver", "client-ca", "system:apiserver", &["system:masters"]),
    ("client-kube-proxy", "client-ca", "system:kube-proxy", &[]),
    ("client-k3s-controller", "client-ca", "system:k3s-controller", &[]),
    ("client-k3s-cloud-controller", "client-ca", "k3s-cloud-controller-manager", &[]),
    ("client-auth-proxy", "request-header-ca", "system:auth-proxy", &[]),
    ("etcd/client", "etcd/server-ca", "etcd-client", &[]),
];

/// Reads an authority back.
///
/// # Errors
/// When its files cannot be read.
pub fn authority(paths: &Paths, name: &str) -> Result<Authority, String> {
    let certificate = paths::read(&paths.tls(&format!("{name}.crt")))?;
    let key = paths::read(&paths.tls(&format!("{name}.key")))?;
    Authority::load(&certificate, &key).map_err(|e| format!("{name}: {e}"))
}

fn key_file(path: &Path) -> Result<rcgen::KeyPair, String> {
    if let Ok(text) = std::fs::read_to_string(path) {
        return keys::from_pem(&text).map_err(|e| format!("{}: {e}", path.display()));
    }
    let key = keys::generate()?;
    paths::write_secret(path, &keys::to_pem(&key))?;
    Ok(key)
}

/// Makes whatever is missing. Leaves are made anew at each start, with their keys kept.
///
/// # Errors
/// When a file cannot be written or an authority cannot be used.
pub fn certificates(paths: &Paths, settings: &Server) -> Result<(), String> {
    for (file, name) in AUTHORITIES {
        let certificate = paths.tls(&format!("{file}.crt"));
        if !certificate.exists() {
            let name = format!("{name}@{}", clock::unix_now());
            let made = Authority::generate(&name)?;
            logs::info(format!("generated self-signed CA certificate CN={name}"));
            paths::write_secret(&paths.tls(&format!("{file}.key")), &made.key_pem())?;
            paths::write_secret(&certificate, made.certificate_pem())?;
        }
    }
    for name in ["service", "client-kubelet", "serving-kubelet"] {
        key_file(&paths.tls(&format!("{name}.key")))?;
    }
    for (file, signer, user, groups) in CLIENTS {
        let leaf = Leaf { name: user, groups, sans: &[], usage: Use::Client };
        leaf_file(paths, file, &authority(paths, signer)?, &leaf)?;
    }
    let sans = &settings.sans;
    for (file, signer, name, usage) in [
        ("serving-kube-apiserver", "server-ca", "kube-apiserver", Use::Server),
        ("etcd/server-client", "etcd/server-ca", "etcd-server", Use::Both),
        ("etcd/peer-server-client", "etcd/peer-ca", "etcd-peer", Use::Both),
    ] {
        leaf_file(paths, file, &authority(paths, signer)?, &Leaf { name, groups: &[], sans, usage })?;
    }
    Ok(())
}

fn leaf_file(paths: &Paths, file: &str, signer: &Authority, leaf: &Leaf<'_>) -> Result<(), String> {
    let key = key_file(&paths.tls(&format!("{file}.key")))?;
    paths::write_secret(&paths.tls(&format!("{file}.crt")), &signer.sign(leaf, &key)?)
}

/// The password in force on this server: configured, else of the token file, else of `cred/passwd`, else invented.
///
/// # Errors
/// When a configured or stored token cannot be read as one.
pub fn server_password(paths: &Paths, configured: &str) -> Result<String, String> {
    if !configured.is_empty() {
        return token::normalize(configured);
    }
    if let Ok(text) = std::fs::read_to_string(paths.server("token")) {
        return token::normalize(text.trim());
    }
    let stored = std::fs::read_to_string(paths.server("cred/passwd")).unwrap_or_default();
    if let Some(entry) = auth::passwords(&stored).into_iter().find(|e| e.user == "server") {
        return Ok(entry.password);
    }
    Ok(hex::encode(rand::random::<[u8; 16]>()))
}

/// Writes `cred/passwd` and the token files, and returns the agents' password.
///
/// # Errors
/// When a token cannot be read or a file cannot be written.
pub fn passwords_and_tokens(paths: &Paths, settings: &Server, server: &str) -> Result<String, String> {
    let agent = match settings.agent_token.as_str() {
        "" => server.to_owned(),
        text => token::normalize(text)?,
    };
    let file = paths.server("cred/passwd");
    let before = std::fs::read_to_string(&file).unwrap_or_default();
    let mut entries = auth::passwords(&before);
    for (user, group, password) in
        [("node", "k3s:agent", &agent), ("server", "k3s:server", &server.to_owned())]
    {
        let wanted =
            Password { password: password.clone(), user: user.to_owned(), groups: vec![group.to_owned()] };
        match entries.iter_mut().find(|e| e.user == user) {
            Some(entry) => *entry = wanted,
            None => entries.push(wanted),
        }
    }
    let line = |e: &Password| format!("{},{},{},{}\n", e.password, e.user, e.user, e.groups.join(","));
    let after: String = entries.iter().map(line).collect();
    if after != before {
        paths::write_secret(&file, &after)?;
    }
    let ca = paths::read(&paths.tls("server-ca.crt"))?;
    paths::write_secret(
        &paths.server("token"),
        &format!("{}\n", token::full(&format!("server:{server}"), ca.as_bytes())?),
    )?;
    link(&paths.server("node-token"), "token")?;
    let agent_file = paths.server("agent-token");
    if settings.agent_token.is_empty() {
        link(&agent_file, "token")?;
    } else {
        let _ = std::fs::remove_file(&agent_file);
        paths::write_secret(
            &agent_file,
            &format!("{}\n", token::full(&format!("node:{agent}"), ca.as_bytes())?),
        )?;
    }
    Ok(agent)
}

fn link(path: &Path, target: &str) -> Result<(), String> {
    let target = path.with_file_name(target);
    if std::fs::read_link(path).is_ok_and(|current| current == target) {
        return Ok(());
    }
    let _ = std::fs::remove_file(path);
    std::os::unix::fs::symlink(target, path).map_err(|e| format!("symlink {}: {e}", path.display()))
}

/// Writes the administrator's kubeconfig.
///
/// # Errors
/// When a file cannot be read or written.
pub fn kubeconfig(paths: &Paths, settings: &Server) -> Result<(), String> {
    let data = |name: &str| paths::read(&paths.tls(name)).map(|text| STANDARD.encode(text));
    let text = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: https://127.0.0.1:{}\n  \
         name: default\ncontexts:\n- context:\n    cluster: default\n    user: default\n  name: default\n\
         current-context: default\nkind: Config\npreferences: {{}}\nusers:\n- name: default\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\n",
        data("server-ca.crt")?,
        settings.port,
        data("client-admin.crt")?,
        data("client-admin.key")?,
    );
    let (path, mode) = &settings.kubeconfig;
    paths::write(path, text.as_bytes(), *mode)?;
    logs::info(format!("Wrote kubeconfig {}", path.display()));
    logs::info("Run: k3s kubectl");
    Ok(())
}
