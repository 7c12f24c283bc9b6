//! Running other programs, always with a deadline.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long an ordinary helper (`ip`, `nft`, `mount`) may take.
const ORDINARY: Duration = Duration::from_secs(30);

/// One run of one program.
#[derive(Debug)]
pub struct Run {
    command: Command,
    text: String,
    input: Option<Vec<u8>>,
    deadline: Duration,
}

/// What a program left behind.
#[derive(Debug)]
pub struct Done {
    /// Its exit status.
    pub status: ExitStatus,
    /// Everything it wrote to standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Everything it wrote to standard error, invalid UTF-8 replaced.
    pub stderr: String,
}

impl Done {
    /// Whether the program exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }
}

impl Run {
    /// A run of `program`, found on the path, with 30 seconds to live.
    #[must_use]
    pub fn new(program: &str) -> Self {
        Self { command: Command::new(program), text: program.to_owned(), input: None, deadline: ORDINARY }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.text.push(' ');
        self.text.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(self, args: I) -> Self {
        args.into_iter().fold(self, Run::arg)
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs in `dir`.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Feeds `input` to standard input; without it the program reads nothing.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Changes the deadline.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs to the end or to the deadline.
    ///
    /// # Errors
    /// The program cannot be started, or is still running at the deadline (it is then killed). An exit code
    /// other than 0 is not an error here: see [`Run::ok`].
    pub fn output(mut self) -> Result<Done> {
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().with_context(|| format!("start `{}`", self.text))?;
        if let (Some(bytes), Some(mut pipe)) = (self.input.take(), child.stdin.take()) {
            // A program that does not read its input closes the pipe: its exit code tells the story.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let out = drain(child.stdout.take());
        let err = drain(child.stderr.take());
        let status = wait_until(&mut child, Instant::now() + self.deadline)?;
        let Some(status) = status else {
            drop(child.kill());
            drop(child.wait());
            bail!("`{}` was still running after {:?}", self.text, self.deadline);
        };
        // A daemon that the program left behind may hold the pipes open: what has come so far is enough.
        let grace = Duration::from_secs(2);
        let stdout = out.recv_timeout(grace).unwrap_or_default();
        let stderr = err.recv_timeout(grace).unwrap_or_default();
        Ok(Done { status, stdout, stderr })
    }

    /// Runs and demands exit code 0; gives standard output.
    ///
    /// # Errors
    /// As [`Run::output`], and any other exit code, with what the program wrote to standard error.
    pub fn ok(self) -> Result<String> {
        let text = self.text.clone();
        let done = self.output()?;
        if !done.success() {
            let said = if done.stderr.trim().is_empty() { &done.stdout } else { &done.stderr };
            bail!("`{text}`: {}: {}", done.status, last_lines(said, 6));
        }
        Ok(done.stdout)
    }

    /// Runs with this process's own terminal, for programs that talk to a person.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn interactive(mut self) -> Result<ExitStatus> {
        self.command.status().with_context(|| format!("start `{}`", self.text))
    }

    /// Runs with standard error passed through to the person watching, and demands exit code 0.
    ///
    /// # Errors
    /// As [`Run::ok`].
    pub fn watched(mut self) -> Result<String> {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = self.command.spawn().with_context(|| format!("start `{}`", self.text))?;
        let out = drain(child.stdout.take());
        let Some(status) = wait_until(&mut child, Instant::now() + self.deadline)? else {
            drop(child.kill());
            drop(child.wait());
            bail!("`{}` was still running after {:?}", self.text, self.deadline);
        };
        if !status.success() {
            bail!("`{}`: {status}", self.text);
        }
        Ok(out.recv_timeout(Duration::from_secs(2)).unwrap_or_default())
    }
}

/// The last `count` lines of a text, joined for one line of an error.
#[must_use]
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join(" | ")
}

fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> mpsc::Receiver<String> {
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            drop(pipe.read_to_end(&mut bytes));
        }
        drop(tx.send(String::from_utf8_lossy(&bytes).into_owned()));
    });
    rx
}

fn wait_until(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().context("wait for a child")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_killed_at_its_deadline() {
        let error = Run::new("sleep").arg("60").within(Duration::from_millis(50)).output().unwrap_err();
        assert!(error.to_string().contains("still running"), "{error}");
    }

    #[test]
    fn input_reaches_the_program_and_failure_quotes_what_it_said() {
        assert_eq!(Run::new("cat").input("a\nb").ok().unwrap(), "a\nb");
        let error = Run::new("sh").args(["-c", "echo no such thing >&2; exit 3"]).ok().unwrap_err();
        assert!(error.to_string().contains("exit status: 3: no such thing"), "{error}");
    }
}
