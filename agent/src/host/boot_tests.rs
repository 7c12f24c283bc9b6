//! What the files of ours do at the boot, and rows whose branches no captured host takes.

use std::path::Path;

use super::testing::{PlayedMachine, copy_of, differences, put, snapshot};
use super::*;
use crate::core::Known;
use crate::edge::fs;

const VM: &str = "debian-12.cloud-vm.by-hand";
const NONE: Vec<String> = Vec::new();

fn wanted() -> HostWanted {
    HostWanted { k3s_version: "v1.33.1+k3s1".into(), gossip_port: Some(7846), ..HostWanted::default() }
}

fn plan_of(root: &Path, wanted: &HostWanted) -> HostPlan {
    plan(&probe_as(&Tree::new(root), Scope::Live), wanted)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// How a row stands, with its first finding.
fn row_of(plan: &HostPlan, name: &str) -> Option<(Verdict, String)> {
    let state = plan.rows.iter().find(|row| row.row == name)?;
    Some((state.verdict, state.detail.clone()))
}

/// What a plan writes into a file.
fn written(plan: &HostPlan, file: &str) -> String {
    let text = plan.steps.iter().find_map(|step| match &step.act {
        HostAct::PutFile { path, after: Some(after), .. } if path == file => after.text(),
        _ => None,
    });
    text.unwrap_or_default().to_owned()
}

#[expect(clippy::disallowed_methods, reason = "a played kernel without an entry")]
fn take_away(root: &Path, path: &str) {
    std::fs::remove_dir_all(root.join(&path[1..]))
        .or_else(|_| std::fs::remove_file(root.join(&path[1..])))
        .unwrap();
}

#[test]
fn no_line_of_the_sysctl_file_fails_at_the_boot() {
    let tree = copy_of(VM);
    let root = tree.path();
    let text = written(&plan_of(root, &wanted()), SYSCTL_FILE);
    // Every reader takes this form; busybox neither a leading dash nor, in OpenRC's hands, blanks.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (key, value) = line.split_once('=').unwrap();
        let word =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        assert!(word(key) && !key.starts_with('-') && word(value), "{line}");
    }
    for key in ["net.bridge.bridge-nf-call-iptables=1", "vm.overcommit_memory=1"] {
        assert!(text.lines().any(|line| line == key), "{key}: {text}");
    }
    // Keys that this kernel has not, and that no module of the table brings.
    take_away(root, "/proc/sys/kernel/keys");
    take_away(root, "/proc/sys/vm/overcommit_memory");
    let text = written(&plan_of(root, &wanted()), SYSCTL_FILE);
    assert!(!text.contains("kernel.keys") && !text.contains("overcommit"), "{text}");
    assert!(text.contains("net.bridge.bridge-nf-call-iptables=1"), "its module makes it: {text}");
    for skip in ["module.br_netfilter", "none"] {
        let one = copy_of(VM);
        if skip == "none" {
            // A kernel whose lists know no such module.
            put(
                one.path(),
                "/lib/modules/6.1.0-56-cloud-amd64/modules.dep",
                "kernel/fs/overlayfs/overlay.ko:\n",
            );
            put(one.path(), "/lib/modules/6.1.0-56-cloud-amd64/modules.builtin", "kernel/fs/ext4/ext4.ko\n");
        }
        let asked = HostWanted { skip: [skip.to_owned()].into(), ..wanted() };
        let text = written(&plan_of(one.path(), &asked), SYSCTL_FILE);
        assert!(!text.contains("net.bridge") && text.contains("ip_forward"), "{skip}: {text}");
    }
}

#[test]
fn openrc_reads_sysctl_conf_before_ours_or_after_it_by_its_script() {
    let later = |root: &Path| {
        let judged = plan_of(root, &wanted());
        judged.findings.iter().any(|finding| finding.why.detail.contains("/etc/sysctl.conf"))
    };
    let tree = copy_of("alpine-3.20.by-hand");
    let root = tree.path();
    assert!(later(root), "Alpine's own script reads it last");
    put(root, "/etc/init.d/sysctl", "BSD_sysctl()\n{\n}\nif sysctl -V; then # procps-ng\n");
    assert!(later(root), "no busybox: procps reads it last");
    fs::create_directory(&root.join("sbin"), 0o755).unwrap();
    std::os::unix::fs::symlink("/bin/busybox", root.join("sbin/sysctl")).unwrap();
    assert!(!later(root), "OpenRC's own script reads it first with busybox");
    put(root, "/etc/init.d/sysctl", "for f in /etc/sysctl.d/*.conf; do sysctl -p \"$f\"; done\n");
    assert!(later(root));
}

#[test]
fn ipv6_forwarding_is_asked_for_by_ipv6_and_waits_until_the_default_route_would_stay() {
    const KEY: &str = "sysctl.net.ipv6.conf.all.forwarding";
    let tree = copy_of(VM);
    let root = tree.path();
    put(root, "/proc/sys/net/ipv6/conf/all/forwarding", "0\n");
    assert_eq!(row_of(&plan_of(root, &wanted()), KEY), None);
    assert!(!written(&plan_of(root, &wanted()), SYSCTL_FILE).contains("ipv6"));
    let six = HostWanted { ipv6: true, ..wanted() };
    let sets = |judged: &HostPlan| judged.steps.iter().any(|step| step.row == KEY);
    let line = "net.ipv6.conf.all.forwarding=1";

    let judged = plan_of(root, &six);
    assert!(sets(&judged) && written(&judged, SYSCTL_FILE).contains(line));

    // A default route that a router advertised: the last but one column has RTF_ADDRCONF and RTF_DEFAULT.
    let route = include_str!("../../testdata/host/proc-net-ipv6_route.ra.by-hand.txt");
    put(root, "/proc/net/ipv6_route", route);
    let interface = facts::network::parse_routes6(route).unwrap();
    let interface = &interface.iter().find(|route| route.advertised).unwrap().interface;
    let accept = format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra");
    put(root, &accept, "1\n");
    let judged = plan_of(root, &six);
    assert!(!sets(&judged) && !written(&judged, SYSCTL_FILE).contains("ipv6"));
    let (verdict, detail) = row_of(&judged, KEY).unwrap();
    assert!(verdict == Verdict::Missing && detail.contains("would drop the default route"), "{detail}");
    let (verdict, detail) = row_of(&judged, "ipv6.accept-ra").unwrap();
    assert_eq!(verdict, Verdict::Missing);
    assert_eq!(detail, format!("{interface} learns its default route by advertisement and has accept_ra 1"));

    put(root, &accept, "2\n");
    let judged = plan_of(root, &six);
    assert!(sets(&judged) && written(&judged, SYSCTL_FILE).contains(line));
    assert_eq!(row_of(&judged, "ipv6.accept-ra"), Some((Verdict::Ok, "accept_ra is 2".to_owned())));
}

#[test]
fn the_stricter_of_two_reverse_path_filters_is_named_unless_one_is_loose() {
    let tree = copy_of(VM);
    let root = tree.path();
    let mut facts = probe_as(&Tree::new(root), Scope::Live);
    let interface = facts.live.as_ref().unwrap().route4.yes().unwrap().clone();
    put(root, &format!("/sys/class/net/{interface}/mtu"), "1500\n");
    put(root, &format!("/sys/class/net/{interface}/address"), "52:54:00:12:34:56\n");
    let own = format!("net.ipv4.conf.{interface}.rp_filter");
    for (all, one, verdict, words) in [
        ("0", "0", Verdict::Ok, "not strict"),
        ("1", "0", Verdict::Missing, "net.ipv4.conf.all.rp_filter is 1 (strict)"),
        ("0", "1", Verdict::Missing, &format!("{own} is 1 (strict)")),
        ("1", "1", Verdict::Missing, "net.ipv4.conf.all.rp_filter is 1 (strict)"),
        ("2", "1", Verdict::Ok, "loose"),
        ("1", "2", Verdict::Ok, "loose"),
    ] {
        put(root, "/proc/sys/net/ipv4/conf/all/rp_filter", &format!("{all}\n"));
        put(root, &format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), &format!("{one}\n"));
        let said = row_of(&plan_of(root, &wanted()), "ipv4.rp-filter").unwrap();
        assert_eq!(said, (verdict, words.to_owned()), "{all} {one}");
    }
    // What cannot be read is no answer, unless the other is loose.
    put(root, "/proc/sys/net/ipv4/conf/all/rp_filter", "0\n");
    facts = probe_as(&Tree::new(root), Scope::Live);
    let blind = |facts: &mut HostFacts, value: &str| {
        let live = facts.live.as_mut().unwrap();
        live.sysctls.insert(LiveFacts::RP_FILTER, Known::Yes(value.to_owned()));
        if let Known::Yes(links) = &mut live.links {
            links.get_mut(&interface).unwrap().rp_filter = Known::unknown(own.clone(), "blinded");
        }
    };
    for (all, verdict) in [("0", Verdict::Unknown), ("1", Verdict::Missing), ("2", Verdict::Ok)] {
        blind(&mut facts, all);
        assert_eq!(row_of(&plan(&facts, &wanted()), "ipv4.rp-filter").unwrap().0, verdict, "{all}");
    }
}

#[test]
fn a_kernel_needs_one_of_the_two_iptables_modules() {
    let tree = copy_of(VM);
    let root = tree.path();
    const RELEASE: &str = "/lib/modules/6.1.0-56-cloud-amd64";
    put(root, &format!("{RELEASE}/modules.builtin"), "kernel/fs/ext4/ext4.ko\n");
    for (modules, verdict, words) in [
        ("kernel/net/netfilter/nf_tables.ko:\n", Verdict::Ok, "nf_tables: loaded on demand"),
        ("kernel/net/ipv4/netfilter/ip_tables.ko.xz:\n", Verdict::Ok, "ip_tables: loaded on demand"),
        (
            "kernel/fs/ext4/ext4.ko:\n",
            Verdict::Missing,
            "this kernel has no module nf_tables and none ip_tables",
        ),
    ] {
        put(root, &format!("{RELEASE}/modules.dep"), modules);
        put(root, "/proc/modules", "ext4 1 0 - Live 0x0\n");
        let judged = plan_of(root, &wanted());
        assert_eq!(row_of(&judged, "module.iptables"), Some((verdict, words.to_owned())));
        assert!(judged.steps.iter().all(|step| step.row != "module.iptables"));
    }
    put(root, "/proc/modules", "ip_tables 1 0 - Live 0x0\n");
    let said = row_of(&plan_of(root, &wanted()), "module.iptables");
    assert_eq!(said, Some((Verdict::Ok, "ip_tables: loaded".to_owned())));
}

#[test]
fn the_kubelet_of_1_35_refuses_control_groups_of_version_1() {
    let tree = copy_of(VM);
    let root = tree.path();
    take_away(root, "/sys/fs/cgroup/cgroup.controllers");
    let groups = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t1\t1\t1\ncpu\t2\t1\t1\nmemory\t3\t1\t1\npids\t4\t1\t1\n";
    put(root, "/proc/cgroups", groups);
    for (version, verdict, blocks) in [
        ("v1.34.1+k3s1", Verdict::Ok, Blocks::Nothing),
        ("v1.35.0+k3s1", Verdict::Missing, Blocks::Everything),
        ("v1.36.2+k3s1", Verdict::Missing, Blocks::Everything),
    ] {
        let judged = plan_of(root, &HostWanted { k3s_version: version.into(), ..wanted() });
        assert_eq!(row_of(&judged, "cgroup.version").unwrap().0, verdict, "{version}");
        assert_eq!(judged.blocks(), blocks, "{version}: {:#?}", judged.findings);
    }
    let told = HostWanted {
        k3s_version: "v1.35.0+k3s1".into(),
        skip: ["cgroup.version".to_owned()].into(),
        ..wanted()
    };
    assert_eq!(plan_of(root, &told).blocks(), Blocks::Nothing);
}

/// What an image was prepared with holds on the machine that boots it: only what the running kernel alone knows is done there.
#[test]
fn a_machine_booted_from_a_prepared_image_changes_no_file_that_the_image_could_know() {
    let tree = copy_of(VM);
    let root = tree.path();
    let original = snapshot(root);
    let mut image = LocalMachine::image(root, Path::new("/state"));
    let prepared = run(prepare(&mut image, &wanted())).unwrap();
    assert!(prepared.reports.iter().all(StepReport::succeeded), "{:#?}", prepared.reports);
    let etc = |root: &Path| {
        let mut seen = snapshot(root);
        seen.retain(|name, _| {
            name.starts_with("etc/") && name != "etc/systemd/system" && !name.ends_with(".swap")
        });
        seen
    };
    let known = etc(root);
    for file in ["etc/fstab", "etc/modules-load.d/muster.conf", "etc/sysctl.d/90-muster.conf"] {
        assert_ne!(known.get(file), original.get(file), "{file}: the image is prepared");
    }
    // It boots: systemd's generators find no swap in fstab, and nothing of this kernel is set yet.
    let mut machine = PlayedMachine::new(root);
    run(machine.reload(Reload::Units)).unwrap();
    let booted = snapshot(root);
    let prepared = run(prepare(&mut machine, &wanted())).unwrap();
    assert_eq!(prepared.plan.steps, vec![]);
    assert!(
        prepared.reports.iter().any(|report| report.row.starts_with("sysctl.")),
        "{:#?}",
        prepared.reports
    );
    assert_eq!(differences(&etc(root), &known), NONE);
    assert_ne!(differences(&snapshot(root), &booted), NONE, "the running kernel is prepared");
    // And the journal that came with the image takes both back.
    run(revert(&mut machine)).unwrap();
    run(machine.reload(Reload::Units)).unwrap();
    let mut generated = original.clone();
    generated.retain(|name, _| !name.starts_with("run/"));
    let mut after = snapshot(root);
    after.retain(|name, _| !name.starts_with("run/"));
    assert_eq!(differences(&after, &generated), NONE);
}
