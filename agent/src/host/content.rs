//! What stands at a path, kept whole so that it can be put back: bytes, mode, owner, or the target of a link.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// Bytes of a file. `Debug` shows the length only: an fstab may hold the password of a network share.
///
/// Serialised as `{"text": …}` when it is UTF-8 and `{"base64": …}` otherwise; that form belongs in the journal alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Content(Vec<u8>);

impl Content {
    /// Takes bytes over.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, when it is UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Written {
    Text(String),
    Base64(String),
}

impl Serialize for Content {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.text() {
            Some(text) => Written::Text(text.to_owned()),
            None => Written::Base64(BASE64.encode(&self.0)),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Text(text) => Ok(Self(text.into_bytes())),
            Written::Base64(text) => BASE64.decode(text).map(Self).map_err(serde::de::Error::custom),
        }
    }
}

/// A file or a symbolic link, with everything needed to put it back. Times and extended attributes are not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kept {
    /// A regular file.
    File {
        /// Its bytes.
        content: Content,
        /// Permission bits.
        mode: u32,
        /// Numeric owner.
        uid: u32,
        /// Numeric group.
        gid: u32,
    },
    /// A symbolic link.
    Link {
        /// Where it points, as written in it.
        target: String,
    },
}

impl Kept {
    /// A link to `/dev/null`: how systemd and the zram generator are told that a unit or a file is switched off.
    #[must_use]
    pub fn null_link() -> Self {
        Kept::Link { target: "/dev/null".into() }
    }

    /// The text of a regular file that is UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Kept::File { content, .. } => content.text(),
            Kept::Link { .. } => None,
        }
    }

    /// Whether it switches a unit off: a link to `/dev/null`, or an empty file.
    #[must_use]
    pub fn masks(&self) -> bool {
        match self {
            Kept::File { content, .. } => content.bytes().is_empty(),
            Kept::Link { target } => target == "/dev/null",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_journal_whatever_they_are_and_debug_does_not_show_them() {
        for bytes in [b"plain\n".to_vec(), vec![0xff, 0, 0x80]] {
            let kept = Kept::File { content: Content::new(bytes), mode: 0o640, uid: 0, gid: 4 };
            let text = serde_json::to_string(&kept).unwrap();
            assert_eq!(serde_json::from_str::<Kept>(&text).unwrap(), kept);
        }
        let secret = Kept::File { content: Content::new("password=hunter2"), mode: 0o600, uid: 0, gid: 0 };
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
