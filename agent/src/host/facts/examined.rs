//! What a closer look finds that takes longer than reading files: measurements, peers, certificates.

use serde::Serialize;
use x509_parser::pem::Pem;

use super::super::Measured;
use crate::config::Limits;
use crate::core::{Known, Why};
use crate::edge::clock::Discipline;
use crate::edge::path::PathMtu;

/// A closer look. Only what was looked at is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examined {
    /// Disk latency, memory, processors.
    pub measured: Known<Measured>,
    /// Free space where k3s's data lie, in MiB.
    pub disk_free_mib: Known<u64>,
    /// The wall clock's discipline.
    pub clock: Known<Discipline>,
    /// Ports of the peers that were given.
    pub peers: Vec<PeerAnswer>,
    /// The largest packets that get to peers, given or remembered.
    pub paths: Vec<PathSeen>,
    /// Certificates of k3s; absent before it has any.
    pub certificates: Known<Vec<CertificateSeen>>,
}

/// The way to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathSeen {
    /// The peer as it was given.
    pub peer: String,
    /// What gets there.
    #[serde(flatten)]
    pub mtu: PathMtu,
}

/// How a TCP port of a peer answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "answer", content = "cause")]
pub enum Answer {
    /// Something listens.
    Open,
    /// The machine answers that nothing listens: the way there is free.
    Refused,
    /// Nothing came back in time: the machine is off, or something on the way drops packets.
    Silent,
    /// No way there, or no such name.
    Unreachable(String),
}

/// One port of one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerAnswer {
    /// The peer as it was given.
    pub peer: String,
    /// TCP port.
    pub port: u16,
    /// What came back.
    #[serde(flatten)]
    pub answer: Answer,
}

impl PeerAnswer {
    /// Whether packets go there and come back.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        matches!(self.answer, Answer::Open | Answer::Refused)
    }
}

/// When a certificate of k3s holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateSeen {
    /// Its file.
    pub path: String,
    /// From when on, seconds since 1970.
    pub begins: i64,
    /// Until when, seconds since 1970.
    pub ends: i64,
}

/// The validity of the first certificate of a PEM file, in seconds since 1970.
///
/// # Errors
/// When it holds none that can be read.
pub fn parse_validity(pem: &[u8]) -> Result<(i64, i64), String> {
    let block = Pem::iter_from_buffer(pem).next().ok_or("it holds no certificate")?;
    let block = block.map_err(|error| error.to_string())?;
    let certificate = block.parse_x509().map_err(|error| error.to_string())?;
    let validity = certificate.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// On which sides of the limits a machine is wrong: row, what was seen, what to do. What could not be told is on no side.
#[must_use]
pub fn shortcomings(examined: &Examined, limits: &Limits) -> Vec<Why> {
    let mut all = Vec::new();
    let mut put = |row: &str, judged: Result<String, (String, &'static str)>| {
        if let Err((detail, next)) = judged {
            all.push(Why::new(format!("host.{row}"), detail, next));
        }
    };
    if let Known::Yes(measured) = &examined.measured {
        put("disk.latency", latency(measured, limits));
    }
    if let Known::Yes(free) = &examined.disk_free_mib {
        put("disk.free", free_space(*free, limits));
    }
    if let Known::Yes(clock) = &examined.clock {
        put("time.offset", offset(*clock, limits));
    }
    all
}

/// The class that goes into the claim: that of the measurements, and the lowest for a machine on the wrong side of a limit, so
/// that it yields to every machine that is not. None while nothing was measured.
#[must_use]
pub fn fitness(examined: &Examined, limits: &Limits) -> Option<u8> {
    let class = super::super::class(examined.measured.yes()?);
    Some(if shortcomings(examined, limits).is_empty() { class } else { 0 })
}

pub(in crate::host) fn latency(
    measured: &Measured,
    limits: &Limits,
) -> Result<String, (String, &'static str)> {
    let micros = measured.fdatasync_p99_micros;
    let seen = format!(
        "P99 of fdatasync {}.{} ms over {} writes",
        micros / 1_000,
        micros % 1_000 / 100,
        measured.writes
    );
    if micros <= limits.max_fsync_ms.saturating_mul(1_000) {
        return Ok(seen);
    }
    Err((
        format!("{seen}, limit {} ms", limits.max_fsync_ms),
        "a faster disk for k3s's data; as a server it yields to every machine within the limits",
    ))
}

pub(in crate::host) fn free_space(free_mib: u64, limits: &Limits) -> Result<String, (String, &'static str)> {
    if free_mib >= limits.min_disk_free_mib {
        return Ok(format!("{free_mib} MiB free"));
    }
    Err((
        format!("{free_mib} MiB free where k3s's data lie, wanted {}", limits.min_disk_free_mib),
        "make room, or a larger disk; as a server it yields to every machine within the limits",
    ))
}

pub(in crate::host) fn offset(clock: Discipline, limits: &Limits) -> Result<String, (String, &'static str)> {
    if !clock.synchronised {
        // Nobody knows its distance: see time.sync.
        return Ok("not synchronised, so no offset is known".to_owned());
    }
    let millis = clock.offset_micros / 1_000;
    if millis <= limits.max_clock_offset_ms {
        return Ok(format!("{millis} ms from its time source"));
    }
    Err((
        format!("{millis} ms from its time source, limit {}", limits.max_clock_offset_ms),
        "let it settle, or step the clock; as a server it yields to every machine within the limits",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Measured = Measured {
        fdatasync_p99_micros: 900,
        fdatasync_median_micros: 500,
        writes: 30,
        memory_mib: 3_900,
        cores: 2,
    };

    fn examined() -> Examined {
        Examined {
            measured: Known::Yes(GOOD),
            disk_free_mib: Known::Yes(20_000),
            clock: Known::Yes(Discipline { synchronised: true, offset_micros: 300 }),
            peers: vec![],
            paths: vec![],
            certificates: Known::Absent,
        }
    }

    #[test]
    fn a_limit_that_is_crossed_makes_the_lowest_class_and_says_so() {
        let limits = Limits::default();
        assert_eq!((fitness(&examined(), &limits), shortcomings(&examined(), &limits)), (Some(3), vec![]));
        let slow = Measured { fdatasync_p99_micros: 40_000, ..GOOD };
        let unsynchronised = Discipline { synchronised: false, offset_micros: 9_000_000 };
        let off = Discipline { synchronised: true, offset_micros: 9_000_000 };
        for (seen, rule) in [
            (Examined { measured: Known::Yes(slow), ..examined() }, Some("host.disk.latency")),
            (Examined { disk_free_mib: Known::Yes(100), ..examined() }, Some("host.disk.free")),
            (Examined { clock: Known::Yes(off), ..examined() }, Some("host.time.offset")),
            (Examined { clock: Known::Yes(unsynchronised), ..examined() }, None),
            (Examined { disk_free_mib: Known::unknown("it", "blinded"), ..examined() }, None),
        ] {
            let said = shortcomings(&seen, &limits);
            assert_eq!(said.first().map(|why| &*why.rule), rule);
            assert_eq!(fitness(&seen, &limits), Some(if rule.is_some() { 0 } else { 3 }), "{seen:?}");
        }
        // The limit is the operator's: the same disk is one of a middling class under another.
        let slow = Examined { measured: Known::Yes(slow), ..examined() };
        assert_eq!(fitness(&slow, &Limits { max_fsync_ms: 50, ..limits }), Some(1));
        let text = &shortcomings(&slow, &limits)[0].detail;
        assert_eq!(text, "P99 of fdatasync 40.0 ms over 30 writes, limit 30 ms");
        assert_eq!(
            fitness(&Examined { measured: Known::unknown("it", "blinded"), ..examined() }, &limits),
            None
        );
    }

    #[test]
    fn the_validity_of_a_certificate_is_read() {
        let mut made = rcgen::CertificateParams::new(vec!["node1".to_owned()]).unwrap();
        made.not_before = rcgen::date_time_ymd(2024, 1, 2);
        made.not_after = rcgen::date_time_ymd(2025, 1, 2);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = made.self_signed(&key).unwrap().pem();
        assert_eq!(parse_validity(pem.as_bytes()), Ok((1_704_153_600, 1_735_776_000)));
        assert!(parse_validity(b"nonsense").is_err());
        assert!(parse_validity(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
    }
}
