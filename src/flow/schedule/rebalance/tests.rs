use proptest::prelude::*;

use super::*;
use crate::flow::schedule::integer::{self, Slot, Verdict};

/// What each has and how much more it could take.
fn slots(amounts: &[(u32, u32)]) -> Vec<Slot> {
    let slot = |(id, &(had, room)): (usize, &(u32, u32))| Slot {
        id: id as u32,
        had,
        stays: had,
        might: had,
        room,
        ..Slot::default()
    };
    amounts.iter().enumerate().map(slot).collect()
}

fn weighted(weights: &[(u32, u32)]) -> Vec<Slot> {
    let parts: Vec<(u32, u32)> = weights.iter().map(|&(had, _)| (had, 100)).collect();
    slots(&parts).into_iter().zip(weights).map(|(slot, &(_, weight))| Slot { weight, ..slot }).collect()
}

fn task<'a>(slots: &'a [Slot], division: Division, counts: &'a [Count]) -> Task<'a> {
    let wanted = slots.iter().map(|slot| slot.had).sum();
    Task { wanted, slots, beyond: 0, division, counts, max_moves: None, afresh: false }
}

fn after(task: &Task<'_>, cost: u32, most: u32) -> Vec<u32> {
    let had: Vec<u32> = task.slots.iter().map(|slot| slot.had).collect();
    rebalance(task, &had, &Terms { cost, most })
}

#[test]
fn replicas_go_to_where_their_parts_are() {
    use Division::{Aggregated, FreeCapacity, Weighted};
    type Example = (&'static str, Division, Vec<Slot>, u32, Vec<u32>);
    let cases: [Example; 10] = [
        ("a cluster that is new", FreeCapacity, slots(&[(5, 10), (4, 11), (0, 15)]), 10, vec![3, 3, 3]),
        ("parts follow the room", FreeCapacity, slots(&[(9, 11), (0, 10)]), 10, vec![6, 3]),
        ("what is nearly right stays", FreeCapacity, slots(&[(105, 100), (95, 110)]), 10, vec![105, 95]),
        ("and moves where that costs nothing", FreeCapacity, slots(&[(105, 100), (95, 110)]), 0, vec![100, 100]),
        (
            "no more than fit",
            Weighted,
            {
                let mut slots = weighted(&[(8, 1), (0, 1)]);
                slots[1].room = 2;
                slots
            },
            10,
            vec![6, 2],
        ),
        ("by weight", Weighted, weighted(&[(6, 1), (0, 2)]), 10, vec![2, 4]),
        ("nobody without a weight", Weighted, weighted(&[(3, 0), (3, 1)]), 10, vec![0, 6]),
        ("a cluster is emptied", Aggregated, slots(&[(6, 4), (2, 5), (0, 20)]), 10, vec![8, 0, 0]),
        ("too many for one cluster less", Aggregated, slots(&[(20, 40), (15, 5)]), 10, vec![20, 15]),
        ("what does not fit beside the others stays", Aggregated, slots(&[(6, 1), (2, 5)]), 10, vec![6, 2]),
    ];
    for (what, division, slots, cost, expected) in cases {
        assert_eq!(after(&task(&slots, division, &[]), cost, u32::MAX), expected, "{what}");
    }
}

#[test]
fn what_had_to_go_to_a_later_group_comes_back() {
    let of = |slots: &mut [Slot], place: usize| slots[place].tier.group = 1;
    let mut parts = slots(&[(0, 4), (6, 10)]);
    of(&mut parts, 1);
    assert_eq!(after(&task(&parts, Division::FreeCapacity, &[]), 10, u32::MAX), [4, 2]);
    assert_eq!(after(&task(&parts, Division::FreeCapacity, &[]), 100, u32::MAX), [0, 6], "it is not worth so much");
    assert_eq!(after(&task(&parts, Division::Aggregated, &[]), 10, 3), [3, 3]);
}

#[test]
fn clusters_that_get_nothing_new_are_left_alone() {
    let mut pinned = slots(&[(9, 0), (0, 20)]);
    pinned[0].pinned = true;
    assert_eq!(after(&task(&pinned, Division::FreeCapacity, &[]), 0, u32::MAX), [9, 0]);
    let mut full = slots(&[(9, 11), (0, 20)]);
    (full[1].pinned, full[1].room) = (true, 0);
    assert_eq!(after(&task(&full, Division::FreeCapacity, &[]), 0, u32::MAX), [9, 0]);
}

#[test]
fn a_minimum_is_met_at_once() {
    let mut parts = slots(&[(8, 8), (0, 16)]);
    parts[1].min = 3;
    assert_eq!(after(&task(&parts, Division::FreeCapacity, &[]), 10, 2), [8, 0], "not with two at once");
    assert_eq!(after(&task(&parts, Division::FreeCapacity, &[]), 10, 3), [5, 3]);
    assert_eq!(after(&task(&parts, Division::FreeCapacity, &[]), 10, u32::MAX), [4, 4]);
}

#[test]
fn rounds_of_different_applications_do_not_begin_together() {
    let now = Timestamp::from_seconds(1_800_000_000);
    let starts: Vec<i64> = ["a", "b", "c"].map(|uid| next(&Uid::from(uid), 3600, now).millis() - now.millis()).into();
    assert!(starts.iter().all(|in_ms| (1..=3_600_000).contains(in_ms)), "{starts:?}");
    assert!(starts[0] != starts[1] && starts[1] != starts[2], "{starts:?}");
    let first = next(&Uid::from("a"), 3600, now);
    assert_eq!(next(&Uid::from("a"), 3600, first).millis() - first.millis(), 3_600_000);
}

/// A settled answer under odd policies: by places, what each has, could take, weighs, and where it is.
#[derive(Debug, Clone)]
struct Settled {
    slots: Vec<Slot>,
    counts: Vec<Count>,
    division: Division,
    cost: u32,
}

fn settled() -> impl Strategy<Value = Settled> {
    let place = (0u32..8, 0u32..12, 0u32..5, 0u16..2, prop::bool::weighted(0.1), 0u32..4, 0u32..3);
    let constraint = (0u32..3, 1u32..4, prop::option::of(1u32..5));
    let division = prop_oneof![Just(Division::FreeCapacity), Just(Division::Weighted), Just(Division::Aggregated)];
    (prop::collection::vec(place, 1..7), prop::option::of(constraint), division, 0u32..60).prop_map(
        |(places, constraint, division, cost)| {
            let mut regions = Vec::new();
            let slots = places.into_iter().enumerate().map(|(id, (had, room, weight, group, pinned, min, region))| {
                regions.push(region);
                let (stays, room) = (had, if pinned { 0 } else { room });
                let mut slot = Slot { id: id as u32, had, stays, might: had, room, weight, pinned, ..Slot::default() };
                slot.tier.group = group;
                // What is there keeps its bounds.
                slot.min = if had == 0 || had >= min { min.min(slot.high()) } else { 0 };
                slot
            });
            let slots = slots.collect();
            let count = |(min, groups, skew)| Count { of: regions, min, max: min.max(1) + groups - 1, skew };
            Settled { slots, counts: constraint.map(count).into_iter().collect(), division, cost }
        },
    )
}

impl Settled {
    fn task(&self) -> Task<'_> {
        task(&self.slots, self.division, &self.counts)
    }

    fn holds(&self, shares: &[u32]) -> bool {
        self.counts.iter().all(|count| keeps(count, &self.task(), shares, |_| false))
    }

    fn is_settled(&self) -> bool {
        let had: Vec<u32> = self.slots.iter().map(|slot| slot.had).collect();
        self.holds(&had)
    }

    /// The same, with these shares running: what they left is free.
    fn with(&self, shares: &[u32]) -> Self {
        let slot = |(slot, &share): (&Slot, &u32)| Slot {
            had: share,
            stays: share,
            might: share,
            room: slot.high() - share,
            ..slot.clone()
        };
        Self { slots: self.slots.iter().zip(shares).map(slot).collect(), ..self.clone() }
    }

    fn rebalanced(&self, most: u32) -> Vec<u32> {
        after(&self.task(), self.cost, most)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_rebalance_never_breaks_the_policy(known in settled().prop_filter("settled", Settled::is_settled)) {
        let shares = known.rebalanced(u32::MAX);
        prop_assert_eq!(shares.iter().sum::<u32>(), known.task().wanted, "sum_is_exact");
        prop_assert!(known.holds(&shares), "spread_holds");
        for (slot, &share) in known.slots.iter().zip(&shares) {
            prop_assert!(share <= slot.high(), "never_exceeds_capacity");
            prop_assert!(share == slot.had || share == 0 || share >= slot.min, "minimums_hold");
            prop_assert!(share == slot.had || !slot.pinned, "who is silent keeps what it has");
        }
        // And the solver is content with it.
        let now = known.with(&shares);
        let answer = integer::solve(&now.task()).expect("an answer");
        prop_assert_eq!((answer.verdict, answer.shares), (Verdict::Placed, shares));
    }

    #[test]
    fn a_second_rebalance_moves_nothing(known in settled().prop_filter("settled", Settled::is_settled)) {
        let shares = known.rebalanced(u32::MAX);
        prop_assert_eq!(known.with(&shares).rebalanced(u32::MAX), shares);
    }

    /// A minimum, or a bound of groups, asks for so many at once.
    #[test]
    fn a_few_at_a_time_end_where_all_at_once_do(mut known in settled(), most in 1u32..4) {
        known.counts.clear();
        known.slots.iter_mut().for_each(|slot| slot.min = 0);
        let mut now = known.clone();
        loop {
            let shares = now.rebalanced(most);
            let moved: u32 = now.slots.iter().zip(&shares).map(|(slot, &share)| slot.had.saturating_sub(share)).sum();
            prop_assert!(moved <= most, "moves_are_bounded");
            if moved == 0 {
                break;
            }
            now = now.with(&shares);
        }
        let shares: Vec<u32> = now.slots.iter().map(|slot| slot.had).collect();
        let used = |shares: &[u32]| shares.iter().filter(|&&share| share > 0).count();
        match known.division {
            // Of two that are as small, either may be emptied.
            Division::Aggregated => prop_assert_eq!(used(&shares), used(&known.rebalanced(u32::MAX))),
            _ => prop_assert_eq!(shares, known.rebalanced(u32::MAX)),
        }
    }

    #[test]
    fn nothing_moves_that_gains_less_than_it_costs(known in settled().prop_filter("settled", Settled::is_settled)) {
        let (task, cost) = (known.task(), i128::from(known.cost) * SCALE);
        let mut shares: Vec<u32> = known.slots.iter().map(|slot| slot.had).collect();
        loop {
            let balance = Balance { task: &task, shares: &shares, cost };
            let Some(moved) = balance.best(u32::MAX) else { break };
            let (from, to) = (&known.slots[moved.from], &known.slots[moved.to]);
            // How full each is for each of the replicas, as a fraction of all that are as preferred.
            let alike = || (0..shares.len()).filter(|&place| {
                !known.slots[place].pinned && known.slots[place].tier == from.tier
            });
            let votes = |slot: &Slot| f64::from(if known.division == Division::Weighted { slot.weight } else { slot.high() });
            let total: f64 = alike().map(|place| f64::from(shares[place])).sum();
            let all: f64 = alike().map(|place| votes(&known.slots[place])).sum();
            let part = |slot: &Slot| (total * votes(slot) / all).max(1e-6);
            let gain: f64 = match known.division {
                _ if to.tier != from.tier => if to.tier < from.tier { 100.0 } else { -1.0 },
                Division::Aggregated => 100.0 / f64::from(shares[moved.from]),
                _ => (0..moved.replicas).map(|n| {
                    100.0 * f64::from(shares[moved.from] - n) / part(from)
                        - 100.0 * f64::from(shares[moved.to] + n + 1) / part(to)
                }).sum::<f64>() / f64::from(moved.replicas),
            };
            prop_assert!(gain > f64::from(known.cost) - 0.01, "{gain} of {moved:?} of {shares:?}");
            shares[moved.from] -= moved.replicas;
            shares[moved.to] += moved.replicas;
        }
    }
}
