//! The difference between the host and the table, as steps with reasons. Pure: same facts, same plan.
//!
//! A step is planned only on what is known: replacing any fact by unknown never adds a step. A row that cannot be told is
//! reported as such, and blocks what its absence would block.

mod checks;
mod closer;
mod firewall;
mod kept;
mod kernel;
mod own;
mod step;
mod swap;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;

pub use closer::narrow;
pub use step::{HostAct, HostStep};

use crate::config::{Limits, Settings};
use crate::core::Why;
use crate::gossip::WantedRole;
use crate::host::facts::Scope;
use crate::host::profile::nearest_row;
use crate::host::{Blocks, HostFacts, Kind, Level, Need, Opening, ROWS, Row, row};

/// What the caller wants of the host and knows about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostWanted {
    /// Rows switched off by name.
    pub skip: BTreeSet<String>,
    /// The configured role: rows of servers do not apply to `agent`.
    pub role: WantedRole,
    /// Whether a k3s that is ours runs, so that its ports are rightly taken.
    pub k3s_runs: bool,
    /// The gossip port to find free; none when the agent holds it, or no agent is meant to run.
    pub gossip_port: Option<u16>,
    /// Whether the node address is configured, so that no default route is needed to choose one.
    pub node_address_given: bool,
    /// Whether the node name is configured, so that the host name does not matter.
    pub node_name_given: bool,
    /// The k3s version to be run, such as `v1.33.1+k3s1`.
    pub k3s_version: String,
    /// Flannel's backend; empty means k3s's default, vxlan.
    pub flannel_backend: String,
    /// Limits of the measurements.
    pub limits: Limits,
    /// The configured interface.
    pub interface: Option<String>,
    /// Wanted servers and founders, for the doctor's word on them.
    pub counts: Option<(usize, usize)>,
    /// The voters of etcd by a running agent's word, for the same; none where none is known.
    pub voters: Option<usize>,
    /// Modules that come on request.
    pub modules: BTreeSet<String>,
    /// Whether pods or nodes have addresses of IPv6.
    pub ipv6: bool,
    /// Packages that come on request.
    pub packages: BTreeSet<String>,
    /// What shall be open; none while nothing is known of the configuration.
    pub opening: Option<Opening>,
    /// Whether a firewall is opened, or only reported.
    pub open_firewall: bool,
    /// What a running agent found this machine to share with others; for the doctor.
    pub shared: Vec<Why>,
    /// Why the configuration does not hold, and whether a token is all that it lacks; for the doctor.
    pub misconfigured: Option<(String, bool)>,
}

impl HostWanted {
    /// What the settings want. `k3s_runs` and `agent_runs` are for the caller to know.
    #[must_use]
    pub fn of(settings: &Settings, k3s_runs: bool, agent_runs: bool) -> Self {
        let mut skip = settings.host.skip.clone();
        // An operator who told the kubelet of every role to run on cgroup version 1 has answered this row.
        let told = |table: &std::collections::BTreeMap<String, serde_json::Value>| {
            table.get("kubelet-arg").is_some_and(|value| value.to_string().contains("fail-cgroupv1=false"))
        };
        if told(&settings.k3s.server_config) && told(&settings.k3s.agent_config) {
            skip.insert("cgroup.version".to_owned());
        }
        // Who asks for the mode asks for its module.
        let mut modules = settings.host.modules.clone();
        if settings.k3s.flannel_backend == "wireguard-native" {
            modules.insert("wireguard".to_owned());
        }
        let ipvs = |table: &std::collections::BTreeMap<String, serde_json::Value>| {
            table.get("kube-proxy-arg").is_some_and(|value| value.to_string().contains("proxy-mode=ipvs"))
        };
        if ipvs(&settings.k3s.server_config) || ipvs(&settings.k3s.agent_config) {
            modules.insert("ip_vs".to_owned());
        }
        Self {
            skip,
            role: settings.role,
            k3s_runs,
            gossip_port: (!agent_runs).then_some(settings.gossip_port),
            node_address_given: !settings.node_ips.is_empty() || settings.interface.is_some(),
            node_name_given: settings.node_name.is_some(),
            k3s_version: settings.k3s.version.clone(),
            flannel_backend: settings.k3s.flannel_backend.clone(),
            limits: settings.host.limits,
            interface: settings.interface.clone(),
            counts: None,
            voters: None,
            modules,
            ipv6: settings.k3s.cluster_cidr.contains(':') || settings.node_ips.iter().any(IpAddr::is_ipv6),
            packages: settings.host.packages.clone(),
            opening: Some(Opening::of(settings)),
            open_firewall: settings.host.open_firewall,
            shared: Vec::new(),
            misconfigured: None,
        }
    }
}

/// How a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As wanted.
    Ok,
    /// Not as wanted.
    Missing,
    /// Could not be told.
    Unknown,
    /// Switched off by `host.skip`.
    Skipped,
}

/// One row, judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowState {
    /// Name of the row.
    pub row: String,
    /// Needed or wished.
    pub level: Level,
    /// Whose need it is.
    pub need: Need,
    /// How it stands.
    pub verdict: Verdict,
    /// Whether steps of this plan work on it.
    pub planned: bool,
    /// What was seen.
    pub detail: String,
}

/// Something that the plan cannot mend, or that a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the row it belongs to; `host.skip` for an unknown name in that setting.
    pub row: String,
    /// Needed or wished.
    pub level: Level,
    /// Missing or unknown.
    pub verdict: Verdict,
    /// What the node may not be because of it.
    pub blocks: Blocks,
    /// The reason: rule `host.<row>`, what was seen, what to do.
    pub why: Why,
}

/// The whole judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPlan {
    /// Machine or image.
    pub scope: Scope,
    /// Every row that applies.
    pub rows: Vec<RowState>,
    /// What to do, in order.
    pub steps: Vec<HostStep>,
    /// What no step of ours mends.
    pub findings: Vec<Finding>,
}

impl HostPlan {
    /// What the node may not be as the host stands: the worst of the findings.
    #[must_use]
    pub fn blocks(&self) -> Blocks {
        self.findings.iter().map(|finding| finding.blocks).max().unwrap_or(Blocks::Nothing)
    }

    /// Whether the node may be a server, vote and found.
    #[must_use]
    pub fn may_serve(&self) -> bool {
        self.blocks() == Blocks::Nothing
    }

    /// Whether the node may run k3s at all.
    #[must_use]
    pub fn may_run(&self) -> bool {
        self.blocks() < Blocks::Everything
    }

    /// The findings, the worst first: what blocks most, then what is needed, then the order of the table.
    #[must_use]
    pub fn ranked(&self) -> Vec<&Finding> {
        let mut all: Vec<&Finding> = self.findings.iter().collect();
        all.sort_by_key(|finding| std::cmp::Reverse((finding.blocks, finding.level)));
        all
    }

    /// The finding to show first: what blocks most, then what is needed, then the order of the table.
    #[must_use]
    pub fn worst(&self) -> Option<&Finding> {
        self.ranked().into_iter().next()
    }
}

/// How a row was judged.
struct Judged {
    verdict: Verdict,
    detail: String,
    steps: Vec<HostAct>,
    findings: Vec<(Verdict, String, String)>,
    blocks: bool,
}

impl Judged {
    fn ok(detail: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Ok,
            detail: detail.into(),
            steps: Vec::new(),
            findings: Vec::new(),
            blocks: true,
        }
    }

    /// Not as wanted, and mended by these steps.
    fn mended(detail: impl Into<String>, steps: Vec<HostAct>) -> Self {
        Self { verdict: Verdict::Missing, steps, ..Self::ok(detail) }
    }

    /// Not as wanted, and not to be mended by us.
    fn missing(detail: impl Into<String>, next: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            verdict: Verdict::Missing,
            findings: vec![(Verdict::Missing, detail.clone(), next.into())],
            ..Self::ok(detail)
        }
    }

    fn unknown(unread: &crate::core::Unread) -> Self {
        let detail = unread.to_string();
        let next = "mend the cause, or switch the row off with host.skip".to_owned();
        Self {
            verdict: Verdict::Unknown,
            findings: vec![(Verdict::Unknown, detail.clone(), next)],
            ..Self::ok(detail)
        }
    }

    /// Adds something to report beside the verdict.
    fn also(mut self, verdict: Verdict, detail: impl Into<String>, next: impl Into<String>) -> Self {
        self.findings.push((verdict, detail.into(), next.into()));
        self
    }

    /// The same, with no consequence for the node's part in the cluster.
    fn harmless(mut self) -> Self {
        self.blocks = false;
        self
    }
}

/// Judges every row that applies and is not switched off.
#[must_use]
pub fn plan(facts: &HostFacts, wanted: &HostWanted) -> HostPlan {
    let mut plan =
        HostPlan { scope: facts.scope(), rows: Vec::new(), steps: Vec::new(), findings: Vec::new() };
    for name in wanted.skip.iter().filter(|name| row(name).is_none()) {
        plan.findings.push(Finding {
            row: "host.skip".into(),
            level: Level::Wished,
            verdict: Verdict::Unknown,
            blocks: Blocks::Nothing,
            why: Why::new(
                "host.skip",
                format!("host.skip names no row: {name:?}"),
                format!("the nearest row is {:?}", nearest_row(name)),
            ),
        });
    }
    let asked = |row: &&Row| row.applies.to(wanted.role) && row.is_asked(wanted);
    for row in ROWS.iter().filter(asked) {
        if wanted.skip.contains(row.name) {
            plan.rows.push(state(row, Verdict::Skipped, false, "switched off by host.skip".into()));
        } else if let Some(judged) = judge(row, facts, wanted) {
            take(&mut plan, row, judged);
        }
    }
    plan
}

fn judge(row: &Row, facts: &HostFacts, wanted: &HostWanted) -> Option<Judged> {
    match row.kind {
        Kind::Swap => Some(swap::judge(facts)),
        Kind::Module(name, _) => kernel::module(name, &facts.files, facts.live.as_ref()?),
        Kind::KeepModules => Some(kernel::keep_modules(facts, wanted)),
        Kind::Sysctl(key, wish) => kernel::sysctl(key, wish, facts, wanted),
        Kind::KeepSysctls => Some(kernel::keep_sysctls(facts, wanted)),
        Kind::NetworkManager => kernel::network_manager(facts),
        Kind::Package(package) => Some(own::package(package, facts)),
        Kind::Firewall => firewall::judge(facts, wanted),
        Kind::Check(check) => checks::judge(check, facts, wanted),
    }
}

fn state(row: &Row, verdict: Verdict, planned: bool, detail: String) -> RowState {
    RowState { row: row.name.into(), level: row.level, need: row.need, verdict, planned, detail }
}

fn take(plan: &mut HostPlan, row: &'static Row, judged: Judged) {
    let rule = format!("host.{}", row.name);
    let planned = !judged.steps.is_empty();
    for (verdict, detail, next) in judged.findings {
        plan.findings.push(Finding {
            row: row.name.into(),
            level: row.level,
            verdict,
            blocks: if judged.blocks { row.blocks } else { Blocks::Nothing },
            why: Why::new(rule.clone(), detail, next),
        });
    }
    for act in judged.steps {
        let why = Why::new(rule.clone(), judged.detail.clone(), row.reason);
        plan.steps.push(HostStep { row: row.name, level: row.level, act, why });
    }
    plan.rows.push(state(row, judged.verdict, planned, judged.detail));
}
