//! The binaries that go into the hosts: `muster`, and k3s or its stand-in.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Tell;
use crate::run::Run;

/// What a host runs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The product.
    pub muster: PathBuf,
    /// k3s, or its stand-in.
    pub k3s: PathBuf,
    /// Its version, as in `v1.33.1+k3s1`.
    pub version: String,
    /// Whether it is a real k3s.
    pub real: bool,
}

/// The cargo profile that `muster` is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// As it is shipped: small, slow to build.
    Release,
    /// The same behaviour, quick to build.
    Lab,
}

/// The workspace's root.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Builds what is not given.
///
/// # Errors
/// cargo fails, or a given k3s does not tell its version.
pub fn build(
    profile: Profile,
    muster: Option<PathBuf>,
    k3s: Option<PathBuf>,
    tell: Tell,
) -> Result<Binaries> {
    let [muster, k3s] = match (muster, k3s, profile) {
        // In one call: two would compile what both depend on twice, each with its own set of features.
        (None, None, Profile::Lab) => cargo(["muster", "k3s-standin"], "lab", tell)?,
        (muster, k3s, profile) => {
            let muster = match muster {
                Some(path) => existing(path)?,
                None => self::muster(profile, tell)?,
            };
            let k3s = match k3s {
                Some(path) => existing(path)?,
                None => cargo(["k3s-standin"], "lab", tell)?[0].clone(),
            };
            [muster, k3s]
        }
    };
    let said =
        Run::new(&k3s.display().to_string()).arg("--version").ok().context("ask k3s for its version")?;
    let (version, real) = parse_version(&said).with_context(|| k3s.display().to_string())?;
    Ok(Binaries { muster, k3s, version, real })
}

/// Builds `muster` alone.
///
/// # Errors
/// cargo fails.
pub fn muster(profile: Profile, tell: Tell) -> Result<PathBuf> {
    let profile = if profile == Profile::Release { "release" } else { "lab" };
    Ok(cargo(["muster"], profile, tell)?[0].clone())
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    fs::canonicalize(&path).with_context(|| format!("there is no {}", path.display()))
}

fn parse_version(said: &str) -> Result<(String, bool)> {
    let first = said.lines().next().unwrap_or_default();
    let Some(version) = first.strip_prefix("k3s version ").and_then(|rest| rest.split_whitespace().next())
    else {
        bail!("it says `{first}`, not `k3s version ...`");
    };
    Ok((version.to_owned(), !said.contains("stand-in")))
}

/// Builds packages and gives the paths of their executables.
fn cargo<const N: usize>(packages: [&str; N], profile: &str, tell: Tell) -> Result<[PathBuf; N]> {
    let started = Instant::now();
    let names = packages.join(" -p ");
    tell(&format!("binaries: cargo build --profile {profile} -p {names}"));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let run = Run::new(&cargo).dir(&workspace()).within(Duration::from_secs(3600));
    let run = run.args(["build", "--locked", "--quiet", "--profile", profile]);
    let run = packages.iter().fold(run, |run, package| run.args(["-p", package]));
    let said = run.arg("--message-format=json-render-diagnostics").watched()?;
    let mut paths: [PathBuf; N] = std::array::from_fn(|_| PathBuf::new());
    for (path, package) in paths.iter_mut().zip(packages) {
        *path =
            executable(&said, package).with_context(|| format!("cargo built no executable of {package}"))?;
    }
    if started.elapsed() > Duration::from_secs(2) {
        tell(&format!("binaries: built in {:.0} s", started.elapsed().as_secs_f64()));
    }
    Ok(paths)
}

fn executable(messages: &str, package: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let path = message["executable"].as_str()?;
        let bin = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "bin");
        (bin && message["target"]["name"] == package).then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_is_known_by_its_own_word() {
        let real = "k3s version v1.33.1+k3s1 (99d91538)\ngo version go1.24.2\n";
        assert_eq!(parse_version(real).unwrap(), ("v1.33.1+k3s1".to_owned(), true));
        let stand_in = "k3s version v1.33.1+k3s1 (stand-in)\n";
        assert_eq!(parse_version(stand_in).unwrap(), ("v1.33.1+k3s1".to_owned(), false));
        assert!(parse_version("busybox 1.36").is_err());
    }

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"muster"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"muster"},"executable":"/t/lab/muster"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "muster"), Some(PathBuf::from("/t/lab/muster")));
        assert_eq!(executable(messages, "other"), None);
    }
}
