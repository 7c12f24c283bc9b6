//! The whole cycle over captured hosts: golden plans, nothing left after apply, identity after revert, every crash point.

use std::path::Path;

use proptest::prelude::*;

use super::testing::{Fault, PlayedMachine, copy, copy_of, differences, put, snapshot, temporary};
use super::*;
use crate::core::{Known, Unread};
use crate::edge::fs;
use crate::gossip::WantedRole;

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

/// Compares with a file below testdata, or writes it when `MUSTER_BLESS` is set.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/host").join(name);
    if std::env::var_os("MUSTER_BLESS").is_some() {
        fs::write_volatile(&path, text.as_bytes(), 0o644).unwrap();
    }
    let golden = fs::read_text(&path).unwrap().unwrap_or_default();
    assert!(
        golden == text,
        "{} differs; with MUSTER_BLESS=1 it is written anew. Now:\n{text}",
        path.display()
    );
}

#[test]
fn captured_hosts_have_their_golden_plans() {
    let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/host/trees");
    let names = fs::known_names(&trees);
    let names = names.yes().unwrap();
    assert!(names.len() >= 14, "{names:?}");
    for name in names {
        let scope = if name.contains("image") { Scope::Image } else { Scope::Live };
        let tree = copy_of(name);
        let mut facts = probe_as(&Tree::new(tree.path()), scope);
        name_owners(&Tree::new(tree.path()), &mut facts, &[6443]);
        let judged = plan(&facts, &wanted());
        let json = serde_json::to_string_pretty(&judged).unwrap() + "\n";
        golden(&format!("plans/{name}.json"), &json);
        golden(&format!("plans/{name}.txt"), &render_table(&judged));
        assert_eq!(judged, plan(&facts, &wanted()), "same facts, same plan");
    }
}

#[test]
fn after_apply_there_is_nothing_to_do_and_nothing_is_written_and_revert_restores() {
    let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/host/trees");
    for name in fs::known_names(&trees).yes().unwrap().iter().filter(|name| !name.contains("image")) {
        let tree = copy_of(name);
        let before = snapshot(tree.path());
        let mut machine = PlayedMachine::new(tree.path());
        let prepared = run(prepare(&mut machine, &wanted())).unwrap();
        assert!(prepared.reports.iter().all(StepReport::succeeded), "{name}: {:#?}", prepared.reports);
        assert_eq!(prepared.plan.steps, vec![], "{name}");
        let changes = machine.changes;
        let again = run(prepare(&mut machine, &wanted())).unwrap();
        assert_eq!((again.reports, machine.changes), (vec![], changes), "{name}");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(machine.journal_path()).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        let reports = run(revert(&mut machine)).unwrap();
        assert!(reports.iter().all(StepReport::succeeded), "{name}: {reports:#?}");
        assert_eq!(differences(&snapshot(tree.path()), &before), NONE, "{name}");
        assert!(fs::known_there(&machine.journal_path()).is_absent(), "{name}");
        assert_eq!(run(revert(&mut machine)).unwrap(), vec![]);
    }
}

#[test]
fn a_fstab_keeps_its_mode_and_every_other_byte() {
    let tree = copy_of(VM);
    let fstab = tree.path().join("etc/fstab");
    std::fs::set_permissions(&fstab, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let old = fs::read_text(&fstab).unwrap().unwrap();
    run(prepare(&mut PlayedMachine::new(tree.path()), &wanted())).unwrap();
    let new = fs::read_text(&fstab).unwrap().unwrap();
    assert_ne!(new, old);
    assert_eq!(new.replace("#muster-swap-off# ", ""), old);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&fstab).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn units_are_masked_after_systemd_forgot_the_fstab_and_what_its_generators_bring_then_is_masked_too() {
    let tree = copy_of(VM);
    let mut machine = PlayedMachine::new(tree.path());
    machine.gpt_swap = true;
    let prepared = run(prepare(&mut machine, &wanted())).unwrap();
    let order: Vec<&str> = prepared
        .reports
        .iter()
        .filter(|report| report.row == "swap" && report.outcome == Outcome::Done)
        .map(|report| report.what.split(' ').next().unwrap())
        .collect();
    assert_eq!(order, ["turn", "turn", "comment", "let", "mask", "mask", "let", "mask", "let"]);
    assert_eq!(machine.reloads.len(), 3);
    let names = fs::known_names(&tree.path().join("etc/systemd/system"));
    let masked = [
        r"dev-disk-by\x2ddiskseq-1\x2dpart5.swap",
        r"dev-disk-by\x2duuid-9c1e7a52\x2d5a0c\x2d4d64\x2d8f63\x2d3f2c8f1a0002.swap",
        "swapfile.swap",
    ];
    assert_eq!(names.yes().unwrap(), &masked);
}

/// Everything that comes on request: two modules, two packages, both firewalls.
fn greedy(tree: &Path) -> HostWanted {
    put(tree, "/usr/bin/apt-get", "");
    put(tree, "/usr/sbin/.keep", "");
    put(tree, "/sys/.keep", "");
    put(tree, "/etc/ufw/ufw.conf", "ENABLED=yes\n");
    put(tree, "/etc/ufw/user.rules", "*filter\n### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n");
    put(tree, "/etc/systemd/system/multi-user.target.wants/firewalld.service", "");
    put(tree, "/etc/firewalld/policies/.keep", "");
    let modules = fs::read_text(&tree.join("lib/modules/6.1.0-56-cloud-amd64/modules.dep")).unwrap().unwrap();
    let more = "kernel/drivers/net/wireguard/wireguard.ko.xz:\nkernel/net/netfilter/ipvs/ip_vs.ko.zst:\n";
    put(tree, "/lib/modules/6.1.0-56-cloud-amd64/modules.dep", &(modules + more));
    HostWanted {
        modules: ["wireguard".to_owned(), "ip_vs".to_owned()].into(),
        packages: ["iscsi".to_owned(), "nfs".to_owned()].into(),
        opening: Some(Opening::new(WantedRole::Auto, "vxlan", 7846, &["10.42.0.0/16", "10.43.0.0/16"])),
        open_firewall: true,
        ..wanted()
    }
}

#[test]
fn what_is_asked_for_is_done_and_taken_back_at_every_crash_point() {
    let tree = copy_of(VM);
    let asked = greedy(tree.path());
    let original = snapshot(tree.path());
    let mut machine = PlayedMachine::new(tree.path());
    let prepared = run(prepare(&mut machine, &asked)).unwrap();
    assert!(prepared.reports.iter().all(StepReport::succeeded), "{:#?}", prepared.reports);
    assert_eq!(prepared.plan.steps, vec![]);
    let said: Vec<_> = prepared.reports.iter().map(|report| report.what.as_str()).collect();
    for step in [
        "load the module wireguard",
        "load the module ip_vs",
        "install the package open-iscsi",
        "install the package nfs-common",
        "ufw allow 6443/tcp",
        "ufw allow from 10.42.0.0/16",
        "write /etc/firewalld/policies/muster-pods.xml",
        "let firewalld read its files again",
    ] {
        assert!(said.contains(&step), "{step}: {said:#?}");
    }
    let kept = fs::read_text(&tree.path().join(&MODULES_FILE[1..])).unwrap().unwrap();
    assert!(kept.ends_with("overlay\nbr_netfilter\nnf_conntrack\nwireguard\nip_vs\n"), "{kept}");
    let goal = snapshot(tree.path());
    // Unasked, what was asked for before stays as it is, and nothing is planned against it but our own lists.
    for fault in [Fault::DieBefore, Fault::DieAfter, Fault::Tear, Fault::Lose, Fault::Refuse] {
        for at in (1..=machine.changes).step_by(3) {
            let tree = copy_of(VM);
            let asked = greedy(tree.path());
            let _ = run(prepare(&mut PlayedMachine::failing(tree.path(), at, fault), &asked));
            run(prepare(&mut PlayedMachine::new(tree.path()), &asked)).unwrap();
            assert_eq!(differences(&snapshot(tree.path()), &goal), NONE, "{fault:?} at {at}");
            run(revert(&mut PlayedMachine::new(tree.path()))).unwrap();
            assert_eq!(differences(&snapshot(tree.path()), &original), NONE, "{fault:?} at {at}");
        }
    }
}

/// Runs apply with a fault at every change, then goes on in both ways: forward to nothing-to-do, and straight back.
#[test]
fn apply_interrupted_anywhere_goes_on_or_back() {
    let counted = copy_of(VM);
    let original = snapshot(counted.path());
    let mut machine = PlayedMachine::new(counted.path());
    run(prepare(&mut machine, &wanted())).unwrap();
    let goal = snapshot(counted.path());
    assert!(machine.changes > 60, "{}", machine.changes);
    for fault in [Fault::DieBefore, Fault::DieAfter, Fault::Tear, Fault::Lose, Fault::Refuse] {
        for at in 1..=machine.changes {
            let tree = copy_of(VM);
            let _ = run(prepare(&mut PlayedMachine::failing(tree.path(), at, fault), &wanted()));
            let other = temporary();
            copy(tree.path(), other.path());

            let prepared = run(prepare(&mut PlayedMachine::new(tree.path()), &wanted())).unwrap();
            assert_eq!(prepared.plan.steps, vec![], "{fault:?} at {at}");
            assert_eq!(differences(&snapshot(tree.path()), &goal), NONE, "{fault:?} at {at}");
            let reports = run(revert(&mut PlayedMachine::new(tree.path()))).unwrap();
            assert!(reports.iter().all(StepReport::succeeded), "{fault:?} at {at}: {reports:#?}");
            assert_eq!(differences(&snapshot(tree.path()), &original), NONE, "{fault:?} at {at}");

            run(revert(&mut PlayedMachine::new(other.path()))).unwrap();
            assert_eq!(
                differences(&snapshot(other.path()), &original),
                NONE,
                "{fault:?} at {at}, straight back"
            );
        }
    }
}

#[test]
fn revert_interrupted_anywhere_ends_where_it_began() {
    let applied = copy_of(VM);
    let original = snapshot(applied.path());
    run(prepare(&mut PlayedMachine::new(applied.path()), &wanted())).unwrap();
    for fault in [Fault::DieBefore, Fault::DieAfter, Fault::Tear, Fault::Lose, Fault::Refuse] {
        for at in 1.. {
            let tree = temporary();
            copy(applied.path(), tree.path());
            let mut machine = PlayedMachine::failing(tree.path(), at, fault);
            let _ = run(revert(&mut machine));
            if machine.changes < at {
                break;
            }
            run(revert(&mut PlayedMachine::new(tree.path()))).unwrap();
            assert_eq!(differences(&snapshot(tree.path()), &original), NONE, "{fault:?} at {at}");
        }
    }
}

#[test]
fn what_others_changed_since_is_named_and_left_alone() {
    let tree = copy_of(VM);
    run(prepare(&mut PlayedMachine::new(tree.path()), &wanted())).unwrap();
    let sysctl = fs::read_text(&tree.path().join("etc/sysctl.d/90-muster.conf")).unwrap().unwrap();
    put(tree.path(), SYSCTL_FILE, &(sysctl + "# mine\n"));
    put(tree.path(), "/proc/sys/kernel/panic", "60\n");
    let reports = run(revert(&mut PlayedMachine::new(tree.path()))).unwrap();
    let mut left: Vec<_> =
        reports.iter().filter(|report| !report.succeeded()).map(|report| report.what.as_str()).collect();
    let entries = left.len();
    // The file was written a second time, when a module had brought its key: both states are in the journal.
    left.dedup();
    assert_eq!(left, ["restore /etc/sysctl.d/90-muster.conf", "restore sysctl kernel.panic"]);
    assert!(
        fs::read_text(&tree.path().join("etc/sysctl.d/90-muster.conf"))
            .unwrap()
            .unwrap()
            .ends_with("# mine\n")
    );
    assert_eq!(fs::read_text(&tree.path().join("proc/sys/kernel/panic")).unwrap().unwrap(), "60\n");
    // It is still known what to do about them, and said again.
    assert_eq!(run(revert(&mut PlayedMachine::new(tree.path()))).unwrap().len(), entries);
}

#[test]
fn a_file_changed_between_looking_and_doing_is_not_touched() {
    let tree = copy_of(VM);
    let judged = plan_of(tree.path());
    put(tree.path(), FSTAB, "# all mine now\n");
    let reports = run(apply(&mut PlayedMachine::new(tree.path()), &judged)).unwrap();
    let fstab = reports.iter().find(|report| report.what.contains("fstab")).unwrap();
    assert!(matches!(fstab.outcome, Outcome::ChangedByOthers(_)), "{fstab:?}");
    assert_eq!(fs::read_text(&tree.path().join("etc/fstab")).unwrap().unwrap(), "# all mine now\n");
}

#[test]
fn a_wished_step_that_fails_is_reported_and_stops_nothing() {
    let tree = copy_of(VM);
    // The second change is the first swapoff, after its intent.
    let mut machine = PlayedMachine::failing(tree.path(), 2, Fault::Refuse);
    let judged = plan_of(tree.path());
    let reports = run(apply(&mut machine, &judged)).unwrap();
    let failed: Vec<_> = reports.iter().filter(|report| !report.succeeded()).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].row.as_str(), failed[0].level), ("swap", Level::Wished));
    assert_eq!(judged.blocks(), Blocks::Nothing);
}

#[test]
fn a_damaged_journal_stops_every_change() {
    let tree = copy_of(VM);
    put(tree.path(), &format!("/state/{JOURNAL_NAME}"), "{\"rec\n{}\n");
    let before = snapshot(tree.path());
    assert!(matches!(
        run(prepare(&mut PlayedMachine::new(tree.path()), &wanted())),
        Err(HostError::Journal(JournalError::Damaged { line: 1, .. }))
    ));
    assert!(run(revert(&mut PlayedMachine::new(tree.path()))).is_err());
    assert_eq!(differences(&snapshot(tree.path()), &before), NONE);
}

#[test]
fn rows_can_be_switched_off_one_by_one_and_a_wrong_name_is_told() {
    let facts = probe_as(&Tree::new(copy_of(VM).path()), Scope::Live);
    for row in ROWS {
        let one = HostWanted { skip: [row.name.to_owned()].into(), ..wanted() };
        assert!(plan(&facts, &one).steps.iter().all(|step| step.row != row.name), "{}", row.name);
    }
    let all = HostWanted { skip: ROWS.iter().map(|row| row.name.to_owned()).collect(), ..wanted() };
    let judged = plan(&facts, &all);
    assert_eq!((judged.steps, judged.findings), (vec![], vec![]));
    let wrong = plan(&facts, &HostWanted { skip: ["swapp".to_owned()].into(), ..wanted() });
    let finding = wrong.findings.first().unwrap();
    assert_eq!((finding.row.as_str(), finding.blocks), ("host.skip", Blocks::Nothing));
    assert!(finding.why.next.contains("\"swap\""), "{finding:?}");
}

#[test]
fn what_blocks_whom() {
    for (path, text, row, blocks) in [
        ("/proc/sys/kernel/hostname", "localhost\n", "host-name", Blocks::Everything),
        ("/sys/fs/cgroup/cgroup.controllers", "cpu pids\n", "cgroup.controllers", Blocks::Everything),
        ("/proc/meminfo", "MemTotal: 600000 kB\n", "memory.server", Blocks::Server),
        ("/proc/net/route", "Iface\n", "default-route", Blocks::Everything),
        ("/proc/net/route", "nonsense\nnonsense\n", "default-route", Blocks::Everything),
        ("/sys/devices/system/cpu/online", "0\n", "cpu.server", Blocks::Nothing),
    ] {
        let tree = copy_of(VM);
        put(tree.path(), path, text);
        let judged = plan_of(tree.path());
        let finding = judged.findings.iter().find(|finding| finding.row == row).unwrap();
        assert_eq!(finding.blocks, blocks, "{row}");
        assert_eq!(judged.blocks(), blocks, "{row}: {:#?}", judged.findings);
    }
    let agent = HostWanted { role: WantedRole::Agent, ..wanted() };
    let tree = copy_of(VM);
    put(tree.path(), "/proc/meminfo", "MemTotal: 600000 kB\n");
    assert_eq!(plan(&probe_as(&Tree::new(tree.path()), Scope::Live), &agent).blocks(), Blocks::Nothing);
    let given = HostWanted { node_address_given: true, node_name_given: true, ..wanted() };
    put(tree.path(), "/proc/meminfo", "MemTotal: 4000000 kB\n");
    put(tree.path(), "/proc/net/route", "Iface\n");
    put(tree.path(), "/proc/sys/kernel/hostname", "localhost\n");
    assert_eq!(plan(&probe_as(&Tree::new(tree.path()), Scope::Live), &given).blocks(), Blocks::Nothing);
}

#[test]
fn a_left_over_docker_file_makes_no_container_of_a_machine() {
    let tree = copy_of(VM);
    put(tree.path(), "/.dockerenv", "");
    let off =
        |root: &Path| plan_of(root).steps.iter().any(|step| matches!(step.act, HostAct::SwapOff { .. }));
    assert!(!off(tree.path()));
    fs::create_directory(&tree.path().join("proc/self/ns"), 0o755).unwrap();
    std::os::unix::fs::symlink("pid:[4026531836]", tree.path().join("proc/self/ns/pid")).unwrap();
    assert!(off(tree.path()));
}

#[test]
fn a_foreign_process_on_6443_is_named_and_ours_is_not_a_finding() {
    let tree = copy_of("raspbian-12.dphys.by-hand");
    let mut facts = probe_as(&Tree::new(tree.path()), Scope::Live);
    name_owners(&Tree::new(tree.path()), &mut facts, &[6443]);
    let judged = plan(&facts, &wanted());
    let finding = judged.findings.iter().find(|finding| finding.row == "port.6443").unwrap();
    assert!(finding.why.detail.contains("haproxy (pid 512)"), "{finding:?}");
    let ours = plan(&facts, &HostWanted { k3s_runs: true, ..wanted() });
    assert!(ours.rows.iter().all(|row| row.row != "port.6443"));
}

#[test]
fn unreadable_and_nonsensical_files_are_named_and_never_touched() {
    let tree = copy_of(VM);
    let fstab = tree.path().join("etc/fstab");
    fs::write_volatile(&fstab, b"/dev/sda2 none swap sw 0 0\n\xff\xfe\n", 0o644).unwrap();
    put(tree.path(), "/proc/swaps", "Filename\nnonsense\n");
    let judged = plan_of(tree.path());
    let said: Vec<_> = judged.findings.iter().filter(|f| f.row == "swap").map(|f| &*f.why.detail).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("/proc/swaps") && said[1].contains("not UTF-8"), "{said:?}");
    assert!(judged.steps.iter().all(|step| !step.act.to_string().contains("fstab")));

    // A directory in the place of a file: reading it fails for root as well.
    fs::remove(&fstab).unwrap();
    fs::create_directory(&fstab, 0o755).unwrap();
    fs::create_directory(&tree.path().join("etc/sysctl.d/broken.conf"), 0o755).unwrap();
    let judged = plan_of(tree.path());
    assert!(judged.findings.iter().any(|f| f.row == "swap" && f.verdict == Verdict::Unknown));
    assert!(judged.findings.iter().any(|f| f.row == "persist.sysctls" && f.verdict == Verdict::Unknown));
    assert!(judged.steps.iter().all(|step| step.row != "persist.sysctls"));
}

#[test]
fn an_image_gets_files_only_and_its_journal_travels_with_it() {
    let image = copy_of("debian-12.minbase-image.captured");
    put(image.path(), FSTAB, "/dev/vda2 none swap sw 0 0\n");
    let before = snapshot(image.path());
    let mut machine = LocalMachine::image(image.path(), Path::new("/state"));
    let prepared = run(prepare(&mut machine, &wanted())).unwrap();
    assert!(prepared.reports.iter().all(StepReport::succeeded), "{:#?}", prepared.reports);
    assert_eq!(prepared.plan.steps, vec![]);
    assert_eq!(
        fs::read_text(&image.path().join("etc/fstab")).unwrap().unwrap(),
        "#muster-swap-off# /dev/vda2 none swap sw 0 0\n"
    );
    let modules = fs::read_text(&image.path().join("etc/modules-load.d/muster.conf")).unwrap().unwrap();
    assert!(modules.ends_with("overlay\nbr_netfilter\nnf_conntrack\n"), "{modules}");
    let journal = fs::read_text(&image.path().join("state").join(JOURNAL_NAME)).unwrap().unwrap();
    assert!(!Journal::parse(&journal).unwrap().is_unsettled());
    let mut other = LocalMachine::image(image.path(), Path::new("/state"));
    run(revert(&mut other)).unwrap();
    assert_eq!(differences(&snapshot(image.path()), &before), NONE);
}

#[test]
fn two_at_once_is_refused() {
    let image = copy_of("debian-12.minbase-image.captured");
    let mut first = LocalMachine::image(image.path(), Path::new("/state"));
    first.lock().unwrap();
    let mut second = LocalMachine::image(image.path(), Path::new("/state"));
    assert!(matches!(run(prepare(&mut second, &wanted())), Err(HostError::Busy { .. })));
    first.unlock();
    run(prepare(&mut second, &wanted())).unwrap();
}

/// The real calls on the real kernel, as far as a network namespace of its own goes: no other row is touched.
#[test]
fn a_sysctl_of_this_kernel_is_set_and_restored_in_a_namespace_of_its_own() {
    let key = "sysctl.net.ipv4.ip_forward";
    let only = HostWanted {
        skip: ROWS.iter().map(|row| row.name.to_owned()).filter(|name| name != key).collect(),
        ..HostWanted::default()
    };
    // `/proc/sys/net` shows the namespace of the thread that reads it.
    let outcome = std::thread::spawn(move || {
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
            return None;
        }
        let state = temporary();
        let mut machine = LocalMachine::live(state.path());
        machine.set_sysctl("net.ipv4.ip_forward", "0").unwrap();
        let value = || fs::read_text(Path::new("/proc/sys/net/ipv4/ip_forward")).unwrap().unwrap();
        let prepared = run(prepare(&mut machine, &only)).unwrap();
        let set = value();
        let bad = machine.set_sysctl("net.ipv4.ip_forward", "many").unwrap_err();
        let none = machine.set_sysctl("net.ipv4.no_such_key", "1").unwrap_err();
        let reverted = run(revert(&mut machine)).unwrap();
        Some((prepared, set, bad.chain(), none.chain(), reverted, value()))
    })
    .join()
    .unwrap();
    let Some((prepared, set, bad, none, reverted, after)) = outcome else {
        println!("no network namespace can be made here (not root): not run");
        return;
    };
    assert_eq!(prepared.plan.steps, vec![]);
    assert_eq!((prepared.reports.len(), set.as_str()), (1, "1\n"));
    assert_eq!(bad, "cannot set net.ipv4.ip_forward to many: Invalid argument (os error 22)");
    assert!(none.starts_with("cannot set net.ipv4.no_such_key to 1: "), "{none}");
    assert_eq!((reverted.len(), after.as_str()), (1, "0\n"));
}

#[test]
fn the_document_holds_the_generated_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/host.md");
    for (name, table) in [("rows", document_table()), ("ports", document_ports())] {
        let text = fs::read_text(&path).unwrap().unwrap_or_default();
        let open = format!("<!-- {name}: begin (generated) -->\n");
        let begin = text.find(&open).expect("the table's beginning") + open.len();
        let end = text.find(&format!("<!-- {name}: end -->\n")).expect("the table's end");
        if std::env::var_os("MUSTER_BLESS").is_some() {
            let new = format!("{}{table}{}", &text[..begin], &text[end..]);
            fs::write_volatile(&path, new.as_bytes(), 0o644).unwrap();
            continue;
        }
        assert!(
            text[begin..end] == table,
            "the {name} of docs/host.md are not generated; run with MUSTER_BLESS=1"
        );
    }
}

/// Every fact, made unknown one at a time.
fn blinded(facts: &HostFacts) -> Vec<(&'static str, HostFacts)> {
    let unread = Unread { what: "it".into(), cause: "blinded".into() };
    let mut all = Vec::new();
    macro_rules! blind {
        ($part:ident: $($field:ident),*) => { $({
            let mut one = facts.clone();
            one.$part.$field = Known::Unknown(unread.clone());
            all.push((stringify!($field), one));
        })* };
        (live: $($field:ident),*; ) => { $({
            let mut one = facts.clone();
            if let Some(live) = &mut one.live { live.$field = Known::Unknown(unread.clone()); }
            all.push((stringify!($field), one));
        })* };
    }
    blind!(files: os, fstab, systemd, units, enabled, zram, builtin, loadable, modules_file, sysctl_file, sysctl_others,
        network_manager, network_manager_file, ufw, ufw_rules, nftables_drops, manager, selinux_policy, apparmor_parser, machine_id);
    blind!(live: container, swaps, loaded, proc_mounts, advertised, host_name, memory_kib, cpus, clock, cgroups, route4,
        route6, listeners, name_servers, selinux, apparmor, init_limits, links, product_uuid;);
    for name in facts.live.iter().flat_map(|live| live.effects.keys().copied()) {
        let mut one = facts.clone();
        one.live.as_mut().unwrap().effects.insert(name, Known::Unknown(unread.clone()));
        all.push((name, one));
    }
    for key in facts.live.iter().flat_map(|live| live.sysctls.keys().copied()) {
        let mut one = facts.clone();
        one.live.as_mut().unwrap().sysctls.insert(key, Known::Unknown(unread.clone()));
        all.push((key, one));
    }
    all
}

/// What a step does, without the content of a file of ours, and the lines it would leave in it.
fn parts(plan: &HostPlan) -> Vec<(String, Vec<String>)> {
    let lines = |kept: &Option<Kept>| -> Vec<String> {
        kept.as_ref().and_then(Kept::text).unwrap_or_default().lines().map(ToOwned::to_owned).collect()
    };
    plan.steps
        .iter()
        .map(|step| match &step.act {
            HostAct::PutFile { path, after, .. } => (format!("put {path}"), lines(after)),
            act => (act.to_string(), vec![]),
        })
        .collect()
}

#[test]
fn making_a_fact_unknown_never_adds_a_step_nor_lets_the_host_be_more() {
    let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/host/trees");
    for name in fs::known_names(&trees).yes().unwrap() {
        let facts = probe_as(&Tree::new(copy_of(name).path()), Scope::Live);
        let whole = plan(&facts, &wanted());
        let known = parts(&whole);
        for (field, blind) in blinded(&facts) {
            let judged = plan(&blind, &wanted());
            for (does, lines) in parts(&judged) {
                let Some((_, allowed)) = known.iter().find(|(other, _)| *other == does) else {
                    panic!("{name} without {field}: {does}");
                };
                assert!(
                    lines.iter().all(|line| allowed.contains(line)),
                    "{name} without {field}: {does} {lines:?}"
                );
            }
            assert!(judged.blocks() >= whole.blocks(), "{name} without {field}");
        }
    }
}

fn fstab_text() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("/swapfile none swap sw 0 0".to_owned()),
        Just("UUID=1-2\tnone\tswap\tsw,pri=5\t0 0\r".to_owned()),
        Just("LABEL=root / ext4 defaults 0 1".to_owned()),
        Just("# swap swap swap".to_owned()),
        Just("//nas/swap /mnt/swap cifs password=swap 0 0".to_owned()),
        "[ -~\t]{0,30}",
    ];
    (proptest::collection::vec(line, 0..8), any::<bool>())
        .prop_map(|(lines, end)| lines.join("\n") + if end { "\n" } else { "" })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn apply_then_revert_is_identity_whatever_the_fstab(fstab in fstab_text(), gpt in any::<bool>(), at in 1_usize..140) {
        let tree = copy_of(VM);
        put(tree.path(), FSTAB, &fstab);
        let mut machine = PlayedMachine::new(tree.path());
        machine.gpt_swap = gpt;
        // The played systemd starts from this fstab, as the real one did at boot.
        run(machine.reload(Reload::Units)).unwrap();
        let before = snapshot(tree.path());
        let mut dying = PlayedMachine::failing(tree.path(), at, Fault::DieAfter);
        dying.gpt_swap = gpt;
        let _ = run(prepare(&mut dying, &wanted()));
        let prepared = run(prepare(&mut machine, &wanted())).unwrap();
        prop_assert_eq!(&prepared.plan.steps, &vec![]);
        run(revert(&mut machine)).unwrap();
        prop_assert_eq!(differences(&snapshot(tree.path()), &before), NONE);
    }
}
