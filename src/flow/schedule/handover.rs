//! Hand-over: what leaves a cluster goes from there when what comes in its stead is healthy (rule 3).
//!
//! Owns: which part may go now. A decision says where everything is to run; what of it has yet to come is a [`Move`], and
//! both of its ends are in the rows until it is done, so both count as room (rule 6). [`anchored`] is the previous answer
//! that the solver starts from: every moved part is where it goes to. [`hand_over`] lays the moves over the solver's answer.
//! Must never: count as healthy what is unknown, of an older generation, or silent.
//!
//! | mode | an old part goes |
//! |---|---|
//! | Divided | replica by replica, as replacements become ready |
//! | Single | with all that leaves the cluster, once all of it is healthy at its new place |
//! | Duplicated | the same, and as well once any other copy is healthy |
//!
//! A part in a cluster that is silent goes when that is heard again, and its replacement is healthy then. A part of which nothing is healthy, as its agent says, waits for nobody: nothing is lost with it. What has no replicas to count goes with the last counted part of its Application there. Fewer replicas in all are no
//! move: they go at once. Where an edit changes what a replica asks for, its old part goes at once too: its room is what
//! the edit was fitted into. A cluster that a person deletes waits for nobody.
//!
//! A drain, or a `NoExecute` taint, that is undone turns its moves round: the new part goes as soon as the old one, which never left, is seen
//! healthy.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Solution;
use crate::model::{
    Placement, Report, Uid,
    placement::{Move, Row, Share},
};

/// What a hand-over is judged by.
pub struct Handover<'a> {
    /// What runs, and what of it moves.
    pub previous: &'a Placement,
    pub reports: &'a BTreeMap<Uid, Arc<Report>>,
    /// Component → [`super::mode_of`].
    pub mode: &'a dyn Fn(&str) -> &'static str,
    pub is_heard: &'a dyn Fn(&Uid) -> bool,
    /// Clusters that everything is to leave for now ([`super::Candidate::is_to_be_left`]).
    pub is_draining: &'a dyn Fn(&Uid) -> bool,
    /// Clusters that are deleted: nothing there is waited for.
    pub is_gone: &'a dyn Fn(&Uid) -> bool,
    /// Whether what comes in its stead is not waited for any longer.
    pub is_overdue: &'a dyn Fn(&Move) -> bool,
    /// Whether a component's replicas ask for something else than those that run.
    pub asks_anew: &'a dyn Fn(&str) -> bool,
}

/// (from, to) → how many, and whether for a drain.
type Pending = BTreeMap<(Uid, Uid), (u32, bool)>;

/// The previous placement with every moved part at its new place, and the moves of drains that ended turned round.
/// `mode` is [`super::mode_of`] a component.
pub fn anchored<'a>(
    previous: &'a Placement,
    mode: &dyn Fn(&str) -> &'static str,
    is_draining: &dyn Fn(&Uid) -> bool,
) -> Cow<'a, Placement> {
    if previous.moves.is_empty() {
        return Cow::Borrowed(previous);
    }
    let mut anchored = previous.clone();
    let turned = |known: &Move| turned(known, mode(&known.component), is_draining(&known.from));
    anchored.moves = previous.moves.iter().filter_map(turned).collect();
    for known in &anchored.moves {
        let Some(row) = anchored.rows.iter_mut().find(|row| row.cluster == known.from) else { continue };
        let Some(share) = row.components.get_mut(&known.component) else { continue };
        let left = share.replicas.unwrap_or(0).saturating_sub(known.replicas.unwrap_or(0));
        match left {
            0 => drop(row.components.remove(&known.component)),
            left => {
                share.replicas = Some(left);
                if !known.reason.is_empty() {
                    share.reason.clone_from(&known.reason);
                }
            }
        }
    }
    anchored.rows.retain(|row| !row.components.is_empty() || !row.removals.is_empty());
    Cow::Owned(anchored)
}

fn turned(known: &Move, mode: &str, is_draining: bool) -> Option<Move> {
    match known.drained && !is_draining {
        false => Some(known.clone()),
        // Each cluster has a part of its own.
        true if mode == "Duplicated" => None,
        true => Some(Move {
            from: known.to.clone(),
            to: known.from.clone(),
            reason: String::new(),
            drained: false,
            ..known.clone()
        }),
    }
}

/// Keeps in the solution what may not go yet, and says what moves. `anchored` is what it was solved from.
pub fn hand_over(handover: &Handover<'_>, anchored: &Placement, solution: &mut Solution) {
    let falls = |row: &Row| {
        let shares = solution.shares.get(&row.cluster);
        let now = |name: &String| shares.and_then(|shares| shares.get(name));
        row.components.iter().any(|(name, had)| now(name).is_none_or(|now| now.replicas < had.replicas))
    };
    if anchored.moves.is_empty() && !anchored.rows.iter().any(falls) {
        return;
    }
    let moving: BTreeSet<&str> = anchored.moves.iter().map(|known| known.component.as_str()).collect();
    let components: BTreeSet<&str> =
        anchored.rows.iter().flat_map(|row| row.components.keys().map(String::as_str)).collect();
    let mut moves: Vec<Move> = Vec::new();
    for component in components.union(&moving) {
        if (handover.asks_anew)(component) {
            continue;
        }
        let pending = Part::of(handover, anchored, solution, component).pending(anchored);
        for ((from, to), (number, drained)) in pending.into_iter().filter(|(_, (number, _))| *number > 0) {
            let had = part_of(anchored, handover, &from, component);
            let less = solution.shares.get(&from).and_then(|shares| shares.get(*component));
            let less = less.filter(|less| had.is_none_or(|had| had.reason != less.reason));
            moves.push(Move {
                component: (*component).to_owned(),
                replicas: had.and_then(|had| had.replicas).map(|_| number),
                reason: less.map(|less| less.reason.clone()).unwrap_or_default(),
                from,
                to,
                drained,
            });
        }
    }
    let moves = without_done(handover, solution, moves);
    for known in &moves {
        keep(handover, solution, known);
    }
    solution.moves = moves;
    tell_of_falls(handover, solution);
}

/// Whether all that a cluster has of a component is on its way to others, or gone.
pub fn leaves_wholly(solution: &Solution, cluster: &Uid, component: &str) -> bool {
    let Some(share) = solution.shares.get(cluster).and_then(|shares| shares.get(component)) else { return true };
    let mut away =
        solution.moves.iter().filter(|known| known.from == *cluster && known.component == component).peekable();
    let any = away.peek().is_some();
    any && away.map(|known| known.replicas.unwrap_or(0)).sum::<u32>() >= share.replicas.unwrap_or(0)
}

/// What a cluster has of a component: before the decision, or by the row that runs.
fn part_of<'p>(anchored: &'p Placement, handover: &Handover<'p>, cluster: &Uid, component: &str) -> Option<&'p Share> {
    let of = |rows: &'p [Row]| rows.iter().find(|row| row.cluster == *cluster)?.components.get(component);
    of(&handover.previous.rows).or_else(|| of(&anchored.rows))
}

/// One component, before and after.
struct Part<'a> {
    handover: &'a Handover<'a>,
    component: &'a str,
    before: BTreeMap<&'a Uid, u32>,
    after: BTreeMap<&'a Uid, u32>,
    /// Each cluster's part goes as a whole.
    whole: bool,
}

/// What has no replicas to count is one.
fn amount(share: &Share) -> u32 {
    share.replicas.unwrap_or(1)
}

impl<'a> Part<'a> {
    fn of(handover: &'a Handover<'a>, anchored: &'a Placement, solution: &'a Solution, component: &'a str) -> Self {
        let before: Vec<(&Uid, &Share)> =
            anchored.rows.iter().filter_map(|row| Some((&row.cluster, row.components.get(component)?))).collect();
        let after: Vec<(&Uid, &Share)> =
            solution.shares.iter().filter_map(|(cluster, shares)| Some((cluster, shares.get(component)?))).collect();
        let counts = before.iter().chain(&after).any(|(_, share)| share.replicas.is_some());
        let whole = !counts || (handover.mode)(component) != "Divided";
        let amounts =
            |shares: Vec<(&'a Uid, &'a Share)>| shares.into_iter().map(|(cluster, share)| (cluster, amount(share)));
        let (before, after) = (amounts(before).collect(), amounts(after).collect());
        Self { handover, component, before, after, whole }
    }

    /// What leaves and is not replaced by anything new is no move: nobody wants it any more.
    fn pending(&self, anchored: &Placement) -> Pending {
        let mut pending = Pending::new();
        for known in anchored.moves.iter().filter(|known| known.component == self.component) {
            if !(self.handover.is_gone)(&known.from) {
                add(&mut pending, (&known.from, &known.to), known.replicas.unwrap_or(1), known.drained);
            }
        }
        let number = |of: &BTreeMap<&Uid, u32>, cluster: &Uid| of.get(cluster).copied().unwrap_or(0);
        let mut rises: Vec<(&Uid, u32)> = self
            .after
            .iter()
            .map(|(&cluster, &now)| (cluster, now.saturating_sub(number(&self.before, cluster))))
            .filter(|&(cluster, more)| more > 0 && (!self.whole || !self.before.contains_key(cluster)))
            .collect();
        for (&cluster, &had) in &self.before {
            let mut left = match self.after.get(cluster) {
                Some(_) if self.whole => 0,
                now => had.saturating_sub(now.copied().unwrap_or(0)),
            };
            while left > 0 {
                let rise = rises.iter_mut().find(|(_, more)| *more > 0);
                let (to, part) = match rise {
                    Some((to, more)) if self.whole => {
                        *more = 0;
                        (Some(*to), left)
                    }
                    Some((to, more)) => {
                        let part = left.min(*more);
                        *more -= part;
                        (Some(*to), part)
                    }
                    None if self.whole => (self.after.keys().next().copied(), left),
                    None => (None, left),
                };
                left -= part;
                self.leave(&mut pending, cluster, to, part);
            }
        }
        pending
    }

    /// So many leave a cluster. What came there only in the stead of others has nothing to be waited for itself: those
    /// others wait for the new place.
    fn leave(&self, pending: &mut Pending, cluster: &Uid, to: Option<&Uid>, mut part: u32) {
        let coming: Vec<(Uid, Uid)> = pending.keys().filter(|(_, into)| into == cluster).cloned().collect();
        for key in coming {
            let Some((number, drained)) = pending.get_mut(&key).map(|known| (&mut known.0, known.1)) else { continue };
            let moved = if self.whole { *number } else { part.min(*number) };
            *number -= moved;
            part = part.saturating_sub(moved);
            if let Some(to) = to.filter(|to| **to != key.0) {
                add(pending, (&key.0, to), moved, drained);
            }
        }
        if let Some(to) = to.filter(|_| part > 0 && !(self.handover.is_gone)(cluster)) {
            add(pending, (cluster, to), part, (self.handover.is_draining)(cluster));
        }
    }
}

fn add(pending: &mut Pending, (from, to): (&Uid, &Uid), number: u32, drained: bool) {
    let known = pending.entry((from.clone(), to.clone())).or_default();
    *known = (known.0 + number, known.1 || drained);
}

/// What is still to be waited for.
fn without_done(handover: &Handover<'_>, solution: &Solution, moves: Vec<Move>) -> Vec<Move> {
    let mut left: Vec<Move> = Vec::new();
    let mut arrived: BTreeMap<(String, Uid), u32> = BTreeMap::new();
    for known in moves.iter().filter(|known| !is_lost(handover, known)) {
        // Who is not heard goes on with what he has, and would let go of it when he hears of it: whatever has become of its
        // replacement by then.
        if !(handover.is_heard)(&known.from) {
            left.push(known.clone());
            continue;
        }
        if (handover.is_overdue)(known) {
            continue;
        }
        let incoming = |other: &&Move| (&other.component, &other.to) == (&known.component, &known.to);
        let incoming: u32 = moves.iter().filter(incoming).map(|other| other.replicas.unwrap_or(1)).sum();
        let key = (known.component.clone(), known.to.clone());
        let ready = arrived.entry(key).or_insert_with(|| ready(handover, solution, known, incoming));
        let number = known.replicas.unwrap_or(1);
        let done = number.min(*ready);
        *ready -= if is_whole(handover, known) { 0 } else { done };
        match known.replicas {
            _ if done < number && is_whole(handover, known) => left.push(known.clone()),
            Some(_) if done < number => left.push(Move { replicas: Some(number - done), ..known.clone() }),
            // Nothing to wait for, and nothing there: a part of no replicas.
            _ => {}
        }
    }
    // What belongs together goes together, and what is not counted last.
    let waits: BTreeSet<&Uid> = left.iter().map(|known| &known.from).collect();
    let is_left =
        |known: &Move| left.iter().any(|other| (&other.component, &other.from) == (&known.component, &known.from));
    let mut together: Vec<Move> = moves
        .iter()
        .filter(|known| is_whole(handover, known) && waits.contains(&known.from) && !is_left(known))
        .cloned()
        .collect();
    together.append(&mut left);
    together.sort();
    together
}

/// Nothing of the old part is healthy, as its agent says: nothing is lost with it.
fn is_lost(handover: &Handover<'_>, known: &Move) -> bool {
    let line = || {
        let row = handover.previous.rows.iter().find(|row| row.cluster == known.from)?;
        let report = handover.reports.get(&known.from).filter(|report| report.generation == row.generation)?;
        report.components.iter().find(|line| line.name == known.component)?.replicas
    };
    (handover.is_heard)(&known.from) && line().is_some_and(|count| count.ready == 0)
}

fn is_whole(handover: &Handover<'_>, known: &Move) -> bool {
    known.replicas.is_none() || (handover.mode)(&known.component) != "Divided"
}

/// How many of those that come to a cluster are there and well. Of copies in every cluster any one will do.
fn ready(handover: &Handover<'_>, solution: &Solution, known: &Move, incoming: u32) -> u32 {
    if (handover.mode)(&known.component) != "Duplicated" {
        return ready_in(handover, solution, known, (&known.to, incoming));
    }
    let places = solution.shares.iter().filter(|(_, shares)| shares.contains_key(&known.component));
    places.map(|(place, _)| ready_in(handover, solution, known, (place, incoming))).max().unwrap_or(0)
}

fn ready_in(handover: &Handover<'_>, solution: &Solution, known: &Move, (to, incoming): (&Uid, u32)) -> u32 {
    let well = || {
        let row = handover.previous.rows.iter().find(|row| row.cluster == *to)?;
        let decided = solution.shares.get(to)?.get(&known.component)?.replicas;
        // Where a new generation is on its way, its own report is waited for.
        let current = row.components.get(&known.component)?.replicas == decided;
        let report = handover.reports.get(to).filter(|report| {
            current && report.generation == row.generation && report.applied && report.refused.is_none()
        })?;
        let line = report.components.iter().find(|line| line.name == known.component)?;
        Some((decided, line))
    };
    if !(handover.is_heard)(to) {
        return 0;
    }
    let Some((decided, line)) = well() else { return 0 };
    let well = |is_well: bool| if is_well { u32::MAX } else { 0 };
    match (line.replicas, decided) {
        (Some(count), Some(decided)) if !line.scaled => match is_whole(handover, known) {
            true => well(line.healthy && count.ready >= decided),
            false => count.ready.min(decided).saturating_sub(decided.saturating_sub(incoming)),
        },
        _ => well(line.healthy),
    }
}

/// Puts back what a move keeps where it comes from.
fn keep(handover: &Handover<'_>, solution: &mut Solution, known: &Move) {
    let row = handover.previous.rows.iter().find(|row| row.cluster == known.from);
    let Some(had) = row.and_then(|row| row.components.get(&known.component)) else { return };
    let shares = solution.shares.entry(known.from.clone()).or_default();
    let decided = shares.get(&known.component).and_then(|share| share.replicas).unwrap_or(0);
    let replicas = known.replicas.map(|number| (decided + number).min(had.replicas.unwrap_or(0)));
    // The reason says why it runs there; why it leaves is said of the move.
    shares.insert(known.component.clone(), Share { replicas, reason: had.reason.clone() });
}

/// Rule 2: what falls says so, also where it was decided earlier than it is done.
fn tell_of_falls(handover: &Handover<'_>, solution: &mut Solution) {
    for row in &handover.previous.rows {
        let Some(shares) = solution.shares.get_mut(&row.cluster) else { continue };
        for (component, had) in &row.components {
            let Some(share) = shares.get_mut(component) else { continue };
            if share.replicas < had.replicas && share.reason == had.reason {
                let (now, before) = (share.replicas.unwrap_or(0), had.replicas.unwrap_or(0));
                share.reason = format!("{now}, down from {before}: as many are healthy elsewhere by now");
            }
        }
    }
}

#[cfg(test)]
mod tests;
