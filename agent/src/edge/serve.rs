//! One page over plain HTTP, for programs on this machine: the metrics.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Where the page is.
pub const PATH: &str = "/metrics";
/// The text format of Prometheus.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
/// How soon a port that is taken is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// A connection ends after this, whatever its other side does.
const AT_MOST: Duration = Duration::from_secs(10);
/// Connections at one time; others wait in the kernel.
const CONNECTIONS: usize = 8;

/// Makes the page when it is asked for.
pub type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// The page is served until this is dropped.
#[derive(Debug)]
pub struct Served {
    failure: Arc<Mutex<Option<String>>>,
    task: JoinHandle<()>,
}

impl Served {
    /// Serves a page at an address, as soon as it is free and again after every failure.
    pub fn begin(listen: SocketAddr, page: Page) -> Self {
        let failure = Arc::new(Mutex::new(None));
        let said = Arc::clone(&failure);
        let task = tokio::spawn(async move {
            loop {
                let error = match TcpListener::bind(listen).await {
                    Ok(listener) => {
                        set(&said, None);
                        accept(&listener, &page).await
                    }
                    Err(error) => error,
                };
                set(&said, Some(format!("{listen}: {error}")));
                tokio::time::sleep(AGAIN).await;
            }
        });
        Self { failure, task }
    }

    /// Why it is not served, if it is not.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn set(place: &Mutex<Option<String>>, value: Option<String>) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = value;
}

/// Serves connections until the listener fails.
async fn accept(listener: &TcpListener, page: &Page) -> std::io::Error {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return std::io::Error::other("no more connections are taken");
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let page = Arc::clone(page);
                tokio::spawn(async move {
                    // A connection that ends early is its other side's affair.
                    let _ = tokio::time::timeout(AT_MOST, serve(stream, page)).await;
                    drop(place);
                });
            }
            // Gone again before it was taken.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => return error,
        }
    }
}

async fn serve(stream: TcpStream, page: Page) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &page);
        async move { Ok::<_, Infallible>(answer) }
    });
    let io = TokioIo::new(stream);
    let _ =
        http1::Builder::new().keep_alive(false).max_buf_size(16 * 1024).serve_connection(io, service).await;
}

fn answer(method: &Method, path: &str, page: &Page) -> Response<String> {
    let mut answer = Response::new(String::new());
    if path != PATH {
        *answer.status_mut() = StatusCode::NOT_FOUND;
        *answer.body_mut() = format!("there is only {PATH}\n");
    } else if method == Method::GET || method == Method::HEAD {
        answer.headers_mut().insert(CONTENT_TYPE, TEXT);
        *answer.body_mut() = page();
    } else {
        *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(at: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_page_is_read_and_nothing_else_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let page: Page = Arc::new(|| "muster_era 1\n".to_owned());
        let task = tokio::spawn(async move { accept(&listener, &page).await });
        for (request, status, body) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 ", "muster_era 1\n"),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", "HTTP/1.0 200 ", "muster_era 1\n"),
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 ", "there is only /metrics\n"),
            ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 405 ", ""),
            ("no request at all\r\n\r\n", "HTTP/1.1 400 ", ""),
        ] {
            let text = ask(at, request).await;
            assert!(text.starts_with(status), "{request:?}: {text}");
            assert!(text.ends_with(&format!("\r\n\r\n{body}")), "{request:?}: {text}");
        }
        task.abort();
    }

    #[tokio::test]
    async fn whoever_finds_no_room_is_served_when_others_leave() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let page: Page = Arc::new(|| "x 1\n".to_owned());
        let task = tokio::spawn(async move { accept(&listener, &page).await });
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(at).await.unwrap());
        }
        drop(silent);
        assert!(ask(at, "GET /metrics HTTP/1.0\r\n\r\n").await.contains("x 1"));
        task.abort();
    }

    #[tokio::test]
    async fn a_taken_port_is_a_failure_that_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = taken.local_addr().unwrap();
        let served = Served::begin(at, Arc::new(String::new));
        while served.failure().is_none() {
            tokio::task::yield_now().await;
        }
        assert!(served.failure().unwrap().starts_with(&format!("{at}: ")), "{:?}", served.failure());
    }
}
