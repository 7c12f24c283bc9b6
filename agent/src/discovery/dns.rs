//! Names in the DNS, asked of the name servers themselves: A, AAAA and SRV, for as long as their TTL says.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::Instant;

use super::kept::{self, Kept};
use super::pace::Pace;
use super::{Failure, Found, MOST_OF_ONE, Origin, Scene, Source};
use crate::config::DnsSettings;

/// Longest wait for one name server.
const TIMEOUT: Duration = Duration::from_millis(1_500);
/// Targets of one SRV name that are resolved.
const MOST_TARGETS: usize = 64;
/// Longest time that an answer is taken for good, whatever its TTL: a day-long TTL must not hide a whole group.
const LONGEST: Duration = Duration::from_secs(60);

/// Aliases followed from one name, as the resolver does it.
const MOST_ALIASES: usize = 8;

pub(super) struct Dns {
    settings: DnsSettings,
    port: u16,
    /// What each name and each target of a service gave last.
    kept: Arc<Kept>,
}

impl Dns {
    pub(super) fn new(settings: DnsSettings, port: u16) -> Self {
        Self { settings, port, kept: Arc::default() }
    }
}

/// What one name gave.
struct Answer {
    addresses: Vec<SocketAddr>,
    until: Instant,
    /// The age of its oldest part: now, unless earlier answers stand in for failed ones.
    since: Instant,
    /// Whether any of it was answered now.
    fresh: bool,
    /// What failed within it.
    failed: Vec<String>,
}

#[async_trait]
impl Source for Dns {
    fn name(&self) -> String {
        "dns".to_owned()
    }

    fn origin(&self) -> Origin {
        Origin::Kept
    }

    fn pace(&self) -> Pace {
        Pace::of(8_000, 500, 10, 300)
    }

    async fn look(&mut self, scene: &Scene) -> Result<Found, Failure> {
        // Made anew each time: resolv.conf changes with the network, and a cache of our own would only add to the TTL.
        let resolver = resolver(&self.settings).map_err(Failure::new)?;
        let mut looks = tokio::task::JoinSet::new();
        for name in &self.settings.names {
            let (name, six) = (name.clone(), scene.own.is_ipv6());
            let asked = Asked { resolver: resolver.clone(), kept: Arc::clone(&self.kept), six };
            let port = self.port;
            looks.spawn(async move { asked.one(&name, port).await });
        }
        let (mut found, mut failed) = (Found::default(), Vec::new());
        let mut until: Option<Instant> = None;
        let mut fresh = false;
        while let Some(look) = looks.join_next().await {
            match look {
                Ok(Ok(answer)) => {
                    fresh |= answer.fresh;
                    until = Some(until.map_or(answer.until, |until| until.min(answer.until)));
                    found.addresses.extend(answer.addresses);
                    failed.extend(answer.failed);
                }
                Ok(Err(cause)) => failed.push(cause),
                Err(error) => failed.push(error.to_string()),
            }
        }
        failed.sort_unstable();
        let failed = crate::core::brief(&failed.join("; "));
        // Earlier answers alone are no answer now: they stay with the age that they have.
        if !fresh {
            return Err(Failure::new(failed));
        }
        found.addresses.sort_unstable();
        found.addresses.dedup();
        found.addresses.truncate(MOST_OF_ONE);
        found.good_for = until.map(|until| until.saturating_duration_since(Instant::now()).min(LONGEST));
        found.note = (!failed.is_empty()).then_some(failed);
        Ok(found)
    }
}

fn resolver(settings: &DnsSettings) -> Result<TokioResolver, String> {
    let mut builder = if settings.servers.is_empty() {
        TokioResolver::builder_tokio()
            .map_err(|error| format!("the name servers of this machine: {error}"))?
    } else {
        let server = |server: &SocketAddr| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut config.connections {
                connection.port = server.port();
            }
            config
        };
        let servers = settings.servers.iter().map(server).collect();
        let config = ResolverConfig::from_name_servers(servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.timeout = TIMEOUT;
    options.attempts = 2;
    builder.build().map_err(|error| error.to_string())
}

/// Who is asked, and for what.
struct Asked {
    resolver: TokioResolver,
    kept: Arc<Kept>,
    six: bool,
}

impl Asked {
    /// A name's answer, or the last good one when it fails.
    async fn one(&self, name: &str, port: u16) -> Result<Answer, String> {
        if name.starts_with('_') {
            let answer = self.service(name).await;
            return self.or_kept(name, name, answer);
        }
        self.hosts(name, port).await
    }

    /// The targets of a service. One that fails keeps what it had, and takes nothing from the others.
    async fn service(&self, name: &str) -> Result<Answer, String> {
        let lookup = match self.resolver.lookup(absolute(name), RecordType::SRV).await {
            Ok(lookup) => lookup,
            Err(error) => return self.nothing(name, &error).await,
        };
        let mut targets: Vec<(u16, String, u16)> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some((srv.priority, srv.target.to_string(), srv.port)),
                _ => None,
            })
            // A target of `.` says that the service is decidedly not there.
            .filter(|(_, target, port)| target != "." && *port != 0)
            .collect();
        targets.sort_unstable();
        targets.dedup();
        let mut answer = answered(Vec::new(), valid(lookup.valid_until()));
        let mut hosts = Vec::new();
        for (_, target, port) in targets.iter().take(MOST_TARGETS) {
            hosts.push(self.hosts(target, *port).await);
        }
        if targets.len() > MOST_TARGETS {
            let left = targets.len() - MOST_TARGETS;
            answer.failed.push(format!("{name}: {left} targets above {MOST_TARGETS} are left out"));
        }
        answer.fresh = hosts.is_empty() || hosts.iter().flatten().any(|host| host.fresh);
        for host in hosts {
            match host {
                Ok(host) => {
                    answer.until = answer.until.min(host.until);
                    answer.since = answer.since.min(host.since);
                    answer.addresses.extend(host.addresses);
                    answer.failed.extend(host.failed);
                }
                // Asked again as soon as the pace allows.
                Err(cause) => {
                    answer.until = Instant::now();
                    answer.failed.push(cause);
                }
            }
        }
        if answer.fresh || !answer.addresses.is_empty() {
            return Ok(answer);
        }
        Err(answer.failed.join("; "))
    }

    /// The addresses of a name, or its last good ones when it fails.
    async fn hosts(&self, name: &str, port: u16) -> Result<Answer, String> {
        let key = format!("{name}:{port}");
        let kind = if self.six { RecordType::AAAA } else { RecordType::A };
        let lookup = match self.resolver.lookup(absolute(name), kind).await {
            Ok(lookup) => lookup,
            Err(error) => return self.or_kept(&key, name, self.nothing(name, &error).await),
        };
        let ip = |data: &RData| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        };
        let ips = lookup.answers().iter().filter_map(|record| ip(&record.data));
        let addresses = ips.take(MOST_OF_ONE).map(|ip| SocketAddr::new(ip, port)).collect();
        self.or_kept(&key, name, Ok(answered(addresses, valid(lookup.valid_until()))))
    }

    fn or_kept(&self, key: &str, name: &str, answer: Result<Answer, String>) -> Result<Answer, String> {
        let cause = match answer {
            Ok(answer) => {
                self.kept.keep(key, &answer.addresses, answer.since);
                return Ok(answer);
            }
            Err(cause) => format!("{name}: {cause}"),
        };
        let (addresses, since) = self.kept.last(key).ok_or_else(|| cause.clone())?;
        let failed = vec![kept::note(&cause, since)];
        Ok(Answer { addresses, until: Instant::now(), since, fresh: false, failed })
    }

    /// That a name server knows the name and has nothing under it, or that there is no such name, is an answer: no addresses.
    /// Aliases in a circle end in the resolver as if there was nothing, and are a mistake of somebody.
    async fn nothing(&self, name: &str, error: &NetError) -> Result<Answer, String> {
        if !error.is_no_records_found() {
            return Err(error.to_string());
        }
        let mut at = absolute(name);
        for _ in 0..MOST_ALIASES {
            let alias = match self.resolver.lookup(at.as_str(), RecordType::CNAME).await {
                Ok(lookup) => lookup.answers().iter().find_map(|record| match &record.data {
                    RData::CNAME(alias) => Some(alias.0.to_string()),
                    _ => None,
                }),
                Err(error) if error.is_no_records_found() => None,
                Err(error) => return Err(format!("alias {at}: {error}")),
            };
            match alias {
                Some(alias) => at = absolute(&alias),
                // Asked again as soon as the pace allows: a record that is not there yet is what a group waits for.
                None => return Ok(answered(Vec::new(), Instant::now())),
            }
        }
        Err("its aliases lead in a circle, or further than eight names".to_owned())
    }
}

fn answered(addresses: Vec<SocketAddr>, until: Instant) -> Answer {
    Answer { addresses, until, since: Instant::now(), fresh: true, failed: Vec::new() }
}

fn valid(until: std::time::Instant) -> Instant {
    Instant::from_std(until)
}

/// Without search domains: what is configured is the whole name.
fn absolute(name: &str) -> String {
    if name.ends_with('.') { name.to_owned() } else { format!("{name}.") }
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
