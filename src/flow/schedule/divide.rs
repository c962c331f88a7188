//! Divide: a number shared out exactly, in proportion to votes.

use std::{cmp::Ordering, collections::BinaryHeap};

/// One that gets a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Voter {
    pub votes: u64,
    /// Seats it has already.
    pub seats: u32,
    /// Seats it may get more.
    pub room: u32,
}

/// A voter's claim to its next seat.
struct Claim {
    votes: u64,
    /// The divisor of the seat: 1, 3, 5, …
    divisor: u64,
    place: usize,
}

/// Where more than this is to be shared out per voter, most of it is shared out at once.
const STEPS_PER_VOTER: u32 = 2;
/// Votes above it lose their last bits in the first, rough division only.
const SHIFT: u32 = 20;

/// Seats for each of `voters`, beyond those it has, `total` in all or as many as there is room for: one after another to
/// the largest of votes ÷ (2 × seats + 1), ties to more votes, then to the first in the list (Webster, Sainte-Laguë).
///
/// Postconditions: the seats sum to `total` or fill all rooms; nobody gets more than its room; who has no votes gets
/// nothing; a larger total lowers nobody; with votes as rooms, and nobody seated, no share exceeds its votes.
pub fn webster(total: u32, voters: &[Voter]) -> Vec<u32> {
    let mut seats =
        if total / STEPS_PER_VOTER > voters.len() as u32 { rough(total, voters) } else { vec![0; voters.len()] };
    let given = seats.iter().map(|&seats| u64::from(seats)).sum::<u64>();
    let mut left = u64::from(total).saturating_sub(given);
    let claim = |place: usize, given: u32| {
        let voter = &voters[place];
        let divisor = 2 * (u64::from(voter.seats) + u64::from(given)) + 1;
        (voter.votes > 0 && given < voter.room).then_some(Claim { votes: voter.votes, divisor, place })
    };
    let mut claims: BinaryHeap<Claim> = (0..voters.len()).filter_map(|place| claim(place, seats[place])).collect();
    while left > 0
        && let Some(Claim { place, .. }) = claims.pop()
    {
        seats[place] += 1;
        left -= 1;
        claims.extend(claim(place, seats[place]));
    }
    seats
}

/// Seats that everybody gets for certain: those of the smallest threshold at which no more than `total` are given.
fn rough(total: u32, voters: &[Voter]) -> Vec<u32> {
    // Seats whose votes ÷ divisor, shifted, exceed the threshold.
    let above = |voter: &Voter, threshold: u128| {
        let divisor_max = (u128::from(voter.votes) << SHIFT) / (threshold + 1);
        let seats = divisor_max.div_ceil(2).saturating_sub(voter.seats.into());
        seats.min(voter.room.into()) as u32
    };
    let sum = |threshold| voters.iter().map(|voter| u64::from(above(voter, threshold))).sum::<u64>();
    // Above this nobody gets any.
    let most = voters.iter().map(|voter| u128::from(voter.votes)).max().unwrap_or(0) << SHIFT;
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low) / 2;
        match sum(middle) <= u64::from(total) {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    voters.iter().map(|voter| above(voter, low)).collect()
}

impl Ord for Claim {
    fn cmp(&self, other: &Self) -> Ordering {
        let quotients = (u128::from(self.votes) * u128::from(other.divisor))
            .cmp(&(u128::from(other.votes) * u128::from(self.divisor)));
        quotients.then(self.votes.cmp(&other.votes)).then(other.place.cmp(&self.place))
    }
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Claim {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Claim {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_votes(total: u32, votes: &[u64]) -> Vec<u32> {
        let voter = |&votes: &u64| Voter { votes, seats: 0, room: u32::MAX };
        webster(total, &votes.iter().map(voter).collect::<Vec<_>>())
    }

    #[test]
    fn shares_follow_the_votes() {
        assert_eq!(by_votes(9, &[3, 4, 2]), [3, 4, 2]);
        assert_eq!(by_votes(30, &[40, 40, 20]), [12, 12, 6]);
        assert_eq!(by_votes(10, &[7, 7, 7]), [4, 3, 3], "ties end in the place");
        assert_eq!(by_votes(2, &[1, 100, 100]), [0, 1, 1]);
        assert_eq!(by_votes(4, &[3, 1]), [3, 1], "the second's first seat and the first's second: to more votes");
        assert_eq!(by_votes(5, &[0, 0]), [0, 0]);
        assert_eq!(by_votes(1, &[u64::MAX, 1]), [1, 0]);
        // The example of Wikipedia's page on the method.
        assert_eq!(by_votes(7, &[53_000, 24_000, 23_000]), [3, 2, 2]);
    }

    #[test]
    fn a_voter_without_room_leaves_its_seats_to_the_others() {
        let voters = [(10, 0, 1), (1, 0, 9), (1, 0, 9)].map(|(votes, seats, room)| Voter { votes, seats, room });
        assert_eq!(webster(7, &voters), [1, 3, 3]);
        assert_eq!(webster(100, &voters), [1, 9, 9], "no more than there is room for");
    }

    #[test]
    fn many_seats_are_shared_out_at_once() {
        assert_eq!(by_votes(u32::MAX, &[u64::from(u32::MAX), u64::from(u32::MAX)]), [u32::MAX / 2 + 1, u32::MAX / 2]);
        assert_eq!(by_votes(1_000_000, &[3, 1]), [750_000, 250_000]);
        assert_eq!(by_votes(1_000, &[u64::MAX, u64::MAX / 3]), [750, 250], "whatever the votes");
        assert_eq!(by_votes(1_000, &[1 << 44, 1 << 44, 1]), [500, 500, 0]);
    }

    /// One seat after another, by the book.
    fn by_the_book(total: u32, voters: &[Voter]) -> Vec<u32> {
        let mut seats = vec![0; voters.len()];
        for _ in 0..total {
            let claims =
                (0..voters.len()).filter(|&place| seats[place] < voters[place].room && voters[place].votes > 0);
            let best = claims.max_by(|&one, &other| {
                let divisor = |place: usize| u128::from(2 * (voters[place].seats + seats[place]) + 1);
                let quotient = |place: usize, by: usize| u128::from(voters[place].votes) * divisor(by);
                let votes = voters[one].votes.cmp(&voters[other].votes);
                quotient(one, other).cmp(&quotient(other, one)).then(votes).then(other.cmp(&one))
            });
            let Some(best) = best else { break };
            seats[best] += 1;
        }
        seats
    }

    proptest! {
        #[test]
        fn seats_are_given_by_the_book(
            voters in prop::collection::vec((0u64..50, 0u32..5, 0u32..40), 1..6),
            total in 0u32..150,
        ) {
            let voters: Vec<Voter> = voters.into_iter().map(|(votes, seats, room)| Voter { votes, seats, room }).collect();
            prop_assert_eq!(webster(total, &voters), by_the_book(total, &voters));
        }

        #[test]
        fn many_votes_are_no_other_votes(
            voters in prop::collection::vec((0u64..=u64::MAX, 0u32..5, 0u32..40, 0u32..64), 1..6),
            total in 0u32..150,
        ) {
            let voter = |(votes, seats, room, fewer): (u64, u32, u32, u32)| Voter { votes: votes >> fewer, seats, room };
            let voters: Vec<Voter> = voters.into_iter().map(voter).collect();
            prop_assert_eq!(webster(total, &voters), by_the_book(total, &voters));
        }

        #[test]
        fn the_sum_is_exact_and_no_share_exceeds_its_votes(
            votes in prop::collection::vec(0u64..1000, 1..20),
            part in 0.0f64..=1.0,
        ) {
            let sum: u64 = votes.iter().sum();
            let total = (sum as f64 * part) as u32;
            let seats = by_votes(total, &votes);
            prop_assert_eq!(seats.iter().sum::<u32>(), total);
            prop_assert!(seats.iter().zip(&votes).all(|(&seats, &votes)| u64::from(seats) <= votes));
        }

        #[test]
        fn a_larger_total_lowers_nobody(votes in prop::collection::vec(0u64..1000, 1..10), total in 0u32..200) {
            let (fewer, more) = (by_votes(total, &votes), by_votes(total + 1, &votes));
            prop_assert!(fewer.iter().zip(&more).all(|(fewer, more)| fewer <= more));
        }
    }
}
