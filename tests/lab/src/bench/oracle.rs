//! The cluster made by hand: a script that knows every address and starts k3s in the best order.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{EVERY, whole};
use crate::host::Host;
use crate::lab::Lab;
use crate::setup::layer;
use crate::{cgroup, probe, wait};

const UNIT: &str = "[Unit]\nDescription=k3s, started by hand\n\n[Service]\nType=notify\n\
    ExecStart=/usr/local/bin/k3s server\nKillMode=process\nDelegate=yes\nLimitNOFILE=1048576\n\
    LimitNPROC=infinity\nLimitCORE=infinity\nTasksMax=infinity\nTimeoutStartSec=0\nRestart=always\nRestartSec=5s\n";

/// Forms the cluster; gives the seconds from the first configuration to the last Ready, and those of each step.
pub(super) fn form(lab: &Lab, within: Duration) -> Result<(f64, Vec<(String, f64)>)> {
    let token = layer::token();
    let founder = &lab.hosts[0];
    for host in &lab.hosts {
        host.write("/etc/systemd/system/k3s.service", UNIT)?;
        host.shell("systemctl daemon-reload")?;
    }
    let began = Instant::now();
    let mut steps: Vec<(String, f64)> = Vec::new();
    let mut step = |name: &str| {
        let so_far: f64 = steps.iter().map(|(_, seconds)| seconds).sum();
        steps.push((name.to_owned(), began.elapsed().as_secs_f64() - so_far));
    };
    for (before, host) in lab.hosts.iter().enumerate() {
        host.write_mode("/etc/rancher/k3s/token", &token, 0o600)?;
        host.write_mode("/etc/rancher/k3s/config.yaml", config(lab, host, founder), 0o600)?;
        host.shell("systemctl start --no-block k3s.service")?;
        // The founder must be ready for the second, and the second must vote before the third: one learner at a time.
        if before == 0 {
            wait::until("the founder is ready", within, EVERY, || {
                let state =
                    host.inside(&["systemctl", "is-active", "k3s.service"], Duration::from_secs(5))?;
                Ok((state.stdout.trim() == "active").then_some(()))
            })?;
            step("founder_ready");
        } else if before + 1 < lab.hosts.len() {
            wait::until("the next server votes", within, EVERY, || {
                let members = probe::members(founder).unwrap_or_default();
                Ok((members.voters.len() == before + 1).then_some(()))
            })?;
            step("next_votes");
        }
    }
    whole(&lab.hosts, within)?;
    step("all_ready");
    Ok((began.elapsed().as_secs_f64(), steps))
}

fn config(lab: &Lab, host: &Host, founder: &Host) -> String {
    let mut text = format!("token-file: /etc/rancher/k3s/token\nnode-ip: {}\n", host.address());
    if host.index == founder.index {
        text.push_str("cluster-init: true\n");
    } else {
        writeln!(text, "server: https://{}:6443", founder.address()).unwrap_or_default();
    }
    text.push_str("write-kubeconfig-mode: \"0600\"\n");
    if lab.real {
        text.push_str("disable: [coredns, traefik, servicelb, local-storage, metrics-server]\n");
        let minor = lab.version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
        if cgroup::mode() == cgroup::Mode::V1 && minor.is_some_and(|minor| minor >= 35) {
            text.push_str("kubelet-arg: [fail-cgroupv1=false]\n");
        }
    }
    text
}
