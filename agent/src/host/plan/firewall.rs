//! The firewall of the host: reported, or opened where the configuration says so.

use super::kept::kept_file;
use super::{HostAct, HostWanted, Judged};
use crate::core::Known;
use crate::host::{FIREWALLD_FILES, HostFacts, render};

/// No row where no firewall starts.
pub(super) fn judge(facts: &HostFacts, wanted: &HostWanted) -> Option<Judged> {
    let files = &facts.files;
    let enabled = |unit: &str| match &files.enabled {
        Known::Yes(enabled) => Ok(enabled.contains(unit)),
        Known::Absent => Ok(false),
        Known::Unknown(unread) => Err(unread),
    };
    let firewalld = match enabled("firewalld.service") {
        Ok(firewalld) => firewalld,
        Err(unread) => return Some(Judged::unknown(unread)),
    };
    let ufw = match &files.ufw {
        Known::Yes(()) => true,
        Known::Absent => false,
        Known::Unknown(unread) => return Some(Judged::unknown(unread)),
    };
    let nftables: Vec<&str> = match &files.nftables_drops {
        Known::Yes(drops) if enabled("nftables.service").is_ok_and(|enabled| enabled) => {
            drops.iter().map(String::as_str).collect()
        }
        Known::Yes(_) | Known::Absent => Vec::new(),
        Known::Unknown(unread) => return Some(Judged::unknown(unread)),
    };
    if !ufw && !firewalld && nftables.is_empty() {
        return None;
    }
    let mut judged = Judged::ok("");
    let mut said = Vec::new();
    let opening = wanted.opening.as_ref();
    match opening.filter(|_| wanted.open_firewall) {
        Some(opening) => {
            if firewalld {
                let texts = render::firewalld_policies(opening);
                for ((path, before), text) in FIREWALLD_FILES.iter().zip(&files.firewalld_policies).zip(texts)
                {
                    let one = match before {
                        Known::Unknown(unread) => Judged::unknown(unread),
                        known => kept_file(path, known.yes(), Some(text), facts.owner, None),
                    };
                    add(&mut judged, &mut said, one);
                }
            }
            if ufw {
                add(&mut judged, &mut said, with_ufw(facts, &opening.ufw_rules()));
            }
        }
        None => {
            let names: Vec<&str> = [(ufw, "ufw"), (firewalld, "firewalld")]
                .into_iter()
                .filter_map(|(on, name)| on.then_some(name))
                .collect();
            if !names.is_empty() {
                let next = match opening {
                    Some(opening) => {
                        format!("host.firewall = \"open\", or allow by hand: {}", opening.words())
                    }
                    None => {
                        "allow the ports of docs/host.md and the networks of pods and services".to_owned()
                    }
                };
                add(
                    &mut judged,
                    &mut said,
                    Judged::missing(format!("{} starts at boot", names.join(" and ")), next),
                );
            }
        }
    }
    if !nftables.is_empty() {
        // An accept in a table of ours would not overrule a drop in another.
        let ports = opening.map_or_else(|| "the ports of docs/host.md".to_owned(), super::Opening::words);
        let detail = format!("{} has a chain that drops what it does not know", nftables.join(" and "));
        add(&mut judged, &mut said, Judged::missing(detail, format!("accept there, by hand: {ports}")));
    }
    judged.detail = if said.is_empty() { "open for k3s".to_owned() } else { said.join("; ") };
    Some(judged)
}

/// Puts one judgement into the row's: the worse verdict counts.
fn add(judged: &mut Judged, said: &mut Vec<String>, one: Judged) {
    use super::Verdict;
    if one.verdict != Verdict::Ok {
        said.push(one.detail);
        if judged.verdict != Verdict::Unknown {
            judged.verdict = one.verdict;
        }
    }
    judged.steps.extend(one.steps);
    judged.findings.extend(one.findings);
}

fn with_ufw(facts: &HostFacts, rules: &[String]) -> Judged {
    let there = match &facts.files.ufw_rules {
        Known::Yes(there) => there.clone(),
        Known::Absent => std::collections::BTreeSet::new(),
        Known::Unknown(unread) => return Judged::unknown(unread),
    };
    let lacking: Vec<&String> = rules.iter().filter(|rule| !there.contains(*rule)).collect();
    if lacking.is_empty() {
        return Judged::ok("ufw has every rule");
    }
    let words = lacking.iter().map(|rule| rule.as_str()).collect::<Vec<_>>().join(", ");
    if facts.live.is_none() {
        return Judged::missing(
            format!("ufw lacks {words}"),
            "muster apply adds them on the running machine: ufw cannot be told about an image",
        );
    }
    let steps = lacking.into_iter().map(|rule| HostAct::UfwAllow { rule: rule.clone() }).collect();
    Judged::mended(format!("ufw lacks {words}"), steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::fs;
    use crate::gossip::WantedRole;
    use crate::host::testing::{copy_of, put};
    use crate::host::{Kept, Opening, Scope, Tree, plan, probe_as};

    fn wanted(open_firewall: bool) -> HostWanted {
        let opening = Opening::new(WantedRole::Auto, "vxlan", 7846, &["10.42.0.0/16", "10.43.0.0/16"]);
        HostWanted { opening: Some(opening), open_firewall, ..HostWanted::default() }
    }

    fn row(root: &std::path::Path, wanted: &HostWanted) -> (Vec<String>, Vec<String>) {
        let judged = plan(&probe_as(&Tree::new(root), Scope::Live), wanted);
        let steps =
            judged.steps.iter().filter(|step| step.row == "firewall").map(|step| step.act.to_string());
        let findings = judged.findings.iter().filter(|finding| finding.row == "firewall");
        (steps.collect(), findings.map(|finding| finding.why.detail.to_string()).collect())
    }

    #[test]
    fn a_firewall_is_opened_only_when_asked_and_one_of_nftables_never() {
        let tree = copy_of("debian-12.cloud-vm.by-hand");
        let root = tree.path();
        assert_eq!(row(root, &wanted(true)), (vec![], vec![]));
        put(root, "/etc/ufw/ufw.conf", "ENABLED=yes\n");
        put(root, "/etc/ufw/user.rules", "### tuple ### allow tcp 6443 0.0.0.0/0 any 0.0.0.0/0 in\n");
        put(root, "/etc/ufw/user6.rules", "");
        assert_eq!(row(root, &wanted(false)), (vec![], vec!["ufw starts at boot".to_owned()]));
        let (steps, findings) = row(root, &wanted(true));
        assert_eq!((steps.len(), findings), (6, vec![]));
        assert_eq!(steps[0], "ufw allow 2379:2380/tcp");
        assert!(!steps.contains(&"ufw allow 6443/tcp".to_owned()), "it was allowed already: {steps:?}");

        put(root, "/etc/nftables.conf", "chain i { type filter hook input priority 0; policy drop; }\n");
        put(root, "/etc/systemd/system/sysinit.target.wants/nftables.service", "");
        put(root, "/etc/systemd/system/multi-user.target.wants/firewalld.service", "");
        let (steps, findings) = row(root, &wanted(true));
        assert_eq!(findings, ["/etc/nftables.conf has a chain that drops what it does not know"]);
        assert_eq!(steps[0], "write /etc/firewalld/policies/muster-host.xml");
        assert_eq!(steps.len(), 8);
    }

    #[test]
    fn the_files_of_rhel_and_the_runlevels_of_openrc_are_read() {
        let drops = "table inet f {\n chain i {\n  type filter hook input priority 0; policy drop;\n }\n}\n";
        let rhel = copy_of("rocky-9.minimal.by-hand");
        put(rhel.path(), "/etc/sysconfig/nftables.conf", "include \"/etc/nftables/main.nft\"\n");
        put(rhel.path(), "/etc/nftables/main.nft", drops);
        let said = |root: &std::path::Path| row(root, &wanted(false)).1;
        let named = |file: &str| vec![format!("{file} has a chain that drops what it does not know")];
        assert!(!said(rhel.path()).concat().contains("nftables"), "it is not enabled");
        put(rhel.path(), "/etc/systemd/system/multi-user.target.wants/nftables.service", "");
        assert!(said(rhel.path()).contains(&named("/etc/nftables/main.nft")[0]), "{:?}", said(rhel.path()));

        let alpine = copy_of("alpine-3.20.by-hand");
        put(alpine.path(), "/etc/nftables.nft", drops);
        put(alpine.path(), "/etc/runlevels/boot/hostname", "");
        assert_eq!(said(alpine.path()), Vec::<String>::new());
        put(alpine.path(), "/etc/runlevels/default/nftables", "");
        assert_eq!(said(alpine.path()), named("/etc/nftables.nft"));
        put(alpine.path(), "/etc/runlevels/default/firewalld", "");
        assert_eq!(said(alpine.path())[0], "firewalld starts at boot");
        // Left-overs of another init system start nothing.
        fs::create_directory(&alpine.path().join("usr/lib/systemd/system"), 0o755).unwrap();
        assert_eq!(said(alpine.path()), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_read_opens_nothing() {
        let tree = copy_of("debian-12.cloud-vm.by-hand");
        put(tree.path(), "/etc/ufw/ufw.conf", "ENABLED=yes\n");
        let mut facts = probe_as(&Tree::new(tree.path()), Scope::Live);
        facts.files.ufw_rules = Known::unknown("/etc/ufw/user.rules", "blinded");
        let judged = judge(&facts, &wanted(true)).unwrap();
        assert_eq!((judged.steps.len(), judged.verdict), (0, super::super::Verdict::Unknown));
        let link: Kept = Kept::null_link();
        facts.files.ufw = Known::Absent;
        facts.files.enabled = Known::Yes(["firewalld.service".to_owned()].into());
        facts.files.firewalld_policies = [Known::Yes(link), Known::Absent];
        let judged = judge(&facts, &wanted(true)).unwrap();
        assert_eq!(judged.steps.len(), 1, "a link in the place of the file stays");
    }
}
