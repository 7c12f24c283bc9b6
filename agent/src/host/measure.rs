//! What a machine can do, measured: the disk where etcd will live, memory, processors. [edge]

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::Known;
use crate::edge::{clock, fs};
use crate::host::facts::kernel::{parse_cpu_list, parse_memory_kib};

/// Measurements of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// 99th percentile of one `fdatasync` after a 4 KiB append, in microseconds. Of 30 writes this is the slowest.
    pub fdatasync_p99_micros: u64,
    /// Median of the same, in microseconds.
    pub fdatasync_median_micros: u64,
    /// Writes that were made before the time was up.
    pub writes: u32,
    /// Total memory in MiB.
    pub memory_mib: u64,
    /// Online processors.
    pub cores: u32,
}

/// Writes at most: what etcd's write-ahead log does for 30 small transactions.
const WRITES: usize = 30;
/// Bytes of one write.
const BLOCK: usize = 4096;
/// No write is begun after this time: a disk that needs longer is of the lowest class anyway.
const LIMIT: Duration = Duration::from_secs(3);

/// Measures in a directory, or in the nearest one above it that exists. Blocks for the time of the writes, at most about
/// 3 s and the last write; the file has no name (or loses it at once), so nothing is left behind, whatever happens.
#[must_use]
pub fn measure(dir: &Path) -> Known<Measured> {
    let Some(place) = dir.ancestors().find(|place| fs::known_there(place).yes().is_some()) else {
        return Known::unknown(dir.display().to_string(), "no directory above it exists");
    };
    let mut micros = match write_probe(place) {
        Ok(micros) => micros,
        Err(error) => {
            return Known::unknown(format!("the write latency in {}", place.display()), error.to_string());
        }
    };
    micros.sort_unstable();
    let memory = fs::known_text(Path::new("/proc/meminfo")).yes().and_then(|text| parse_memory_kib(text));
    let Some(memory_kib) = memory else { return Known::unknown("/proc/meminfo", "it has no MemTotal") };
    let cores = fs::known_text(Path::new("/sys/devices/system/cpu/online"))
        .yes()
        .and_then(|text| parse_cpu_list(text));
    let Some(cores) = cores else {
        return Known::unknown("/sys/devices/system/cpu/online", "it is not a list of processors");
    };
    Known::Yes(Measured {
        fdatasync_p99_micros: percentile(&micros, 99),
        fdatasync_median_micros: percentile(&micros, 50),
        writes: u32::try_from(micros.len()).unwrap_or(u32::MAX),
        memory_mib: memory_kib / 1024,
        cores,
    })
}

fn write_probe(place: &Path) -> std::io::Result<Vec<u64>> {
    let mut file = tempfile::tempfile_in(place)?;
    let block = [0x5a_u8; BLOCK];
    // The first write pays for the file itself, as etcd paid when it made its log.
    file.write_all(&block)?;
    file.sync_all()?;
    let begin = clock::since_boot();
    let mut micros = Vec::with_capacity(WRITES);
    while micros.len() < WRITES {
        let before = clock::since_boot();
        if before.saturating_sub(begin) > LIMIT && !micros.is_empty() {
            break;
        }
        file.write_all(&block)?;
        nix::unistd::fdatasync(file.as_fd())?;
        let took = clock::since_boot().saturating_sub(before);
        micros.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
    Ok(micros)
}

/// The nearest-rank percentile of sorted numbers; 0 of none.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

/// The class of a machine, 0 to 3, more is better: the worst of its three classes. Coarse, so that noise does not decide.
///
/// | class | fdatasync P99 | memory | cores |
/// |---|---|---|---|
/// | 3 | under 10 ms (etcd's guidance for its log) | 1,800 MiB or more (k3s's minimum of 2 GiB) | 2 or more |
/// | 2 | under 30 ms | 900 MiB or more | 1 |
/// | 1 | under 100 ms (etcd's heartbeat interval) | 450 MiB or more | |
/// | 0 | slower: heartbeats are missed | less | |
#[must_use]
pub fn class(measured: &Measured) -> u8 {
    let disk = match measured.fdatasync_p99_micros {
        ..=9_999 => 3,
        10_000..=29_999 => 2,
        30_000..=99_999 => 1,
        _ => 0,
    };
    let memory = match measured.memory_mib {
        1_800.. => 3,
        900..=1_799 => 2,
        450..=899 => 1,
        _ => 0,
    };
    let cores = if measured.cores >= 2 { 3 } else { 2 };
    disk.min(memory).min(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_part_makes_the_class() {
        let good = Measured {
            fdatasync_p99_micros: 900,
            fdatasync_median_micros: 500,
            writes: 30,
            memory_mib: 3_900,
            cores: 2,
        };
        for (measured, wanted) in [
            (good, 3),
            (Measured { fdatasync_p99_micros: 10_000, ..good }, 2),
            (Measured { fdatasync_p99_micros: 40_000, ..good }, 1),
            (Measured { fdatasync_p99_micros: 100_000, ..good }, 0),
            (Measured { cores: 1, ..good }, 2),
            (Measured { memory_mib: 1_000, ..good }, 2),
            (Measured { memory_mib: 300, ..good }, 0),
        ] {
            assert_eq!(class(&measured), wanted, "{measured:?}");
        }
    }

    #[test]
    fn a_measurement_leaves_nothing_behind_and_takes_the_nearest_directory() {
        let directory = tempfile::tempdir().unwrap();
        let measured = measure(&directory.path().join("not/yet/there"));
        let measured = measured.yes().unwrap();
        assert!(measured.writes >= 1 && measured.fdatasync_median_micros <= measured.fdatasync_p99_micros);
        assert!(measured.memory_mib > 0 && measured.cores > 0);
        assert_eq!(fs::known_names(directory.path()), Known::Yes(vec![]));
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let sorted: Vec<u64> = (1..=30).collect();
        assert_eq!((percentile(&sorted, 99), percentile(&sorted, 50), percentile(&[], 99)), (30, 15, 0));
    }
}
