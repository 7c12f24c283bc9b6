//! Commands of the host: each with a deadline, its standard error kept, and never a secret among its arguments.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// A command that could not be run to its end, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It could not be started; nothing changed.
    #[error("cannot start `{command}`")]
    Start {
        /// The command line.
        command: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It ran longer than allowed and was killed; what it had done by then is unknown.
    #[error("`{command}` did not end within {seconds} s and was killed")]
    Deadline {
        /// The command line.
        command: String,
        /// The bound.
        seconds: u64,
    },
    /// It ended with another status than zero.
    #[error("`{command}` ended with {status}: {stderr}")]
    Status {
        /// The command line.
        command: String,
        /// `exit status: N`, or the signal.
        status: String,
        /// The last lines it wrote to standard error.
        stderr: String,
    },
}

/// What a command said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
}

/// Runs a program to its end and gives what it said, whatever its exit code.
///
/// # Errors
/// When it cannot be started, or is still running at the deadline (it is then killed).
#[expect(clippy::disallowed_methods, reason = "this is the edge that everybody else must use")]
pub async fn output(program: &str, args: &[&str], deadline: Duration) -> Result<Output, ExecError> {
    let command = || [&[program], args].concat().join(" ");
    let child = Command::new(program)
        .args(args)
        // Programs of the host have no use for the cluster token.
        .env_remove("MUSTER_TOKEN")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| ExecError::Start { command: command(), source })?;
    match tokio::time::timeout(deadline, child.wait_with_output()).await {
        Err(_) => Err(ExecError::Deadline { command: command(), seconds: deadline.as_secs() }),
        Ok(Err(source)) => Err(ExecError::Start { command: command(), source }),
        Ok(Ok(out)) => Ok(Output {
            code: out.status.code(),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }),
    }
}

/// Runs a program and asks for exit code zero.
///
/// # Errors
/// As [`output`], and when the exit code is not zero.
pub async fn run(program: &str, args: &[&str], deadline: Duration) -> Result<Output, ExecError> {
    let out = output(program, args, deadline).await?;
    if out.code == Some(0) {
        return Ok(out);
    }
    let tail: Vec<&str> = out.stderr.lines().rev().take(3).collect();
    Err(ExecError::Status {
        command: [&[program], args].concat().join(" "),
        status: out.code.map_or_else(|| "a signal".to_owned(), |code| format!("exit status {code}")),
        stderr: tail.into_iter().rev().collect::<Vec<_>>().join(" / "),
    })
}

/// Bounds on a program of somebody else.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Longest time.
    pub deadline: Duration,
    /// Most bytes of standard output.
    pub most_bytes: usize,
}

/// Why a program of somebody else gave no answer; its arguments are not repeated, for they may hold what is not to be shown.
#[derive(Debug, thiserror::Error)]
pub enum BoundedError {
    /// It could not be started, or its output could not be read.
    #[error("cannot run it: {0}")]
    Run(#[from] std::io::Error),
    /// It was still running, and was killed with everything that it had started.
    #[error("it did not end within {} ms and was killed", .0.as_millis())]
    Deadline(Duration),
    /// It printed more than anybody expects.
    #[error("it printed more than {0} bytes and was killed")]
    TooLong(usize),
    /// It ended with this status, and this was the beginning of what it wrote to standard error.
    #[error("it ended with {0}")]
    Status(String),
    /// What it printed is no text.
    #[error("it printed something that is no text")]
    NotText,
}

/// Kills a process group when it is dropped.
struct Group(Option<nix::unistd::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is as good.
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Runs somebody else's program in a process group of its own, with a bound on its time and its output, and asks for exit code
/// zero. The agent's environment is not handed on, except `PATH` and what is given.
///
/// # Errors
/// When it gives no whole answer within its bounds. It and its children are dead by then.
#[expect(clippy::disallowed_methods, reason = "this is the edge that everybody else must use")]
pub async fn bounded(
    program: &str,
    args: &[String],
    environment: &[(&str, String)],
    bounds: Bounds,
) -> Result<String, BoundedError> {
    use tokio::io::{AsyncRead, AsyncReadExt};
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let id = child.id().and_then(|id| i32::try_from(id).ok()).map(nix::unistd::Pid::from_raw);
    let mut group = Group(id);
    async fn all(from: Option<impl AsyncRead + Unpin>, most: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(from) = from {
            from.take(most as u64 + 1).read_to_end(&mut bytes).await?;
        }
        Ok(bytes)
    }
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = tokio::time::timeout(bounds.deadline, async {
        // What is read no further is cut off: the program then gets SIGPIPE, or is killed.
        let (out, err) = tokio::join!(all(out, bounds.most_bytes), all(err, 4_096));
        let (out, err) = (out?, err?);
        if out.len() > bounds.most_bytes {
            return Err(BoundedError::TooLong(bounds.most_bytes));
        }
        Ok((child.wait().await?, out, err))
    })
    .await;
    let (status, out, err) = ended.map_err(|_| BoundedError::Deadline(bounds.deadline))??;
    // Reaped, and nobody holds its output: the number may be another's soon.
    group.0 = None;
    if !status.success() {
        let stderr = crate::core::brief(&String::from_utf8_lossy(&err));
        let said = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
        return Err(BoundedError::Status(format!("{status}{said}")));
    }
    String::from_utf8(out).map_err(|_| BoundedError::NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let error = run("muster-no-such-tool", &["--now", "x"], SOON).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot start `muster-no-such-tool --now x`");
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(source.contains("No such file"), "{source}");
    }

    #[tokio::test]
    async fn a_bad_end_is_told_with_the_last_lines_of_what_was_said() {
        let error = run("sh", &["-c", "for n in 1 2 3 4; do echo line $n >&2; done; exit 7"], SOON)
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.ends_with("ended with exit status 7: line 2 / line 3 / line 4"), "{text}");
    }
}
