//! Log lines in the shape k3s prints them (logrus text format on standard error).

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock;

static DEBUG: AtomicBool = AtomicBool::new(false);

/// Turns debug lines on (`--debug`).
pub fn set_debug(on: bool) {
    DEBUG.store(on, Ordering::Relaxed);
}

/// Quotes a value exactly when logrus would: anything outside letters, digits and `-._/@^+`.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    go_quote(text)
}

/// Go's `%q` for the characters that occur in log lines.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// One line as logrus formats it.
pub fn line(now: std::time::SystemTime, level: &str, message: &str) -> String {
    format!("time=\"{}\" level={level} msg={}", clock::rfc3339(now), quoted(message))
}

fn write(level: &str, message: &str) {
    let text = line(std::time::SystemTime::now(), level, message);
    // A closed standard error must not end the program: k3s goes on without a log too.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// As many lines as a real k3s says in its first second, and more than whoever reads only the end of its journal takes.
pub fn chatter() {
    for number in 1..=60 {
        info(format!("FLAG: --flag-of-a-component-{number}=\"\""));
    }
}

/// Level info.
pub fn info(message: impl AsRef<str>) {
    write("info", message.as_ref());
}

/// Level info with fields.
pub fn info_with(message: &str, fields: &[(&str, &str)]) {
    let fields: String = fields.iter().map(|(key, value)| format!(" {key}={}", quoted(value))).collect();
    let text = line(std::time::SystemTime::now(), "info", message);
    let _ = writeln!(std::io::stderr().lock(), "{text}{fields}");
}

/// Writes a line to standard output; a reader that went away is not an error.
pub fn out(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Level warning.
pub fn warn(message: impl AsRef<str>) {
    write("warning", message.as_ref());
}

/// Level error.
pub fn error(message: impl AsRef<str>) {
    write("error", message.as_ref());
}

/// Level debug, only with `--debug`.
pub fn debug(message: impl AsRef<str>) {
    if DEBUG.load(Ordering::Relaxed) {
        write("debug", message.as_ref());
    }
}

/// Level fatal, then exit status 1: what logrus.Fatal does. The etcd child dies with this process.
pub fn fatal(message: impl AsRef<str>) -> ! {
    write("fatal", message.as_ref());
    std::process::exit(1)
}

/// Passes a line of another program (etcd) through unchanged.
pub fn raw(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_quoted_as_logrus_quotes_them() {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        assert_eq!(line(at, "info", "ready"), "time=\"2023-11-14T22:13:20Z\" level=info msg=ready");
        assert_eq!(
            line(at, "error", "Shutdown request received: \"a b\""),
            "time=\"2023-11-14T22:13:20Z\" level=error msg=\"Shutdown request received: \\\"a b\\\"\""
        );
    }
}
