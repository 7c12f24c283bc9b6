//! Interfaces by their numbers, and the limits of the first process.

use serde::Serialize;

use crate::core::Known;

/// An interface of the machine itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Hardware address, as the kernel writes it.
    pub mac: String,
    /// Its own reverse path filter; the stricter of it and that of all interfaces holds, by number.
    pub rp_filter: Known<String>,
}

/// What the first process may give to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InitLimits {
    /// Its own hard limit of open files; none for unlimited.
    pub open_files: Option<u64>,
    /// Whether it may give more than it has (CAP_SYS_RESOURCE).
    pub may_raise: bool,
}

/// Parses `/proc/1/limits` and `/proc/1/status`.
///
/// # Errors
/// When a line is missing or is not of its form.
pub fn parse_init_limits(limits: &str, status: &str) -> Result<InitLimits, String> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1)).ok_or("it has no line on open files")?;
    let open_files = match hard {
        "unlimited" => None,
        number => Some(number.parse().map_err(|_| format!("{number:?} is not a number of open files"))?),
    };
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok());
    let capabilities = capabilities.ok_or("/proc/1/status has no capabilities")?;
    // CAP_SYS_RESOURCE is bit 24.
    Ok(InitLimits { open_files, may_raise: capabilities & (1 << 24) != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_first_process_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             unlimited            unlimited            processes \n\
                      Max open files            1024                 20000                files     \n";
        let status = "Name:\tsystemd\nCapEff:\t000001fffeffffff\n";
        let seen = parse_init_limits(limits, status);
        assert_eq!(seen, Ok(InitLimits { open_files: Some(20_000), may_raise: false }));
        let full = parse_init_limits(limits, "CapEff:\t000001ffffffffff\n").unwrap();
        assert!(full.may_raise);
        assert!(parse_init_limits("", status).is_err());
        assert!(parse_init_limits(limits, "").is_err());
    }
}
