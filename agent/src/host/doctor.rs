//! The doctor's word: what this machine may be, and the worst thing first. Pure.

use std::fmt::Write;

use serde::Serialize;

use crate::gossip::WantedRole;
use crate::host::table::{blocks, columns};
use crate::host::{
    Blocks, Examined, Finding, HostFacts, HostPlan, HostWanted, RowState, Verdict, fitness, plan,
};

/// What a machine may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// A server, and so an agent, too.
    Server,
    /// An agent only.
    Agent,
    /// Neither.
    Neither,
}

/// Facts that are to differ between machines, for somebody who holds two diagnoses side by side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Name of the host.
    pub host_name: Option<String>,
    /// First half of SHA-256 over the machine-id, in hexadecimal: systemd asks that the id itself be kept at home.
    pub machine_id_hash: Option<String>,
    /// The maker's uuid.
    pub product_uuid: Option<String>,
    /// Hardware addresses by interface, those of containers and loopbacks left out.
    pub macs: std::collections::BTreeMap<String, String>,
}

impl Identity {
    /// What the facts say.
    #[must_use]
    pub fn of(facts: &HostFacts) -> Self {
        let live = facts.live.as_ref();
        let digest = |id: &String| {
            let digest = ring::digest::digest(&ring::digest::SHA256, format!("muster {id}").as_bytes());
            hex::encode(&digest.as_ref()[..16])
        };
        let links = live.and_then(|live| live.links.yes()).into_iter().flatten();
        Self {
            host_name: live.and_then(|live| live.host_name.yes().cloned()),
            machine_id_hash: facts.files.machine_id.yes().filter(|id| !id.is_empty()).map(digest),
            product_uuid: live.and_then(|live| live.product_uuid.yes().cloned()),
            macs: links
                .filter(|(_, link)| link.mac.bytes().any(|byte| !matches!(byte, b'0' | b':')))
                .map(|(name, link)| (name.clone(), link.mac.clone()))
                .collect(),
        }
    }
}

/// Everything the doctor has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// What this machine may be.
    pub fit: Fit,
    /// What its configuration wants it to be.
    pub asked: WantedRole,
    /// The worst finding.
    pub worst: Option<Finding>,
    /// All findings, the worst first.
    pub findings: Vec<Finding>,
    /// Steps that `muster apply` would take.
    pub steps: usize,
    /// The class in its claim, 0 to 3; none while it could not be measured.
    pub class: Option<u8>,
    /// The node's address, and how it was chosen.
    pub address: String,
    /// What was measured and asked.
    pub examined: Option<Examined>,
    /// What is to differ between machines.
    pub identity: Identity,
    /// Every row.
    pub rows: Vec<RowState>,
}

impl Diagnosis {
    /// Whether the machine may be what its configuration asks for: a server, unless it is told to be an agent.
    #[must_use]
    pub fn suffices(&self) -> bool {
        match self.fit {
            Fit::Server => true,
            Fit::Agent => self.asked == WantedRole::Agent,
            Fit::Neither => false,
        }
    }
}

/// Judges a machine for both roles, whatever its configuration asks for.
#[must_use]
pub fn diagnose(facts: &HostFacts, wanted: &HostWanted, address: String) -> Diagnosis {
    let both = HostWanted { role: WantedRole::Auto, ..wanted.clone() };
    let judged: HostPlan = plan(facts, &both);
    let fit = match judged.blocks() {
        Blocks::Nothing => Fit::Server,
        Blocks::Server => Fit::Agent,
        Blocks::Everything => Fit::Neither,
    };
    Diagnosis {
        fit,
        asked: wanted.role,
        worst: judged.worst().cloned(),
        findings: judged.ranked().into_iter().cloned().collect(),
        steps: judged.steps.len(),
        class: facts.examined.as_ref().and_then(|examined| fitness(examined, &wanted.limits)),
        address,
        examined: facts.examined.clone(),
        identity: Identity::of(facts),
        rows: judged.rows,
    }
}

/// The diagnosis for people: the verdict, the findings with the worst first, then what was looked at and is well.
#[must_use]
pub fn render_diagnosis(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "This machine may be {}.",
        match diagnosis.fit {
            Fit::Server => "a server or an agent",
            Fit::Agent => "an agent only",
            Fit::Neither => "neither a server nor an agent",
        }
    );
    if let Some(class) = diagnosis.class {
        let _ = writeln!(
            text,
            "As a server it is of class {class} (3 is best; the fitter found and serve first)."
        );
    }
    let _ = writeln!(text, "Address: {}", diagnosis.address);
    if !diagnosis.findings.is_empty() {
        let _ = writeln!(text, "\nFindings, the worst first:");
    }
    for (number, finding) in diagnosis.findings.iter().enumerate() {
        let stops = match blocks(finding.blocks) {
            "" => String::new(),
            what => format!(" [stops this host from {what}]"),
        };
        let _ = writeln!(text, "{:>4}. {}: {}{stops}", number + 1, finding.row, finding.why.detail);
        let _ = writeln!(text, "      {}", finding.why.next);
    }
    let well = |row: &&RowState| row.verdict == Verdict::Ok;
    let rows: Vec<[String; 2]> =
        diagnosis.rows.iter().filter(well).map(|row| [row.row.clone(), row.detail.clone()]).collect();
    let _ = writeln!(text, "\nAs it should be:");
    text.push_str(&columns(&rows));
    let skipped: Vec<&str> = diagnosis
        .rows
        .iter()
        .filter(|row| row.verdict == Verdict::Skipped)
        .map(|row| row.row.as_str())
        .collect();
    if !skipped.is_empty() {
        let _ = writeln!(text, "\nNot looked at, by host.skip: {}", skipped.join(", "));
    }
    let _ = match diagnosis.steps {
        0 => Ok(()),
        1 => writeln!(text, "\nmuster apply would change one thing: see muster plan."),
        steps => writeln!(text, "\nmuster apply would change {steps} things: see muster plan."),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Known, Why};
    use crate::edge::clock::Discipline;
    use crate::host::testing::{copy_of, put};
    use crate::host::{Answer, Measured, PeerAnswer, Scope, Tree, probe_as};

    fn seen(root: &std::path::Path) -> HostFacts {
        let mut facts = probe_as(&Tree::new(root), Scope::Live);
        let measured = Measured {
            fdatasync_p99_micros: 900,
            fdatasync_median_micros: 500,
            writes: 30,
            memory_mib: 3_900,
            cores: 2,
        };
        facts.examined = Some(Examined {
            measured: Known::Yes(measured),
            disk_free_mib: Known::Yes(20_000),
            clock: Known::Yes(Discipline { synchronised: true, offset_micros: 12 }),
            peers: vec![],
            paths: vec![],
            certificates: Known::Absent,
        });
        facts
    }

    fn with(facts: &HostFacts, edit: impl FnOnce(&mut Examined)) -> HostFacts {
        let mut facts = facts.clone();
        edit(facts.examined.as_mut().unwrap());
        facts
    }

    fn said(facts: &HostFacts, wanted: &HostWanted) -> (Fit, bool, Option<String>) {
        let diagnosis = diagnose(facts, wanted, "10.0.0.5 on eth0".into());
        (diagnosis.fit, diagnosis.suffices(), diagnosis.worst.map(|finding| finding.row))
    }

    #[test]
    fn the_verdict_follows_the_worst_finding_and_the_role_that_was_asked_for() {
        let tree = copy_of("debian-12.cloud-vm.by-hand");
        let facts = seen(tree.path());
        let auto = HostWanted::default();
        let agent = HostWanted { role: WantedRole::Agent, ..HostWanted::default() };
        let copied = HostWanted {
            shared: vec![Why::new("machine-id-shared", "node2 has the machine-id of this machine", "")],
            ..HostWanted::default()
        };
        let broken = |token_only| HostWanted {
            misconfigured: Some(("servers = 4: allowed are odd numbers".into(), token_only)),
            ..HostWanted::default()
        };
        let answer = |port| PeerAnswer { peer: "10.0.0.6".into(), port, answer: Answer::Silent };
        let silent = |port| with(&facts, |seen| seen.peers = vec![answer(port)]);
        let slow = with(&facts, |seen| {
            if let Known::Yes(measured) = &mut seen.measured {
                measured.fdatasync_p99_micros = 40_000;
            }
        });
        let small = copy_of("debian-12.cloud-vm.by-hand");
        put(small.path(), "/proc/meminfo", "MemTotal: 600000 kB\n");
        let small = seen(small.path());
        for (name, facts, wanted, fit, suffices, worst) in [
            ("well", &facts, &auto, Fit::Server, true, None),
            ("a slow disk yields and is no bar", &slow, &auto, Fit::Server, true, Some("disk.latency")),
            ("little memory", &small, &auto, Fit::Agent, false, Some("memory.server")),
            ("little memory, told to be an agent", &small, &agent, Fit::Agent, true, Some("memory.server")),
            ("no API", &silent(6443), &auto, Fit::Neither, false, Some("peer.6443")),
            ("no etcd", &silent(2380), &auto, Fit::Agent, false, Some("peer.2380")),
            ("no kubelet", &silent(10250), &auto, Fit::Server, true, Some("peer.10250")),
            ("a copied machine", &facts, &copied, Fit::Server, true, Some("machine-id")),
            ("configuration", &facts, &broken(false), Fit::Neither, false, Some("configuration")),
            ("no token yet", &facts, &broken(true), Fit::Server, true, Some("configuration")),
        ] {
            assert_eq!(said(facts, wanted), (fit, suffices, worst.map(ToOwned::to_owned)), "{name}");
        }
        assert_eq!(diagnose(&slow, &auto, String::new()).class, Some(0));
        assert_eq!(diagnose(&facts, &auto, String::new()).class, Some(3));
    }

    #[test]
    fn the_text_names_verdict_and_worst_finding_first_and_no_machine_id() {
        let tree = copy_of("debian-12.cloud-vm.by-hand");
        put(tree.path(), "/proc/meminfo", "MemTotal: 600000 kB\n");
        put(tree.path(), "/sys/class/net/eth0/mtu", "1200\n");
        put(tree.path(), "/sys/class/net/eth0/address", "52:54:00:12:34:56\n");
        put(tree.path(), "/sys/class/dmi/id/product_uuid", "03000200-0400-0500-0006-000700080009\n");
        put(tree.path(), "/sys/module/apparmor/parameters/enabled", "Y\n");
        put(tree.path(), "/proc/1/limits", "Max open files  1024  20000  files\n");
        put(tree.path(), "/proc/1/status", "CapEff:\t000001fffeffffff\n");
        let facts = seen(tree.path());
        let diagnosis = diagnose(&facts, &HostWanted::default(), "10.0.0.5 on eth0".into());
        let text = render_diagnosis(&diagnosis);
        assert!(text.starts_with("This machine may be an agent only.\n"), "{text}");
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is missing: {text}"));
        assert!(
            at("1. memory.server: 585 MiB of memory, wanted 900 [stops this host from being a server]")
                < at("mtu:")
        );
        for row in [
            "mtu: packets on eth0",
            "product-uuid: the maker's uuid",
            "apparmor: AppArmor is on",
            "limit.open-files: the first",
        ] {
            at(row);
        }
        let json = serde_json::to_string(&diagnosis).unwrap();
        assert!(
            !json.contains("5d8f0c2e4b7a4c1f9e3d6a1b2c3d4e5f") && json.contains("52:54:00:12:34:56"),
            "{json}"
        );
        assert!(
            json.starts_with(r#"{"fit":"agent","asked":"auto","worst":{"row":"memory.server""#),
            "{json}"
        );
    }
}
