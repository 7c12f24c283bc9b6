//! What the other end's silence and its other languages are called.

use tokio::net::TcpListener;

use super::*;
use crate::k3s::testing::{Authority, Server, closed_port, reply};

/// Longer than any of these answers takes on a busy machine.
const PATIENT: Duration = Duration::from_secs(60);

async fn asked(at: std::net::SocketAddr, ca: &Authority, deadline: Duration) -> HttpError {
    let (http, url, pem) = (Http::new(), format!("https://{at}/health"), ca.pem().into_bytes());
    let trust = Trust::Only(pem);
    let ask = Ask { url: &url, trust: &trust, show: Show::Nothing, deadline, most_bytes: 64 };
    match http.get(&ask).await {
        Ok(answer) => panic!("answered {}", answer.status),
        Err(error) => error,
    }
}

/// Accepts, speaks TLS if it is given a configuration, and says nothing of HTTP.
async fn mute(tls: Option<rustls::ServerConfig>) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let acceptor = tls.map(|config| tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config)));
    let task = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            match &acceptor {
                // What speaks only HTTP/2 ends a connection that begins otherwise.
                Some(acceptor) => drop(acceptor.accept(socket).await),
                None => held.push(socket),
            }
        }
    });
    (at, task)
}

#[tokio::test]
async fn a_process_that_speaks_something_else_is_told_from_one_that_does_not_run() {
    let (ca, other) = (Authority::new("etcd"), Authority::new("other"));
    let mut only_h2 = ca.server(&["127.0.0.1"], None);
    only_h2.alpn_protocols = vec![b"h2".to_vec()];
    let speaks = [
        ("ends the connection", mute(Some(ca.server(&["127.0.0.1"], None))).await, true),
        // Its alert comes before its certificate, and may be anybody's.
        ("wants HTTP/2", mute(Some(only_h2)).await, false),
        ("another's certificate", mute(Some(other.server(&["127.0.0.1"], None))).await, false),
        // A stopped process: its kernel takes the connection.
        ("says nothing", mute(None).await, false),
    ];
    for (what, (at, task), spoke) in speaks {
        // Only what says nothing is waited for.
        let deadline = if what == "says nothing" { Duration::from_millis(200) } else { PATIENT };
        let error = asked(at, &ca, deadline).await;
        assert_eq!(error.spoke(), spoke, "{what}: {error:?}");
        task.abort();
    }
    let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], closed_port()));
    assert!(!asked(nobody, &ca, PATIENT).await.spoke());
    let long = Server::start(Some(ca.server(&["127.0.0.1"], None)), |_| reply(200, vec![b'x'; 65])).await;
    assert!(asked(long.at, &ca, PATIENT).await.spoke());
}
