//! The integer problem against an exact solver that looks at every answer: what cannot be placed cannot be placed, and
//! how many replicas move beyond the fewest possible. The distribution of that gap is printed (`--nocapture`).

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::super::integer::{Count, Slot, Task, Verdict, solve};
    use crate::model::application::Division;

    /// A small generator of its own, so that the cases are the same for ever.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u32) -> u32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) % u64::from(sides)) as u32
        }
    }

    struct Puzzle {
        slots: Vec<Slot>,
        counts: Vec<Count>,
        wanted: u32,
        division: Division,
    }

    impl Puzzle {
        fn new(dice: &mut Dice, clusters: u32, room: u32, skews: u32) -> Self {
            let slot = |id: u32, dice: &mut Dice| {
                let had = if dice.roll(2) == 0 { dice.roll(room + 1) } else { 0 };
                let leaves = had > 0 && dice.roll(8) == 0;
                let stays = if leaves { 0 } else { had };
                let open = if leaves { 0 } else { dice.roll(room + 1) };
                let min = if dice.roll(6) == 0 { (stays + open).min(2) } else { 0 };
                Slot {
                    id,
                    had,
                    stays,
                    might: had,
                    room: open,
                    weight: 1 + dice.roll(4),
                    min,
                    leaves,
                    ..Slot::default()
                }
            };
            let slots: Vec<Slot> = (0..clusters).map(|id| slot(id, dice)).collect();
            let groups: Vec<u32> = (0..clusters).map(|_| dice.roll(3)).collect();
            let count = |of: Vec<u32>, dice: &mut Dice, skewed: bool| {
                let min = dice.roll(3);
                let max = if dice.roll(2) == 0 { min.max(1) + dice.roll(2) } else { u32::MAX };
                Count { of, min, max, skew: (skewed && dice.roll(2) == 0).then(|| 1 + dice.roll(2)) }
            };
            let counts = match dice.roll(4) {
                0 => vec![],
                1 => vec![count(groups, dice, true)],
                2 => vec![count(Vec::new(), dice, true)],
                _ => vec![count(Vec::new(), dice, false), count(groups, dice, true)],
            };
            let counts = if skews > 1 { Self::crossed(dice, clusters, skews) } else { counts };
            let division = [Division::FreeCapacity, Division::Weighted, Division::Aggregated][dice.roll(3) as usize];
            Self { slots, counts, wanted: 1 + dice.roll(clusters * room / 2 + 1), division }
        }

        /// Constraints that each bound a skew: nested, crossing, and by cluster.
        fn crossed(dice: &mut Dice, clusters: u32, skews: u32) -> Vec<Count> {
            let mut group = |sides: u32| (0..clusters).map(|_| dice.roll(sides)).collect::<Vec<_>>();
            let (provider, region, half, third) = (group(3), group(3), group(2), group(3));
            let zone = region.iter().zip(&half).map(|(region, half)| region * 2 + half).collect();
            let all = match (dice.roll(4), skews) {
                (0, _) => vec![region, zone],
                (1, _) => vec![Vec::new(), region],
                (_, 2) => vec![provider, region],
                _ => vec![provider, region, third],
            };
            let mut count = |of: Vec<u32>| {
                let min = dice.roll(3);
                let max = if dice.roll(4) == 0 { min.max(1) + dice.roll(2) } else { u32::MAX };
                Count { of, min, max, skew: Some(1 + dice.roll(3)) }
            };
            all.into_iter().map(&mut count).collect()
        }

        fn task(&self) -> Task<'_> {
            Task {
                wanted: self.wanted,
                slots: &self.slots,
                beyond: 0,
                division: self.division,
                counts: &self.counts,
                max_moves: None,
                afresh: false,
            }
        }

        fn moves(&self, shares: &[u32]) -> u32 {
            self.slots.iter().zip(shares).map(|(slot, share)| slot.stays.saturating_sub(*share)).sum()
        }

        /// A group that is used has a replica: that is all an outsider can see of a choice.
        fn holds(&self, shares: &[u32]) -> bool {
            let minimums = self.slots.iter().zip(shares).all(|(slot, &share)| share == 0 || share >= slot.min);
            minimums
                && self.counts.iter().all(|count| {
                    let mut groups: BTreeMap<u32, u32> = BTreeMap::new();
                    for (place, &share) in shares.iter().enumerate().filter(|(_, share)| **share > 0) {
                        *groups.entry(count.of.get(place).copied().unwrap_or(place as u32)).or_default() += share;
                    }
                    let skew = groups.values().max().unwrap_or(&0) - groups.values().min().unwrap_or(&0);
                    groups.len() >= count.min.min(self.wanted) as usize
                        && groups.len() <= count.max as usize
                        && count.skew.is_none_or(|max| skew <= max)
                })
        }

        /// The fewest moves of any answer there is.
        fn exact(&self) -> Option<u32> {
            let mut shares = vec![0; self.slots.len()];
            let mut best = None;
            self.search(0, self.wanted, &mut shares, &mut best);
            best
        }

        fn search(&self, place: usize, left: u32, shares: &mut Vec<u32>, best: &mut Option<u32>) {
            if best.is_some_and(|best| self.moves(&shares[..place]) >= best) {
                return;
            }
            if place == shares.len() {
                if left == 0 && self.holds(shares) {
                    *best = Some(self.moves(shares));
                }
                return;
            }
            for share in 0..=self.slots[place].high().min(left) {
                shares[place] = share;
                self.search(place + 1, left - share, shares, best);
            }
            shares[place] = 0;
        }
    }

    /// Cases by how many more replicas move than have to, and refusals of what could be placed.
    fn gaps(cases: u32, clusters: u32, room: u32, skews: u32) -> (BTreeMap<u32, u32>, u32, u32) {
        let mut dice = Dice(u64::from(clusters));
        let (mut gaps, mut refused, mut wrongly) = (BTreeMap::new(), 0, 0);
        for _ in 0..cases {
            let puzzle = Puzzle::new(&mut dice, clusters, room, skews);
            let answer = solve(&puzzle.task()).expect("sound phases");
            match (answer.verdict, puzzle.exact()) {
                (Verdict::Placed, Some(fewest)) => {
                    assert!(puzzle.holds(&answer.shares));
                    *gaps.entry(puzzle.moves(&answer.shares) - fewest).or_default() += 1;
                }
                (Verdict::Placed, None) => panic!("an answer that is none: {answer:?}"),
                (_, None) => refused += 1,
                (_, Some(_)) => wrongly += 1,
            }
        }
        println!(
            "{clusters} clusters, skews by {skews}: {cases} cases, {refused} refused, {wrongly} of them wrongly, gap in moves {gaps:?}"
        );
        (gaps, refused, wrongly)
    }

    #[test]
    fn small_problems_are_solved_exactly() {
        let (gaps, refused, wrongly) = gaps(4_000, 4, 5, 1);
        assert_eq!(wrongly, 0, "what can be placed is placed");
        assert!(refused > 50, "some cannot");
        let all: u32 = gaps.values().sum();
        assert!(gaps[&0] * 100 >= all * 97, "{gaps:?}");
    }

    #[test]
    fn larger_problems_are_solved_well() {
        let (gaps, refused, wrongly) = gaps(150, 12, 2, 1);
        assert!(wrongly * 20 <= refused.max(20), "{wrongly} of {refused}");
        let all: u32 = gaps.values().sum();
        assert!(gaps.get(&0).copied().unwrap_or(0) * 100 >= all * 90, "{gaps:?}");
    }

    #[test]
    fn several_skews_are_kept_together_wherever_they_can_be() {
        for (clusters, room, cases) in [(4, 5, 3_000), (6, 3, 1_000)] {
            let (gaps, refused, wrongly) = gaps(cases, clusters, room, 2);
            assert_eq!(wrongly, 0, "what can be placed is placed");
            assert!(refused > 50, "some cannot");
            let all: u32 = gaps.values().sum();
            assert!(gaps[&0] * 100 >= all * 97, "{gaps:?}");
        }
    }

    #[test]
    fn three_constraints_that_cross_and_larger_ones_are_kept_mostly() {
        for (clusters, room, cases, skews) in [(6, 3, 1_000, 3), (12, 2, 150, 2), (12, 2, 150, 3)] {
            let (gaps, refused, wrongly) = gaps(cases, clusters, room, skews);
            assert!(wrongly * 10 <= refused, "{wrongly} of {refused}");
            let all: u32 = gaps.values().sum();
            assert!(gaps.get(&0).copied().unwrap_or(0) * 100 >= all * 90, "{gaps:?}");
        }
    }

    /// More clusters than every set is looked at of: those that run something hold too little, the roomiest hold all.
    #[test]
    fn the_roomiest_clusters_are_tried_where_those_in_use_hold_too_little() {
        let slot = |id: u32| match id {
            0..10 => Slot { id, had: 2, stays: 2, might: 2, ..Slot::default() },
            _ => Slot { id, room: 10, ..Slot::default() },
        };
        let slots: Vec<Slot> = (0..12).map(slot).collect();
        let counts = [Count { of: Vec::new(), min: 0, max: 2, skew: None }];
        let task = Task {
            wanted: 20,
            slots: &slots,
            beyond: 0,
            division: Division::FreeCapacity,
            counts: &counts,
            max_moves: None,
            afresh: false,
        };
        let answer = solve(&task).expect("sound phases");
        assert_eq!((answer.verdict, &answer.shares[10..]), (Verdict::Placed, &[10, 10][..]));
    }

    #[test]
    fn thousands_of_clusters_keep_several_skews() {
        let mut dice = Dice(3);
        let clusters = 3_000;
        let slots: Vec<Slot> = (0..clusters).map(|id| Slot { id, room: dice.roll(9), ..Slot::default() }).collect();
        let mut group = |sides: u32| (0..clusters).map(|_| dice.roll(sides)).collect::<Vec<_>>();
        let (provider, zone) = (group(3), group(24));
        let region = zone.iter().map(|zone| zone / 4).collect();
        let count = |of: Vec<u32>, skew| Count { of, min: 2, max: u32::MAX, skew: Some(skew) };
        let counts = [count(provider, 1), count(region, 2), count(zone, 3)];
        let (mut task, division) = (Puzzle::new(&mut dice, 1, 1, 1), Division::FreeCapacity);
        (task.slots, task.counts, task.wanted, task.division) = (slots, counts.to_vec(), 5_000, division);
        let answer = solve(&task.task()).expect("sound phases");
        assert_eq!(answer.verdict, Verdict::Placed);
        assert!(task.holds(&answer.shares));
    }
}
