//! Values to file text: config.yaml, token files, the unit of systemd and the script of OpenRC.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::spec::K3sSpec;
use super::{K3sRole, Paths};
use crate::core::Secret;
use crate::edge::systemd::InitKind;

/// A file as it should stand on disk. Its content is never printed: configuration may hold an operator's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFile {
    /// Where.
    pub path: PathBuf,
    /// The whole content.
    pub content: Secret,
    /// Permission bits.
    pub mode: u32,
}

/// The files of a specification in the order in which they must be written: secrets first, config.yaml last, so that a
/// configuration never names a token that is not there.
#[must_use]
pub fn files(spec: &K3sSpec, paths: &Paths) -> Vec<WantedFile> {
    let file = |name: &str, content: Secret| WantedFile {
        path: paths.config_dir().join(name),
        content,
        mode: 0o600,
    };
    let mut files: Vec<WantedFile> = spec
        .secrets
        .iter()
        .map(|(name, secret)| file(name, Secret::new(format!("{}\n", secret.expose()))))
        .collect();
    files.push(file("config.yaml", Secret::new(config_text(spec))));
    files
}

/// The service of a role for an init system.
#[must_use]
pub fn service_file(kind: InitKind, role: K3sRole, paths: &Paths) -> WantedFile {
    let (path, text, mode) = match kind {
        InitKind::Systemd => {
            let path = paths.root.join("etc/systemd/system").join(format!("{}.service", role.service()));
            (path, unit_text(role, paths), 0o644)
        }
        InitKind::OpenRc => {
            (paths.root.join("etc/init.d").join(role.service()), openrc_text(role, paths), 0o755)
        }
    };
    WantedFile { path, content: Secret::new(text), mode }
}

/// config.yaml: keys in alphabetical order, every text in double quotes, so that no value can be read as another type.
#[must_use]
pub fn config_text(spec: &K3sSpec) -> String {
    let mut text = format!(
        "# Written by muster for k3s {}; changes are overwritten.\n# Add keys with k3s.{}-config in muster's configuration.\n",
        spec.role, spec.role
    );
    for (key, value) in &spec.keys {
        match value {
            Value::Array(items) if items.is_empty() => {
                let _ = writeln!(text, "{key}: []");
            }
            Value::Array(items) => {
                let _ = writeln!(text, "{key}:");
                for item in items {
                    let _ = writeln!(text, "  - {}", scalar(item));
                }
            }
            other => {
                let _ = writeln!(text, "{key}: {}", scalar(other));
            }
        }
    }
    text
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Bool(set) => set.to_string(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        // YAML's idea of a fraction differs between versions; k3s makes text of it anyway.
        Value::Number(number) => quoted(&number.to_string()),
        Value::String(text) => quoted(text),
        // The specification holds no other kinds; JSON is valid YAML.
        other => other.to_string(),
    }
}

/// A YAML double-quoted scalar in plain ASCII: what is not printable ASCII is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        let code = u32::from(c);
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            _ if code <= 0xff => {
                let _ = write!(out, "\\x{code:02x}");
            }
            _ if code <= 0xffff => {
                let _ = write!(out, "\\u{code:04x}");
            }
            _ => {
                let _ = write!(out, "\\U{code:08x}");
            }
        }
    }
    out.push('"');
    out
}

/// Variables that would change which cluster k3s starts or joins; nothing may hand them in from outside.
pub(super) const UNSET: &str = "K3S_URL K3S_TOKEN K3S_TOKEN_FILE K3S_AGENT_TOKEN K3S_AGENT_TOKEN_FILE K3S_CLUSTER_INIT \
K3S_CLUSTER_RESET K3S_CLUSTER_RESET_RESTORE_PATH K3S_CONFIG_FILE K3S_DATA_DIR K3S_DATASTORE_ENDPOINT K3S_NODE_NAME";

/// The systemd unit. `ExecCondition` asks the gate before every start, automatic restarts included; a refusal leaves the unit
/// inactive without a failure, and systemd does not try again by itself.
#[must_use]
pub fn unit_text(role: K3sRole, paths: &Paths) -> String {
    let (muster, k3s) = (unit_path(&paths.muster), unit_path(&paths.binary));
    let (state, data) = (unit_path(&paths.state_dir), unit_path(&paths.data_dir));
    format!(
        "# Written by muster; changes are overwritten. Use a drop-in directory for your own.
[Unit]
Description=k3s {role}, under the gate of muster
Documentation=https://k3s.io
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
UnsetEnvironment={UNSET}
ExecCondition={muster} gate {role} --state-dir {state} --k3s-data-dir {data}
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStart={k3s} {role}
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s

[Install]
WantedBy=multi-user.target
"
    )
}

/// A path as a word of a unit's command line.
pub(super) fn unit_path(path: &Path) -> String {
    let text = path.display().to_string().replace('%', "%%");
    if text.contains(|c: char| c.is_whitespace() || c == '"' || c == '\\') {
        return format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    }
    text
}

/// The OpenRC script. supervise-daemon starts k3s again without running `start_pre`, so the gate is also part of the command.
#[must_use]
pub fn openrc_text(role: K3sRole, paths: &Paths) -> String {
    let (service, muster, k3s) = (role.service(), shell_word(&paths.muster), shell_word(&paths.binary));
    let (state, data) = (shell_word(&paths.state_dir), shell_word(&paths.data_dir));
    let gate = format!("{muster} gate {role} --state-dir {state} --k3s-data-dir {data}");
    format!(
        r#"#!/sbin/openrc-run
# Written by muster; changes are overwritten.

description="k3s {role}, under the gate of muster"
supervisor=supervise-daemon
name={service}
command=/bin/sh
command_args="-c 'unset {UNSET}; {gate} && exec {k3s} {role}'"
output_log=/var/log/{service}.log
error_log=/var/log/{service}.log
pidfile=/run/{service}.pid
respawn_delay=5
respawn_max=0
rc_ulimit="-n 1048576 -u unlimited -c unlimited"

depend() {{
	after network-online
	want cgroups
}}

start_pre() {{
	{gate}
}}
"#
    )
}

/// A path inside the script's quoted command: nothing that a shell would take apart.
pub(super) fn shell_word(path: &Path) -> String {
    let mut word = String::new();
    for c in path.display().to_string().chars() {
        if !(c.is_ascii_alphanumeric() || "/._-+".contains(c)) {
            word.push('\\');
        }
        word.push(c);
    }
    word
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
