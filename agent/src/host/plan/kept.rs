//! Small files of ours: there with their text, or not there.

use super::{HostAct, Judged, Verdict};
use crate::core::Unread;
use crate::host::{Content, Kept};

/// A file of ours: there with this text, or not there.
pub(super) fn kept_file(
    path: &str,
    before: Option<&Kept>,
    text: Option<String>,
    owner: (u32, u32),
    unread: Option<&Unread>,
) -> Judged {
    let judged = match (before, &text) {
        (None, None) => Judged::ok("nothing to keep"),
        (Some(Kept::File { content, .. }), Some(text)) if content.text() == Some(text.as_str()) => {
            Judged::ok(format!("{path} is as wanted"))
        }
        (Some(Kept::Link { target }), _) => Judged::missing(
            format!("{path} is a symbolic link to {target}"),
            "take the link away, or switch the row off with host.skip",
        ),
        (old, new) => {
            let does = match (old, new) {
                (None, _) => format!("write {path}"),
                (Some(_), Some(_)) => format!("write {path} anew"),
                (Some(_), None) => format!("take away {path}"),
            };
            let mode = match old {
                Some(Kept::File { mode, .. }) => *mode,
                _ => 0o644,
            };
            let after = new.as_ref().map(|text| Kept::File {
                content: Content::new(text.as_bytes()),
                mode,
                uid: owner.0,
                gid: owner.1,
            });
            let lines =
                difference(old.and_then(Kept::text).unwrap_or_default(), new.as_deref().unwrap_or_default());
            let act = HostAct::PutFile {
                path: path.into(),
                before: old.cloned(),
                after,
                does: does.clone(),
                lines,
            };
            Judged::mended(does, vec![act])
        }
    };
    match unread {
        Some(unread) => judged.also(
            Verdict::Unknown,
            unread.to_string(),
            "mend the cause; until then the line stays as it is",
        ),
        None => judged,
    }
}

/// Lines of a small file of ours that go and come.
fn difference(old: &str, new: &str) -> Vec<String> {
    let gone =
        old.lines().filter(|line| !new.lines().any(|other| other == *line)).map(|line| format!("-{line}"));
    let come =
        new.lines().filter(|line| !old.lines().any(|other| other == *line)).map(|line| format!("+{line}"));
    gone.chain(come).collect()
}
