//! `muster config show` and `muster token new`.

use anyhow::Context;

use super::{DONE, FAILED, print_json};
use crate::config::{Env, Flags, load, table};
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

pub(super) fn new_token() -> anyhow::Result<u8> {
    let bytes = clock::random().context("cannot draw a token")?;
    println!("{}", token::generate(bytes).expose());
    Ok(DONE)
}
