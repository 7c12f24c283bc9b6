//! Waiting for something to become true, with a deadline, and giving up when a person asks to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

static STOP: AtomicBool = AtomicBool::new(false);

/// Whether a person asked to stop (Ctrl-C, or SIGTERM).
#[must_use]
pub fn stopping() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Turns the first Ctrl-C into a request that every wait notices, so that what was made is also removed;
/// a second one ends the program at once. Must be called before any thread is made.
///
/// # Errors
/// The signals cannot be blocked.
pub fn catch_interrupts() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("block the signals")?;
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            if STOP.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("stopping: removing what was made (once more to stop at once)");
        }
    });
    Ok(())
}

/// Asks `look` every `every` until it gives something.
///
/// # Errors
/// `look` fails, a person asks to stop, or nothing came `within` the time: `what` is then named.
pub fn until<T>(
    what: &str,
    within: Duration,
    every: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if stopping() {
            bail!("stopped by hand while waiting for: {what}");
        }
        let now = Instant::now();
        if now >= deadline {
            bail!("not within {:.0} s: {what}", within.as_secs_f64());
        }
        std::thread::sleep(every.min(deadline - now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_what_was_found_or_names_what_was_not() {
        let mut left = 3;
        let every = Duration::from_millis(1);
        let found = until("three", Duration::from_secs(5), every, || {
            left -= 1;
            Ok((left == 0).then_some("here"))
        });
        assert_eq!(found.unwrap(), "here");
        let error = until::<()>("a wonder", Duration::from_millis(5), every, || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("a wonder"), "{error}");
    }
}
