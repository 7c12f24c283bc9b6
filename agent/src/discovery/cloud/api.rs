//! How APIs are asked: requests, their failures in words, tokens with their lives, and pages.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::{Failure, Wall};
use crate::config::{CloudSettings, TokenText, read_token};
use crate::core::{Secret, brief};
use crate::edge::clock;
use crate::edge::web::{Call, Reply, Web};

/// Longest time for one exchange with an API, and with the metadata service on the link.
const PATIENCE: Duration = Duration::from_secs(8);
const LINK_PATIENCE: Duration = Duration::from_secs(3);
/// Most bytes of one answer.
const MOST_BYTES: usize = 8 << 20;
/// Pages of one list; a group that is larger has other problems.
pub(super) const MOST_PAGES: usize = 20;
/// A token that ends within this time is not used any more.
const MARGIN: Duration = Duration::from_secs(20);
/// How long a server that is asked too often is left alone when it does not say itself.
const THROTTLED: Duration = Duration::from_secs(30);
/// Where metadata services are.
pub(super) const METADATA: &str = "http://169.254.169.254";

/// How APIs are asked.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) web: Arc<Web>,
    pub(super) wall: Arc<Wall>,
}

/// A request, as a cloud's file writes it.
pub(super) struct Request<'a> {
    /// What is asked, for errors: `DescribeInstances`.
    pub(super) what: &'a str,
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: Vec<(&'a str, &'a str)>,
    pub(super) secrets: Vec<(&'a str, &'a Secret)>,
    pub(super) body: Option<Vec<u8>>,
}

impl<'a> Request<'a> {
    pub(super) fn get(what: &'a str, url: String) -> Self {
        let (headers, secrets) = (vec![("accept", "application/json")], Vec::new());
        Self { what, method: Method::GET, url, headers, secrets, body: None }
    }
}

impl Api {
    /// Sends it; any status is an answer.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let near = request.url.starts_with(METADATA);
        let call = Call {
            method: request.method.clone(),
            url: &request.url,
            headers: &request.headers,
            secrets: &request.secrets,
            body: request.body.clone(),
            deadline: if near { LINK_PATIENCE } else { PATIENCE },
            most_bytes: MOST_BYTES,
        };
        self.web.call(&call).await.map_err(|error| Failure::new(format!("{}: {error}", request.what)))
    }

    /// Sends it and takes only success for an answer.
    pub(super) async fn ask(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        accept(request.what, self.send(request).await?)
    }

    pub(super) async fn json(&self, request: &Request<'_>) -> Result<Value, Failure> {
        let reply = self.ask(request).await?;
        read_json(request.what, &reply)
    }
}

pub(super) fn read_json(what: &str, reply: &Reply) -> Result<Value, Failure> {
    // The body is not quoted: it may hold a credential.
    serde_json::from_slice(&reply.body).map_err(|_| Failure::new(format!("{what}: the answer is not JSON")))
}

/// Success, or a failure in words: by status, with the server's own code and never its whole answer, which may repeat what was sent.
pub(super) fn accept(what: &str, reply: Reply) -> Result<Reply, Failure> {
    if (200..300).contains(&reply.status) {
        return Ok(reply);
    }
    let said = said(&reply.body).map(|said| format!(" ({said})")).unwrap_or_default();
    let throttled = matches!(reply.status, 429 | 503)
        || ["RequestLimitExceeded", "Throttling"].iter().any(|word| said.contains(word))
        || reason(&reply.body).as_deref() == Some("rateLimitExceeded");
    if throttled {
        let again = Some(reply.retry_after().unwrap_or(THROTTLED));
        let cause = format!("{what}: asked too often{said}");
        return Err(Failure { again, ..Failure::new(cause) });
    }
    Err(Failure::new(match reply.status {
        401 | 403 => format!("{what}: not permitted, status {}{said}", reply.status),
        status => format!("{what}: status {status}{said}"),
    }))
}

/// The code or message in an error of an API: JSON in the usual forms, or AWS's XML.
pub(super) fn said(body: &[u8]) -> Option<String> {
    if let Ok(json) = serde_json::from_slice::<Value>(body) {
        let places = ["/error/message", "/error/code", "/error_description", "/message", "/id", "/error"];
        // OpenStack names its errors: `{"forbidden": {"message": ...}}`.
        let named = || json.as_object()?.values().find_map(|error| error.get("message")?.as_str());
        let found = places.iter().find_map(|place| json.pointer(place)?.as_str()).or_else(named);
        return found.map(|text| brief(text).chars().take(200).collect());
    }
    let text = std::str::from_utf8(body).ok()?;
    let document = roxmltree::Document::parse(text).ok()?;
    let code = document.descendants().find(|node| node.tag_name().name() == "Code")?;
    code.text().map(|text| brief(text).chars().take(80).collect())
}

/// Google's reason for an error, which stands beside the message: a limit on the rate comes with the status of a missing permission.
fn reason(body: &[u8]) -> Option<String> {
    let json: Value = serde_json::from_slice(body).ok()?;
    json.pointer("/error/errors/0/reason")?.as_str().map(str::to_owned)
}

/// A token with its life.
#[derive(Default)]
pub(super) struct Kept(Option<(Secret, Duration)>);

impl Kept {
    pub(super) fn good(&self) -> Option<Secret> {
        let (token, until) = self.0.as_ref()?;
        (clock::since_boot() + MARGIN < *until).then(|| token.clone())
    }

    pub(super) fn keep(&mut self, token: Secret, life: Duration) -> Secret {
        self.0 = Some((token.clone(), clock::since_boot() + life));
        token
    }

    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

/// The secret in a file, read at each look: it is replaced without a restart.
pub(super) async fn secret_file(settings: &CloudSettings) -> Result<Secret, Failure> {
    let Some(path) = settings.token_file.clone() else {
        return Err(Failure::new("no token file is configured"));
    };
    let shown = path.display().to_string();
    let fail = |cause: String| Failure::new(format!("{shown}: {cause}"));
    match tokio::task::spawn_blocking(move || read_token(&path)).await {
        Ok(TokenText::Text(text)) if !text.trim().is_empty() => Ok(Secret::new(text.trim().to_owned())),
        Ok(TokenText::Text(_)) => Err(fail("it is empty".to_owned())),
        Ok(TokenText::Absent) => Err(fail("it is not there".to_owned())),
        Ok(TokenText::Open(mode)) => {
            Err(fail(format!("every user can read or replace it (mode {mode:o}): chmod 600")))
        }
        Ok(TokenText::Unreadable(error)) => Err(fail(error.to_string())),
        Err(error) => Err(fail(error.to_string())),
    }
}

/// `Bearer` with a token, as a header's secret value.
pub(super) fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.expose()))
}

pub(super) fn text<'a>(value: &'a Value, place: &str) -> Option<&'a str> {
    value.pointer(place)?.as_str()
}

pub(super) fn items<'a>(value: &'a Value, place: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(place).and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn ip(value: &Value, place: &str) -> Option<IpAddr> {
    text(value, place)?.parse().ok()
}

/// Percent-encoding as RFC 3986 has it: everything but unreserved characters.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            use std::fmt::Write as _;
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The base of an API, without a slash at its end.
pub(super) fn base<'a>(configured: &'a Option<String>, usual: &'a str) -> &'a str {
    configured.as_deref().unwrap_or(usual)
}

/// A page that a server points to; only at the same place, for the token goes with it.
pub(super) fn next_page(base: &str, next: Option<&str>) -> Result<Option<String>, Failure> {
    match next {
        None | Some("") => Ok(None),
        Some(next) => {
            // What the page's host is followed by must not be more host.
            let same = next.strip_prefix(base).is_some_and(|rest| rest.starts_with(['/', '?']));
            if same {
                Ok(Some(next.to_owned()))
            } else {
                Err(Failure::new("the next page is at another server"))
            }
        }
    }
}

/// More pages than anybody has.
pub(super) fn endless(what: &str) -> Failure {
    Failure::new(format!("{what}: the list has no end ({MOST_PAGES} pages)"))
}
