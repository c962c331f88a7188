//! What the link does next: connect, renew, wait. A connection's life as an enum and a step.
//!
//! Must never: give up. A hub that is away for weeks, or says no, costs a call now and then, and changes nothing in the
//! member.

use crate::model::{Now, Timestamp};

const WAIT_MS_MIN: u64 = 500;
const WAIT_MS_MAX: u64 = 30_000;
/// Before another address is tried: enough that the agents of a replica that is gone do not all come in one moment.
const HOP_MS: u64 = 1_000;
/// After a no that asking again does not help; a person may change the hub's mind.
const REFUSED_WAIT_MS: u64 = 300_000;
/// A stream that stood for as long was a good one: the next pause starts small again.
const GOOD_MS: u64 = 10_000;
/// A failed renewal of a certificate that still holds is tried again this much later.
const RENEW_RETRY_MS: u64 = 60_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The time of [`Course::wake_at`].
    Tick,
    /// Connecting, or the stream that stood, came to this end.
    Ended(Ended),
    Opened,
    /// The hub's clock, from a Welcome.
    HubTime(Timestamp),
    Renewed(Validity),
    RenewFailed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Lost,
    /// The hub said no and that trying again does not help.
    Refused,
    /// The hub says that the certificate's time is over.
    Expired,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To the hub address of this number (modulo how many there are).
    Connect(usize),
    Renew(usize),
    /// Give the stream up: a new certificate is there.
    Close,
}

/// Times of the certificate held, by the hub's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub renew_at: Timestamp,
    pub not_after: Timestamp,
}

#[derive(Debug)]
pub struct Course {
    state: State,
    validity: Validity,
    /// Hub's clock minus ours, milliseconds.
    skew_ms: i64,
    address: usize,
    addresses: usize,
    failures: u32,
    /// Not before then: a renewal that failed.
    renew_not_before_ms: u64,
    random: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting { until_ms: u64 },
    Connecting,
    Open { since_ms: u64 },
    Renewing { open: Option<u64> },
}

impl Course {
    /// `seed` is where jitter comes from: a thousand agents must not come back in step.
    pub fn start(now: Now, validity: Validity, seed: u64) -> Self {
        Self {
            state: State::Waiting { until_ms: now.monotonic_ms },
            validity,
            skew_ms: 0,
            address: 0,
            addresses: 1,
            failures: 0,
            renew_not_before_ms: 0,
            random: seed | 1,
        }
    }

    pub fn step(&mut self, now: Now, event: Event) -> Option<Action> {
        match event {
            Event::Tick => self.tick(now),
            Event::Opened => {
                self.state = State::Open { since_ms: now.monotonic_ms };
                None
            }
            Event::HubTime(time) => {
                self.skew_ms = time.millis().saturating_sub(now.wall.millis());
                None
            }
            Event::Ended(ended) => {
                self.ended(now, ended);
                None
            }
            Event::Renewed(validity) => {
                self.validity = validity;
                self.renew_not_before_ms = 0;
                self.failures = 0;
                let State::Renewing { open } = self.state else { return None };
                self.state = State::Waiting { until_ms: now.monotonic_ms };
                open.map(|_| Action::Close)
            }
            Event::RenewFailed => {
                let State::Renewing { open } = self.state else { return None };
                self.address += 1;
                self.renew_not_before_ms = now.monotonic_ms + RENEW_RETRY_MS;
                match open {
                    Some(since_ms) => self.state = State::Open { since_ms },
                    None => self.wait(now, WAIT_MS_MAX),
                }
                None
            }
        }
    }

    /// How many addresses the hub has.
    pub fn learn_addresses(&mut self, addresses: usize) {
        self.addresses = addresses;
    }

    /// Monotonic milliseconds of the next [`Event::Tick`]; `None` while an answer is awaited.
    pub fn wake_at(&self, now: Now) -> Option<u64> {
        match self.state {
            State::Waiting { until_ms } => Some(until_ms),
            State::Open { .. } => {
                let left_ms = self.validity.renew_at.millis().saturating_sub(self.hub_time(now).millis()).max(0) as u64;
                Some((now.monotonic_ms + left_ms).max(self.renew_not_before_ms))
            }
            State::Connecting | State::Renewing { .. } => None,
        }
    }

    fn hub_time(&self, now: Now) -> Timestamp {
        Timestamp::from_millis(now.wall.millis().saturating_add(self.skew_ms))
    }

    fn tick(&mut self, now: Now) -> Option<Action> {
        let due = |at: Timestamp| self.hub_time(now) >= at;
        match self.state {
            State::Waiting { until_ms } if now.monotonic_ms >= until_ms => {
                let may_renew = now.monotonic_ms >= self.renew_not_before_ms;
                // An expired certificate opens nothing; one that is merely old connects first if renewing just failed.
                if due(self.validity.not_after) || (due(self.validity.renew_at) && may_renew) {
                    self.state = State::Renewing { open: None };
                    return Some(Action::Renew(self.address));
                }
                self.state = State::Connecting;
                Some(Action::Connect(self.address))
            }
            State::Open { since_ms } if due(self.validity.renew_at) && now.monotonic_ms >= self.renew_not_before_ms => {
                self.state = State::Renewing { open: Some(since_ms) };
                Some(Action::Renew(self.address))
            }
            _ => None,
        }
    }

    fn ended(&mut self, now: Now, ended: Ended) {
        match self.state {
            // The answer to the renewal is still awaited; it decides what comes next.
            State::Renewing { .. } => return self.state = State::Renewing { open: None },
            State::Open { since_ms } if now.monotonic_ms >= since_ms + GOOD_MS => self.failures = 0,
            State::Waiting { .. } => return,
            State::Open { .. } | State::Connecting => {}
        }
        match ended {
            Ended::Lost => {
                self.address += 1;
                self.wait(now, WAIT_MS_MAX);
            }
            Ended::Refused => {
                self.failures = 0;
                let until_ms = now.monotonic_ms + REFUSED_WAIT_MS / 2 + self.dice(REFUSED_WAIT_MS);
                self.state = State::Waiting { until_ms };
            }
            Ended::Expired => {
                // The hub's clock counts, whatever ours says.
                self.validity.not_after = self.validity.not_after.min(self.hub_time(now));
                self.wait(now, WAIT_MS_MAX);
            }
        }
    }

    /// One address after the other is tried almost at once; when all have failed there is a pause. Pauses double from round
    /// to round, each anywhere between half and one and a half of its length: the one replica that lives is never further
    /// away than one of them, however many others are gone.
    fn wait(&mut self, now: Now, max_ms: u64) {
        let addresses = u32::try_from(self.addresses).unwrap_or(u32::MAX).max(1);
        self.failures = self.failures.saturating_add(1);
        if !self.failures.is_multiple_of(addresses) {
            let until_ms = now.monotonic_ms + self.dice(HOP_MS);
            return self.state = State::Waiting { until_ms };
        }
        let rounds = self.failures / addresses - 1;
        let base = WAIT_MS_MIN.saturating_mul(1 << rounds.min(16)).min(max_ms);
        self.state = State::Waiting { until_ms: now.monotonic_ms + base / 2 + self.dice(base) };
    }

    /// xorshift64 (Marsaglia 2003): jitter needs no better dice.
    fn dice(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALIDITY: Validity = Validity {
        renew_at: Timestamp(jiff::Timestamp::UNIX_EPOCH),
        not_after: Timestamp(jiff::Timestamp::UNIX_EPOCH),
    };

    fn at(seconds: u64) -> Now {
        Now { wall: Timestamp::from_seconds(seconds as i64), monotonic_ms: seconds * 1000 }
    }

    fn course() -> Course {
        let validity =
            Validity { renew_at: Timestamp::from_seconds(20_000), not_after: Timestamp::from_seconds(30_000) };
        Course::start(at(0), validity, 7)
    }

    fn open(course: &mut Course, now: Now) {
        assert!(matches!(course.step(now, Event::Tick), Some(Action::Connect(_))));
        assert_eq!(course.step(now, Event::Opened), None);
    }

    #[test]
    fn it_connects_at_once_and_pauses_grow_only_while_it_fails() {
        let mut course = course();
        let mut now_ms = 0;
        let mut pauses = Vec::new();
        for expected in 0..12 {
            let now = Now { monotonic_ms: now_ms, ..at(1) };
            assert_eq!(course.step(now, Event::Tick), Some(Action::Connect(expected)), "another address each time");
            course.step(now, Event::Ended(Ended::Lost));
            let next = course.wake_at(now).expect("waits");
            pauses.push(next - now_ms);
            now_ms = next;
        }
        assert!(pauses[0] < 2 * WAIT_MS_MIN && pauses.iter().all(|pause| *pause < 2 * WAIT_MS_MAX), "{pauses:?}");
        assert!(pauses[10] >= WAIT_MS_MAX / 2, "{pauses:?}");
        let late = Now { monotonic_ms: now_ms, ..at(1) };
        open(&mut course, late);
        let later = Now { monotonic_ms: now_ms + GOOD_MS, ..at(1) };
        course.step(later, Event::Ended(Ended::Lost));
        assert!(course.wake_at(later).expect("waits") - later.monotonic_ms < 2 * WAIT_MS_MIN);
    }

    #[test]
    fn another_replica_is_tried_almost_at_once_until_all_have_failed() {
        let mut course = course();
        course.learn_addresses(3);
        open(&mut course, at(0));
        let mut now_ms = GOOD_MS;
        let mut pauses = Vec::new();
        for expected in 1..13 {
            let now = Now { monotonic_ms: now_ms, ..at(1) };
            course.step(now, Event::Ended(Ended::Lost));
            let next = course.wake_at(now).expect("waits");
            pauses.push(next - now_ms);
            now_ms = next;
            let now = Now { monotonic_ms: now_ms, ..at(1) };
            assert_eq!(course.step(now, Event::Tick), Some(Action::Connect(expected)));
        }
        assert!(pauses[..2].iter().all(|pause| *pause < HOP_MS), "{pauses:?}");
        assert!(pauses[11] >= 4 * WAIT_MS_MIN, "nobody answers, so there is no hurry: {pauses:?}");
    }

    /// Found by simulation: with four addresses, one of which lived, an agent was away for three long pauses.
    #[test]
    fn reproduce_the_one_address_that_lives_is_one_pause_away() {
        let mut course = course();
        course.learn_addresses(4);
        let mut now_ms = 0;
        let mut tried = Vec::new();
        for _ in 0..60 {
            let now = Now { monotonic_ms: now_ms, ..at(1) };
            assert!(matches!(course.step(now, Event::Tick), Some(Action::Connect(_))));
            tried.push(now_ms);
            course.step(now, Event::Ended(Ended::Lost));
            now_ms = course.wake_at(now).expect("waits");
        }
        let longest = tried.windows(4).map(|window| window[3] - window[0]).max();
        assert!(longest.is_some_and(|ms| ms < 2 * WAIT_MS_MAX), "{longest:?}");
    }

    #[test]
    fn two_seeds_do_not_come_back_in_step() {
        let waits = |seed| {
            let mut course = Course::start(
                at(0),
                Validity { not_after: Timestamp::from_seconds(9), renew_at: Timestamp::from_seconds(9) },
                seed,
            );
            course.step(at(0), Event::Tick);
            course.step(at(0), Event::Ended(Ended::Lost));
            course.wake_at(at(0))
        };
        assert_ne!(waits(1001), waits(2002));
    }

    #[test]
    fn it_renews_on_the_hubs_clock_and_then_connects_with_the_new_certificate() {
        let mut course = course();
        open(&mut course, at(0));
        // Ours is a day behind.
        course.step(at(0), Event::HubTime(Timestamp::from_seconds(86_400)));
        assert_eq!(course.wake_at(at(0)), Some(0));
        assert_eq!(course.step(at(0), Event::Tick), Some(Action::Renew(0)));
        let fresh =
            Validity { renew_at: Timestamp::from_seconds(100_000), not_after: Timestamp::from_seconds(110_000) };
        assert_eq!(course.step(at(1), Event::Renewed(fresh)), Some(Action::Close));
        assert_eq!(course.step(at(1), Event::Ended(Ended::Lost)), None);
        assert_eq!(course.step(at(1), Event::Tick), Some(Action::Connect(0)), "at once");
    }

    #[test]
    fn an_expired_certificate_does_nothing_but_renew() {
        let mut course = Course::start(at(90_000), VALIDITY, 7);
        assert_eq!(course.step(at(90_000), Event::Tick), Some(Action::Renew(0)));
        course.step(at(90_000), Event::RenewFailed);
        assert_eq!(course.step(at(90_100), Event::Tick), Some(Action::Renew(1)), "never connects with it");
    }

    #[test]
    fn a_failed_renewal_leaves_the_stream_as_it_is() {
        let mut course = course();
        open(&mut course, at(20_000).min_connect());
        assert_eq!(course.step(at(20_000), Event::Tick), Some(Action::Renew(0)));
        assert_eq!(course.step(at(20_001), Event::RenewFailed), None);
        assert_eq!(course.step(at(20_002), Event::Tick), None, "not at once again");
        let retry = course.wake_at(at(20_002)).expect("tries again") / 1000;
        assert_eq!(course.step(at(retry), Event::Tick), Some(Action::Renew(1)));
    }

    #[test]
    fn the_hubs_word_that_it_expired_counts_against_our_clock() {
        let mut course = course();
        course.step(at(0), Event::Tick);
        course.step(at(0), Event::Ended(Ended::Expired));
        assert_eq!(course.step(at(2), Event::Tick), Some(Action::Renew(0)));
    }

    #[test]
    fn a_final_no_is_asked_again_rarely_and_never_not_at_all() {
        let mut course = course();
        course.step(at(0), Event::Tick);
        course.step(at(0), Event::Ended(Ended::Refused));
        let next = course.wake_at(at(0)).expect("asks again");
        assert!((REFUSED_WAIT_MS / 2..2 * REFUSED_WAIT_MS).contains(&next));
    }

    impl Now {
        /// Just before renewal is due.
        fn min_connect(self) -> Self {
            Now { wall: self.wall.plus_seconds(-1), monotonic_ms: self.monotonic_ms - 1000 }
        }
    }
}
