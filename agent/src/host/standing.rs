//! Where a change stands, asked of the host itself: what every crash is settled by.

use crate::core::Known;
use crate::host::facts::firewall::parse_ufw;
use crate::host::facts::sysctl::{key_path, plain};
use crate::host::facts::{kernel, swap};
use crate::host::probe::package_there;
use crate::host::{Change, Tree};

/// Where a thing stands between the two ends of its change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// As before the change.
    Before,
    /// As after it.
    After,
    /// As neither.
    Foreign,
    /// Could not be told.
    Unknown(String),
}

pub(super) fn standing(tree: &Tree, change: &Change) -> Standing {
    match change {
        Change::File { path, before, after } => match tree.look(path) {
            Ok(now) if now == *after => Standing::After,
            Ok(now) if now == *before => Standing::Before,
            Ok(_) => Standing::Foreign,
            Err(error) => Standing::Unknown(error.chain()),
        },
        Change::Directory { path } => told(tree.there(path), |()| Standing::After, Standing::Before),
        Change::Swap { path, .. } => told(
            tree.text("/proc/swaps"),
            |text| match swap::parse_swaps(&text) {
                Ok(swaps) if swaps.iter().any(|swap| swap.path == *path) => Standing::Before,
                Ok(_) => Standing::After,
                Err(cause) => Standing::Unknown(cause),
            },
            Standing::After,
        ),
        Change::Module { name } => told(
            tree.text("/proc/modules"),
            |text| {
                if kernel::parse_modules(&text).contains(name) { Standing::After } else { Standing::Before }
            },
            Standing::Before,
        ),
        Change::Package { package, .. } => {
            told(package_there(tree, *package), |()| Standing::After, Standing::Before)
        }
        Change::Ufw { rule } => {
            // Each rule stands in the file of its family, or in both.
            let v4 = tree.text("/etc/ufw/user.rules").map(|text| parse_ufw(&text).contains(rule));
            let v6 = tree.text("/etc/ufw/user6.rules").map(|text| parse_ufw(&text).contains(rule));
            match (v4, v6) {
                (Known::Yes(true), _) | (_, Known::Yes(true)) => Standing::After,
                (Known::Unknown(unread), _) | (_, Known::Unknown(unread)) => {
                    Standing::Unknown(unread.to_string())
                }
                _ => Standing::Before,
            }
        }
        Change::Sysctl { key, before, after } => told(
            tree.text(&format!("/proc/sys/{}", key_path(key))),
            |value| match plain(&value) {
                value if value == plain(after) => Standing::After,
                value if value == plain(before) => Standing::Before,
                _ => Standing::Foreign,
            },
            // The key went with its module: nothing of ours is left.
            Standing::Before,
        ),
    }
}

fn told<T>(known: Known<T>, yes: impl FnOnce(T) -> Standing, absent: Standing) -> Standing {
    match known {
        Known::Yes(value) => yes(value),
        Known::Absent => absent,
        Known::Unknown(unread) => Standing::Unknown(unread.to_string()),
    }
}
