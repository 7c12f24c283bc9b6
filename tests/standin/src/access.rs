//! A client of another server's supervisor: trust in its CA, credentials from the token, errors in the words of Go's
//! HTTP client, because those are what operators and hazard tables match on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Certificate, Client, Identity, Method, Response};
use serde_json::Value;

use crate::logs;
use crate::token::{self, Credentials, Token};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Validated access to one server.
#[derive(Clone)]
pub struct Access {
    /// `https://host:port`.
    pub base: String,
    /// CA bundle the server showed, PEM.
    pub ca_pem: Vec<u8>,
    token: Token,
    user: String,
    certificate: Option<(PathBuf, PathBuf)>,
}

/// What modifies a validation.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// User that replaces the token's.
    pub user: Option<&'a str>,
    /// A CA file used instead of the download, if it exists and the token's hash does not contradict it.
    pub ca_file: Option<&'a Path>,
    /// Client certificate and key, used if they exist.
    pub certificate: Option<(&'a Path, &'a Path)>,
}

fn builder() -> reqwest::ClientBuilder {
    Client::builder().no_proxy().timeout(TIMEOUT).connect_timeout(TIMEOUT)
}

/// A client that trusts only this bundle and shows this certificate if it can be read.
///
/// # Errors
/// When the bundle holds no certificate.
pub fn client(
    ca_pem: &[u8],
    certificate: Option<(&Path, &Path)>,
    timeout: Duration,
) -> Result<Client, String> {
    let roots = Certificate::from_pem_bundle(ca_pem).map_err(|e| format!("not a CA bundle: {e}"))?;
    let mut builder = builder().tls_certs_only(roots).timeout(timeout);
    if let Some((certificate, key)) = certificate
        && let (Ok(mut text), Ok(key)) = (std::fs::read(certificate), std::fs::read(key))
    {
        text.extend_from_slice(&key);
        if let Ok(identity) = Identity::from_pem(&text) {
            builder = builder.identity(identity);
        }
    }
    builder.build().map_err(|e| format!("cannot make a TLS client: {e}"))
}

/// A request's failure in Go's words.
pub fn go_failure(method: &str, url: &str, error: &reqwest::Error) -> String {
    format!("{method} \"{url}\": {}", cause(error))
}

/// The innermost cause in Go's words.
pub fn cause(error: &reqwest::Error) -> String {
    let host = error.url().map(|u| {
        let port = u.port_or_known_default().unwrap_or(443);
        crate::network::join(u.host_str().unwrap_or_default().trim_matches(['[', ']']), port)
    });
    let host = host.unwrap_or_default();
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut innermost = error.to_string();
    while let Some(e) = at {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return format!("tls: failed to verify certificate: {}", x509(tls));
        }
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            if let Some(tls) = io.get_ref().and_then(|i| i.downcast_ref::<rustls::Error>()) {
                return format!("tls: failed to verify certificate: {}", x509(tls));
            }
            match io.kind() {
                std::io::ErrorKind::ConnectionRefused => {
                    return format!("dial tcp {host}: connect: connection refused");
                }
                std::io::ErrorKind::HostUnreachable => {
                    return format!("dial tcp {host}: connect: no route to host");
                }
                std::io::ErrorKind::UnexpectedEof => return "EOF".to_owned(),
                std::io::ErrorKind::ConnectionReset => {
                    return format!("read tcp {host}: read: connection reset by peer");
                }
                std::io::ErrorKind::NetworkUnreachable => {
                    return format!("dial tcp {host}: connect: network is unreachable");
                }
                _ => {}
            }
        }
        innermost = e.to_string();
        at = e.source();
    }
    if error.is_timeout() {
        return "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned();
    }
    innermost
}

fn x509(error: &rustls::Error) -> String {
    use rustls::CertificateError as C;
    match error {
        rustls::Error::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        rustls::Error::InvalidCertificate(
            C::Expired | C::NotValidYet | C::ExpiredContext { .. } | C::NotValidYetContext { .. },
        ) => "x509: certificate has expired or is not yet valid".to_owned(),
        rustls::Error::InvalidCertificate(C::NotValidForNameContext { expected, presented }) => {
            format!("x509: certificate is valid for {}, not {}", presented.join(", "), expected.to_str())
        }
        other => other.to_string(),
    }
}

/// The body of a good answer, or the text k3s makes of a bad one.
///
/// # Errors
/// `message` of a Status object, else `<url>: <status line>`.
pub async fn body(url: &str, response: Response) -> Result<Vec<u8>, String> {
    let status = response.status();
    let bytes = response.bytes().await.map_err(|e| cause(&e))?;
    if status.is_success() {
        return Ok(bytes.to_vec());
    }
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) if value["kind"] == "Status" => {
            Err(value["message"].as_str().unwrap_or_default().to_owned())
        }
        _ => Err(format!("{url}: {status}")),
    }
}

impl Access {
    /// Parses the token, fetches and checks the server's CA. The operating system's trust store is not consulted.
    ///
    /// # Errors
    /// The texts of k3s: bad token, `only https:// URLs are supported`, `failed to get CA certs`,
    /// `CA cert validation failed`, `token CA hash does not match the Cluster CA certificate hash`.
    pub async fn validate(server: &str, text: &str, options: Options<'_>) -> Result<Self, String> {
        let token = Token::parse(text)?;
        let user = match (&options.user, &token.credentials) {
            (Some(user), _) => (*user).to_owned(),
            (None, Credentials::Basic { user, .. }) => user.clone(),
            (None, Credentials::Bootstrap(_)) => String::new(),
        };
        let base = server.trim_end_matches('/').to_owned();
        if !base.starts_with("https://") {
            return Err(format!("only https:// URLs are supported, invalid scheme: {server}"));
        }
        let mut ca_hash = token.ca_hash.clone();
        let local = options.ca_file.and_then(|file| std::fs::read(file).ok());
        let local = local.and_then(|pem| token::ca_hash(&pem).ok().map(|hash| (pem, hash)));
        let ca_pem = match local {
            Some((pem, hash)) if ca_hash.is_empty() || ca_hash == hash => {
                ca_hash = hash;
                pem
            }
            _ => fetch_ca(&base).await?,
        };
        if ca_hash.is_empty() {
            logs::warn(
                "Cluster CA certificate is not trusted by the host CA bundle, but the token does not include a CA \
                 hash. Use the full token from the server's node-token file to enable Cluster CA validation.",
            );
        } else {
            let found = token::ca_hash(&ca_pem).unwrap_or_default();
            if found != ca_hash {
                return Err(format!(
                    "token CA hash does not match the Cluster CA certificate hash: {ca_hash} != {found}"
                ));
            }
        }
        let certificate = options.certificate.map(|(c, k)| (c.to_owned(), k.to_owned()));
        Ok(Self { base, ca_pem, token, user, certificate })
    }

    /// The password in the token; empty for a bootstrap token.
    pub fn password(&self) -> &str {
        self.token.password().unwrap_or_default()
    }

    /// The token in full form.
    ///
    /// # Errors
    /// When the CA cannot be hashed.
    pub fn full_token(&self) -> Result<String, String> {
        match &self.token.credentials {
            Credentials::Basic { password, .. } => {
                token::full(&format!("{}:{password}", self.user), &self.ca_pem)
            }
            Credentials::Bootstrap(text) => token::full(text, &self.ca_pem),
        }
    }

    /// One request; the caller reads the answer.
    ///
    /// # Errors
    /// In Go's words when there was no answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        headers: &[(&str, String)],
        with_certificate: bool,
    ) -> Result<Response, String> {
        let pair = self.certificate.as_ref().filter(|_| with_certificate);
        let client =
            client(&self.ca_pem, pair.map(|(c, k)| (c.as_path(), k.as_path())), Duration::from_secs(15))?;
        let url = format!("{}{path}", self.base);
        let mut request = client.request(method.clone(), &url).body(body);
        request = match &self.token.credentials {
            Credentials::Bootstrap(text) => request.bearer_auth(text),
            Credentials::Basic { .. } if self.user.is_empty() => request,
            Credentials::Basic { password, .. } => request.basic_auth(&self.user, Some(password)),
        };
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let verb = if method == Method::POST { "Post" } else { "Get" };
        request.send().await.map_err(|e| go_failure(verb, &url, &e))
    }

    /// GET, body of a good answer.
    ///
    /// # Errors
    /// As [`Access::send`] and [`body`].
    pub async fn get(&self, path: &str) -> Result<Vec<u8>, String> {
        let response = self.send(Method::GET, path, Vec::new(), &[], true).await?;
        body(&format!("{}{path}", self.base), response).await
    }
}

async fn fetch_ca(base: &str) -> Result<Vec<u8>, String> {
    let url = format!("{base}/cacerts");
    let open = builder()
        .tls_danger_accept_invalid_certs(true)
        .build()
        .map_err(|e| format!("cannot make a TLS client: {e}"))?;
    let fetched = match open.get(&url).send().await {
        Ok(response) => body(&url, response).await,
        Err(e) => Err(go_failure("Get", &url, &e)),
    };
    let pem = fetched.map_err(|e| format!("failed to get CA certs: {e}"))?;
    let checked = match client(&pem, None, TIMEOUT)?.get(&url).send().await {
        Ok(response) => body(&url, response).await,
        Err(e) => Err(go_failure("Get", &url, &e)),
    };
    checked.map_err(|e| format!("CA cert validation failed: {e}"))?;
    Ok(pem)
}
