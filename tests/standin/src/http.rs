//! TLS connections with an optional client certificate, and the shape of answers.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::api::Failure;
use crate::auth::AnyCertificate;
use crate::logs;

const BODY_LIMIT: usize = 4 << 20;

/// Everything a handler may look at.
pub struct Request {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Who connected.
    pub remote: SocketAddr,
    /// The client certificate and what came with it.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
}

impl Request {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// The listener's TLS settings.
///
/// # Errors
/// When certificate or key cannot be used.
pub fn tls(certificate_pem: &str, key_pem: &str) -> Result<TlsAcceptor, String> {
    let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("not a certificate: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| format!("not a key: {e}"))?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(AnyCertificate::new())
        .with_single_cert(chain, key)
        .map_err(|e| format!("cannot serve TLS: {e}"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// All addresses, IPv6 included where there is any.
///
/// # Errors
/// In Go's words: `listen tcp :6443: bind: address already in use`.
pub async fn listen(port: u16) -> Result<TcpListener, String> {
    let failed = |e: std::io::Error| {
        let text = match e.kind() {
            std::io::ErrorKind::AddrInUse => "address already in use".to_owned(),
            _ => e.to_string(),
        };
        format!("listen tcp :{port}: bind: {text}")
    };
    match TcpListener::bind(("::", port)).await {
        Ok(listener) => Ok(listener),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Err(failed(e)),
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await.map_err(failed),
    }
}

/// Accepts for ever; every connection and every request is a task.
pub async fn serve<H, F>(listener: TcpListener, acceptor: TlsAcceptor, handler: H)
where
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                logs::error(format!("http: Accept error: {e}; retrying"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, handler) = (acceptor.clone(), handler.clone());
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        tokio::spawn(async move {
            let handshake = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream));
            let Ok(Ok(stream)) = handshake.await else { return };
            let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates = Arc::new(shown.iter().map(|c| c.clone().into_owned()).collect::<Vec<_>>());
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let (handler, certificates) = (handler.clone(), Arc::clone(&certificates));
                async move {
                    let (parts, body) = request.into_parts();
                    let Ok(body) = to_bytes(Body::new(body), BODY_LIMIT).await else {
                        return Ok::<_, Infallible>(failure(&Failure::new(
                            400,
                            "the request body cannot be read",
                        )));
                    };
                    let request = Request {
                        method: parts.method,
                        uri: parts.uri,
                        headers: parts.headers,
                        body,
                        remote,
                        certificates,
                    };
                    Ok(handler(request).await)
                }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Plain text.
pub fn text(code: u16, body: impl Into<Bytes>) -> Response<Body> {
    answer(code, "text/plain", Body::from(body.into()))
}

/// Plain text whose type names its encoding: which of the two an endpoint sends differs in k3s too.
pub fn text_utf8(code: u16, body: impl Into<Bytes>) -> Response<Body> {
    answer(code, "text/plain; charset=utf-8", Body::from(body.into()))
}

/// JSON.
pub fn json(code: u16, body: &Value) -> Response<Body> {
    answer(code, "application/json", Body::from(format!("{body}\n")))
}

/// A Status from the apiserver.
pub fn failure(failure: &Failure) -> Response<Body> {
    json(failure.code, &failure.body())
}

/// A Status from the supervisor: logged, and the connection ends with it.
pub fn send_error(request: &Request, code: u16, error: &str) -> Response<Body> {
    if error != "apiserver not ready" {
        logs::error(format!("Sending HTTP/1.1 {code} response to {}: {error}", request.remote));
    }
    let message = match code {
        500 => format!("Internal error occurred: {error}"),
        _ => error.to_owned(),
    };
    // Unlike the apiserver's, these carry no apiVersion, and are printed for reading.
    let mut status = Failure::new(code, message).body();
    if let Some(map) = status.as_object_mut() {
        map.remove("apiVersion");
        if code == 500 {
            map.insert("details".to_owned(), serde_json::json!({"causes": [{"message": error}]}));
        }
    }
    let mut response = answer(code, "application/json", Body::from(format!("{status:#}\n")));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
