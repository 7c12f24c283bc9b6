//! The forms of a k3s token (`k3s-facts.md` part 1.1): short, full with the CA's hash, and kubeadm's bootstrap form.

use ring::digest::{SHA256, digest};

use crate::core::{CaHash, Secret};

/// A password that k3s would take for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// k3s takes an empty token for none, and a server without one may run alone.
    #[error("a k3s token must not be empty")]
    Empty,
    /// A text that begins with `K10` is always read as the full form.
    #[error("a k3s password must not begin with K10: k3s reads that as a full token")]
    LooksFull,
    /// A server token of bootstrap shape breaks the joins of other servers.
    #[error("a k3s password must not have the shape of a bootstrap token")]
    LooksBootstrap,
    /// k3s trims what it reads from the file, and a line break would cut it.
    #[error("a k3s password must not begin or end with white space, nor hold control characters")]
    Unprintable,
}

/// Checks that a password means itself to k3s.
///
/// # Errors
/// When k3s would read it in another way, or as nothing.
pub fn check_password(password: &Secret) -> Result<(), TokenError> {
    let text = password.expose();
    if text.is_empty() {
        return Err(TokenError::Empty);
    }
    if text.starts_with("K10") {
        return Err(TokenError::LooksFull);
    }
    if is_bootstrap(text) {
        return Err(TokenError::LooksBootstrap);
    }
    if text.trim() != text || text.chars().any(char::is_control) {
        return Err(TokenError::Unprintable);
    }
    Ok(())
}

/// `K10<hash>::server:<password>`: what a server joins with.
#[must_use]
pub fn full_server_token(ca: &CaHash, password: &Secret) -> Secret {
    Secret::new(format!("K10{ca}::server:{}", password.expose()))
}

/// `K10<hash>::node:<password>`: what an agent joins with.
#[must_use]
pub fn full_agent_token(ca: &CaHash, password: &Secret) -> Secret {
    Secret::new(format!("K10{ca}::node:{}", password.expose()))
}

/// The form of a token, without its secret part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenForm {
    /// Nothing but white space: k3s takes it for no token.
    Empty,
    /// A password alone: joins whatever answers.
    Short,
    /// Pins this CA.
    Full {
        /// The pinned CA.
        ca: CaHash,
        /// `server` or `node`.
        user: String,
    },
    /// kubeadm's form: joins agents only.
    Bootstrap,
    /// Begins like a full token and is none.
    Broken,
}

/// A token file as far as it may be told: its form, and the name k3s gives its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFile {
    /// The form.
    pub form: TokenForm,
    /// First 12 hexadecimal characters of the SHA-256 of the password: the name under which k3s keeps its bootstrap data.
    pub password_hash12: String,
}

impl TokenFile {
    /// Reads the content of a token file as k3s does: white space around it is dropped.
    #[must_use]
    pub fn parse(content: &str) -> Self {
        let text = content.trim();
        let (form, password) = read(text);
        let mut password_hash12 = hex::encode(digest(&SHA256, password.as_bytes()));
        password_hash12.truncate(12);
        Self { form, password_hash12 }
    }
}

fn read(text: &str) -> (TokenForm, &str) {
    if text.is_empty() {
        return (TokenForm::Empty, text);
    }
    if let Some(rest) = text.strip_prefix("K10") {
        let Some((hash, credentials)) = rest.split_once("::") else { return (TokenForm::Broken, text) };
        let Ok(ca) = hash.parse::<CaHash>() else { return (TokenForm::Broken, text) };
        if is_bootstrap(credentials) {
            return (TokenForm::Bootstrap, credentials);
        }
        return match credentials.split_once(':') {
            Some((user, password)) if !password.is_empty() => {
                (TokenForm::Full { ca, user: user.to_owned() }, password)
            }
            _ => (TokenForm::Broken, text),
        };
    }
    if is_bootstrap(text) { (TokenForm::Bootstrap, text) } else { (TokenForm::Short, text) }
}

fn is_bootstrap(text: &str) -> bool {
    let part = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
    };
    text.split_once('.').is_some_and(|(id, secret)| part(id, 6) && part(secret, 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca() -> CaHash {
        CaHash::from_digest(&[0xab; 32])
    }

    #[test]
    fn every_form_is_told_apart() {
        let password = Secret::new("0123456789abcdef".into());
        let full = full_server_token(&ca(), &password);
        let hash = "ab".repeat(32);
        let cases = [
            ("", TokenForm::Empty),
            (" \n", TokenForm::Empty),
            ("0123456789abcdef\n", TokenForm::Short),
            (full.expose(), TokenForm::Full { ca: ca(), user: "server".into() }),
            (&format!("K10{hash}::node:x"), TokenForm::Full { ca: ca(), user: "node".into() }),
            (&format!("K10{hash}::node:"), TokenForm::Broken),
            (&format!("K10{hash}"), TokenForm::Broken),
            ("K10abc::server:x", TokenForm::Broken),
            ("abcdef.0123456789abcdef", TokenForm::Bootstrap),
            (&format!("K10{hash}::abcdef.0123456789abcdef"), TokenForm::Bootstrap),
        ];
        for (text, form) in cases {
            assert_eq!(TokenFile::parse(text).form, form, "{text}");
        }
    }

    #[test]
    fn short_and_full_form_of_one_password_have_one_hash() {
        let password = Secret::new("correct-horse-battery".into());
        let short = TokenFile::parse(password.expose());
        let full = TokenFile::parse(full_server_token(&ca(), &password).expose());
        assert_eq!(short.password_hash12, full.password_hash12);
        assert_eq!(short.password_hash12.len(), 12);
    }

    #[test]
    fn passwords_that_k3s_would_misread_are_refused() {
        let check = |text: &str| check_password(&Secret::new(text.into()));
        assert_eq!(check(""), Err(TokenError::Empty));
        assert_eq!(check("K10something"), Err(TokenError::LooksFull));
        assert_eq!(check("abcdef.0123456789abcdef"), Err(TokenError::LooksBootstrap));
        assert_eq!(check("two lines\nof it"), Err(TokenError::Unprintable));
        assert_eq!(check("0123456789abcdef"), Ok(()));
    }
}
