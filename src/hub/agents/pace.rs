//! How fast one agent may talk. Whoever is faster is read more slowly, never cut off: the stream's own flow control
//! then holds the sender back, and nothing it says is lost.

/// Messages per second on average, and how many at once (a reconnecting agent reports everything it holds).
const MESSAGES_PER_SECOND: u64 = 200;
const MESSAGES_BURST: u64 = 4_000;
/// Bytes per second on average, and at once.
const BYTES_PER_SECOND: u64 = 4 << 20;
const BYTES_BURST: u64 = 32 << 20;

/// A generic cell rate algorithm (ITU-T I.371) per dimension: one number each, no refilling.
#[derive(Debug, Default)]
pub struct Pace {
    messages_due_us: u64,
    bytes_due_us: u64,
}

impl Pace {
    /// Counts one message. Some(when) if nothing more is to be read before that time (monotonic milliseconds).
    pub fn count(&mut self, now_ms: u64, bytes: usize) -> Option<u64> {
        let now_us = now_ms.saturating_mul(1000);
        let per_message = 1_000_000 / MESSAGES_PER_SECOND;
        let per_bytes = (bytes as u64).saturating_mul(1_000_000) / BYTES_PER_SECOND;
        self.messages_due_us = self.messages_due_us.max(now_us).saturating_add(per_message);
        self.bytes_due_us = self.bytes_due_us.max(now_us).saturating_add(per_bytes);
        let messages_over = self.messages_due_us.saturating_sub(MESSAGES_BURST * per_message);
        let bytes_over = self.bytes_due_us.saturating_sub(BYTES_BURST * 1_000_000 / BYTES_PER_SECOND);
        let until_us = messages_over.max(bytes_over);
        (until_us > now_us).then(|| until_us.div_ceil(1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_is_read_at_the_average() {
        let mut pace = Pace::default();
        assert!((0..MESSAGES_BURST).all(|_| pace.count(0, 100).is_none()));
        let mut now_ms = 0;
        for _ in 0..1000 {
            now_ms = pace.count(now_ms, 100).expect("over the burst");
        }
        assert_eq!(now_ms, 1000 * 1000 / MESSAGES_PER_SECOND);
        assert_eq!(pace.count(now_ms + 60_000, 100), None, "a pause restores the burst");
    }

    #[test]
    fn few_large_messages_count_by_their_bytes() {
        let mut pace = Pace::default();
        let passed = (0..100).take_while(|_| pace.count(0, 4 << 20).is_none()).count() as u64;
        assert_eq!(passed, BYTES_BURST / (4 << 20));
    }
}
