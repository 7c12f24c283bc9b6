//! The cluster token, the tokens of an existing k3s cluster, and what is not one of them.
//!
//! The cluster token is Muster's own secret: keys are derived from it and it never reaches k3s itself. The forms that k3s gives
//! a meaning (a full `K10...` token, a bootstrap token) are refused here, because whoever writes one expects that meaning. No
//! error says anything of the token but its length.

use zeroize::Zeroize;

use crate::core::Secret;

/// Shortest cluster token, in characters. Datagrams sealed with a key from the token can be collected and tried against
/// guesses, so the token itself must be out of reach of guessing.
pub const SHORTEST: usize = 16;

/// Longest token, in bytes: a longer file is not a token.
pub const LONGEST: usize = 1_024;

/// What a worker token begins with.
pub const WORKER_PREFIX: &str = "muster-worker.";

/// A text that is not the token it should be. Nothing was changed; a person must give another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing there but the end of the line.
    #[error("the token is empty; `muster token new` makes one")]
    Empty,
    /// Can be guessed.
    #[error(
        "the token has {found} characters, at least {SHORTEST} are needed to be out of reach of guessing; `muster token new` makes one"
    )]
    Short {
        /// Its length in characters.
        found: usize,
    },
    /// Not a token at all.
    #[error("the token is longer than {LONGEST} bytes: is this the right file?")]
    Long,
    /// Blank, control or non-ASCII character inside: two machines would not read the same token, or k3s would not.
    #[error(
        "the token has {what} at character {at}; only printable ASCII without blanks is allowed, and one line"
    )]
    Character {
        /// Kind of character: `a blank`, `a control character`, `a character outside ASCII`.
        what: &'static str,
        /// Position, counted from 1.
        at: usize,
    },
    /// A full k3s token given as cluster token.
    #[error(
        "this is a full k3s token (K10<CA hash>::user:password): the CA hash of a cluster that does not exist yet cannot be \
         known; to keep the token of an existing cluster name its file as `k3s.token-file`, and give a cluster token beside it"
    )]
    FullForm,
    /// k3s reads everything that begins with K10 as a full token.
    #[error(
        "the token starts with K10 and is not a full k3s token (K10<64 hexadecimal digits>::user:password): k3s takes every \
         token that starts with K10 for a full one"
    )]
    BrokenFullForm,
    /// Six and sixteen characters with a dot between.
    #[error(
        "the token has the shape of a bootstrap token (six characters, a dot, sixteen characters of a-z and 0-9): k3s takes it \
         for one, and such a token cannot join servers"
    )]
    Bootstrap,
    /// A worker token where the cluster token belongs.
    #[error("this is a worker token: the cluster token cannot be had from it")]
    Worker,
    /// A cluster token, or something else, where a worker token belongs.
    #[error("this is not a worker token ({WORKER_PREFIX}<64 hexadecimal digits>)")]
    NotWorker,
    /// The token of k3s agents where the servers' belongs.
    #[error("this is a token of k3s agents (user `node`); servers need the one of user `server`")]
    AgentForm,
}

/// Reads the cluster token: the end of the line is dropped, everything else must be right as it stands.
///
/// # Errors
/// When it is empty, short, long, holds a blank, or has one of the shapes that mean something else.
pub fn parse(text: &str) -> Result<Secret, TokenError> {
    let token = one_line(text)?;
    if token.starts_with("K10") {
        return Err(if full_form(token).is_some() {
            TokenError::FullForm
        } else {
            TokenError::BrokenFullForm
        });
    }
    if is_bootstrap(token) {
        return Err(TokenError::Bootstrap);
    }
    if token.starts_with(WORKER_PREFIX) {
        return Err(TokenError::Worker);
    }
    if token.len() < SHORTEST {
        return Err(TokenError::Short { found: token.len() });
    }
    Ok(Secret::new(token.to_owned()))
}

/// Reads a worker token.
///
/// # Errors
/// When it is anything else.
pub fn parse_worker(text: &str) -> Result<Secret, TokenError> {
    let token = one_line(text)?;
    let digits = token.strip_prefix(WORKER_PREFIX).ok_or(TokenError::NotWorker)?;
    if digits.len() != 64 || !digits.bytes().all(is_lower_hex) {
        return Err(TokenError::NotWorker);
    }
    Ok(Secret::new(token.to_owned()))
}

/// Whose token of an existing k3s cluster is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum K3sUser {
    /// The servers': user `server`.
    Server,
    /// The agents': user `node`, or `server` where the cluster has only one token.
    Agent,
}

/// Reads the token of an existing k3s cluster, short or full, and gives its password part: the two forms are interchangeable
/// to k3s once the CA hash is put in front (`clientaccess.ParseAndValidateToken`).
///
/// # Errors
/// When k3s would read it as something else, or not at all. A short password is the operator's own choice and is taken.
pub fn parse_k3s(text: &str, user: K3sUser) -> Result<Secret, TokenError> {
    let token = one_line(text)?;
    let password = if token.starts_with("K10") {
        let (named, password) = full_form(token).ok_or(TokenError::BrokenFullForm)?;
        if user == K3sUser::Server && named == "node" {
            return Err(TokenError::AgentForm);
        }
        password
    } else {
        token
    };
    if is_bootstrap(password) {
        return Err(TokenError::Bootstrap);
    }
    if password.starts_with("K10") {
        return Err(TokenError::BrokenFullForm);
    }
    Ok(Secret::new(password.to_owned()))
}

/// A new cluster token: 32 random bytes as 64 hexadecimal characters. The bytes are wiped.
#[must_use]
pub fn generate(mut bytes: [u8; 32]) -> Secret {
    let token = Secret::new(hex::encode(bytes));
    bytes.zeroize();
    token
}

fn one_line(text: &str) -> Result<&str, TokenError> {
    let token = text.trim_end_matches(['\n', '\r']);
    if token.is_empty() {
        return Err(TokenError::Empty);
    }
    if token.len() > LONGEST {
        return Err(TokenError::Long);
    }
    for (index, character) in token.chars().enumerate() {
        let what = match character {
            '!'..='~' => continue,
            ' ' => "a blank",
            c if c.is_control() => "a control character",
            _ => "a character outside ASCII",
        };
        return Err(TokenError::Character { what, at: index + 1 });
    }
    Ok(token)
}

/// User and password of `K10<64 hex>::user:password`.
fn full_form(token: &str) -> Option<(&str, &str)> {
    let (hash, rest) = token.strip_prefix("K10")?.split_once("::")?;
    let (user, password) = rest.split_once(':')?;
    let hashed = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    (hashed && !user.is_empty() && !password.is_empty()).then_some((user, password))
}

fn is_bootstrap(token: &str) -> bool {
    let part = |text: &str, length| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    token.split_once('.').is_some_and(|(id, secret)| part(id, 6) && part(secret, 16))
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn each_text_that_is_no_cluster_token_is_refused_with_its_reason() {
        let blank = |what, at| TokenError::Character { what, at };
        let cases = [
            (String::new(), TokenError::Empty),
            ("\n".into(), TokenError::Empty),
            ("\r\n".into(), TokenError::Empty),
            ("fifteen-letters".into(), TokenError::Short { found: 15 }),
            ("x".repeat(1_025), TokenError::Long),
            (format!("K10{HASH}::server:secret"), TokenError::FullForm),
            (format!("K10{HASH}::node:secret\n"), TokenError::FullForm),
            (format!("K10{HASH}"), TokenError::BrokenFullForm),
            (format!("K10{HASH}::server:"), TokenError::BrokenFullForm),
            (format!("K10{HASH}::abcdef.0123456789abcdef"), TokenError::BrokenFullForm),
            (format!("K10{}::server:secret", &HASH[1..]), TokenError::BrokenFullForm),
            ("K10 is how my long token starts".into(), blank("a blank", 4)),
            ("K10-is-how-my-long-token-starts".into(), TokenError::BrokenFullForm),
            ("abcdef.0123456789abcdef".into(), TokenError::Bootstrap),
            ("a token of many words".into(), blank("a blank", 2)),
            (" leading-blank-is-refused".into(), blank("a blank", 1)),
            ("trailing-blank-is-refused ".into(), blank("a blank", 26)),
            ("two-lines-of-token\nof-which-one-is-lost".into(), blank("a control character", 19)),
            ("a-tab-in-the-middle\tof-a-token".into(), blank("a control character", 20)),
            ("a-nul-in-the-middle\0of-a-token".into(), blank("a control character", 20)),
            ("ein-schönes-langes-wort".into(), blank("a character outside ASCII", 8)),
            ("\u{feff}byte-order-mark-first".into(), blank("a character outside ASCII", 1)),
            (format!("{WORKER_PREFIX}{HASH}"), TokenError::Worker),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse(&text), Err(wanted), "{text:?}");
        }
    }

    #[test]
    fn a_token_is_taken_as_it_stands_without_its_line_end() {
        for text in ["sixteen-letters!", "sixteen-letters!\n", "sixteen-letters!\r\n", "sixteen-letters!\n\n"]
        {
            assert_eq!(parse(text).unwrap().expose(), "sixteen-letters!");
        }
        // Nearly a bootstrap token is not one.
        assert!(parse("abcdeF.0123456789abcdef").is_ok());
        assert!(parse("abcdef.0123456789abcdef0").is_ok());
    }

    #[test]
    fn a_new_token_is_one_and_shows_all_its_bytes() {
        let token = generate([0xab; 32]);
        assert_eq!(token.expose(), "ab".repeat(32));
        assert_eq!(parse(token.expose()), Ok(token));
    }

    #[test]
    fn of_an_existing_k3s_token_the_password_is_kept() {
        let full = |user: &str| format!("K10{HASH}::{user}:pass:word\n");
        for (text, user, wanted) in [
            ("12345\n".to_owned(), K3sUser::Server, Ok("12345")),
            (full("server"), K3sUser::Server, Ok("pass:word")),
            (full("server"), K3sUser::Agent, Ok("pass:word")),
            (full("node"), K3sUser::Agent, Ok("pass:word")),
            (full("node"), K3sUser::Server, Err(TokenError::AgentForm)),
            ("K10abc".into(), K3sUser::Server, Err(TokenError::BrokenFullForm)),
            (format!("K10{HASH}::server:K10x"), K3sUser::Server, Err(TokenError::BrokenFullForm)),
            ("abcdef.0123456789abcdef".into(), K3sUser::Agent, Err(TokenError::Bootstrap)),
            (
                format!("K10{HASH}::server:abcdef.0123456789abcdef"),
                K3sUser::Server,
                Err(TokenError::Bootstrap),
            ),
            (String::new(), K3sUser::Server, Err(TokenError::Empty)),
        ] {
            let found = parse_k3s(&text, user);
            assert_eq!(found.as_ref().map(Secret::expose).map_err(Clone::clone), wanted, "{text:?}");
        }
    }

    #[test]
    fn only_a_worker_token_is_a_worker_token() {
        assert!(parse_worker(&format!("{WORKER_PREFIX}{HASH}\n")).is_ok());
        for text in
            ["sixteen-letters!", "muster-worker.12", &format!("{WORKER_PREFIX}{}", HASH.to_uppercase())]
        {
            assert_eq!(parse_worker(text), Err(TokenError::NotWorker));
        }
    }

    proptest! {
        #[test]
        fn no_error_shows_the_token(canary in "[a-z0-9]{8}[ -~]{0,40}", front in "(|K10|K10[0-9a-f]{64}::server:| )") {
            let text = format!("{front}{canary}");
            let shown = |error: TokenError| format!("{error} {error:?}");
            for said in [
                parse(&text).map_err(shown),
                parse_k3s(&text, K3sUser::Server).map_err(shown),
                parse_worker(&text).map_err(shown),
            ] {
                match said {
                    Ok(secret) => prop_assert_eq!(format!("{:?}", secret), "***"),
                    Err(said) => prop_assert!(!said.contains(&canary)),
                }
            }
        }
    }
}
