//! For people: one line for each finding. [pure]

use std::fmt::Write;

use crate::core::brief;
use crate::image::{Finding, Sealed, Verified};

/// What verifying says.
#[must_use]
pub fn render_verified(verified: &Verified) -> String {
    let mut text = String::new();
    for finding in &verified.findings {
        let _ = writeln!(text, "{}", line(finding));
    }
    for path in &verified.volatile {
        let _ = writeln!(text, "not looked at: {} (made anew by every boot)", shown(path));
    }
    for row in &verified.kept {
        let _ = writeln!(text, "not looked at: the row {row} (--keep)");
    }
    let root = verified.root.display();
    let _ = match verified.findings.len() {
        0 => writeln!(text, "{root}: clean, it may be copied"),
        1 => writeln!(text, "{root}: refused, 1 finding"),
        many => writeln!(text, "{root}: refused, {many} findings"),
    };
    text
}

/// What sealing did, and what it leaves.
#[must_use]
pub fn render_sealed(sealed: &Sealed) -> String {
    let mut text = String::new();
    for done in &sealed.done {
        let _ = writeln!(text, "{:<8} {} ({})", done.what, shown(&done.path), done.row);
    }
    if sealed.done.is_empty() {
        text.push_str("nothing to remove\n");
    }
    text + &render_verified(&sealed.verified)
}

fn line(finding: &Finding) -> String {
    let more = match finding.more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let Finding { row, class, path, what, next, .. } = finding;
    format!("{} {row}: {}{more}: {}; {next}", class.word(), shown(path), brief(what))
}

/// A path of an image may hold anything, line ends too.
fn shown(path: &std::path::Path) -> String {
    path.to_string_lossy().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
