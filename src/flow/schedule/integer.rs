//! The small integer problem behind a divided component: a total, clusters as numbers, bounds, and the previous answer.
//!
//! Solved from the previous answer in named phases, each ended by what must hold after it:
//!
//! 1. **keep**: what may stay where it is. *Nobody keeps more than it had.*
//! 2. **choose**: which clusters may be used, where constraints ask ([`super::spread`]). *The constraints hold, or none can.*
//! 3. **share**: the difference is given or taken, between the bounds. *The sum is exact; nobody exceeds its room; the
//!    spread holds.*
//! 4. **move**: no more replicas change their place than the policy allows.
//!
//! Where a phase finds no answer, what runs stays where it is. A broken postcondition is an error value, looked for in
//! debug builds.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    divide::{Voter, webster},
    fleet::Id,
    spread::{Choice, choose},
    standing::Tier,
};
use crate::model::application::Division;

/// A cluster's part in the problem; in order of ids, in which all ties end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    pub id: Id,
    pub had: u32,
    /// Of those, what may stay where it is.
    pub stays: u32,
    /// What could stay where the policy did not bound it: it does as long as there is no better answer.
    pub might: u32,
    /// What it may get beyond `stays`.
    pub room: u32,
    /// Static weight; counts where the division is `Weighted`.
    pub weight: u32,
    pub tier: Tier,
    /// It gets none, or at least so many.
    pub min: u32,
    /// Nobody answers for it: it keeps what it has.
    pub pinned: bool,
    /// What it had is to move, but for what fits nowhere else.
    pub leaves: bool,
}

/// A spread constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// By slot: its group; empty where each cluster is a group.
    pub of: Vec<u32>,
    pub min: u32,
    pub max: u32,
    pub skew: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task<'a> {
    pub wanted: u32,
    pub slots: &'a [Slot],
    /// Room of clusters that are no slots, because they cannot get anything before those that are.
    pub beyond: u64,
    pub division: Division,
    pub counts: &'a [Count],
    pub max_moves: Option<u32>,
    /// The weights are new: all replicas are shared out by them, not just the difference.
    pub afresh: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// By slot.
    pub shares: Vec<u32>,
    pub verdict: Verdict,
    /// By slot: whether the spread left it out.
    pub left_out: Vec<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Placed,
    /// All clusters together hold so many.
    Short(u64),
    /// Of those that are to leave so many fit nowhere else, and stay.
    Stuck(u64),
    /// No choice of clusters that keeps the constraints holds all.
    Unspreadable,
    /// More replicas would have to move than may.
    Moves(u64),
}

/// A phase that did not do what it promises: a defect of this program, told instead of carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the solver broke {postcondition:?} in phase {phase:?}")]
pub struct Broken {
    pub phase: &'static str,
    pub postcondition: &'static str,
}

pub fn solve(task: &Task<'_>) -> Result<Answer, Broken> {
    let slots = task.slots;
    let kept: Vec<u32> = slots.iter().map(|slot| slot.stays).collect();
    ensure("keep", "nobody_keeps_more_than_it_had", || slots.iter().all(|slot| slot.stays <= slot.had))?;
    let none = vec![false; slots.len()];
    if is_settled(task) {
        return Ok(Answer { shares: kept, verdict: Verdict::Placed, left_out: none });
    }

    let sum: u64 = slots.iter().map(|slot| u64::from(slot.high())).sum();
    let (sum, wanted) = (sum.saturating_add(task.beyond), u64::from(task.wanted));
    if sum < wanted
        && let Some(slots) = stuck(task, wanted - sum)
    {
        let answer = solve(&Task { slots: &slots, ..task.clone() })?;
        return Ok(Answer { verdict: Verdict::Stuck(wanted - sum), ..answer });
    }
    if sum < wanted {
        return Ok(Answer { shares: stay_put(task), verdict: Verdict::Short(sum), left_out: none });
    }
    let bound = !task.counts.is_empty() || slots.iter().any(|slot| slot.min > 0);
    let choice = match bound && wanted > 0 {
        false => Choice::all(slots.len()),
        true => match choose(task) {
            Some(choice) => choice,
            None => return Ok(Answer { shares: stay_put(task), verdict: Verdict::Unspreadable, left_out: none }),
        },
    };
    let left_out: Vec<bool> = choice.chosen.iter().map(|chosen| !chosen).collect();

    let shares = share_out(task, &choice);
    ensure("share", "sum_is_exact", || shares.iter().map(|&share| u64::from(share)).sum::<u64>() == wanted)?;
    ensure("share", "never_exceeds_room", || slots.iter().zip(&shares).all(|(slot, &share)| share <= slot.high()))?;
    ensure("share", "minimums_hold", || {
        slots.iter().zip(&shares).all(|(slot, &share)| wanted == 0 || share == 0 || share >= slot.min)
    })?;
    ensure("share", "spread_holds", || wanted == 0 || spread_holds(task, &choice, &shares))?;

    // What a lower total takes is no move.
    let had: u64 = slots.iter().filter(|slot| !slot.leaves).map(|slot| u64::from(slot.had)).sum();
    let fallen =
        |(slot, &share): (&Slot, &u32)| if slot.leaves { 0 } else { u64::from(slot.might.saturating_sub(share)) };
    let moved = slots.iter().zip(&shares).map(fallen).sum::<u64>().saturating_sub(had.saturating_sub(wanted));
    if task.max_moves.is_some_and(|max| moved > max.into()) {
        return Ok(Answer { shares: stay_put(task), verdict: Verdict::Moves(moved), left_out: none });
    }
    Ok(Answer { shares, verdict: Verdict::Placed, left_out })
}

fn ensure(phase: &'static str, postcondition: &'static str, holds: impl FnOnce() -> bool) -> Result<(), Broken> {
    match !cfg!(debug_assertions) || holds() {
        true => Ok(()),
        false => Err(Broken { phase, postcondition }),
    }
}

/// Whether the previous answer is an answer still: then nothing changes.
fn is_settled(task: &Task<'_>) -> bool {
    let stays = |slot: &Slot| slot.had == slot.stays && (slot.had == 0 || slot.had >= slot.min);
    let sum = || task.slots.iter().map(|slot| u64::from(slot.had)).sum::<u64>();
    let shares = || task.slots.iter().map(|slot| slot.had).collect::<Vec<_>>();
    !task.afresh
        && task.slots.iter().all(stays)
        && sum() == u64::from(task.wanted)
        && task.counts.iter().all(|count| keeps(count, task, &shares(), |_| false))
}

/// Whether shares keep a constraint. Groups of chosen clusters without a replica count for the skew.
pub(super) fn keeps(count: &Count, task: &Task<'_>, shares: &[u32], chosen: impl Fn(usize) -> bool) -> bool {
    let mut groups: BTreeMap<u32, u64> = BTreeMap::new();
    for (slot, &share) in shares.iter().enumerate().filter(|&(slot, &share)| share > 0 || chosen(slot)) {
        let group = count.of.get(slot).copied().unwrap_or(slot as u32);
        *groups.entry(group).or_default() += u64::from(share);
    }
    let used = groups.values().filter(|&&share| share > 0).count();
    let skew = groups.values().max().zip(groups.values().min()).map_or(0, |(most, least)| most - least);
    used >= count.min.min(task.wanted) as usize
        && used <= count.max as usize
        && count.skew.is_none_or(|max| skew <= max.into())
}

fn spread_holds(task: &Task<'_>, choice: &Choice, shares: &[u32]) -> bool {
    task.counts.iter().all(|count| keeps(count, task, shares, |slot| choice.chosen[slot]))
}

/// No new answer: holders keep what they have, also what should leave, as far as replicas are missing without it. Only a
/// cluster that is being deleted loses its part all the same.
fn stay_put(task: &Task<'_>) -> Vec<u32> {
    let mut shares: Vec<u32> = task.slots.iter().map(|slot| slot.stays).collect();
    let stay: u64 = shares.iter().map(|&share| u64::from(share)).sum();
    let mut lacking = u64::from(task.wanted).saturating_sub(stay);
    for (share, slot) in shares.iter_mut().zip(task.slots) {
        let more = u64::from(slot.might - *share).min(lacking);
        *share += more as u32;
        lacking -= more;
    }
    // A lower total is carried out wherever the rest is not: nobody asked for what is beyond it.
    let beyond = shares.iter().map(|&share| u64::from(share)).sum::<u64>().saturating_sub(task.wanted.into());
    if beyond > 0 {
        let votes = |&share: &u32| Voter { votes: share.into(), seats: 0, room: share };
        return webster(task.wanted, &shares.iter().map(votes).collect::<Vec<_>>());
    }
    shares
}

/// What is to leave and fits nowhere else stays, so that the rest of it can leave. Only where no more are asked for than
/// run, and no constraint speaks against it: half a scale-up, or half a spread, nobody asked for.
fn stuck(task: &Task<'_>, mut lacking: u64) -> Option<Vec<Slot>> {
    let had: u64 = task.slots.iter().map(|slot| u64::from(slot.had)).sum();
    if had < task.wanted.into() || !task.counts.is_empty() || task.slots.iter().any(|slot| slot.min > 0) {
        return None;
    }
    let mut slots = task.slots.to_vec();
    for slot in slots.iter_mut().filter(|slot| slot.leaves) {
        let part = u64::from(slot.might).min(lacking) as u32;
        lacking -= u64::from(part);
        *slot = Slot { had: part, stays: part, might: part, room: 0, pinned: true, leaves: false, ..*slot };
    }
    (lacking == 0).then_some(slots)
}

/// One that gets a share: a cluster, or a group of them.
#[derive(Debug, Clone, Copy, Default)]
struct Item {
    /// Has now.
    now: u32,
    low: u32,
    high: u32,
    weight: u64,
    tier: Tier,
}

/// By slot.
pub fn share_out(task: &Task<'_>, choice: &Choice) -> Vec<u32> {
    let item = |(place, slot): (usize, &Slot)| {
        let high = if choice.chosen[place] { slot.high().min(choice.high[place]) } else { 0 };
        let low = choice.low[place];
        let now = if task.afresh && !slot.pinned { low } else { slot.stays };
        Item { now: now.clamp(low, high.max(low)), low, high, weight: slot.weight.into(), tier: slot.tier }
    };
    let items: Vec<Item> = task.slots.iter().enumerate().map(item).collect();
    if choice.groups.bounds.is_empty() {
        return share(task.division, task.wanted, &items);
    }
    // First the groups, then the clusters of each.
    let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (place, &group) in choice.groups.of.iter().enumerate().filter(|&(place, _)| choice.chosen[place]) {
        groups.entry(group).or_default().push(place);
    }
    let sum = |places: &[usize], of: fn(&Item) -> u64| places.iter().map(|&place| of(&items[place])).sum::<u64>();
    let whole = |(group, places): (&u32, &Vec<usize>)| {
        let (low, high) = choice.groups.bounds.get(group).copied().unwrap_or((0, u64::MAX));
        let within = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let low = within(low.max(sum(places, |item| item.low.into())));
        let high = within(high.min(sum(places, |item| item.high.into()))).max(low);
        let now = within(sum(places, |item| item.now.into())).clamp(low, high);
        Item { now, low, high, weight: sum(places, |item| item.weight), tier: Tier::default() }
    };
    let wholes: Vec<Item> = groups.iter().map(whole).collect();
    let totals = share(task.division, task.wanted, &wholes);
    let mut shares = vec![0; items.len()];
    for (places, total) in groups.values().zip(totals) {
        let members: Vec<Item> = places.iter().map(|&place| items[place]).collect();
        for (&place, part) in places.iter().zip(share(task.division, total, &members)) {
            shares[place] = part;
        }
    }
    shares
}

/// Gives or takes the difference between what all have now and `total`, which lies between the sums of their bounds.
fn share(division: Division, total: u32, items: &[Item]) -> Vec<u32> {
    let mut shares: Vec<u32> = items.iter().map(|item| item.now).collect();
    let now: u64 = shares.iter().map(|&share| u64::from(share)).sum();
    let tiers: BTreeSet<Tier> = items.iter().map(|item| item.tier).collect();
    let members = |tier: Tier| (0..items.len()).filter(move |&place| items[place].tier == tier).collect::<Vec<_>>();
    let mut more = u64::from(total).saturating_sub(now);
    for &tier in tiers.iter().take_while(|_| now < u64::from(total)) {
        let places = members(tier);
        let room: u64 = places.iter().map(|&place| u64::from(items[place].high - shares[place])).sum();
        let part = more.min(room);
        more -= part;
        give(division, part as u32, items, &places, &mut shares);
    }
    let mut fewer = now.saturating_sub(total.into());
    for &tier in tiers.iter().rev() {
        let places = members(tier);
        let loose: u64 = places.iter().map(|&place| u64::from(shares[place] - items[place].low)).sum();
        let part = fewer.min(loose);
        fewer -= part;
        if part > 0 {
            take(division, loose - part, items, &places, &mut shares);
        }
    }
    shares
}

fn give(division: Division, more: u32, items: &[Item], places: &[usize], shares: &mut [u32]) {
    let voter = |&place: &usize| {
        let (item, room) = (&items[place], items[place].high - shares[place]);
        match division {
            Division::FreeCapacity | Division::Aggregated => Voter { votes: room.into(), seats: 0, room },
            Division::Weighted => Voter { votes: item.weight, seats: shares[place], room },
        }
    };
    if division == Division::Aggregated {
        // Where it runs already, then where most room is.
        let mut order = places.to_vec();
        order.sort_by_key(|&place| (shares[place] == 0, Reverse(items[place].high - shares[place]), place));
        return fill(more, order, |place| items[place].high, shares);
    }
    let parts = webster(more, &places.iter().map(voter).collect::<Vec<_>>());
    places.iter().zip(&parts).for_each(|(&place, part)| shares[place] += part);
    // Who has no weight may still be needed.
    let rest = more - parts.iter().sum::<u32>();
    fill(rest, places.to_vec(), |place| items[place].high, shares);
}

/// Leaves `rest` of what is above the lower bounds.
fn take(division: Division, rest: u64, items: &[Item], places: &[usize], shares: &mut [u32]) {
    let before = shares.to_vec();
    let voter = |&place: &usize| {
        let low = items[place].low;
        let votes = if division == Division::Weighted { items[place].weight } else { before[place].into() };
        Voter { votes, seats: low, room: before[place] - low }
    };
    places.iter().for_each(|&place| shares[place] = items[place].low);
    let mut rest = u32::try_from(rest).unwrap_or(u32::MAX);
    if division == Division::Aggregated {
        // The smallest parts go first, so that few clusters stay.
        let mut order = places.to_vec();
        order.sort_by_key(|&place| (Reverse(before[place]), place));
        return fill(rest, order, |place| before[place], shares);
    }
    for (&place, part) in places.iter().zip(webster(rest, &places.iter().map(voter).collect::<Vec<_>>())) {
        shares[place] += part;
        rest -= part;
    }
    // Who has no weight may still be needed.
    fill(rest, places.to_vec(), |place| before[place], shares);
}

/// Fills one after another.
fn fill(mut more: u32, order: Vec<usize>, high: impl Fn(usize) -> u32, shares: &mut [u32]) {
    for place in order {
        if more == 0 {
            return;
        }
        let part = more.min(high(place).saturating_sub(shares[place]));
        shares[place] += part;
        more -= part;
    }
}
