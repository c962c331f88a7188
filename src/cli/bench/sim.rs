//! How fast a group of replicas is simulated, with all that goes wrong between them: simulated seconds per second and core.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use serde_json::json;

use super::Row;
use crate::sim::replicas::{Settings, World};

/// Tells the stories of so many seeds on all cores.
pub fn run(seeds: u64) -> Row {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, simulated_us, steps, broken) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let world = World::tell_story(Settings { seed, plant: None, verbose: false });
                    simulated_us.fetch_add(world.simulated_us(), Ordering::Relaxed);
                    steps.fetch_add(world.trace.steps, Ordering::Relaxed);
                    broken.fetch_add(u64::from(!world.check.violations.is_empty()), Ordering::Relaxed);
                }
            });
        }
    });
    let core_seconds = begin.elapsed().as_secs_f64() * cores as f64;
    let simulated = simulated_us.into_inner() as f64 / 1e6;
    Row::from_iter([
        ("seeds".to_owned(), json!(seeds)),
        ("cores".to_owned(), json!(cores)),
        ("simulated_s".to_owned(), json!(simulated.round())),
        ("simulated_s_per_s_and_core".to_owned(), json!((simulated / core_seconds).round())),
        ("steps_per_s_and_core".to_owned(), json!((steps.into_inner() as f64 / core_seconds).round())),
        ("broken".to_owned(), json!(broken.into_inner())),
    ])
}
