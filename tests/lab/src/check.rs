//! What must be true at every moment of every scenario, watched from outside while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::probe;
use crate::status::{Certificate, Status};

/// How often every host's word is read.
const EVERY: Duration = Duration::from_millis(200);
/// How often a node that holds a certificate is asked for the CA that it serves.
const EVERY_CA: Duration = Duration::from_secs(4);
/// How many answers in a row a node that gives its provisional cluster up may still serve that cluster's CA.
const SERVING_WRONG: u32 = 2;
/// How many looks in a row a node that holds a certificate may still be configured to found a cluster: 10 seconds.
/// Until the file is gone, only the gate stands between it and a second cluster.
const DISARMING: u32 = 50;

/// How often a server is asked for the members of etcd.
const EVERY_MEMBERS: Duration = Duration::from_secs(3);
/// For how many looks a server counts as living after it said last that it votes: 15 seconds.
const VOTED: u64 = 75;
/// For how many looks no API may be ready while a majority votes: a minute, longer than k3s needs to start.
const API_DOWN: u64 = 300;

/// What was seen of one host at one moment.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Name of the host, for the report.
    pub host: String,
    /// What its node says.
    pub status: Option<Status>,
    /// Whether its k3s is configured to found a cluster.
    pub armed: bool,
    /// The hash of the CA that it serves, if it was asked.
    pub served_ca: Option<String>,
    /// The nodes that vote, as its etcd lists them, if it was asked.
    pub voters: Option<BTreeSet<String>>,
}

/// The memory that the invariants need, and what was found against them.
#[derive(Debug, Default)]
pub struct Invariants {
    certificates: BTreeMap<u64, (Certificate, String)>,
    holders: BTreeMap<String, u64>,
    disarming: BTreeMap<String, u32>,
    wrong: BTreeMap<String, u32>,
    /// Who voted when a list was read last.
    voters: BTreeSet<String>,
    /// The look at which a node said last that it votes.
    voted: BTreeMap<String, u64>,
    /// When a node's word was written, by its own clock, and the look at which that was new: the last word of one that is paused, or
    /// hangs, stays in its file.
    fresh: BTreeMap<String, (i64, u64)>,
    /// The last look at which some API was ready, or no majority voted.
    served: u64,
    /// Every violation, once.
    pub violations: BTreeSet<String>,
    /// How many times all hosts were looked at.
    pub looks: u64,
}

impl Invariants {
    /// Looks at all hosts at one moment.
    pub fn observe(&mut self, samples: &[Sample]) {
        self.looks += 1;
        for sample in samples {
            if let Some(status) = &sample.status {
                self.one(sample, status);
            }
        }
        self.disarmed_in_time(samples);
        self.identities(samples);
        for status in samples.iter().filter_map(|sample| sample.status.as_ref()) {
            let at = self.fresh.entry(status.node.name.clone()).or_insert((status.written_unix, self.looks));
            if at.0 != status.written_unix {
                *at = (status.written_unix, self.looks);
            }
        }
        self.quorum(samples);
        self.api(samples);
    }

    /// Whoever is taken out of etcd leaves a majority that lives.
    fn quorum(&mut self, samples: &[Sample]) {
        for status in samples.iter().filter_map(|sample| sample.status.as_ref()) {
            if status.k3s.voter == Some(true) {
                let at = self.fresh.get(&status.node.name).map_or(self.looks, |(_, at)| *at);
                self.voted.insert(status.node.name.clone(), at);
            }
        }
        for (by, voters) in samples.iter().filter_map(|sample| Some((&sample.host, sample.voters.as_ref()?)))
        {
            let out: Vec<&str> = self.voters.difference(voters).map(String::as_str).collect();
            let living = voters.iter().filter(|name| self.lives(name)).count();
            if !out.is_empty() && 2 * living <= voters.len() {
                self.violations.insert(format!(
                    "{} left etcd, and {living} of the {} that {by} lists live",
                    out.join(", "),
                    voters.len()
                ));
            }
            self.voters.clone_from(voters);
        }
    }

    fn lives(&self, name: &str) -> bool {
        self.voted.get(name).is_some_and(|at| self.looks - at <= VOTED)
    }

    /// While a majority votes, some API serves.
    fn api(&mut self, samples: &[Sample]) {
        let is_fresh = |name: &str| self.fresh.get(name).is_some_and(|(_, at)| self.looks - at <= VOTED);
        let k3s = || {
            let said = samples.iter().filter_map(|sample| sample.status.as_ref());
            said.filter(|status| is_fresh(&status.node.name)).map(|status| (status, &status.k3s))
        };
        let vote =
            k3s().filter(|(status, k3s)| k3s.voter == Some(true) && self.voters.contains(&status.node.name));
        let majority = 2 * vote.count() > self.voters.len();
        if !majority || k3s().any(|(_, k3s)| k3s.api == Some(true)) {
            self.served = self.looks;
        } else if self.looks - self.served > API_DOWN {
            self.violations.insert("a majority votes, and no API was ready for a minute".to_owned());
        }
    }

    fn one(&mut self, sample: &Sample, status: &Status) {
        let host = &sample.host;
        let Some(certificate) = &status.certificate else {
            if status.phase == "serving" {
                self.violations.insert(format!("{host} serves without a birth certificate"));
            }
            if !status.node.id.is_empty() && self.holders.get(&status.node.id) == Some(&status.node.era) {
                self.violations.insert(format!("{host} held a birth certificate and holds none now"));
            }
            return;
        };
        if !status.node.id.is_empty() {
            self.holders.insert(status.node.id.clone(), certificate.era);
        }
        match self.certificates.get(&certificate.era) {
            Some((known, first)) if known.identity() != certificate.identity() => {
                self.violations.insert(format!(
                    "two certificates in era {}: {first} holds {} founded by {}, {host} holds {} founded by {}",
                    certificate.era,
                    known.cluster_id,
                    known.founder_name,
                    certificate.cluster_id,
                    certificate.founder_name
                ));
            }
            Some(_) => {}
            None => {
                self.certificates.insert(certificate.era, (certificate.clone(), host.clone()));
            }
        }
        if let Some(served) = &sample.served_ca {
            self.served(host, status, certificate, served);
        }
    }

    /// Whoever knows the certificate serves its CA or none; what was provisional may need a moment to stop.
    fn served(&mut self, host: &str, status: &Status, certificate: &Certificate, served: &str) {
        if *served == certificate.ca_hash {
            self.wrong.remove(host);
            return;
        }
        let wrong = self.wrong.entry(host.to_owned()).or_default();
        *wrong += 1;
        if (status.node.role == "server" && status.phase == "serving") || *wrong > SERVING_WRONG {
            self.violations.insert(format!(
                "{host} ({}) serves the CA {served}, its certificate says {}",
                status.phase, certificate.ca_hash
            ));
        }
    }

    /// Before the certificate two nominees may be armed. Who holds one disarms itself soon, the founder too.
    fn disarmed_in_time(&mut self, samples: &[Sample]) {
        for sample in samples {
            let holds = sample.status.as_ref().is_some_and(|status| status.certificate.is_some());
            if !(sample.armed && holds) {
                self.disarming.remove(&sample.host);
                continue;
            }
            let looks = self.disarming.entry(sample.host.clone()).or_default();
            *looks += 1;
            if *looks > DISARMING {
                let text = "holds a birth certificate and stays configured to found a cluster";
                self.violations.insert(format!("{} {text}", sample.host));
            }
        }
    }

    fn identities(&mut self, samples: &[Sample]) {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for sample in samples {
            let Some(status) = &sample.status else { continue };
            let id = status.node.id.as_str();
            if id.is_empty() {
                continue;
            }
            if let Some(other) = owners.insert(id, &sample.host) {
                let text = format!("{other} and {} have the same identity {id}", sample.host);
                self.violations.insert(text);
            }
        }
    }
}

/// Watches the hosts of a scenario from a thread of its own.
#[derive(Debug)]
pub struct Checker {
    hosts: Arc<Mutex<Vec<Host>>>,
    found: Arc<Mutex<Invariants>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checker {
    /// Begins to watch.
    #[must_use]
    pub fn start(hosts: &[Host]) -> Self {
        let checker = Self {
            hosts: Arc::new(Mutex::new(hosts.to_vec())),
            found: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let (hosts, found, stop) = (checker.hosts.clone(), checker.found.clone(), checker.stop.clone());
        let thread = std::thread::spawn(move || watch(&hosts, &found, &stop));
        Self { thread: Some(thread), ..checker }
    }

    /// Watches one more host.
    pub fn add(&self, host: &Host) {
        lock(&self.hosts).push(host.clone());
    }

    /// What was found so far.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        lock(&self.found).violations.iter().cloned().collect()
    }

    /// Ends the watch; gives how often all hosts were looked at, and what was found.
    #[must_use]
    pub fn finish(mut self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the watcher must not pass for silence.
            if thread.join().is_err() {
                lock(&self.found).violations.insert("the watcher itself failed".to_owned());
            }
        }
        let looks = lock(&self.found).looks;
        (looks, self.violations())
    }
}

fn watch(hosts: &Mutex<Vec<Host>>, found: &Mutex<Invariants>, stop: &AtomicBool) {
    let mut asked: BTreeMap<u8, Instant> = BTreeMap::new();
    let (mut members_at, mut turn) = (Instant::now(), 0_usize);
    while !stop.load(Ordering::Relaxed) {
        let hosts = lock(hosts).clone();
        let mut samples: Vec<Sample> = hosts.iter().map(|host| sample(host, &mut asked)).collect();
        if members_at.elapsed() > EVERY_MEMBERS {
            members_at = Instant::now();
            turn += 1;
            ask_for_voters(&hosts, &mut samples, turn);
        }
        lock(found).observe(&samples);
        std::thread::sleep(EVERY);
    }
}

/// Asks one of the servers whose API is ready, each in its turn.
fn ask_for_voters(hosts: &[Host], samples: &mut [Sample], turn: usize) {
    let ready = |sample: &Sample| sample.status.as_ref().is_some_and(|status| status.k3s.api == Some(true));
    let serving: Vec<usize> = (0..samples.len()).filter(|at| ready(&samples[*at])).collect();
    let Some(at) = serving.get(turn % serving.len().max(1)).copied() else { return };
    // An empty list would be nobody's: it is an answer that was not understood.
    let members = probe::members(&hosts[at]).ok().filter(|members| !members.voters.is_empty());
    samples[at].voters = members.map(|members| members.voting_nodes().into_iter().collect());
}

fn sample(host: &Host, asked: &mut BTreeMap<u8, Instant>) -> Sample {
    let status = host.status();
    let holds = status.as_ref().is_some_and(|status| status.certificate.is_some());
    let due = asked.get(&host.index).is_none_or(|at| at.elapsed() > EVERY_CA);
    let served_ca = if holds && due {
        asked.insert(host.index, Instant::now());
        probe::ca_hash(host)
    } else {
        None
    };
    Sample { host: host.name.clone(), armed: host.armed(), status, served_ca, voters: None }
}

/// A thread that panicked while it held the lock has left a value that is whole enough to report from.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
