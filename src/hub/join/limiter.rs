//! How often strangers may knock, by address. A sync counter per address, bounded however many addresses there are.

use std::{collections::BTreeMap, net::IpAddr};

/// Calls per second and address on average, and at once: a site may bring up many members behind one address.
const CALLS_PER_SECOND: u64 = 100;
const BURST: u64 = 500;
/// Addresses remembered. Whoever has more than that at once is not stopped by counting them: then all begin anew, so
/// that nobody honest is locked out.
const ADDRESSES_MAX: usize = 10_000;

const PER_CALL_US: u64 = 1_000_000 / CALLS_PER_SECOND;

#[derive(Debug, Default)]
pub struct Limiter {
    /// When each address would be back at zero, microseconds (a generic cell rate algorithm, ITU-T I.371).
    due_us: BTreeMap<IpAddr, u64>,
}

impl Limiter {
    /// Whether one more call from this address is heard.
    pub fn admits(&mut self, now_ms: u64, address: IpAddr) -> bool {
        let now_us = now_ms.saturating_mul(1000);
        if self.due_us.len() >= ADDRESSES_MAX && !self.due_us.contains_key(&address) {
            self.due_us.retain(|_, due_us| *due_us > now_us);
            if self.due_us.len() >= ADDRESSES_MAX {
                self.due_us.clear();
            }
        }
        let due_us = self.due_us.entry(address).or_default();
        let next = (*due_us).max(now_us) + PER_CALL_US;
        let admitted = next <= now_us + BURST * PER_CALL_US;
        if admitted {
            *due_us = next;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u32) -> IpAddr {
        std::net::Ipv4Addr::from(last).into()
    }

    #[test]
    fn one_address_is_held_back_and_another_is_not() {
        let mut limiter = Limiter::default();
        assert_eq!((0..2 * BURST).filter(|_| limiter.admits(0, address(1))).count() as u64, BURST);
        assert!(limiter.admits(0, address(2)));
        assert_eq!((0..BURST).filter(|_| limiter.admits(1000, address(1))).count() as u64, CALLS_PER_SECOND);
    }

    #[test]
    fn memory_is_bounded_whoever_knocks() {
        let mut limiter = Limiter::default();
        (0..2 * ADDRESSES_MAX as u32).for_each(|last| assert!(limiter.admits(0, address(last))));
        assert!(limiter.due_us.len() <= ADDRESSES_MAX);
    }
}
