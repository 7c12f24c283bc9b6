//! A client for services of others: cloud APIs behind TLS and perhaps a proxy, and metadata services at link-local addresses,
//! which are never asked through one.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Proxy, redirect};

use super::http::{HttpError, plain_builder, why_failed};
use crate::core::{Secret, brief};

/// One request.
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Whole URL, without secrets: it stands in errors.
    pub url: &'a str,
    /// Header lines that may be shown.
    pub headers: &'a [(&'a str, &'a str)],
    /// Header lines that may not.
    pub secrets: &'a [(&'a str, &'a Secret)],
    /// Body.
    pub body: Option<Vec<u8>>,
    /// Bound on the whole exchange.
    pub deadline: Duration,
    /// Most bytes of body that are taken.
    pub most_bytes: usize,
}

/// What came back, whatever its status. Not printed: headers and body may hold secrets.
pub struct Reply {
    /// HTTP status code.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
    headers: HeaderMap,
}

impl Reply {
    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// For how long the server wants to be left alone: `Retry-After` in seconds.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.trim().parse().ok().map(Duration::from_secs)
    }

    /// The body as one line of at most 200 characters. Only for answers that are errors.
    #[must_use]
    pub fn excerpt(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.body).trim().chars().take(200).collect();
        brief(&text)
    }
}

/// The two ways: straight, and as the environment's proxies want it.
pub struct Web {
    direct: Client,
    proxied: Result<Client, String>,
}

impl Web {
    /// Clients that take the proxies of the environment (`HTTPS_PROXY`, `NO_PROXY` and so on) for everything that is not on the
    /// link.
    ///
    /// # Errors
    /// When no client can be made at all. A machine without any certificate authority has one that reaches its link alone.
    pub fn new() -> Result<Self, String> {
        Self::with(None)
    }

    /// Clients that take this proxy, whatever the environment says.
    ///
    /// # Errors
    /// As [`Web::new`], and when the URL is none.
    pub fn with(proxy: Option<&str>) -> Result<Self, String> {
        let builder = || plain_builder().redirect(redirect::Policy::none()).pool_max_idle_per_host(1);
        // Metadata services speak plain HTTP: a machine without certificate authorities must reach them all the same.
        let no_authority = Vec::<reqwest::Certificate>::new();
        let direct = builder().no_proxy().tls_certs_only(no_authority).build();
        let proxied = match proxy {
            None => builder(),
            Some(url) => builder().proxy(Proxy::all(url).map_err(|error| error.to_string())?),
        };
        Ok(Self {
            direct: direct.map_err(|error| error.to_string())?,
            proxied: proxied.build().map_err(|error| error.to_string()),
        })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When there is no whole answer; an answer with any status is not an error.
    pub async fn call(&self, call: &Call<'_>) -> Result<Reply, HttpError> {
        let prepare = |cause: &str| HttpError::Prepare { url: call.url.to_owned(), cause: cause.to_owned() };
        let mut headers = HeaderMap::new();
        for (name, value) in call.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| prepare("a header's name"))?;
            headers.append(name, HeaderValue::from_str(value).map_err(|_| prepare("a header's value"))?);
        }
        for (name, value) in call.secrets {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| prepare("a header's name"))?;
            let mut value = HeaderValue::from_str(value.expose()).map_err(|_| prepare("a header's value"))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        let client = match (&self.proxied, is_on_link(call.url)) {
            (_, true) => &self.direct,
            (Ok(proxied), false) => proxied,
            (Err(cause), false) => return Err(prepare(cause)),
        };
        let mut request =
            client.request(call.method.clone(), call.url).headers(headers).timeout(call.deadline);
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        let fail = |error: reqwest::Error| why_failed(call.url, call.deadline, &error);
        let mut response = request.send().await.map_err(fail)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(fail)? {
            if body.len() + chunk.len() > call.most_bytes {
                return Err(HttpError::TooLong { url: call.url.to_owned(), most_bytes: call.most_bytes });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, body, headers })
    }
}

/// Whether a URL's host is an address of this machine or of its link, as metadata services have: a proxy would ask its own.
fn is_on_link(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_link_local() || ip.is_loopback(),
        // fd00:ec2::254 and fd20:ce::254 are AWS's and Google's.
        Ok(IpAddr::V6(ip)) => {
            ip.is_unicast_link_local()
                || ip.is_loopback()
                || matches!(ip.segments()[..2], [0xfd00, 0xec2] | [0xfd20, 0xce])
        }
        Err(_) => host == "metadata.google.internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k3s::testing::{Server, reply};

    fn call<'a>(url: &'a str, secrets: &'a [(&'a str, &'a Secret)]) -> Call<'a> {
        Call {
            method: Method::GET,
            url,
            headers: &[("x-plain", "1")],
            secrets,
            body: None,
            deadline: Duration::from_secs(5),
            most_bytes: 100,
        }
    }

    #[tokio::test]
    async fn a_proxy_is_asked_for_what_is_far_and_never_for_what_is_on_the_link() {
        let proxy = Server::start(None, |_| reply(200, "by proxy")).await;
        let near = Server::start(None, |_| reply(200, "direct")).await;
        let web = Web::with(Some(&format!("http://{}", proxy.at))).unwrap();
        let far = web.call(&call("http://api.example.test/v1", &[])).await.unwrap();
        assert_eq!(far.body, b"by proxy");
        let link = web.call(&call(&format!("http://{}/latest", near.at), &[])).await.unwrap();
        assert_eq!(link.body, b"direct");
        assert_eq!(proxy.paths(), ["http://api.example.test/v1"]);
        for (url, on_link) in [
            ("http://169.254.169.254/latest", true),
            ("http://[fd00:ec2::254]/latest", true),
            ("http://metadata.google.internal/x", true),
            ("https://10.0.0.1/", false),
            ("https://ec2.eu-west-1.amazonaws.com", false),
        ] {
            assert_eq!(is_on_link(url), on_link, "{url}");
        }
    }

    /// What `as_its_environment_says` is told, and what it prints before an answer.
    const TOLD: &str = "MUSTER_TEST_URLS";

    /// Run by `the_proxies_of_the_environment_count_but_not_for_the_link` in a process with an environment of its own: this
    /// process's cannot be changed while others read it.
    #[tokio::test]
    #[ignore = "run by another test, in an environment of its own"]
    async fn as_its_environment_says() {
        let Some(urls) = std::env::var_os(TOLD) else { return };
        let web = Web::new().unwrap();
        for url in urls.to_str().unwrap().split_whitespace() {
            match web.call(&call(url, &[])).await {
                Ok(reply) => println!("{TOLD} {}", String::from_utf8_lossy(&reply.body)),
                Err(_) => println!("{TOLD} none"),
            }
        }
    }

    #[tokio::test]
    async fn the_proxies_of_the_environment_count_but_not_for_the_link() {
        use crate::edge::exec::{Bounds, bounded};
        // A tunnel for TLS is refused: that it was asked for is enough.
        let proxy = Server::start(None, |seen| match seen.method.as_str() {
            "CONNECT" => reply(502, ""),
            _ => reply(200, "by proxy"),
        })
        .await;
        let near = Server::start(None, |_| reply(200, "direct")).await;
        let (by, port) = (format!("http://{}", proxy.at), near.at.port());
        let urls = format!(
            "https://api.example.test/v1 http://api.example.test/v1 http://127.0.0.1:{port}/link http://localhost:{port}/name"
        );
        let program = std::env::current_exe().unwrap();
        let name = "edge::web::tests::as_its_environment_says";
        let args = ["--exact", name, "--ignored", "--nocapture"].map(str::to_owned);
        for (spared, last) in [("", "by proxy"), ("other.test,localhost", "direct")] {
            proxy.seen.lock().unwrap().clear();
            let environment = [
                (TOLD, urls.clone()),
                ("HTTPS_PROXY", by.clone()),
                ("HTTP_PROXY", by.clone()),
                ("NO_PROXY", spared.to_owned()),
            ];
            let bounds = Bounds { deadline: Duration::from_secs(60), most_bytes: 1 << 20 };
            let said = bounded(program.to_str().unwrap(), &args, &environment, bounds).await.unwrap();
            let answers: Vec<&str> = said
                .lines()
                .filter_map(|line| line.split_once(TOLD))
                .map(|(_, answer)| answer.trim())
                .collect();
            assert_eq!(answers, ["none", "by proxy", "direct", last], "{said}");
            let mut asked = vec!["api.example.test:443".to_owned(), "http://api.example.test/v1".to_owned()];
            if spared.is_empty() {
                asked.push(format!("http://localhost:{port}/name"));
            }
            assert_eq!(proxy.paths(), asked);
        }
    }

    #[tokio::test]
    async fn a_secret_is_sent_and_stands_in_no_error() {
        let server = Server::start(None, |_| reply(200, vec![b'x'; 101])).await;
        let secret = Secret::new("canary-0123456789".to_owned());
        let secrets = [("authorization", &secret)];
        let url = format!("http://{}/", server.at);
        let error = web_error(&call(&url, &secrets)).await;
        assert!(matches!(error, HttpError::TooLong { .. }), "{error}");
        assert_eq!(server.seen.lock().unwrap()[0].header("authorization"), Some("canary-0123456789"));
        let bad = Secret::new("canary\n".to_owned());
        let error = web_error(&call(&url, &[("authorization", &bad)])).await;
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }

    async fn web_error(call: &Call<'_>) -> HttpError {
        Web::with(None).unwrap().call(call).await.err().expect("an error")
    }
}
