//! Handing over: a decision from where things go, with what runs kept until it may go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    flow::schedule::{
        Candidate, Fleet, Problem, Running, Solution,
        handover::{self, Handover},
        mode_of,
    },
    model::{Report, Uid, placement::Move, revision::RenderedComponent},
};

/// Decides by `decide`, which is asked about the previous placement as if all that moves had arrived.
pub fn decided(
    fleet: &mut Fleet,
    problem: &Problem<'_>,
    reports: &BTreeMap<Uid, Arc<Report>>,
    decide: impl FnOnce(&mut Fleet, &Problem<'_>) -> Solution,
) -> Solution {
    let Some(previous) = problem.previous else { return decide(fleet, problem) };
    let clusters = |holds: fn(Option<&Candidate>) -> bool| -> BTreeSet<Uid> {
        let clusters = previous.rows.iter().map(|row| &row.cluster);
        clusters.filter(|cluster| holds(fleet.get(cluster))).cloned().collect()
    };
    let heard = clusters(|known| known.is_some_and(|known| !known.silent));
    let draining = clusters(|known| known.is_some_and(Candidate::is_to_be_left));
    let gone = clusters(|known| known.is_none_or(|known| known.deleting));
    let cession = |known: &Move| problem.cessions.get(&known.from)?.get(&known.component);
    let handover = Handover {
        previous,
        reports,
        mode: &|component| mode_of(problem.policies, component),
        is_heard: &|cluster| heard.contains(cluster),
        is_draining: &|cluster| draining.contains(cluster),
        is_gone: &|cluster| gone.contains(cluster),
        is_overdue: &|known| cession(known).is_some_and(|cession| cession.patient_until <= problem.now),
        asks_anew: &|component| asks_anew(problem.running, problem.components, component),
    };
    let anchored = handover::anchored(previous, handover.mode, handover.is_draining);
    let mut solution = decide(fleet, &Problem { previous: Some(&anchored), ..*problem });
    handover::hand_over(&handover, &anchored, &mut solution);
    let ends = solution.moves.iter().filter_map(|known| Some(cession(known)?.patient_until));
    solution.until = solution.until.into_iter().chain(ends.filter(|end| *end > problem.now)).min();
    solution
}

/// Whether an edit changes what a replica of a component, or what runs beside it, asks for.
fn asks_anew(running: Option<Running<'_>>, components: &[RenderedComponent], name: &str) -> bool {
    let demand = |components: &[RenderedComponent]| {
        let known = components.iter().find(|component| component.name == name);
        known.map(|known| (known.demand.clone(), known.beside.clone()))
    };
    running.and_then(|running| demand(running.components)).zip(demand(components)).is_some_and(|(old, new)| old != new)
}
