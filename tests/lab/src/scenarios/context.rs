//! What a scenario works with: its lab, its dice, its facts, and ways to wait.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

use crate::check::Checker;
use crate::host::Host;
use crate::lab::{Lab, Spec};
use crate::rules::Complaint;
use crate::setup::binaries::Binaries;
use crate::status::{Certificate, Status, Why};
use crate::view::{self, Row};
use crate::wait;

/// How often a scenario looks while it waits for something that takes seconds.
const EVERY: Duration = Duration::from_millis(250);
/// How often it looks when the moment matters.
pub const CLOSELY: Duration = Duration::from_millis(20);

/// The surroundings of one run of one scenario.
#[derive(Debug)]
pub struct Context {
    /// What the hosts run.
    pub binaries: Binaries,
    /// The hosts' lowest layer.
    pub rootfs: PathBuf,
    /// The name of the lab.
    pub name: String,
    /// The scenario's dice.
    pub dice: StdRng,
    /// What the scenario found out.
    pub facts: Map<String, Value>,
    /// The lab, once it is made.
    pub lab: Option<Lab>,
    /// The watcher of invariants, once there is a lab.
    pub checker: Option<Checker>,
}

impl Context {
    /// The surroundings for a run with this seed.
    #[must_use]
    pub fn new(binaries: &Binaries, rootfs: &std::path::Path, name: String, seed: u64) -> Self {
        Self {
            binaries: binaries.clone(),
            rootfs: rootfs.to_owned(),
            name,
            dice: StdRng::seed_from_u64(seed),
            facts: Map::new(),
            lab: None,
            checker: None,
        }
    }

    /// A plan for hosts that want so many servers.
    #[must_use]
    pub fn spec(&self, hosts: u8, servers: u8) -> Spec {
        Spec { owned: true, ..Spec::new(&self.name, hosts, servers, &self.binaries) }
    }

    /// Makes the lab; nothing is powered on yet. The invariants are watched from here on.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn lab(&mut self, spec: &Spec) -> Result<Lab> {
        let lab = Lab::create(spec, &self.binaries, &self.rootfs)?;
        self.checker = Some(Checker::start(&lab.hosts));
        self.lab = Some(lab.clone());
        Ok(lab)
    }

    /// Makes the lab and powers all its hosts on.
    ///
    /// # Errors
    /// It cannot be made, or a host does not start.
    pub fn up(&mut self, hosts: u8, servers: u8) -> Result<Lab> {
        let lab = self.lab(&self.spec(hosts, servers))?;
        lab.start(&lab.hosts)?;
        Ok(lab)
    }

    /// Adds a host to the lab; it is not powered on yet.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn add_host(&mut self, lab: &mut Lab, index: u8, name: &str) -> Result<Host> {
        let host = lab.add_host(index, name)?;
        if let Some(checker) = &self.checker {
            checker.add(&host);
        }
        self.lab = Some(lab.clone());
        Ok(host)
    }

    /// Notes something for the report.
    pub fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Notes how long ago something began, in seconds to the tenth.
    pub fn fact_seconds(&mut self, name: &str, since: Instant) {
        self.fact(name, json!((since.elapsed().as_secs_f64() * 10.0).round() / 10.0));
    }

    /// A time limit: as given with the stand-in, five times as long with a real k3s.
    #[must_use]
    pub fn limit(&self, seconds: u64) -> Duration {
        Duration::from_secs(if self.binaries.real { seconds * 5 } else { seconds })
    }

    /// Waits for something; gives up at once when an invariant is broken.
    ///
    /// # Errors
    /// It does not come within so many seconds (see [`Context::limit`]), or an invariant is broken.
    pub fn until<T>(&self, what: &str, seconds: u64, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        self.until_every(EVERY, what, seconds, look)
    }

    /// As [`Context::until`], looking as often as said.
    ///
    /// # Errors
    /// As [`Context::until`].
    pub fn until_every<T>(
        &self,
        every: Duration,
        what: &str,
        seconds: u64,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let found = wait::until(what, self.limit(seconds), every, || {
            self.unbroken()?;
            look()
        });
        found.with_context(|| self.picture())
    }

    /// Fails when an invariant was broken so far.
    ///
    /// # Errors
    /// With every violation.
    pub fn unbroken(&self) -> Result<()> {
        let violations = self.checker.as_ref().map(Checker::violations).unwrap_or_default();
        ensure!(violations.is_empty(), "{}", violations.join("; "));
        Ok(())
    }

    /// Where every host stands, on one line, for the report of a failure.
    fn picture(&self) -> String {
        let rows = self.lab.as_ref().map(view::rows).unwrap_or_default();
        let one = |row: &Row| format!("{} {} {}", row.name, row.phase, row.headline()).trim().to_owned();
        rows.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    /// Waits until these hosts are one cluster with so many voters, by their word and by that of k3s.
    ///
    /// # Errors
    /// They are not within so many seconds; what is missing is told.
    pub fn formed(&self, lab: &Lab, hosts: &[Host], servers: usize, seconds: u64) -> Result<Vec<Row>> {
        let part = lab.part(hosts);
        let mut last = String::new();
        let found = self.until("one cluster", seconds, || {
            let rows = view::rows(&part);
            match view::missing(&rows, servers).or_else(|| view::contradicted(&part, &rows, servers)) {
                None => Ok(Some(rows)),
                Some(reason) => {
                    last = reason;
                    Ok(None)
                }
            }
        });
        found.with_context(|| format!("not one cluster: {last}"))
    }

    /// Waits until a node gives a reason with this rule name.
    ///
    /// # Errors
    /// It does not within so many seconds.
    pub fn says(&self, host: &Host, rule: &str, seconds: u64) -> Result<Why> {
        self.until(&format!("{} says `{rule}`", host.name), seconds, || {
            let status = host.status().unwrap_or_default();
            Ok(status.why.into_iter().find(|why| why.rule == rule))
        })
    }

    /// Waits until a node complains as it must about bad input, and notes its line.
    ///
    /// # Errors
    /// It does not within so many seconds, or names no fitting phase.
    pub fn complains(&mut self, host: &Host, complaint: &Complaint, seconds: u64) -> Result<()> {
        let what = format!("{} says one of {:?} with {:?}", host.name, complaint.rules, complaint.words);
        let (why, phase) = self.until(&what, seconds, || {
            let status = host.status().unwrap_or_default();
            let fits =
                |why: &&Why| complaint.rules.contains(&why.rule.as_str()) && holds(why, complaint.words);
            Ok(status.why.iter().find(fits).cloned().map(|why| (why, status.phase)))
        })?;
        ensure!(
            complaint.phases.contains(&phase.as_str()),
            "{} says `{}` in the phase `{phase}`, {:?} expected",
            host.name,
            why.rule,
            complaint.phases
        );
        self.fact("phase", phase);
        self.fact("line", format!("{}: {}", why.rule, why.detail));
        Ok(())
    }

    /// The one certificate that all of these hosts hold.
    ///
    /// # Errors
    /// A host holds none, or another one.
    pub fn certificate(&self, hosts: &[Host]) -> Result<Certificate> {
        let mut found: Option<Certificate> = None;
        for host in hosts {
            let Some(held) = host.certificate() else { bail!("{} holds no certificate", host.name) };
            match &found {
                Some(known) if known.identity() != held.identity() => {
                    bail!("{} holds another certificate than {}", host.name, hosts[0].name);
                }
                _ => found = Some(held),
            }
        }
        found.context("no hosts")
    }
}

/// Whether a reason holds all of these words, whatever their case.
fn holds(why: &Why, words: &[&str]) -> bool {
    let text = format!("{} {}", why.detail, why.next).to_lowercase();
    words.iter().all(|word| text.contains(&word.to_lowercase()))
}

/// The host that the certificate names as the founder.
///
/// # Errors
/// No host has that identity.
pub fn founder(lab: &Lab, certificate: &Certificate) -> Result<Host> {
    let is = |status: &Status| status.node.id == certificate.founder;
    let found = lab.hosts.iter().find(|host| host.status().as_ref().is_some_and(is));
    found.cloned().with_context(|| format!("no host has the founder's identity {}", certificate.founder))
}

/// All hosts but one.
#[must_use]
pub fn without(lab: &Lab, one: &Host) -> Vec<Host> {
    lab.hosts.iter().filter(|host| host.index != one.index).cloned().collect()
}
