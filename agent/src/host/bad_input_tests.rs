//! Bad input: a host that is not as hosts are. Everything is named, nothing is guessed, nothing panics.

use std::path::Path;

use super::testing::{PlayedMachine, copy_of, differences, put, snapshot};
use super::*;
use crate::edge::fs;

const NONE: Vec<String> = Vec::new();
const VM: &str = "debian-12.cloud-vm.by-hand";

fn wanted() -> HostWanted {
    HostWanted { k3s_version: "v1.33.1+k3s1".into(), gossip_port: Some(7846), ..HostWanted::default() }
}

fn plan_of(root: &Path) -> HostPlan {
    plan(&probe_as(&Tree::new(root), Scope::Live), &wanted())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A directory in the place of a file: reading it fails for root as well.
fn make_unreadable(root: &Path, path: &str) {
    let at = root.join(path.trim_start_matches('/'));
    fs::remove(&at).unwrap();
    fs::create_directory(&at, 0o755).unwrap();
}

fn failed(reports: &[StepReport]) -> Vec<(&str, String)> {
    let cause = |report: &StepReport| match &report.outcome {
        Outcome::Failed(cause) | Outcome::ChangedByOthers(cause) => cause.clone(),
        Outcome::Done | Outcome::AlreadySo => String::new(),
    };
    reports
        .iter()
        .filter(|report| !report.succeeded())
        .map(|report| (report.row.as_str(), cause(report)))
        .collect()
}

#[test]
fn missing_tools_are_named_and_what_needs_none_is_done() {
    let tree = copy_of(VM);
    let before = snapshot(tree.path());
    let mut machine = PlayedMachine::new(tree.path());
    machine.toolless = true;
    let prepared = run(prepare(&mut machine, &wanted())).unwrap();
    let failed = failed(&prepared.reports);
    let about = |row: &str, tool: &str| {
        let said = failed
            .iter()
            .any(|(at, cause)| *at == row && cause.contains(tool) && cause.contains("No such file"));
        assert!(said, "{row} does not say that there is no {tool}: {failed:?}");
    };
    about("module.br_netfilter", "modprobe");
    about("swap", "systemctl");
    let done = |row: &str| prepared.reports.iter().any(|report| report.row == row && report.succeeded());
    assert!(
        done("sysctl.kernel.panic") && done("persist.modules") && done("swap"),
        "{:#?}",
        prepared.reports
    );
    // The tools come back: what is left is done, and all of it is undone.
    run(prepare(&mut PlayedMachine::new(tree.path()), &wanted())).unwrap();
    assert_eq!(plan_of(tree.path()).steps, vec![]);
    run(revert(&mut PlayedMachine::new(tree.path()))).unwrap();
    assert_eq!(differences(&snapshot(tree.path()), &before), NONE);
}

#[test]
fn an_unknown_distribution_gets_everything_but_packages() {
    let known = plan_of(copy_of(VM).path());
    for os_release in ["ID=plan9\nVERSION_ID=4\n", "nonsense without a sign\n\u{0}\n", ""] {
        let tree = copy_of(VM);
        fs::remove(&tree.path().join("etc/os-release")).unwrap();
        put(tree.path(), "/usr/lib/os-release", os_release);
        put(tree.path(), "/etc/os-release", os_release);
        for (_, programs) in Manager::ALL {
            for program in programs {
                fs::remove(&tree.path().join(program.trim_start_matches('/'))).unwrap();
            }
        }
        let judged = plan_of(tree.path());
        let steps = |plan: &HostPlan| plan.steps.iter().map(|step| step.act.to_string()).collect::<Vec<_>>();
        assert_eq!(steps(&judged), steps(&known), "{os_release:?}");
        assert_eq!(judged.blocks(), known.blocks(), "{os_release:?}");
        let asked = HostWanted { packages: ["nfs".to_owned()].into(), ..wanted() };
        let judged = plan(&probe_as(&Tree::new(tree.path()), Scope::Live), &asked);
        let finding = judged.findings.iter().find(|finding| finding.row == "package.nfs").unwrap();
        assert!(finding.why.detail.contains("no package manager is known here"), "{finding:?}");
        assert!(judged.steps.iter().all(|step| step.row != "package.nfs"));
    }
}

#[test]
fn unreadable_entries_of_proc_are_named_and_nothing_is_planned_on_them() {
    let known = plan_of(copy_of(VM).path());
    for (path, rows) in [
        ("/proc/swaps", &["swap"][..]),
        ("/proc/filesystems", &["module.overlay"]),
        ("/proc/sys/kernel/panic", &["sysctl.kernel.panic"]),
        ("/proc/meminfo", &["memory.server", "memory"]),
        ("/proc/net/route", &["default-route"]),
        ("/proc/net/tcp", &["port.6443"]),
        ("/proc/net/udp", &["port.8472", "port.gossip"]),
    ] {
        for nonsense in [None, Some("\u{1}\u{2} nonsense\n\n9999999999999999999999 -1 x\n")] {
            let tree = copy_of(VM);
            match nonsense {
                None => make_unreadable(tree.path(), path),
                Some(text) => put(tree.path(), path, text),
            }
            let judged = plan_of(tree.path());
            let acts = |plan: &HostPlan, row: &str| plan.steps.iter().filter(|step| step.row == row).count();
            for row in &known.rows {
                assert!(acts(&judged, &row.row) <= acts(&known, &row.row), "{path}: {} does more", row.row);
            }
            if nonsense.is_some() {
                continue;
            }
            for row in rows {
                let verdict = judged.rows.iter().find(|state| state.row == *row).map(|state| state.verdict);
                let named = judged.findings.iter().any(|f| f.row == *row && f.verdict == Verdict::Unknown);
                assert!(named, "{path} cannot be read, and {row} is {verdict:?}: {:#?}", judged.findings);
            }
        }
    }
}

#[test]
fn without_the_list_of_modules_none_is_loaded() {
    // A module is judged by its effect, but whether it was Muster that loaded it is told by this list alone.
    let tree = copy_of(VM);
    make_unreadable(tree.path(), "/proc/modules");
    let prepared = run(prepare(&mut PlayedMachine::new(tree.path()), &wanted())).unwrap();
    let failed = failed(&prepared.reports);
    let said =
        failed.iter().any(|(row, cause)| *row == "module.br_netfilter" && cause.contains("/proc/modules"));
    assert!(said, "{failed:?}");
    assert!(fs::known_there(&tree.path().join("proc/sys/net/bridge")).is_absent());
}

#[test]
fn a_read_only_etc_is_named_and_the_running_kernel_is_still_put_in_order() {
    let tree = copy_of(VM);
    let before = snapshot(tree.path());
    let mut machine = PlayedMachine::new(tree.path());
    machine.read_only = Some("/etc/");
    let prepared = run(prepare(&mut machine, &wanted())).unwrap();
    let failed = failed(&prepared.reports);
    for row in ["swap", "persist.modules", "persist.sysctls"] {
        let said = failed.iter().any(|(at, cause)| *at == row && cause.contains("Read-only file system"));
        assert!(said, "{row} does not say why: {failed:?}");
    }
    assert!(failed.iter().all(|(_, cause)| cause.contains("/etc/")), "the path is not named: {failed:?}");
    let done = |row: &str| prepared.reports.iter().any(|report| report.row == row && report.succeeded());
    assert!(done("sysctl.kernel.panic") && done("swap"), "{:#?}", prepared.reports);
    assert_eq!(prepared.plan.blocks(), Blocks::Nothing, "a wished row stopped the node");
    // What was not made has no place in the journal, and the rest is taken back.
    let reports = run(revert(&mut PlayedMachine::new(tree.path()))).unwrap();
    assert!(reports.iter().all(StepReport::succeeded), "{reports:#?}");
    assert_eq!(differences(&snapshot(tree.path()), &before), NONE);
}

#[test]
fn nonsense_in_fstab_is_named_by_its_line_and_every_byte_of_it_stays() {
    let long = format!("/dev/{}  none  swap  sw  0  0\n", "x".repeat(20_000));
    for (name, nonsense, swaps, named) in [
        ("too few fields", "swap\n", 0, true),
        ("two fields", "/dev/sda2 swap\n", 0, true),
        ("no field but a blank", " \t \n", 0, false),
        ("swap in every field but the third", "swap swap ext4 swap 0 swap\n", 0, false),
        ("a comment that speaks of swap", "#/dev/sda2 none swap sw 0 0\n", 0, false),
        ("carriage returns", "/dev/sda2 none swap sw 0 0\r\n", 1, false),
        ("no newline at the end", "/dev/sda2 none swap", 1, false),
        ("numbers that are none", "/dev/sda2 none swap sw -1 x\n", 1, false),
        ("an endless line", &long, 1, false),
        ("a NUL", "/dev/sda2 none swap\0 sw 0 0\n", 0, false),
    ] {
        let tree = copy_of(VM);
        let kept = "UUID=0 / ext4 defaults 0 1\n# the end";
        put(tree.path(), FSTAB, &format!("UUID=0 / ext4 defaults 0 1\n{nonsense}"));
        let judged = plan_of(tree.path());
        let said =
            judged.findings.iter().any(|f| f.row == "swap" && f.why.detail.contains("line 2 of /etc/fstab"));
        assert_eq!(said, named, "{name}: {:?}", judged.findings);
        let edits = judged
            .steps
            .iter()
            .filter(|step| matches!(&step.act, HostAct::PutFile { path, .. } if path == FSTAB));
        assert_eq!(edits.count(), swaps, "{name}");
        run(prepare(&mut PlayedMachine::new(tree.path()), &wanted())).unwrap();
        let mark = if swaps == 0 { "" } else { "#muster-swap-off# " };
        let now = fs::read_text(&tree.path().join("etc/fstab")).unwrap().unwrap();
        assert_eq!(now, format!("{}{mark}{nonsense}", &kept[..27]), "{name}");
    }
}
