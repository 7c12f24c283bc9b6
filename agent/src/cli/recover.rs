//! `muster recover` and `muster fold`: the evidence, what would be lost, and the request that the agent carries out.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};

use super::{DONE, FAILED, runtime, state_dir, status};
use crate::config::{Flags, load};
use crate::core::Known;
use crate::core::recovery::number;
use crate::edge::http::Http;
use crate::edge::{clock, fs};
use crate::engine::real::{fold_path, recover_path};
use crate::gossip::Role;
use crate::heal::quorum::majority;
use crate::heal::recover::{Witness, lost};
use crate::heal::{FoldRequest, RecoverRequest};
use crate::k3s::kube::KubeApi;
use crate::k3s::{K3sRole, Paths};
use crate::ledger::{self, Data, Record};
use crate::report::Status;

/// What the operator says to `muster recover`.
pub(super) struct Word {
    pub(super) survivor: Option<String>,
    pub(super) destroyed: Vec<String>,
    pub(super) may_return: bool,
    pub(super) reason: String,
    pub(super) yes: bool,
}

pub(super) fn recover(flags: &Flags, word: Word) -> anyhow::Result<u8> {
    let state_dir = state_dir(flags);
    let record = ledger::peek(&state_dir)?.context("there is no ledger here: the agent has not run")?;
    let status = status::read(flags)?;
    status::warn_if_old(&status);
    let Some(certificate) = &record.certificate else {
        bail!("no certificate is known here: there is no cluster to recover; see muster why")
    };
    match &record.data {
        Data::Recovering { number, .. } => {
            println!("Recovery {number} is under way on this machine: muster why");
            return Ok(DONE);
        }
        Data::Member { role: Role::Server, .. } => {}
        _ => bail!(
            "this machine is no server that was a member: run it on the server whose data the cluster shall go on with"
        ),
    }
    let paths = Paths::new(&data_dir(flags), &state_dir);
    println!(
        "Cluster {} founded by {}; recoveries so far: {}.",
        certificate.cluster_id.short(),
        certificate.founder_name,
        number(record.recovery.as_ref())
    );
    evidence(&record, &status, &paths);
    let own = &status.node.name;
    let voters: BTreeSet<String> = record.voters.keys().cloned().collect();
    let destroyed: BTreeSet<String> = word.destroyed.iter().cloned().collect();
    if let Some(stranger) = destroyed.iter().find(|name| !voters.contains(*name)) {
        bail!("--destroyed {stranger}: the voters are {}", names(&voters));
    }
    let missing = match lost(own, status.k3s.voter, &voters, &witnesses(&status), &destroyed, word.may_return)
    {
        Ok(missing) => missing,
        Err(reason) => {
            println!("\nNothing is done: {reason}.");
            return Ok(FAILED);
        }
    };
    println!(
        "\nWhat is lost: everything that {} wrote and this server's log does not hold.",
        or_others(&missing)
    );
    println!(
        "Their data is moved aside on their own disks when they return, not deleted, and never used again."
    );
    println!("What is done, in this order, each step in the ledger first:");
    println!("  1  the decision is spoken to every node; live servers give their data up; k3s stops here");
    println!(
        "  2  the snapshots are copied aside; k3s server --cluster-reset makes etcd a cluster of this server alone"
    );
    println!(
        "  3  k3s starts; when it is the only member, votes and its API is ready, the others join one at a time"
    );
    println!("Agents and their pods keep running.");
    if word.may_return && missing.iter().any(|name| !destroyed.contains(name)) {
        println!(
            "If a majority of the old servers starts again before it hears of this, it serves the old cluster until it does: keep \
             them off, or let them start one at a time with gossip reachable."
        );
    }
    match &word.survivor {
        Some(name) if name != own => bail!("--survivor {name}: this machine is {own}; run it there"),
        Some(_) if word.yes => {}
        _ => {
            println!("\nNothing was done. To do it, say the same with --survivor {own} --yes.");
            return Ok(FAILED);
        }
    }
    let request = RecoverRequest {
        after: number(record.recovery.as_ref()),
        survivor: own.clone(),
        reason: word.reason.trim().to_owned(),
        destroyed,
        may_return: word.may_return,
        asked_unix: clock::wall_seconds(),
    };
    fs::write_atomic(&recover_path(&state_dir), &serde_json::to_vec(&request)?, 0o600)?;
    println!(
        "\nThe agent of this machine carries it out, and refuses if a server serves again. See muster why."
    );
    Ok(DONE)
}

fn or_others(missing: &[String]) -> String {
    if missing.is_empty() { "the other servers".to_owned() } else { missing.join(", ") }
}

fn names(voters: &BTreeSet<String>) -> String {
    voters.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn witnesses(status: &Status) -> Vec<Witness> {
    let one = |peer: &crate::report::StatusPeer| Witness {
        name: peer.name.clone(),
        live: peer.live,
        server: peer.role == Role::Server,
        votes: peer.voter == Some(true),
    };
    status.peers.iter().map(one).collect()
}

fn evidence(record: &Record, status: &Status, paths: &Paths) {
    println!(
        "Voters last listed here: {}; {} of them are needed for any write.",
        record.voters.len(),
        majority(record.voters.len())
    );
    for (name, address) in &record.voters {
        let peer = status
            .peers
            .iter()
            .filter(|peer| peer.name == *name)
            .max_by_key(|peer| (peer.live, peer.silent_seconds.is_some()));
        let said = match peer {
            _ if *name == status.node.name => {
                format!("this machine; its member votes: {}", word(status.k3s.voter))
            }
            Some(peer) if peer.live && peer.role == Role::Server => {
                format!("live; its member votes: {}; it says {:?}", word(peer.voter), peer.why)
            }
            Some(peer) if peer.live => "live, and no server any more".to_owned(),
            Some(peer) => match peer.silent_seconds {
                Some(seconds) => format!("silent since {seconds} s"),
                None => "silent".to_owned(),
            },
            None => "not heard since this agent started".to_owned(),
        };
        println!("  {name:<20} {address:<16} {said}");
    }
    let db = paths.data_dir.join("server/db");
    let wal = newest(&db.join("etcd/member/wal"));
    let size = std::fs::metadata(db.join("etcd/member/snap/db")).map(|data| data.len()).ok();
    match (&wal, size) {
        (Some((_, age)), Some(size)) => println!(
            "Data here: etcd's log was last written {age} s ago, its database has {} MiB. Its revision cannot be read while etcd \
             has no quorum: on the other servers compare these figures, and recover on the one that wrote last.",
            size.div_ceil(1 << 20)
        ),
        _ => println!("Data here: etcd's files cannot be read whole under {}.", db.display()),
    }
    match newest(&db.join("snapshots")) {
        Some((name, age)) => {
            println!("Newest snapshot here: {name}, {age} s old; copied aside before the reset.")
        }
        None => println!("Snapshots here: none under {}.", db.join("snapshots").display()),
    }
}

fn word(fact: Option<bool>) -> &'static str {
    match fact {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    }
}

/// The newest file of a directory with its age in seconds.
fn newest(directory: &Path) -> Option<(String, i64)> {
    let names = fs::known_names(directory);
    let times = names
        .yes()?
        .iter()
        .filter_map(|name| Some((std::fs::metadata(directory.join(name)).ok()?.mtime(), name.clone())));
    let (at, name) = times.max()?;
    Some((name, clock::wall_seconds().saturating_sub(at).max(0)))
}

fn data_dir(flags: &Flags) -> std::path::PathBuf {
    match load(Path::new("/"), &crate::config::Env::of_process(), flags) {
        Ok(loaded) => loaded.settings.k3s.data_dir,
        Err(_) => "/var/lib/rancher/k3s".into(),
    }
}

pub(super) fn fold(flags: &Flags, into: &str, yes: bool) -> anyhow::Result<u8> {
    let state_dir = state_dir(flags);
    let record = ledger::peek(&state_dir)?.context("there is no ledger here: the agent has not run")?;
    let status = status::read(flags)?;
    status::warn_if_old(&status);
    let Some(certificate) = &record.certificate else {
        bail!("no certificate is known here: this machine is in no cluster; see muster why")
    };
    let peer = status
        .peers
        .iter()
        .filter(|peer| peer.name == into || peer.address.to_string() == into)
        .max_by_key(|peer| peer.live);
    let Some(peer) = peer.filter(|peer| peer.live) else {
        bail!("{into} is not live in gossip: muster status shows who is")
    };
    println!(
        "This machine is of cluster {}, CA {}.",
        certificate.cluster_id.short(),
        certificate.ca_hash.short()
    );
    let server = matches!(record.data, Data::Member { role: Role::Server, .. });
    if server {
        let voters: BTreeSet<String> = record.voters.keys().cloned().collect();
        println!("Members of its side, as last listed here: {}.", names(&voters));
        let paths = Paths::new(&data_dir(flags), &state_dir);
        println!("What its side holds and the other may not: {}.", runtime()?.block_on(holdings(&paths)));
    }
    println!(
        "{} at {} stays; its role: {:?}, its member votes: {}.",
        peer.name,
        peer.address,
        peer.role,
        word(peer.voter)
    );
    println!(
        "k3s is stopped here, its data moved aside, not deleted, and this machine joins through {} as a new node.",
        peer.name
    );
    println!(
        "It is done only when that server shows this certificate's CA. Say it on every machine of this side, servers last to first."
    );
    if !yes {
        println!("Nothing was done. Say --yes to do it.");
        return Ok(FAILED);
    }
    let request = FoldRequest { into: peer.address.to_string(), asked_unix: clock::wall_seconds() };
    fs::write_atomic(&fold_path(&state_dir), &serde_json::to_vec(&request)?, 0o600)?;
    println!("The agent of this machine carries it out. See muster why.");
    Ok(DONE)
}

/// What the API of this side counts, as far as it answers.
async fn holdings(paths: &Paths) -> String {
    let http = Http::new();
    let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 6443);
    let api = match KubeApi::local(&http, K3sRole::Server, paths, at) {
        Known::Yes(api) => api,
        Known::Absent => return "it cannot be asked, there is no admin certificate".to_owned(),
        Known::Unknown(unread) => return unread.to_string(),
    };
    let mut said = Vec::new();
    for what in ["namespaces", "nodes", "pods"] {
        said.push(match api.count(&format!("/api/v1/{what}")).await {
            Known::Yes(count) => format!("{count} {what}"),
            Known::Absent => format!("{what}: the API does not answer"),
            Known::Unknown(unread) => format!("{what}: {}", unread.cause),
        });
    }
    said.join(", ")
}
