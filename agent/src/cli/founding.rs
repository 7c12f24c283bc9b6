//! `muster founding show` and `annul`.

use anyhow::{Context, bail};

use super::{DONE, FAILED, print_json, settings, state_dir};
use crate::config::Flags;
use crate::decide::AnnulRequest;
use crate::edge::fs;
use crate::engine::real::look::request_path;
use crate::ledger;

pub(super) fn show(flags: &Flags, json: bool) -> anyhow::Result<u8> {
    let state_dir = state_dir(flags);
    let Some(record) = ledger::peek(&state_dir)? else {
        println!("there is no ledger in {}: the agent has not run here", state_dir.display());
        return Ok(FAILED);
    };
    if json {
        print_json(&record)?;
        return Ok(DONE);
    }
    println!("era {}", record.era);
    match &record.certificate {
        Some(certificate) => {
            println!("certificate: cluster {}, CA {}", certificate.cluster_id, certificate.ca_hash);
            println!(
                "  founder {} at {} ({})",
                certificate.founder_name,
                certificate.founder_address,
                certificate.founder.short()
            );
            let servers: Vec<&str> = certificate.first_servers.iter().map(|id| id.short()).collect();
            println!("  first servers {}", servers.join(", "));
        }
        None => println!("certificate: none known"),
    }
    let ballot = |ballot: &crate::founding::Ballot| format!("{} of {}", ballot.counter, ballot.node.short());
    println!("promised: {}", record.register.promised.as_ref().map_or_else(|| "nothing".to_owned(), ballot));
    let accepted = record.register.accepted.as_ref();
    println!(
        "voted: {}",
        accepted.map_or_else(
            || "never".to_owned(),
            |a| format!("{} under ballot {}", a.certificate.founder_name, ballot(&a.ballot))
        )
    );
    let heard: Vec<&str> = record.heard.iter().map(|id| id.short()).collect();
    match settings(flags) {
        Ok(loaded) => {
            let most = crate::founding::quorum::most_voters(loaded.settings.founders);
            println!("voters heard: {} ({}), safe for at most {most}", heard.len(), heard.join(", "));
        }
        Err(_) => println!("voters heard: {} ({})", heard.len(), heard.join(", ")),
    }
    if let Some(annulment) = &record.annulment {
        println!("era {} was annulled by {}: {}", annulment.era, annulment.by.short(), annulment.reason);
    }
    Ok(DONE)
}

pub(super) fn annul(flags: &Flags, reason: &str, yes: bool) -> anyhow::Result<u8> {
    let state_dir = state_dir(flags);
    let record = ledger::peek(&state_dir)?.context("there is no ledger here: the agent has not run")?;
    if reason.trim().is_empty() {
        bail!("an annulment needs a reason: it is kept in the ledger of every node");
    }
    match &record.certificate {
        Some(c) => println!(
            "era {}: cluster {} founded by {} at {}",
            record.era,
            c.cluster_id.short(),
            c.founder_name,
            c.founder_address
        ),
        None => println!("era {}: no certificate is known here", record.era),
    }
    if !yes {
        println!(
            "This would end era {} for every node that hears of it: its cluster never serves, and a new one is founded.",
            record.era
        );
        println!(
            "Do it only when that machine is gone for good and nobody has joined it. Say --yes to do it."
        );
        return Ok(FAILED);
    }
    let request = AnnulRequest { era: record.era, reason: reason.trim().to_owned() };
    let text = serde_json::to_vec(&request)?;
    fs::write_atomic(&request_path(&state_dir), &text, 0o600)?;
    println!(
        "The agent of this machine carries it out within seconds; it refuses while a server of that cluster is live."
    );
    println!("See muster why, and muster founding show.");
    Ok(DONE)
}
