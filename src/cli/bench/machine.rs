//! The machine that figures are from: its size, and the floor below which no durable, networked system can go. Measured
//! in the same run, so that a ratio can be read off anywhere.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;

use super::load::{Samples, milliseconds};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub memory_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Floor {
    /// Appending a page to a file and making it durable.
    pub fsync_p50_ms: f64,
    pub fsync_p99_ms: f64,
    /// One byte there and back over a TCP connection of the loopback, median.
    pub rtt_us: f64,
}

const FSYNCS: usize = 200;
const ROUND_TRIPS: usize = 2000;
const PAGE: [u8; 4096] = [1; 4096];

impl Machine {
    pub fn look() -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().context("cannot tell the number of cores")?.get();
        let text = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
        let memory_bytes = total_memory(&text).context("no MemTotal in /proc/meminfo")?;
        Ok(Self { cores, memory_bytes })
    }
}

impl Floor {
    /// Writes to a file of its own in `directory`, which should be where the hub's store will be.
    pub fn measure(directory: &Path) -> anyhow::Result<Self> {
        let mut fsyncs = fsyncs(directory).context("cannot measure fsync")?;
        let mut round_trips = round_trips().context("cannot measure the loopback")?;
        Ok(Self {
            fsync_p50_ms: milliseconds(fsyncs.percentile(50.0)),
            fsync_p99_ms: milliseconds(fsyncs.percentile(99.0)),
            rtt_us: round_trips.percentile(50.0).as_nanos() as f64 / 1000.0,
        })
    }
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The times of appending a page to a file in `directory` and making it durable, again and again.
pub fn fsyncs(directory: &Path) -> std::io::Result<Samples> {
    let path = directory.join("floor");
    let mut file = File::create(&path)?;
    let mut append = || {
        let start = Instant::now();
        file.write_all(&PAGE)?;
        file.sync_data()?;
        Ok(start.elapsed())
    };
    let samples = (0..FSYNCS).map(|_| append()).collect::<std::io::Result<Vec<Duration>>>();
    std::fs::remove_file(&path)?;
    Ok(samples?.into_iter().collect())
}

fn round_trips() -> std::io::Result<Samples> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut there_and_back = || {
        let start = Instant::now();
        let mut byte = [7];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        Ok(start.elapsed())
    };
    let samples = (0..ROUND_TRIPS).map(|_| there_and_back()).collect::<std::io::Result<Vec<Duration>>>();
    drop(stream);
    // A panic of it shows as a failed round trip above.
    let _ = echo.join();
    Ok(samples?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       24689540 kB\nMemFree:        1 kB\n";
        assert_eq!(total_memory(text), Some(24_689_540 * 1024));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn the_floor_is_above_nothing_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let floor = Floor::measure(directory.path()).expect("a floor");
        assert!(floor.fsync_p50_ms > 0.0 && floor.rtt_us > 0.0, "{floor:?}");
        assert!(floor.fsync_p50_ms <= floor.fsync_p99_ms);
        assert_eq!(std::fs::read_dir(directory.path()).expect("a listing").count(), 0);
    }
}
