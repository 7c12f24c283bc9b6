//! From settings to sources.

use std::net::SocketAddr;
use std::sync::Arc;

use super::cloud::{self, Cloud};
use super::fixed::Memory;
use super::{Source, dns, exec, file, fixed, mdns, sweep};
use crate::config::Settings;
use crate::edge::clock;
use crate::edge::web::Web;
use crate::gossip::{GossipKeys, Prober};

/// What sources need beside the settings.
pub struct Means {
    /// The port that peers' gossip is at, where nothing else is said.
    pub port: u16,
    /// Keys of the datagrams, for what is announced.
    pub keys: GossipKeys,
    /// Sends probes.
    pub prober: Prober,
    /// Gives the peers that the ledger remembers.
    pub memory: Box<dyn Fn() -> Result<Vec<SocketAddr>, String> + Send + Sync>,
    /// Whether this node announces itself; a command beside the agent does not.
    pub announce: bool,
}

/// Every source that the settings ask for; seeds and the ledger always.
#[must_use]
pub fn sources(settings: &Settings, means: Means) -> Vec<Box<dyn Source>> {
    let discovery = &settings.discovery;
    let Means { port, keys, prober, memory, announce } = means;
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    if !settings.seeds.is_empty() {
        sources.push(Box::new(fixed::Static::new(settings.seeds.clone())));
    }
    let memory: Box<Memory> = memory;
    sources.push(Box::new(fixed::Remembered { memory }));
    if let Some(settings) = &discovery.dns {
        sources.push(Box::new(dns::Dns::new(settings.clone(), port)));
    }
    if let Some(settings) = &discovery.sweep {
        let dice = || clock::random().map_or(0x9e37_79b9_7f4a_7c15, u64::from_be_bytes);
        sources.push(Box::new(sweep::Sweep {
            settings: settings.clone(),
            port,
            prober,
            ground: Box::new(sweep::Machine),
            dice: Box::new(dice),
            pass: None,
            met: Vec::new(),
        }));
    }
    if discovery.mdns {
        let cluster = settings.cluster.clone();
        sources.push(Box::new(mdns::Mdns { keys, cluster, announce, running: None }));
    }
    if let Some(settings_of) = &discovery.exec {
        sources.push(Box::new(exec::Exec {
            command: settings_of.command.clone(),
            timeout: settings_of.timeout,
            cluster: settings.cluster.clone(),
            port,
        }));
    }
    if let Some(path) = &discovery.file {
        sources.push(Box::new(file::File { path: path.clone(), port }));
    }
    if !discovery.clouds.is_empty() {
        let web = Web::new().map(Arc::new);
        for settings in &discovery.clouds {
            sources.push(Box::new(Cloud::new(settings.clone(), port, web.clone(), Arc::new(cloud::wall))));
        }
    }
    sources
}
