//! Where a lab keeps its things, and how they are named, so that `down` finds them without any memory.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// Names of namespaces and cgroups of all labs start with this.
pub const MARK: &str = "muster-";
/// Running state of all labs: one directory each.
pub const RUN: &str = "/run/muster-lab";
/// Disks of all labs: one directory each.
pub const WORK: &str = "/var/lib/muster-lab";
/// Root file systems, shared by all labs.
pub const CACHE: &str = "/var/cache/muster-lab";

/// The running state of one lab.
#[must_use]
pub fn run_dir(lab: &str) -> PathBuf {
    PathBuf::from(RUN).join(lab)
}

/// The disks of one lab.
#[must_use]
pub fn work_dir(lab: &str) -> PathBuf {
    PathBuf::from(WORK).join(lab)
}

/// What the names of one lab's namespaces start with. The dot ends it: no lab's prefix is another's beginning.
#[must_use]
pub fn prefix(lab: &str) -> String {
    format!("{MARK}{lab}.")
}

/// Name of the cgroup of one host.
#[must_use]
pub fn cgroup(lab: &str, index: u8) -> String {
    format!("{}{index}", prefix(lab))
}

/// The lab that a namespace or cgroup belongs to, by its name.
#[must_use]
pub fn lab_of(name: &str) -> Option<&str> {
    name.strip_prefix(MARK)?.split_once('.').map(|(lab, _)| lab)
}

/// Refuses names that cannot be part of a file name, a namespace and a cgroup.
///
/// # Errors
/// The name is empty, longer than 40 characters, or holds something else than a-z, 0-9 and `-`.
pub fn check_name(lab: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if lab.is_empty() || lab.len() > 40 || !lab.chars().all(fits) {
        bail!("`{lab}` cannot name a lab: use up to 40 characters of a-z, 0-9 and `-`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_lab_and_no_prefix_contains_another() {
        assert_eq!(lab_of(&cgroup("a-b", 3)), Some("a-b"));
        assert!(!prefix("a-b").starts_with(&prefix("a")));
        assert_eq!(lab_of("lab3"), None);
        assert!(check_name("lab").is_ok() && check_name("a.b").is_err() && check_name("").is_err());
    }
}
