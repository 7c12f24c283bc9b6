//! The supervisor of a k3s server, this host's or another's: `/ping`, `/cacerts`, `/v1-k3s/readyz`, `/db/info`.
//!
//! Addresses are base URLs without a slash at the end, such as `https://10.77.0.2:6443`. Passwords are shown only to a server
//! whose certificate a pinned CA has signed.

use std::time::Duration;

use super::ca::CaBundle;
use super::facts::{Member, parse_members};
use crate::core::{CaHash, Known, Secret};
use crate::edge::http::{Answer, Ask, Http, HttpError, Show, Trust};

/// Bound on one call.
pub const DEADLINE: Duration = Duration::from_secs(3);

/// What a supervisor says of itself to a node that knows the agents' password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supervisor {
    /// Its controllers run: it can be joined.
    Ready,
    /// It answers and is not ready yet.
    Starting,
    /// It does not take the password: another token, or another derivation.
    PasswordRefused,
}

/// The calls.
pub struct SupervisorApi<'a> {
    http: &'a Http,
}

impl<'a> SupervisorApi<'a> {
    /// Calls through these clients.
    #[must_use]
    pub fn new(http: &'a Http) -> Self {
        Self { http }
    }

    async fn get(&self, url: &str, trust: &Trust, show: Show<'_>) -> Result<Answer, HttpError> {
        self.http.get(&Ask { url, trust, show, deadline: DEADLINE, most_bytes: 1024 * 1024 }).await
    }

    /// Whether a supervisor listens there; absent when the machine says that nothing does. Not a proof of membership.
    pub async fn ping(&self, base: &str) -> Known<()> {
        let url = format!("{base}/ping");
        match self.get(&url, &Trust::Anyone, Show::Nothing).await {
            Ok(answer) if answer.status == 200 && answer.body.trim_ascii() == b"pong" => Known::Yes(()),
            Ok(answer) => Known::unknown(url, format!("{}: {}", answer.status, answer.excerpt())),
            Err(HttpError::Refused { .. }) => Known::Absent,
            Err(error) => Known::unknown(url, error.to_string()),
        }
    }

    /// The CA that the server at this address serves and holds a certificate of: fetched without verification, then again
    /// verified against what came, as k3s itself does, so that somebody else's CA cannot be shown. Absent when nothing
    /// listens there.
    pub async fn cacerts(&self, base: &str) -> Known<CaBundle> {
        let url = format!("{base}/cacerts");
        let fetch = async |trust: &Trust| -> Result<CaBundle, Known<CaBundle>> {
            match self.get(&url, trust, Show::Nothing).await {
                Ok(answer) if answer.status == 200 => CaBundle::from_pem(answer.body)
                    .map_err(|error| Known::unknown(url.clone(), error.to_string())),
                Ok(answer) => {
                    Err(Known::unknown(url.clone(), format!("{}: {}", answer.status, answer.excerpt())))
                }
                Err(HttpError::Refused { .. }) => Err(Known::Absent),
                Err(error) => Err(Known::unknown(url.clone(), error.to_string())),
            }
        };
        let first = match fetch(&Trust::Anyone).await {
            Ok(bundle) => bundle,
            Err(known) => return known,
        };
        match fetch(&Trust::Only(first.pem().to_vec())).await {
            Ok(second) if second == first => Known::Yes(first),
            Ok(_) => Known::unknown(url.clone(), "two answers in a row differ"),
            Err(known) => known,
        }
    }

    /// The hash of [`SupervisorApi::cacerts`].
    pub async fn cacerts_hash(&self, base: &str) -> Known<CaHash> {
        self.cacerts(base).await.map(|bundle| bundle.hash().clone())
    }

    /// Whether the server can be joined, asked as user `node`. A server that this CA did not sign is unknown, whatever it says.
    pub async fn ready(&self, base: &str, ca: &CaBundle, agent_password: &Secret) -> Known<Supervisor> {
        let url = format!("{base}/v1-k3s/readyz");
        let show = Show::Password { user: "node", password: agent_password };
        match self.get(&url, &Trust::Only(ca.pem().to_vec()), show).await {
            Ok(answer) => match answer.status {
                200 => Known::Yes(Supervisor::Ready),
                401 | 403 => Known::Yes(Supervisor::PasswordRefused),
                500..=599 => Known::Yes(Supervisor::Starting),
                status => Known::unknown(url, format!("{status}: {}", answer.excerpt())),
            },
            Err(HttpError::Refused { .. }) => Known::Absent,
            Err(error) => Known::unknown(url, error.to_string()),
        }
    }

    /// The members of the server's etcd. From another host it needs the server password; on loopback none since April 2024.
    /// A server that runs on another datastore says 400: unknown here, with its words.
    pub async fn members(
        &self,
        base: &str,
        ca: &CaBundle,
        server_password: Option<&Secret>,
    ) -> Known<Vec<Member>> {
        let url = format!("{base}/db/info");
        let show = match server_password {
            Some(password) => Show::Password { user: "server", password },
            None => Show::Nothing,
        };
        match self.get(&url, &Trust::Only(ca.pem().to_vec()), show).await {
            Ok(answer) if answer.status == 200 => match parse_members(&answer.body) {
                Ok(members) => Known::Yes(members),
                Err(error) => Known::unknown(url, error.to_string()),
            },
            Ok(answer) => Known::unknown(url, format!("{}: {}", answer.status, answer.excerpt())),
            Err(HttpError::Refused { .. }) => Known::Absent,
            Err(error) => Known::unknown(url, error.to_string()),
        }
    }
}
