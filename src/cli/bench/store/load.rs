//! A closed loop: each client sends its next request when the last one is answered. What it finds is how much a system can
//! do for that many clients at once, and how long each of them waits then.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::client::{Client, Written};
use crate::cli::bench::load::Samples;

/// Keys that are written and read, each of 48 bytes.
pub const KEYS: u64 = 10_000;
const PREFIX: &str = "/hanse/bench.hanse.dev/values/default/";
/// Values are pieces of this: no compression gains on it.
const POOL_BYTES: usize = 1 << 16;
const FILLERS: u64 = 64;
/// Clients that hear that they are at the wrong place, or nothing, pause for as long.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Put,
    Read,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Read => "read",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub operation: Operation,
    pub clients: usize,
    pub bytes: usize,
    /// Before anything counts.
    pub warming: Duration,
    pub duration: Duration,
    pub seed: u64,
}

/// What the clients saw of one run.
pub struct Seen {
    pub times: Samples,
    pub answered: u64,
    pub failed: u64,
    pub elapsed: Duration,
}

impl Seen {
    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64()
    }
}

/// Which key and which value comes next: the same for every system that is given the same seed.
struct Choice {
    state: u64,
    pool: Bytes,
    key: String,
}

impl Choice {
    fn new(seed: u64) -> Self {
        // splitmix64's increment: distinct seeds lie far apart.
        let mut choice =
            Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, pool: Bytes::new(), key: String::new() };
        choice.pool = (0..POOL_BYTES / 8).flat_map(|_| choice.next().to_le_bytes()).collect();
        choice
    }

    /// xorshift64*
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn key(&mut self, number: u64) -> &str {
        self.key.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.key, "{PREFIX}{number:010}");
        &self.key
    }

    fn value(&mut self, bytes: usize) -> Bytes {
        let begin = (self.next() >> 8) as usize % (POOL_BYTES - bytes);
        self.pool.slice(begin..begin + bytes)
    }
}

/// Runs the plan with its clients spread over these connections. `edge` is told when counting begins and when it ends.
pub async fn run(
    connections: &[Client],
    plan: Plan,
    mut edge: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Seen> {
    if plan.bytes >= POOL_BYTES {
        bail!("values are smaller than {POOL_BYTES} bytes");
    }
    let (counting, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for number in 0..plan.clients {
        let mut client = connections[number % connections.len()].clone();
        let (counting, ended) = (counting.clone(), ended.clone());
        clients.spawn(async move {
            let mut choice = Choice::new(plan.seed + number as u64);
            let (mut times, mut failed) = (vec![], 0);
            while !ended.load(Ordering::Relaxed) {
                let (number, value) = (choice.next() % KEYS, choice.value(plan.bytes));
                let counts = counting.load(Ordering::Relaxed);
                let begin = Instant::now();
                let done = match plan.operation {
                    Operation::Put => client.put(choice.key(number), value).await == Written::Yes,
                    Operation::Read => client.read(choice.key(number)).await.is_ok_and(|found| found.is_some()),
                };
                if !done {
                    failed += 1;
                    tokio::time::sleep(PAUSE).await;
                } else if counts && !ended.load(Ordering::Relaxed) {
                    times.push(begin.elapsed());
                }
            }
            (times, failed)
        });
    }
    tokio::time::sleep(plan.warming).await;
    edge()?;
    counting.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    tokio::time::sleep(plan.duration).await;
    ended.store(true, Ordering::Relaxed);
    let elapsed = begin.elapsed();
    edge()?;
    let (mut all, mut failed) = (vec![], 0);
    while let Some(client) = clients.join_next().await {
        let (times, failures) = client.context("a client panicked")?;
        all.extend(times);
        failed += failures;
    }
    let answered = all.len() as u64;
    Ok(Seen { times: all.into_iter().collect(), answered, failed, elapsed })
}

/// Writes each key once, and then as many more as there are updates.
pub struct Filling {
    bytes: usize,
    end: u64,
    /// Of each filler, what it writes next, and what it draws its values from.
    fillers: Vec<(u64, Choice)>,
}

impl Filling {
    pub fn new(bytes: usize, updates: u64) -> Self {
        let fillers = (0..FILLERS).map(|filler| (filler, Choice::new(filler))).collect();
        Self { bytes, end: KEYS + updates, fillers }
    }

    /// Goes on where it was until all is written, or until a write fails: then it says why, and can go on elsewhere.
    pub async fn run(&mut self, connections: &[Client]) -> anyhow::Result<Result<(), String>> {
        let (bytes, end) = (self.bytes, self.end);
        let mut fillers = JoinSet::new();
        for (filler, (mut number, mut choice)) in self.fillers.drain(..).enumerate() {
            let mut client = connections[filler % connections.len()].clone();
            fillers.spawn(async move {
                while number < end {
                    let value = choice.value(bytes);
                    match client.put(choice.key(number % KEYS), value).await {
                        Written::Yes => number += FILLERS,
                        Written::No(why) | Written::Unknown(why) => return ((number, choice), Err(why)),
                    }
                }
                ((number, choice), Ok(()))
            });
        }
        let mut done = Ok(());
        while let Some(filler) = fillers.join_next().await {
            let (filler, ended) = filler.context("a filler panicked")?;
            self.fillers.push(filler);
            done = done.and(ended);
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_keys_and_values() {
        let drawn = |seed| {
            let mut choice = Choice::new(seed);
            (0..100).map(|_| (choice.next() % KEYS, choice.value(256))).collect::<Vec<_>>()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn keys_have_the_length_that_is_told() {
        assert_eq!(Choice::new(1).key(KEYS - 1).len(), 48);
    }
}
