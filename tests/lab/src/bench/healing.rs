//! How long healing takes, and what a client of the API sees meanwhile: each fault with Muster and with its agents stopped, both at
//! once in labs of their own, so that what k3s does by itself stands beside under the same load.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::rounded;
use crate::conf;
use crate::host::Host;
use crate::lab::{Lab, Spec};
use crate::scenarios::quick;
use crate::setup::Tell;
use crate::setup::binaries::Binaries;
use crate::{probe, sweep, view, wait};

/// How often etcd's list is read.
const EVERY: Duration = Duration::from_millis(200);
/// Where a host's client writes the moments at which its API answered.
const POLLS: &str = "/root/polls";
/// Ten requests a second that need etcd, as an administrator of this host.
const POLL: &str = "T=/var/lib/rancher/k3s/server/tls; while :; do \
    curl -sf -o /dev/null -m 0.5 --cacert $T/server-ca.crt --cert $T/client-admin.crt --key $T/client-admin.key \
    https://127.0.0.1:6443/api/v1/namespaces/kube-system && echo $EPOCHREALTIME; sleep 0.1; done >/root/polls";

/// What is measured with.
#[derive(Clone, Copy)]
pub struct HealingBench<'a> {
    /// What the hosts run.
    pub binaries: &'a Binaries,
    /// The hosts' lowest layer.
    pub rootfs: &'a std::path::Path,
    /// Who is told how it goes.
    pub tell: Tell<'a>,
    /// The names of the faults; all of them when there is none.
    pub only: &'a [String],
    /// Runs of each fault on each side.
    pub runs: u32,
}

/// What happens to a server, and what is waited for where Muster runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The power of a server that does not lead etcd is cut, for good.
    FollowerLost,
    /// The power of the server that leads etcd is cut, for good.
    LeaderLost,
    /// Every process of a server is stopped where it stands, for good.
    Paused,
    /// A server loses k3s's data and boots.
    DataLost,
    /// A server is imaged anew under its name and address, and boots.
    Imaged,
    /// A server is told to leave; with Muster stopped, its k3s is stopped.
    Leaves,
}

impl Fault {
    const ALL: [(Fault, &str); 6] = [
        (Fault::FollowerLost, "follower_lost"),
        (Fault::LeaderLost, "etcd_leader_lost"),
        (Fault::Paused, "server_paused"),
        (Fault::DataLost, "data_lost"),
        (Fault::Imaged, "imaged_anew"),
        (Fault::Leaves, "server_leaves"),
    ];

    /// Whether the machine itself takes its place again, and no spare does.
    fn returns(self) -> bool {
        matches!(self, Fault::DataLost | Fault::Imaged)
    }
}

/// The names of all faults.
#[must_use]
pub fn names() -> Vec<&'static str> {
    Fault::ALL.iter().map(|(_, name)| *name).collect()
}

/// One run.
#[derive(Debug, Default)]
struct Run {
    /// The longest time without an API, and how long after the fault it began, in seconds.
    api_down: f64,
    api_down_at: f64,
    removed: Option<f64>,
    filled: Option<f64>,
}

impl HealingBench<'_> {
    /// Measures.
    ///
    /// # Errors
    /// A cluster does not form or heal, or a person asks to stop.
    pub fn run(&self) -> Result<Value> {
        let mut faults = Vec::new();
        let wanted = |name: &str| self.only.is_empty() || self.only.iter().any(|only| only == name);
        for (fault, name) in Fault::ALL.into_iter().filter(|(_, name)| wanted(name)) {
            let (mut with, mut without) = (Vec::new(), Vec::new());
            for number in 1..=self.runs {
                let side = |agents: bool| {
                    let place = format!("{name}-{}{number}", if agents { "m" } else { "s" });
                    self.in_lab(&place, |lab| self.one(lab, fault, agents))
                };
                let (muster, stopped) = std::thread::scope(|scope| {
                    let stopped = scope.spawn(|| side(false));
                    (side(true), stopped.join())
                });
                let stopped = stopped.map_err(|_| anyhow!("the side without Muster panicked"))?;
                for (word, run, all) in [("muster", muster?, &mut with), ("stopped", stopped?, &mut without)]
                {
                    (self.tell)(&format!(
                        "{name} {number}, {word}: API down for {:.1} s, {:.1} s after the fault; removed after {}, filled after {} more",
                        run.api_down,
                        run.api_down_at,
                        said(run.removed),
                        said(run.filled)
                    ));
                    all.push(run);
                }
            }
            let middle = |runs: &[Run], value: fn(&Run) -> Option<f64>| {
                let mut values: Vec<f64> = runs.iter().filter_map(value).collect();
                values.sort_by(f64::total_cmp);
                values.get(values.len() / 2).copied().map(rounded)
            };
            let all = |runs: &[Run]| runs.iter().map(|run| rounded(run.api_down)).collect::<Vec<_>>();
            faults.push(json!({
                "fault": name,
                "runs": self.runs,
                "death_to_removal_seconds": middle(&with, |run| run.removed),
                "vacancy_to_new_voter_seconds": middle(&with, |run| run.filled),
                "api_down_seconds": middle(&with, |run| Some(run.api_down)),
                "api_down_seconds_muster_stopped": middle(&without, |run| Some(run.api_down)),
                "api_down_seconds_each": all(&with),
                "api_down_seconds_muster_stopped_each": all(&without),
                "api_down_at_seconds": middle(&with, |run| Some(run.api_down_at)),
            }));
        }
        Ok(json!({
            "faults": faults,
            "grace_seconds": 5,
            "node_monitor_grace_period_seconds": 20,
            "k3s": self.binaries.version,
            "stand_in": !self.binaries.real,
        }))
    }

    fn limit(&self, seconds: u64) -> Duration {
        Duration::from_secs(if self.binaries.real { seconds * 5 } else { seconds })
    }

    fn in_lab<T>(&self, name: &str, act: impl FnOnce(&Lab) -> Result<T>) -> Result<T> {
        let name = format!("b{}-{}", std::process::id(), name.replace('_', "-"));
        let spec = Spec { owned: true, ..Spec::new(&name, 4, 3, self.binaries) };
        let lab = Lab::create(&spec, self.binaries, self.rootfs)?;
        let result = (|| {
            for host in &lab.hosts {
                host.write(conf::DROP_IN, quick(&spec.conf.kubelet_args))?;
            }
            lab.start(&lab.hosts)?;
            wait::until("one cluster", self.limit(180), Duration::from_millis(500), || {
                Ok(view::missing(&view::rows(&lab), 3).is_none().then_some(()))
            })?;
            // Leases and marks have settled.
            std::thread::sleep(Duration::from_secs(20));
            act(&lab)
        })();
        sweep::remove(&name)?;
        result
    }

    fn one(&self, lab: &Lab, fault: Fault, agents: bool) -> Result<Run> {
        let is = |host: &Host, role: &str| host.status().is_some_and(|status| status.node.role == role);
        let servers: Vec<Host> = lab.hosts.iter().filter(|host| is(host, "server")).cloned().collect();
        let leader =
            servers.iter().find(|host| leads(host)).context("no server says that its etcd leads")?.clone();
        let dead = if fault == Fault::LeaderLost {
            leader
        } else {
            servers.iter().find(|host| host.index != leader.index).context("one server")?.clone()
        };
        let rest: Vec<Host> = servers.iter().filter(|host| host.index != dead.index).cloned().collect();
        if !agents {
            // One that boots does not start it again, either.
            crate::lab::all(&lab.hosts, |host| {
                host.shell("systemctl disable --now muster.service").map(drop)
            })?;
        }
        for host in &rest {
            host.write("/root/poll.sh", POLL)?;
            host.shell("systemd-run -q --unit=polls bash /root/poll.sh")?;
        }
        std::thread::sleep(Duration::from_secs(3));
        let (began, wall) = (Instant::now(), SystemTime::now());
        let settings = quick(&Spec::new(&lab.name, 1, 1, self.binaries).conf.kubelet_args);
        befall(fault, &dead, agents, &settings)?;
        let mut run = Run::default();
        if agents {
            let removed = |names: &[String]| !names.contains(&dead.name);
            self.members(&rest, "its member is removed", 180, &removed)?;
            run.removed = Some(began.elapsed().as_secs_f64());
            let vacant = Instant::now();
            let full = |names: &[String]| names.len() == 3 && names.contains(&dead.name) == fault.returns();
            self.members(&rest, "three vote again", 120, &full)?;
            run.filled = Some(vacant.elapsed().as_secs_f64());
        }
        // Both sides are watched for as long: what k3s does about a silent Node comes late, too.
        let least = self.limit(90);
        std::thread::sleep(least.saturating_sub(began.elapsed()));
        let (longest, at) = down(&rest)?;
        let wall = wall.duration_since(SystemTime::UNIX_EPOCH).context("the clock stands before 1970")?;
        (run.api_down, run.api_down_at) = (longest, at - wall.as_secs_f64());
        Ok(run)
    }

    fn members(
        &self,
        asked: &[Host],
        what: &str,
        seconds: u64,
        wanted: &dyn Fn(&[String]) -> bool,
    ) -> Result<()> {
        wait::until(what, self.limit(seconds), EVERY, || {
            for host in asked {
                if let Ok(members) = probe::members(host) {
                    let names = members.voting_nodes();
                    return Ok((members.learners.is_empty() && wanted(&names)).then_some(()));
                }
            }
            Ok(None)
        })
    }
}

fn befall(fault: Fault, host: &Host, agents: bool, settings: &str) -> Result<()> {
    match fault {
        Fault::FollowerLost | Fault::LeaderLost => host.power_cut(),
        Fault::Paused => host.freeze(),
        Fault::DataLost => {
            host.power_cut()?;
            std::fs::remove_dir_all(host.path("/var/lib/rancher/k3s")).context("remove k3s's data")?;
            host.start().map(drop)
        }
        Fault::Imaged => {
            host.power_cut()?;
            host.wipe()?;
            host.write(conf::DROP_IN, settings)?;
            if !agents {
                // Nothing runs there then, as on a machine that nobody prepares.
                return Ok(());
            }
            host.start().map(drop)
        }
        Fault::Leaves if agents => host.shell("muster leave --reason bench --yes").map(drop),
        Fault::Leaves => host.shell("systemctl stop k3s.service").map(drop),
    }
}

fn leads(host: &Host) -> bool {
    let ask = ["curl", "-s", "-m", "2", "http://127.0.0.1:2381/metrics"];
    let said = host.inside(&ask, Duration::from_secs(4));
    said.is_ok_and(|said| said.stdout.lines().any(|line| line.trim() == "etcd_server_is_leader 1"))
}

fn said(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s"))
}

/// The longest time in which no API of these hosts answered, and when it began: what a client saw that tries them all.
fn down(hosts: &[Host]) -> Result<(f64, f64)> {
    let mut answers: Vec<f64> = Vec::new();
    for host in hosts {
        let text = host.read(POLLS).with_context(|| format!("{} wrote no polls", host.name))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        answers.extend(text.lines().filter_map(|line| line.replace(',', ".").parse::<f64>().ok()));
    }
    ensure!(answers.len() > 100, "only {} answers of the API", answers.len());
    Ok(longest_gap(answers))
}

fn longest_gap(mut moments: Vec<f64>) -> (f64, f64) {
    moments.sort_by(f64::total_cmp);
    let gaps = moments.windows(2).map(|pair| (pair[1] - pair[0], pair[0]));
    gaps.max_by(|one, two| one.0.total_cmp(&two.0)).unwrap_or_default()
}

/// The table for people.
#[must_use]
pub fn table(result: &Value) -> String {
    let mut lines = vec![["FAULT", "REMOVED", "FILLED", "API DOWN", "WITHOUT MUSTER"].map(str::to_owned)];
    for row in result["faults"].as_array().into_iter().flatten() {
        let cell =
            |key: &str| row[key].as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.1} s"));
        lines.push([
            row["fault"].as_str().unwrap_or_default().to_owned(),
            cell("death_to_removal_seconds"),
            cell("vacancy_to_new_voter_seconds"),
            cell("api_down_seconds"),
            cell("api_down_seconds_muster_stopped"),
        ]);
    }
    view::table(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_between_answers_of_any_host() {
        assert_eq!(longest_gap(vec![1.0, 9.0, 2.0, 4.5]), (4.5, 4.5));
        assert_eq!(longest_gap(vec![1.0]), (0.0, 0.0));
    }
}
