use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::*;

/// Of [`rule_07_an_acknowledged_write_survives_whatever_happens_to_a_minority`].
const SEEDS: u64 = 10_000;

fn plain(seed: u64) -> Settings {
    Settings { seed, plant: None, verbose: false }
}

/// What is wrong with a seed, in words; a panic is, too.
fn wrong(settings: Settings) -> Result<World, String> {
    let story = catch_unwind(AssertUnwindSafe(|| World::tell_story(settings)));
    let world = story.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        format!("panicked: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?"))
    })?;
    if let Some(violation) = world.check.violations.first() {
        return Err(violation.to_string());
    }
    history::impossible(&world.check.answers).map_or(Ok(world), Err)
}

/// Calls for every seed, on all cores, until one call says that it is enough.
fn on_all_cores(seeds: Range<u64>, enough: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(seeds.start);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || enough(seed) {
                        return next.store(u64::MAX / 2, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Tells many stories; fails with what is wrong, and with the command that tells one of them again.
fn tell_all(seeds: Range<u64>) {
    let count = seeds.end - seeds.start;
    let (simulated_us, steps) = (AtomicU64::new(0), AtomicU64::new(0));
    let broken = Mutex::new(Vec::new());
    let begin = Instant::now();
    on_all_cores(seeds, |seed| {
        match wrong(plain(seed)) {
            Ok(world) => {
                simulated_us.fetch_add(world.simulated_us(), Ordering::Relaxed);
                steps.fetch_add(world.trace.steps, Ordering::Relaxed);
            }
            Err(what) => broken.lock().expect("no panic while it is held").push((seed, what)),
        }
        false
    });
    let (wall, simulated) = (begin.elapsed().as_secs_f64(), simulated_us.into_inner() as f64 / 1e6);
    println!("{count} seeds, {simulated:.0} simulated seconds in {wall:.1} s: {:.0} a second", simulated / wall);
    let mut broken = broken.into_inner().expect("no panic while it is held");
    broken.sort();
    let shown = broken.iter().take(10).map(|(seed, what)| {
        format!("{what}\n  HANSE_SEED={seed} cargo test --lib sim::replicas::tests::one_seed -- --nocapture\n")
    });
    assert!(broken.is_empty(), "{} of {count} seeds broke a rule:\n{}", broken.len(), shown.collect::<String>());
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// With `HANSE_SEED`, that seed with every line of its trace.
#[test]
fn one_seed() {
    let seed = number("HANSE_SEED", 1);
    let world = World::tell_story(Settings { verbose: true, ..plain(seed) });
    if std::env::var("HANSE_SEED").is_ok() {
        world.trace.lines.iter().for_each(|line| println!("{line}"));
    }
    assert_eq!(world.check.violations, [], "seed {seed}");
    assert_eq!(history::impossible(&world.check.answers), None, "seed {seed}");
}

#[test]
fn rule_07_an_acknowledged_write_survives_whatever_happens_to_a_minority() {
    tell_all(0..SEEDS);
}

/// Other seeds than the ones above; how many, `SEEDS` says.
#[test]
#[ignore = "takes as long as it is told to: make sim"]
fn long() {
    tell_all(SEEDS..SEEDS + number("SEEDS", 100_000));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        let tell = || World::tell_story(Settings { verbose: true, ..plain(seed) });
        let (one, other) = (tell(), tell());
        let differing = one.trace.lines.iter().zip(&other.trace.lines).find(|(one, other)| one != other);
        assert_eq!(differing, None, "seed {seed}");
        assert_eq!((one.trace.digest, one.trace.steps), (other.trace.digest, other.trace.steps), "seed {seed}");
    }
    assert_ne!(World::tell_story(plain(1)).trace.digest, World::tell_story(plain(2)).trace.digest);
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for (plant, within) in Plant::ALL {
        let found = Mutex::new(None);
        on_all_cores(0..within, |seed| {
            let what = wrong(Settings { plant: Some(plant), ..plain(seed) }).err();
            let mut found = found.lock().expect("no panic while it is held");
            if what.is_some() {
                *found = found.take().into_iter().chain(what.map(|what| (seed, what))).min();
            }
            found.is_some()
        });
        match found.into_inner().expect("no panic while it is held") {
            Some((seed, what)) => println!("{plant:?}: seed {seed}: {what}"),
            None => missed.push((plant, within)),
        }
    }
    assert!(missed.is_empty(), "not found within so many seeds: {missed:?}");
}
