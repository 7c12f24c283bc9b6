//! Writes the manual pages and the shells' completions, made from the command line itself, into a directory: for packages.
//!
//! `cargo run --package muster --example manual -- DIR` makes `DIR/man/*.1` and `DIR/completions/{bash,zsh,fish}`. An example and
//! not a command, so that the program on the machines carries none of it.

use std::path::PathBuf;

use anyhow::Context;
use clap_complete::Shell;

#[expect(clippy::disallowed_methods, reason = "it makes directories of a build, not of a host")]
fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from).context("usage: manual DIR")?;
    let man = dir.join("man");
    std::fs::create_dir_all(&man).with_context(|| format!("make {}", man.display()))?;
    clap_mangen::generate_to(muster::cli::command(), &man).context("write the manual pages")?;
    let shells = [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")];
    for (shell, name) in shells {
        let to = dir.join("completions").join(name);
        std::fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
        clap_complete::generate_to(shell, &mut muster::cli::command(), "muster", &to)
            .with_context(|| format!("write the completions for {name}"))?;
    }
    Ok(())
}
