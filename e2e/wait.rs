//! Waiting: until something is so, or as long as it must stay so.
//!
//! A probe looks once. It answers `Ok` when things are as wanted, else `Err` with what it saw, and the
//! last such sight goes into the failure. Deadlines are generous: they end a hang, they measure
//! nothing.

use std::fmt::Display;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Probes until it answers `Ok`, and returns that. Panics `within` later, naming `what` was waited
/// for.
#[track_caller]
pub fn until<T, Seen: Display>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<T, Seen>) -> T {
    let start = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        // Taken before the probe: one that takes long still gets a last look at the deadline.
        let late = start.elapsed() >= within;
        match probe() {
            Ok(value) => return value,
            Err(seen) if late => panic!("waited {within:?} for {what}; last seen: {seen}"),
            Err(_) => sleep(pause),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Probes until `within` has passed, and panics when one probe answers `Err`: for what must not happen.
#[track_caller]
pub fn throughout<Seen: Display>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<(), Seen>) {
    let start = Instant::now();
    while start.elapsed() < within {
        if let Err(seen) = probe() {
            panic!("expected for {within:?}: {what}; after {:?}: {seen}", start.elapsed());
        }
        sleep(PAUSE_MAX.min(within));
    }
}

/// Waits until the wall clock shows more than `moment`, a time in UTC as the API prints it.
#[track_caller]
pub fn until_wall_clock_passes(moment: &str, within: Duration) {
    until(&format!("the time to be past {moment}"), within, || {
        let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().expect("run date");
        let now = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        // Such times sort as they follow each other.
        if *now > *moment { Ok(()) } else { Err(now) }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// What `code` panics with.
    fn message(code: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(code)).expect_err("a panic");
        *panic.downcast::<String>().expect("a formatted message")
    }

    #[test]
    fn until_returns_the_first_good_answer() {
        let mut left = 3;
        let found = until("the countdown", Duration::from_secs(10), || {
            left -= 1;
            if left == 0 { Ok("ready") } else { Err(left) }
        });
        assert_eq!((found, left), ("ready", 0));
    }

    #[test]
    fn until_tells_what_it_waited_for_and_what_it_saw_last() {
        let mut sights = 0;
        let told = message(|| {
            until("a miracle", Duration::from_millis(30), || {
                sights += 1;
                Err::<(), _>(format!("nothing, {sights} times"))
            });
        });
        assert_eq!(told, format!("waited 30ms for a miracle; last seen: nothing, {sights} times"));
    }

    #[test]
    fn the_wall_clock_is_past_what_is_past_only() {
        until_wall_clock_passes("2020-01-01T00:00:00Z", Duration::ZERO);
        let told = message(|| until_wall_clock_passes("9999-01-01T00:00:00Z", Duration::ZERO));
        assert!(told.contains("past 9999-01-01T00:00:00Z"), "{told}");
    }

    #[test]
    fn throughout_fails_at_the_first_bad_sight() {
        let mut sights = 0;
        let told = message(|| {
            throughout("silence", Duration::from_secs(10), || {
                sights += 1;
                if sights < 3 { Ok(()) } else { Err("noise") }
            });
        });
        assert!(told.starts_with("expected for 10s: silence; after "), "{told}");
        assert!(told.ends_with(": noise"), "{told}");
    }
}
