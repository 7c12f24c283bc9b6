//! Swap off: now, and at every later boot. Order: swapoff, fstab, units read again, units masked, units read again.

use std::collections::BTreeSet;

use super::{HostAct, Judged, Verdict};
use crate::core::Known;
use crate::host::facts::swap::{FstabLine, device_of, fstab_line, swap_unit};
use crate::host::{Content, FSTAB, FileFacts, HostFacts, Kept, LiveFacts, render};

pub(super) fn judge(facts: &HostFacts) -> Judged {
    let mut said: Vec<String> = Vec::new();
    let mut judged = Judged::ok("");
    if let Some(live) = &facts.live {
        active(live, &mut judged, &mut said);
    }
    let fstab = fstab(facts, &mut judged, &mut said);
    let systemd = facts.files.systemd.yes().is_some();
    if fstab && systemd && facts.live.is_some() {
        judged.steps.push(HostAct::ReloadUnits);
    }
    if systemd && masks(facts, &mut judged, &mut said) && facts.live.is_some() {
        judged.steps.push(HostAct::ReloadUnits);
    } else if let Known::Unknown(unread) = &facts.files.systemd {
        unknown(unread, &mut judged);
    }
    if !said.is_empty() {
        judged.detail = said.join("; ");
        judged.verdict = Verdict::Missing;
    } else if judged.findings.iter().any(|(verdict, ..)| *verdict == Verdict::Unknown) {
        judged.verdict = Verdict::Unknown;
        judged.detail =
            judged.findings.iter().map(|(_, detail, _)| detail.as_str()).collect::<Vec<_>>().join("; ");
    } else {
        judged.detail = "no swap, and nothing that would bring it".into();
    }
    judged
}

fn unknown(unread: &crate::core::Unread, judged: &mut Judged) {
    let next = "mend the cause, or switch the row off with host.skip".to_owned();
    judged.findings.push((Verdict::Unknown, unread.to_string(), next));
}

/// Swap that is on. In a container it is the outer machine's, shown by the shared kernel: not ours to turn off.
fn active(live: &LiveFacts, judged: &mut Judged, said: &mut Vec<String>) {
    let swaps = match &live.swaps {
        Known::Yes(swaps) if !swaps.is_empty() => swaps,
        Known::Yes(_) | Known::Absent => return,
        Known::Unknown(unread) => return unknown(unread, judged),
    };
    let paths: Vec<&str> = swaps.iter().map(|swap| swap.path.as_str()).collect();
    match &live.container {
        Known::Absent => {
            said.push(format!("active on {}", paths.join(", ")));
            judged.steps.extend(
                swaps
                    .iter()
                    .map(|swap| HostAct::SwapOff { path: swap.path.clone(), priority: swap.priority }),
            );
        }
        Known::Yes(manager) => {
            said.push(format!("active on {}, outside this {manager} container", paths.join(", ")));
            judged.findings.push((
                Verdict::Missing,
                format!(
                    "swap on {} belongs to the machine outside this {manager} container",
                    paths.join(", ")
                ),
                "turn it off there if you want it off; k3s runs with it".into(),
            ));
        }
        Known::Unknown(unread) => unknown(unread, judged),
    }
}

/// Lines of type swap, commented out. True when a step was planned.
fn fstab(facts: &HostFacts, judged: &mut Judged, said: &mut Vec<String>) -> bool {
    let kept = match &facts.files.fstab {
        Known::Yes(kept) => kept,
        Known::Absent => return false,
        Known::Unknown(unread) => {
            unknown(unread, judged);
            return false;
        }
    };
    let Kept::File { content, mode, uid, gid } = kept else {
        judged.findings.push((
            Verdict::Unknown,
            format!("{FSTAB} is a symbolic link: something else makes it"),
            "take swap out of what makes it".into(),
        ));
        return false;
    };
    let Some(text) = content.text() else {
        judged.findings.push((
            Verdict::Unknown,
            format!("{FSTAB} is not UTF-8 text"),
            "mend the file; it was not touched".into(),
        ));
        return false;
    };
    let mut swaps = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        match fstab_line(line) {
            FstabLine::Swap(spec) => swaps.push((number + 1, spec, line.trim_end())),
            FstabLine::Nonsense => judged.findings.push((
                Verdict::Unknown,
                format!("line {} of {FSTAB} has fewer than three fields", number + 1),
                "mend the line; it was not touched".into(),
            )),
            FstabLine::Comment | FstabLine::Other => {}
        }
    }
    if swaps.is_empty() {
        return false;
    }
    let named: Vec<String> =
        swaps.iter().map(|(number, spec, _)| format!("line {number} ({spec})")).collect();
    said.push(format!("{FSTAB} has {}", named.join(", ")));
    judged.steps.push(HostAct::PutFile {
        path: FSTAB.into(),
        before: Some(kept.clone()),
        after: Some(Kept::File {
            content: Content::new(render::fstab_without_swap(text)),
            mode: *mode,
            uid: *uid,
            gid: *gid,
        }),
        does: format!("comment out {} of {FSTAB}", named.join(", ")),
        lines: swaps
            .iter()
            .flat_map(|(_, _, line)| [format!("-{line}"), format!("+{}{line}", render::FSTAB_MARK)])
            .collect(),
    });
    true
}

/// Units and zram files that would bring swap back, masked with links to `/dev/null`. True when a step was planned.
fn masks(facts: &HostFacts, judged: &mut Judged, said: &mut Vec<String>) -> bool {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut planned = false;
    match &facts.files.zram {
        Known::Yes(configs) => {
            for config in configs {
                names.extend(
                    config.devices.iter().filter(|d| d.swap).map(|d| swap_unit(&format!("/dev/{}", d.name))),
                );
                // A file that also makes mounted devices stays; the units of its swap devices are masked all the same.
                if config.devices.iter().any(|d| d.swap) && config.devices.iter().all(|d| d.swap) {
                    planned |= mask(&config.override_path, &config.in_etc, judged);
                }
            }
        }
        Known::Absent => {}
        Known::Unknown(unread) => unknown(unread, judged),
    }
    let units = match &facts.files.units {
        Known::Yes(units) => units,
        Known::Absent => return planned,
        Known::Unknown(unread) => {
            unknown(unread, judged);
            return planned;
        }
    };
    names.extend(units.iter().filter(|(_, unit)| unit.wanted).map(|(name, _)| name.clone()));
    names.extend(named_by_fstab(facts));
    let mut masked = Vec::new();
    for name in names {
        let in_etc = units.get(&name).map_or(Known::Absent, |unit| unit.in_etc.clone());
        if mask(&format!("{}/{name}", FileFacts::UNITS), &in_etc, judged) {
            masked.push(name);
        }
    }
    if !masked.is_empty() {
        said.push(format!("started again by {}", masked.join(", ")));
    } else if planned {
        said.push("made by the zram generator".into());
    }
    planned || !masked.is_empty()
}

/// Units that systemd makes of fstab's swap lines, those included that we have commented out: so that the plan is the same
/// whether systemd has read fstab again or not, and a line that a script puts back stays without effect.
fn named_by_fstab(facts: &HostFacts) -> Vec<String> {
    let text = facts.files.fstab.yes().and_then(Kept::text).unwrap_or_default();
    let line = |line| match fstab_line(line) {
        FstabLine::Swap(spec) => Some(swap_unit(&device_of(spec))),
        FstabLine::Comment | FstabLine::Other | FstabLine::Nonsense => None,
    };
    text.lines().filter_map(|text| line(text.strip_prefix(render::FSTAB_MARK).unwrap_or(text))).collect()
}

fn mask(path: &str, in_etc: &Known<Kept>, judged: &mut Judged) -> bool {
    let before = match in_etc {
        Known::Yes(kept) if kept.masks() => return false,
        Known::Yes(kept) => Some(kept.clone()),
        Known::Absent => None,
        Known::Unknown(unread) => {
            unknown(unread, judged);
            return false;
        }
    };
    let lines =
        if before.is_some() { vec!["the file that is there is kept in the journal".into()] } else { vec![] };
    judged.steps.push(HostAct::PutFile {
        path: path.to_owned(),
        before,
        after: Some(Kept::null_link()),
        does: format!("mask {path}"),
        lines,
    });
    true
}
