//! Wall clock texts as Kubernetes and Go print them; no time crate is needed for UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970; 0 for a clock before it.
pub fn unix(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or(0)
}

/// Seconds since 1970, now.
pub fn unix_now() -> u64 {
    unix(SystemTime::now())
}

fn civil(days: i64) -> (i64, u32, u32) {
    // Days since 1970-01-01 to year, month, day (Howard Hinnant's calendar arithmetic).
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = (month + 9) % 12;
    let doy = (153 * mp + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// `2006-01-02T15:04:05Z`.
pub fn rfc3339(at: SystemTime) -> String {
    let seconds = unix(at) as i64;
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let (h, m, s) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// Kubernetes MicroTime: `2006-01-02T15:04:05.000000Z`.
pub fn micro(at: SystemTime) -> String {
    let micros = at.duration_since(UNIX_EPOCH).map(|d| d.subsec_micros()).unwrap_or(0);
    let whole = rfc3339(at);
    format!("{}.{micros:06}Z", whole.trim_end_matches('Z'))
}

/// Now, as [`rfc3339`].
pub fn now() -> String {
    rfc3339(SystemTime::now())
}

/// Now, as [`micro`].
pub fn now_micro() -> String {
    micro(SystemTime::now())
}

/// Reads an RFC 3339 UTC time, with or without a fraction.
pub fn parse(text: &str) -> Option<SystemTime> {
    let (whole, fraction) = match text.trim_end_matches('Z').split_once('.') {
        Some((whole, fraction)) => (whole, fraction),
        None => (text.trim_end_matches('Z'), ""),
    };
    let (date, time) = whole.split_once('T')?;
    let mut date = date.split('-').map(|p| p.parse::<i64>());
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.split(':').map(|p| p.parse::<i64>());
    let (h, m, s) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    let seconds = days_from_civil(year, month, day) * 86_400 + h * 3_600 + m * 60 + s;
    let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let micros = digits.parse::<u64>().ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?) + Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_printing_and_reading() {
        for seconds in [0_u64, 951_782_400, 1_700_000_000, 4_102_444_799] {
            let at = UNIX_EPOCH + Duration::from_micros(seconds * 1_000_000 + 250);
            assert_eq!(parse(&micro(at)), Some(at), "{}", micro(at));
        }
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(951_782_400)), "2000-02-29T00:00:00Z");
        assert_eq!(parse("not a time"), None);
    }
}
