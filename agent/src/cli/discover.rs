//! `muster discover`: asks every source once, beside a running agent or without one. Changes nothing.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;

use super::{DONE, WAITING, print_json, runtime, settings};
use crate::config::Flags;
use crate::discovery::{self, Means};
use crate::engine::real::start::{gossip_keys, node_address};
use crate::gossip::Prober;
use crate::ledger;

pub(super) fn discover(flags: &Flags, json: bool) -> anyhow::Result<u8> {
    let settings = settings(flags)?.settings;
    let chosen = node_address(&settings).context("the address of this node")?;
    let own = SocketAddr::new(chosen.ip, settings.gossip_port);
    let report = runtime()?.block_on(async {
        let keys = gossip_keys(&settings);
        let any: IpAddr = if own.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
        let prober = Prober::alone(&keys, &settings.cluster, SocketAddr::new(any, 0)).await?;
        let state_dir = settings.state_dir.clone();
        let memory = move || match ledger::peek(&state_dir) {
            Ok(record) => Ok(record
                .into_iter()
                .flat_map(|record| record.peers.into_values())
                .map(|peer| peer.address)
                .collect()),
            Err(error) => Err(error.to_string()),
        };
        let means =
            Means { port: settings.gossip_port, keys, prober, memory: Box::new(memory), announce: false };
        anyhow::Ok(discovery::look_once(discovery::sources(&settings, means), own).await)
    })?;
    if json {
        print_json(&report)?;
    } else {
        println!("{} looks for peers of cluster {}", chosen.ip, settings.cluster);
        print!("{}", discovery::report_table(&report));
    }
    Ok(if report.candidates.is_empty() { WAITING } else { DONE })
}
