//! One HTTP client for everybody: a deadline on every call, a bound on every body, redirects off, and trust that is said
//! aloud at each call.
//!
//! A request names whom it trusts ([`Trust`]) and what it shows (a client certificate, a password, or nothing). Clients are
//! kept by trust and identity, so that a tick does not shake hands again; when certificates on disk change, the next request
//! carries other bytes and gets another client.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io::ErrorKind;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Identity, Method, redirect};

use crate::core::{Secret, brief};

/// Clients kept at once; a node talks to itself and to a handful of peers.
const KEPT_CLIENTS: usize = 16;

/// Who may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Anyone: only for what is hashed and compared afterwards, and never with a password.
    Anyone,
    /// A server whose certificate was signed by one of these (PEM) and names the address asked.
    Only(Vec<u8>),
}

/// A client certificate with its key, PEM, in one text. Not printed.
#[derive(Clone)]
pub struct ClientCertificate(Secret);

impl ClientCertificate {
    /// Joins the two files.
    #[must_use]
    pub fn new(certificate: &str, key: &Secret) -> Self {
        Self(Secret::new(format!("{certificate}\n{}", key.expose())))
    }
}

/// What is shown to the server.
#[derive(Clone, Copy)]
pub enum Show<'a> {
    /// Nothing.
    Nothing,
    /// A client certificate.
    Certificate(&'a ClientCertificate),
    /// HTTP basic authentication.
    Password {
        /// User name.
        user: &'a str,
        /// Password.
        password: &'a Secret,
    },
}

/// One request.
pub struct Ask<'a> {
    /// Whole URL, without secrets.
    pub url: &'a str,
    /// Who may answer.
    pub trust: &'a Trust,
    /// What is shown.
    pub show: Show<'a>,
    /// Bound on the whole exchange.
    pub deadline: Duration,
    /// Most bytes of body that are taken.
    pub most_bytes: usize,
}

const JSON: &str = "application/json";

/// How something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// A new thing in a collection.
    Create,
    /// The whole thing anew.
    Replace,
    /// These fields alone; a null removes one.
    Merge,
}

/// What came back, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text, for people: one line, at most its first 200 characters.
    #[must_use]
    pub fn excerpt(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.body).trim().chars().take(200).collect();
        brief(&text)
    }
}

/// A request without an answer. Nothing is known about the server, except in [`HttpError::Refused`].
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nothing listens there (the machine itself said so).
    #[error("nothing listens at {url}")]
    Refused {
        /// What was asked.
        url: String,
    },
    /// No whole answer in time.
    #[error("no answer from {url} within {} ms", deadline.as_millis())]
    Deadline {
        /// What was asked.
        url: String,
        /// The bound.
        deadline: Duration,
    },
    /// The server's certificate is not one that was asked for, or ours was not wanted.
    #[error("TLS with {url} failed: {cause}")]
    Tls {
        /// What was asked.
        url: String,
        /// The TLS library's words.
        cause: String,
    },
    /// The certificate, key or authority given to this call cannot be used.
    #[error("cannot prepare a request to {url}: {cause}")]
    Prepare {
        /// What was to be asked.
        url: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The body is longer than anything expected there.
    #[error("the answer of {url} is longer than {most_bytes} bytes")]
    TooLong {
        /// What was asked.
        url: String,
        /// The bound.
        most_bytes: usize,
    },
    /// Anything else between here and there.
    #[error("no answer from {url}: {cause}")]
    Other {
        /// What was asked.
        url: String,
        /// The innermost cause.
        cause: String,
        /// Whether the connection, with its TLS, stood before.
        connected: bool,
    },
}

impl HttpError {
    /// Whether a process at the other end that showed a certificate of those trusted was there, if not with an answer: it speaks
    /// another protocol than HTTP. A machine that is only reachable, its processes stopped, says nothing, and a word from before its
    /// certificate is anybody's.
    #[must_use]
    pub fn spoke(&self) -> bool {
        match self {
            HttpError::Other { connected, .. } => *connected,
            HttpError::TooLong { .. } => true,
            HttpError::Refused { .. }
            | HttpError::Deadline { .. }
            | HttpError::Tls { .. }
            | HttpError::Prepare { .. } => false,
        }
    }
}

/// The clients in use, by what they trust and show.
#[derive(Default)]
pub struct Http {
    kept: Mutex<HashMap<[u8; 32], Client>>,
}

impl Http {
    /// No client yet; they are made at the first request that needs them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// GET.
    ///
    /// # Errors
    /// When there is no whole answer; an answer with any status is not an error.
    pub async fn get(&self, ask: &Ask<'_>) -> Result<Answer, HttpError> {
        self.send(Method::GET, ask, None).await
    }

    /// POST or PUT with a JSON body, or PATCH with a merge patch.
    ///
    /// # Errors
    /// As [`Http::get`]; whether anything was written is then unknown.
    pub async fn write(&self, write: Write, ask: &Ask<'_>, body: Vec<u8>) -> Result<Answer, HttpError> {
        let (method, kind) = match write {
            Write::Create => (Method::POST, JSON),
            Write::Replace => (Method::PUT, JSON),
            Write::Merge => (Method::PATCH, "application/merge-patch+json"),
        };
        self.send(method, ask, Some((kind, body))).await
    }

    /// DELETE with a JSON body.
    ///
    /// # Errors
    /// As [`Http::get`]; whether the thing was deleted is then unknown.
    pub async fn delete(&self, ask: &Ask<'_>, body: Vec<u8>) -> Result<Answer, HttpError> {
        self.send(Method::DELETE, ask, Some((JSON, body))).await
    }

    async fn send(
        &self,
        method: Method,
        ask: &Ask<'_>,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<Answer, HttpError> {
        let client = self.client(ask)?;
        let mut request = client.request(method, ask.url).timeout(ask.deadline);
        if let Show::Password { user, password } = ask.show {
            request = request.basic_auth(user, Some(password.expose()));
        }
        if let Some((kind, body)) = body {
            request = request.header("content-type", kind).body(body);
        }
        let fail = |error: reqwest::Error| why_failed(ask.url, ask.deadline, &error);
        let mut response = request.send().await.map_err(fail)?;
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(fail)? {
            if bytes.len() + chunk.len() > ask.most_bytes {
                return Err(HttpError::TooLong { url: ask.url.to_owned(), most_bytes: ask.most_bytes });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body: bytes })
    }

    fn client(&self, ask: &Ask<'_>) -> Result<Client, HttpError> {
        let prepare = |cause: String| HttpError::Prepare { url: ask.url.to_owned(), cause };
        if matches!((ask.trust, ask.show), (Trust::Anyone, Show::Password { .. })) {
            return Err(prepare("a password is not shown to a server that was not verified".into()));
        }
        let key = client_key(ask);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = kept.get(&key) {
            return Ok(client.clone());
        }
        let mut builder =
            plain_builder().no_proxy().redirect(redirect::Policy::none()).pool_max_idle_per_host(1);
        builder = match ask.trust {
            Trust::Anyone => builder.tls_danger_accept_invalid_certs(true),
            Trust::Only(pem) => {
                let roots = Certificate::from_pem_bundle(pem).map_err(|error| prepare(innermost(&error)))?;
                if roots.is_empty() {
                    return Err(prepare("the authority's file holds no certificate".into()));
                }
                builder.tls_certs_only(roots)
            }
        };
        if let Show::Certificate(ClientCertificate(pem)) = ask.show {
            let identity =
                Identity::from_pem(pem.expose().as_bytes()).map_err(|error| prepare(innermost(&error)))?;
            builder = builder.identity(identity);
        }
        let client = builder.build().map_err(|error| prepare(innermost(&error)))?;
        if kept.len() >= KEPT_CLIENTS {
            kept.clear();
        }
        kept.insert(key, client.clone());
        Ok(client)
    }
}

/// A client builder with the TLS provider installed: reqwest is built without one.
pub(crate) fn plain_builder() -> ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error means that somebody installed one already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Client::builder().connect_timeout(Duration::from_secs(10))
}

fn client_key(ask: &Ask<'_>) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    match ask.trust {
        Trust::Anyone => context.update(b"anyone"),
        Trust::Only(pem) => {
            context.update(b"only");
            context.update(&pem.len().to_be_bytes());
            context.update(pem);
        }
    }
    if let Show::Certificate(ClientCertificate(pem)) = ask.show {
        context.update(b"identity");
        context.update(pem.expose().as_bytes());
    }
    let mut key = [0_u8; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

/// The library's error in our words. It may carry the URL, never a header.
pub(crate) fn why_failed(url: &str, deadline: Duration, error: &reqwest::Error) -> HttpError {
    let url = url.to_owned();
    if error.is_timeout() {
        return HttpError::Deadline { url, deadline };
    }
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return HttpError::Tls { url, cause: tls.to_string() };
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            if io.kind() == ErrorKind::ConnectionRefused {
                return HttpError::Refused { url };
            }
            // An I/O error hides what it wraps from the chain of sources, another one of its kind too.
            if let Some(inner) = io.get_ref() {
                next = Some(inner);
                continue;
            }
        }
        next = cause.source();
    }
    HttpError::Other { url, cause: innermost(error), connected: !error.is_connect() }
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
