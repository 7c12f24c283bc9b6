//! `muster config show`, `muster config check` and `muster token new`.

use anyhow::Context;

use super::{DONE, FAILED, print_json};
use crate::config::{ConfigError, Env, Flags, load, table};
use crate::edge::clock;
use crate::identity::token;

pub(super) fn show(flags: &Flags, json: bool) -> anyhow::Result<u8> {
    let (shown, problems) = match load(std::path::Path::new("/"), &Env::of_process(), flags) {
        Ok(loaded) => (loaded.shown, None),
        // What could be merged is shown all the same: it is what a person mends the rest by.
        Err(errors) => (errors.shown.clone(), Some(errors.to_string())),
    };
    if json {
        print_json(&shown)?;
    } else {
        print!("{}", table(&shown));
    }
    match problems {
        None => Ok(DONE),
        Some(problems) => {
            eprintln!("muster: {problems}");
            Ok(FAILED)
        }
    }
}

/// What a first boot asks before, or while, the agent starts: the faults in one line each, where a person looks for them.
pub(super) fn check(flags: &Flags, json: bool) -> anyhow::Result<u8> {
    let root = std::path::Path::new("/");
    let problems = match load(root, &Env::of_process().with_credentials_of_the_unit(root), flags) {
        Ok(loaded) => {
            let settings = loaded.settings;
            if !json {
                println!(
                    "the configuration holds: cluster = {}, servers = {}, token from {}",
                    settings.cluster, settings.servers, loaded.token_source
                );
            }
            Vec::new()
        }
        Err(errors) if errors.lone_token().is_some() => {
            if !json {
                println!("the configuration holds: one machine, which will make a token of its own");
            }
            Vec::new()
        }
        Err(errors) => errors.problems.iter().map(ConfigError::line).collect(),
    };
    if json {
        print_json(&serde_json::json!({ "holds": problems.is_empty(), "problems": problems }))?;
    }
    for problem in &problems {
        eprintln!("muster: configuration-refused: {problem}");
    }
    Ok(if problems.is_empty() { DONE } else { FAILED })
}

pub(super) fn new_token() -> anyhow::Result<u8> {
    let bytes = clock::random().context("cannot draw a token")?;
    println!("{}", token::generate(bytes).expose());
    Ok(DONE)
}
