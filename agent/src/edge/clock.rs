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
