//! The only clock and the only dice.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use ring::rand::{SecureRandom, SystemRandom};

/// Time since boot, suspended time included; it never jumps, whatever the wall clock does.
#[must_use]
pub fn since_boot() -> Duration {
    // The call fails only for an unknown clock id or a bad pointer: neither can happen with this constant.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Seconds of the wall clock since 1970. For people's eyes and for k3s's own demand on the clock, never for a decision
/// about membership.
#[must_use]
pub fn wall_seconds() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |time| time.tv_sec())
}

/// The wall clock as Kubernetes writes it in a Lease: UTC, to the microsecond. Nobody compares it with another machine's.
#[must_use]
pub fn wall_text() -> String {
    let now = time::OffsetDateTime::now_utc();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
        now.microsecond()
    )
}

/// The same in milliseconds.
#[must_use]
pub fn wall_milliseconds() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME)
        .map_or(0, |time| time.tv_sec() * 1_000 + time.tv_nsec() / 1_000_000)
}

/// Random bytes from the kernel.
///
/// # Errors
/// When the kernel gives no randomness; nothing may go on with predictable bytes.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0_u8; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| std::io::Error::other("the kernel gave no random bytes"))?;
    Ok(bytes)
}

/// What the kernel says of its wall clock's discipline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Discipline {
    /// Whether something keeps it to a time source.
    pub synchronised: bool,
    /// How far it may be from that source, in microseconds, either way: what the kernel still has to correct, or the error that
    /// the time daemon gave it, whichever is more. (chrony corrects by itself and leaves the kernel nothing but the error.)
    pub offset_micros: u64,
}

/// Asks the kernel how the wall clock is kept, by adjtimex(2) without any change.
///
/// # Errors
/// When the system call is refused, as some sandboxes do.
pub fn discipline() -> std::io::Result<Discipline> {
    // SAFETY: `timex` is plain numbers, for which all zeroes are valid; with `modes` zero the kernel only writes to it.
    #[expect(unsafe_code, reason = "no safe wrapper of this call exists")]
    let (state, asked) = unsafe {
        let mut asked: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut asked), asked)
    };
    if state < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let unit = if asked.status & libc::STA_NANO == 0 { 1 } else { 1_000 };
    Ok(Discipline {
        synchronised: state != libc::TIME_ERROR && asked.status & libc::STA_UNSYNC == 0,
        offset_micros: (asked.offset.unsigned_abs() / unit).max(asked.esterror.unsigned_abs()),
    })
}
