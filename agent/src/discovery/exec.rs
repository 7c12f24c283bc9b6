//! A program that prints addresses.

use std::time::Duration;

use async_trait::async_trait;

use super::pace::Pace;
use super::{Failure, Found, Origin, Scene, Source, lines};
use crate::edge::exec;

pub(super) struct Exec {
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) cluster: String,
    pub(super) port: u16,
}

#[async_trait]
impl Source for Exec {
    fn name(&self) -> String {
        "exec".to_owned()
    }

    fn origin(&self) -> Origin {
        Origin::Kept
    }

    fn pace(&self) -> Pace {
        let deadline = self.timeout + Duration::from_secs(1);
        Pace { deadline, ..Pace::of(0, 1_000, 30, 600) }
    }

    async fn look(&mut self, scene: &Scene) -> Result<Found, Failure> {
        let Some((program, args)) = self.command.split_first() else {
            return Err(Failure::new("there is no command"));
        };
        let environment = [
            ("MUSTER_CLUSTER", self.cluster.clone()),
            ("MUSTER_NODE_ADDRESS", scene.own.ip().to_string()),
            ("MUSTER_GOSSIP_PORT", self.port.to_string()),
        ];
        let bounds = exec::Bounds { deadline: self.timeout, most_bytes: lines::MOST_BYTES };
        // The program is named, its arguments are not: somebody will have put a secret there.
        let said = exec::bounded(program, args, &environment, bounds)
            .await
            .map_err(|error| Failure::new(format!("{program}: {error}")))?;
        lines::parse(&said, self.port)
            .map_err(|failure| Failure::new(format!("{program}: {}", failure.cause)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, watch};
    use tokio::time::Instant;

    use super::*;

    async fn run(script: &str, timeout: u64) -> Result<Found, Failure> {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let timeout = Duration::from_millis(timeout);
        let mut source = Exec { command, timeout, cluster: "lab".to_owned(), port: 7846 };
        let scene = Scene {
            own: "10.0.0.1:7846".parse().unwrap(),
            enough: watch::channel(false).1,
            tell: mpsc::unbounded_channel().0,
        };
        source.look(&scene).await
    }

    #[tokio::test]
    async fn what_a_program_prints_is_read_and_it_is_told_where_it_runs() {
        let found = run(
            "echo \"$MUSTER_NODE_ADDRESS:5\"; echo '{\"address\":\"10.0.0.2\"}'; echo $MUSTER_CLUSTER $MUSTER_TOKEN $HOME",
            5_000,
        );
        let found = found.await.unwrap();
        assert_eq!(found.addresses, ["10.0.0.1:5".parse().unwrap(), "10.0.0.2:7846".parse().unwrap()]);
        assert_eq!(found.note.as_deref(), Some("1 lines are no addresses, the first: \"lab\""));
    }

    #[tokio::test]
    async fn one_that_hangs_fails_or_prints_garbage_gives_no_answer_and_is_named_without_its_arguments() {
        for (script, wanted) in [
            ("echo canary >/dev/null; sleep 600 & sleep 600", "it did not end within 200 ms and was killed"),
            ("echo 10.0.0.2; exit 3", "it ended with exit status: 3"),
            ("echo oops >&2; exit 1", "it ended with exit status: 1: oops"),
            ("head -c 1000 /dev/urandom", "no text"),
            ("echo canary", "1 lines are no addresses"),
            ("yes 10.0.0.2", "printed more than 1048576 bytes"),
        ] {
            let timeout = if script.contains("sleep") { 200 } else { 20_000 };
            let cause = run(script, timeout).await.unwrap_err().cause;
            assert!(cause.starts_with("/bin/sh: ") && cause.contains(wanted), "{cause}");
        }
        let missing = Exec {
            command: vec!["/nowhere/peers".to_owned(), "canary-secret".to_owned()],
            timeout: Duration::from_secs(1),
            cluster: String::new(),
            port: 1,
        };
        let bounds = exec::Bounds { deadline: missing.timeout, most_bytes: 10 };
        let error = exec::bounded(&missing.command[0], &missing.command[1..], &[], bounds).await.unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
    }

    #[tokio::test]
    async fn the_children_of_one_that_hangs_end_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid.display());
        assert!(run(&script, 1_000).await.is_err());
        let child = crate::edge::fs::read_text(&pid).unwrap().unwrap().trim().to_owned();
        let state = || {
            let stat = crate::edge::fs::read_text(std::path::Path::new(&format!("/proc/{child}/stat")));
            stat.ok()
                .flatten()
                .and_then(|text| text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()))
        };
        let end = Instant::now() + Duration::from_secs(10);
        // A zombie waits for whoever adopted it: it runs no more.
        while !matches!(state(), None | Some('Z' | 'X')) {
            assert!(Instant::now() < end, "the child lives on");
            tokio::task::yield_now().await;
        }
    }
}
