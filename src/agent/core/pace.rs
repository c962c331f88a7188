//! How fast the core may go: whose turn is next, a budget of writes for the whole agent, growing pauses for single
//! objects.

use std::collections::{BTreeSet, VecDeque};

use crate::{agent::cluster::Rejection, model::Uid};

/// Works that wait for their turn: each once, in order of coming.
#[derive(Debug, Default)]
pub struct Ready {
    order: VecDeque<Uid>,
    waiting: BTreeSet<Uid>,
}

impl Ready {
    pub fn push(&mut self, application: Uid) {
        if self.waiting.insert(application.clone()) {
            self.order.push_back(application);
        }
    }

    /// Whose turn was cut short goes on first.
    pub fn push_first(&mut self, application: Uid) {
        if self.waiting.insert(application.clone()) {
            self.order.push_front(application);
        }
    }

    pub fn pop(&mut self) -> Option<Uid> {
        let application = self.order.pop_front()?;
        self.waiting.remove(&application);
        Some(application)
    }

    pub fn clear(&mut self) {
        self.order.clear();
        self.waiting.clear();
    }
}

/// A token bucket. One agent can never flood its member, whatever it is told.
#[derive(Debug, Clone)]
pub struct Budget {
    per_second: u64,
    /// In thousandths of a token.
    full: u64,
    left: u64,
    filled_at_ms: u64,
}

impl Budget {
    pub fn new(per_second: u64, burst: u64, now_ms: u64) -> Self {
        let full = burst.max(1).saturating_mul(1000);
        Self { per_second: per_second.max(1), full, left: full, filled_at_ms: now_ms }
    }

    /// Takes one token, or says when there will be one.
    pub fn take(&mut self, now_ms: u64) -> Result<(), u64> {
        let passed = now_ms.saturating_sub(self.filled_at_ms);
        self.left = self.full.min(self.left.saturating_add(passed.saturating_mul(self.per_second)));
        self.filled_at_ms = now_ms;
        if self.left >= 1000 {
            self.left -= 1000;
            return Ok(());
        }
        Err(now_ms + (1000 - self.left).div_ceil(self.per_second))
    }
}

/// Pauses that double, each with jitter, so that what failed together is not tried together.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    pub failures: u32,
    pub not_before_ms: u64,
}

const FIRST_PAUSE_MS: u64 = 100;
const LONGEST_PAUSE_MS: u64 = 300_000;
const UNANSWERED_PAUSE_MS: u64 = 15_000;

impl Backoff {
    pub fn fail(&mut self, now_ms: u64, jitter: &mut Jitter) {
        self.fail_within(now_ms, LONGEST_PAUSE_MS, jitter);
    }

    /// Where the member did not answer, nothing was refused, and once it is back nobody should wait for minutes.
    pub fn reject(&mut self, rejection: &Rejection, now_ms: u64, jitter: &mut Jitter) {
        let longest_ms = if rejection.is_unanswered() { UNANSWERED_PAUSE_MS } else { LONGEST_PAUSE_MS };
        self.fail_within(now_ms, longest_ms, jitter);
    }

    fn fail_within(&mut self, now_ms: u64, longest_ms: u64, jitter: &mut Jitter) {
        let pause = FIRST_PAUSE_MS.saturating_mul(1 << self.failures.min(16)).min(longest_ms);
        self.failures = self.failures.saturating_add(1);
        self.not_before_ms = now_ms + jitter.around(pause);
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Pauses between repairs of one object. The first is at once; when somebody keeps changing our fields, ours is the
/// side that gives way, down to one repair in five minutes.
#[derive(Debug, Clone, Default)]
pub struct Repairs {
    backoff: Backoff,
    last_ms: u64,
}

impl Repairs {
    pub fn not_before_ms(&self) -> u64 {
        self.backoff.not_before_ms
    }

    pub fn done(&mut self, now_ms: u64, jitter: &mut Jitter) {
        // Quiet for twice the longest pause: whoever fought us has stopped.
        if now_ms.saturating_sub(self.last_ms) > 2 * LONGEST_PAUSE_MS {
            self.backoff.clear();
        }
        self.last_ms = now_ms;
        self.backoff.fail(now_ms, jitter);
    }
}

/// Pseudo-random numbers from a seed (splitmix64, Steele et al. 2014): the core has no other source of chance.
#[derive(Debug, Clone)]
pub struct Jitter(pub u64);

impl Jitter {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Between three and five quarters of `pause`.
    pub fn around(&mut self, pause: u64) -> u64 {
        pause - pause / 4 + self.next() % (pause / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_order_and_each_work_waits_once() {
        let mut ready = Ready::default();
        ["a", "b", "a", "c"].into_iter().for_each(|name| ready.push(Uid::from(name)));
        assert_eq!(ready.pop(), Some(Uid::from("a")));
        ready.push_first(Uid::from("a"));
        ready.push(Uid::from("a"));
        let order: Vec<Uid> = std::iter::from_fn(|| ready.pop()).collect();
        assert_eq!(order, ["a", "b", "c"].map(Uid::from));
    }

    #[test]
    fn the_budget_caps_bursts_and_the_rate() {
        let mut budget = Budget::new(10, 3, 0);
        assert_eq!([budget.take(0), budget.take(0), budget.take(0)], [Ok(()); 3]);
        assert_eq!(budget.take(0), Err(100));
        assert_eq!(budget.take(99), Err(100));
        assert_eq!(budget.take(100), Ok(()));
        let granted = (100..=10_100).filter(|ms| budget.take(*ms).is_ok()).count();
        assert_eq!(granted, 100);
        assert_eq!((0..10).filter(|_| budget.take(60_000).is_ok()).count(), 3, "never more than the burst at once");
    }

    #[test]
    fn pauses_grow_to_a_limit_and_jitter_spreads_them() {
        let (mut backoff, mut jitter) = (Backoff::default(), Jitter(7));
        let mut pauses = Vec::new();
        for _ in 0..20 {
            backoff.fail(0, &mut jitter);
            pauses.push(backoff.not_before_ms);
        }
        assert!((75..=125).contains(&pauses[0]), "{pauses:?}");
        assert!((225_000..=375_000).contains(&pauses[19]), "{pauses:?}");
        let mut others = Jitter(8);
        assert_ne!(others.around(1000), Jitter(9).around(1000));
    }

    #[test]
    fn whoever_fights_us_is_met_less_and_less_often() {
        let (mut repairs, mut jitter) = (Repairs::default(), Jitter(1));
        let (mut now, mut count) = (0, 0);
        while now < 3_600_000 {
            now = now.max(repairs.not_before_ms());
            repairs.done(now, &mut jitter);
            count += 1;
        }
        assert!((10..40).contains(&count), "{count} repairs in an hour");
    }
}
