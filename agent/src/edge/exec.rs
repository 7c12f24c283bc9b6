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
