//! Which old part may go, as a table of reports.

use super::*;
use crate::model::{
    ObjectName,
    report::{ComponentReport, Refused, ReplicaCount},
};

const GENERATION: u64 = 3;

struct Case {
    mode: &'static str,
    previous: Placement,
    reports: BTreeMap<Uid, Arc<Report>>,
    draining: Vec<&'static str>,
    silent: Vec<&'static str>,
    gone: Vec<&'static str>,
    anew: bool,
    overdue: Vec<&'static str>,
}

/// From, to, how many.
type Moved = (String, String, u32);
type Shares<'a> = &'a [(&'a str, Option<u32>)];

fn share(replicas: Option<u32>) -> Share {
    Share { replicas, reason: "because".into() }
}

fn row(cluster: &str, components: BTreeMap<String, Share>) -> Row {
    Row {
        cluster: cluster.into(),
        cluster_name: cluster.into(),
        generation: GENERATION,
        revision: "web-v1".into(),
        components,
        removals: Vec::new(),
        trace: String::new(),
    }
}

fn moved(component: &str, from: &str, to: &str, replicas: Option<u32>) -> Move {
    Move {
        component: component.into(),
        from: from.into(),
        to: to.into(),
        replicas,
        reason: String::new(),
        drained: true,
    }
}

impl Case {
    /// `web` with these shares.
    fn new(mode: &'static str, shares: Shares<'_>, moves: Vec<Move>) -> Self {
        let rows = shares.iter().map(|(cluster, replicas)| row(cluster, [("web".into(), share(*replicas))].into()));
        let previous = Placement {
            application: ObjectName::new("default", "web"),
            application_uid: "app".into(),
            decision: 3,
            rows: rows.collect(),
            refusals: Vec::new(),
            unplaced: BTreeMap::new(),
            moves,
            rebalanced: String::new(),
            claims: Vec::new(),
            preempted: BTreeMap::new(),
        };
        let (reports, draining, silent, gone, anew, overdue) = Default::default();
        Self { mode, previous, reports, draining, silent, gone, anew, overdue }
    }

    fn reports(mut self, cluster: &str, generation: u64, component: &str, ready: u32, desired: u32) -> Self {
        let report = self.reports.entry(cluster.into()).or_default();
        let report = Arc::make_mut(report);
        report.generation = generation;
        report.applied = true;
        let replicas = Some(ReplicaCount { desired, ready, updated: desired, bound: desired });
        let healthy = ready >= desired;
        report.components.push(ComponentReport { name: component.into(), healthy, replicas, ..Default::default() });
        self
    }

    /// What is said of a cluster is this as well.
    fn altered(mut self, cluster: &str, alter: impl FnOnce(&mut Report)) -> Self {
        self.reports.get_mut(&Uid::from(cluster)).map(Arc::make_mut).map(alter).expect("a report to alter");
        self
    }

    fn drained(mut self, cluster: &'static str) -> Self {
        self.draining.push(cluster);
        self
    }

    /// What of `web` runs, and what moves, after a decision that wants it here.
    fn decide(&self, wanted: Shares<'_>) -> (Vec<(String, u32)>, Vec<Moved>) {
        let solution = self.solution(&[("web", wanted)]);
        let counts = solution
            .shares
            .iter()
            .filter_map(|(cluster, shares)| Some((cluster.0.clone(), shares.get("web")?.replicas.unwrap_or(1))));
        let moves =
            solution.moves.iter().map(|known| (known.from.0.clone(), known.to.0.clone(), known.replicas.unwrap_or(1)));
        (counts.collect(), moves.collect())
    }

    fn solution(&self, wanted: &[(&str, Shares<'_>)]) -> Solution {
        let has = |names: &[&str], cluster: &Uid| names.contains(&cluster.0.as_str());
        let handover = Handover {
            previous: &self.previous,
            reports: &self.reports,
            mode: &|_| self.mode,
            is_heard: &|cluster| !has(&self.silent, cluster),
            is_draining: &|cluster| has(&self.draining, cluster),
            is_gone: &|cluster| has(&self.gone, cluster),
            is_overdue: &|known| self.overdue.contains(&known.component.as_str()),
            asks_anew: &|_| self.anew,
        };
        let anchored = anchored(handover.previous, handover.mode, handover.is_draining);
        let mut solution = Solution::default();
        for (component, shares) in wanted {
            for (cluster, replicas) in *shares {
                // As the solver does where it has nothing to add.
                let given = share(*replicas);
                solution.shares.entry((*cluster).into()).or_default().insert((*component).to_owned(), given);
            }
        }
        hand_over(&handover, &anchored, &mut solution);
        solution
    }
}

fn numbers(pairs: &[(&str, u32)]) -> Vec<(String, u32)> {
    pairs.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
}

fn ways(moves: &[(&str, &str, u32)]) -> Vec<(String, String, u32)> {
    moves.iter().map(|&(from, to, count)| (from.to_owned(), to.to_owned(), count)).collect()
}

#[test]
fn what_leaves_stays_until_as_many_are_ready() {
    let begun = Case::new("Divided", &[("eu", Some(3))], vec![]).drained("eu");
    assert_eq!(begun.decide(&[("us", Some(3))]), (numbers(&[("eu", 3), ("us", 3)]), ways(&[("eu", "us", 3)])));
    let case = || {
        let rows: Shares<'_> = &[("eu", Some(3)), ("us", Some(5))];
        Case::new("Divided", rows, vec![moved("web", "eu", "us", Some(3))]).drained("eu")
    };
    let after = |case: Case| case.decide(&[("us", Some(5))]);
    let waits = |left: u32| (numbers(&[("eu", left), ("us", 5)]), ways(&[("eu", "us", left)]));
    let gone = (numbers(&[("us", 5)]), vec![]);
    assert_eq!(after(case()), waits(3), "nothing said");
    assert_eq!(after(case().reports("us", GENERATION, "web", 2, 5)), waits(3), "the two that were there");
    assert_eq!(after(case().reports("us", GENERATION, "web", 4, 5)), waits(1));
    assert_eq!(after(case().reports("us", GENERATION, "web", 5, 5)), gone);
    assert_eq!(after(case().reports("us", GENERATION - 1, "web", 5, 5)), waits(3), "said of an older generation");
    let mut silent = case().reports("us", GENERATION, "web", 5, 5);
    silent.silent.push("us");
    assert_eq!(after(silent), waits(3), "unknown is not healthy");
    assert_eq!(after(case().reports("eu", GENERATION, "web", 0, 3)), gone, "nothing healthy is lost");
    let mut silent = case().reports("eu", GENERATION, "web", 0, 3);
    silent.silent.push("eu");
    assert_eq!(after(silent), waits(3));
}

#[test]
fn what_only_looks_healthy_is_waited_for() {
    let case = |mode: &'static str| {
        let rows: Shares<'_> = &[("eu", Some(3)), ("us", Some(3))];
        let case = Case::new(mode, rows, vec![moved("web", "eu", "us", Some(3))]).drained("eu");
        case.reports("us", GENERATION, "web", 3, 3)
    };
    let gone = |case: Case| case.decide(&[("us", Some(3))]) == (numbers(&[("us", 3)]), vec![]);
    let refused = || Refused::default();
    for mode in ["Divided", "Single"] {
        assert!(gone(case(mode)), "{mode}");
        assert!(!gone(case(mode).altered("us", |report| report.applied = false)), "{mode}: not applied yet");
        assert!(!gone(case(mode).altered("us", |report| report.refused = Some(refused()))), "{mode}: refused");
    }
    let unwell = |report: &mut Report| report.components[0].healthy = false;
    let partly = |report: &mut Report| {
        report.components[0].replicas = Some(ReplicaCount { ready: 2, ..ReplicaCount::default() })
    };
    assert!(!gone(case("Single").altered("us", unwell)), "ready, and not well");
    assert!(!gone(case("Single").altered("us", partly)), "well, and not all of it");
    let grows = case("Divided").decide(&[("us", Some(5))]);
    assert_eq!(grows, (numbers(&[("eu", 3), ("us", 5)]), ways(&[("eu", "us", 3)])), "said of another number");
}

#[test]
fn of_two_that_move_to_one_place_each_needs_replacements_of_its_own() {
    let rows: Shares<'_> = &[("ap", Some(2)), ("eu", Some(2)), ("us", Some(4))];
    let moves = vec![moved("web", "ap", "us", Some(2)), moved("web", "eu", "us", Some(2))];
    let case = Case::new("Divided", rows, moves).drained("ap").drained("eu").reports("us", GENERATION, "web", 3, 4);
    assert_eq!(case.decide(&[("us", Some(4))]), (numbers(&[("eu", 1), ("us", 4)]), ways(&[("eu", "us", 1)])));
}

#[test]
fn nothing_is_waited_for_in_a_cluster_that_is_gone() {
    let rows: Shares<'_> = &[("eu", Some(3)), ("us", Some(3))];
    let mut case = Case::new("Divided", rows, vec![moved("web", "eu", "us", Some(3))]).drained("eu");
    case.gone.push("eu");
    assert_eq!(case.decide(&[("us", Some(3))]), (numbers(&[("us", 3)]), vec![]));
}

#[test]
fn the_room_of_old_replicas_is_what_an_edit_was_fitted_into() {
    let mut case = Case::new("Divided", &[("eu", Some(3))], vec![]);
    assert_eq!(case.decide(&[("eu", Some(1)), ("us", Some(2))]).1.len(), 1);
    case.anew = true;
    assert_eq!(case.decide(&[("eu", Some(1)), ("us", Some(2))]), (numbers(&[("eu", 1), ("us", 2)]), vec![]));
}

#[test]
fn a_part_without_replicas_is_still_there() {
    let solution = Case::new("Divided", &[("eu", Some(0))], vec![]).solution(&[("web", &[("eu", Some(0))])]);
    assert!(!leaves_wholly(&solution, &"eu".into(), "web"));
    assert!(leaves_wholly(&solution, &"us".into(), "web"));
}

#[test]
fn fewer_replicas_are_no_move() {
    let case = Case::new("Divided", &[("eu", Some(5)), ("us", Some(4))], vec![]);
    assert_eq!(case.decide(&[("eu", Some(2)), ("us", Some(4))]), (numbers(&[("eu", 2), ("us", 4)]), vec![]));
    assert_eq!(
        case.decide(&[("eu", Some(2)), ("us", Some(5))]),
        (numbers(&[("eu", 3), ("us", 5)]), ways(&[("eu", "us", 1)])),
        "of three that go from eu, one moves"
    );
    let moving = Case::new("Divided", &[("eu", Some(3)), ("us", Some(3))], vec![moved("web", "eu", "us", Some(3))])
        .drained("eu");
    assert_eq!(
        moving.decide(&[("us", Some(1))]),
        (numbers(&[("eu", 1), ("us", 1)]), ways(&[("eu", "us", 1)])),
        "a lower total is carried out on both ends"
    );
}

#[test]
fn a_new_place_that_leaves_too_passes_on_what_was_coming() {
    let case = || {
        let rows: Shares<'_> = &[("eu", Some(3)), ("us", Some(4))];
        Case::new("Divided", rows, vec![moved("web", "eu", "us", Some(3))]).drained("eu").drained("us")
    };
    assert_eq!(
        case().decide(&[("ap", Some(4))]),
        (numbers(&[("ap", 4), ("eu", 3), ("us", 1)]), ways(&[("eu", "ap", 3), ("us", "ap", 1)]))
    );
    // And back to where it never left.
    let back = Case::new("Divided", &[("eu", Some(3)), ("us", Some(3))], vec![moved("web", "eu", "us", Some(3))]);
    let mut back = back.drained("us");
    back.previous.moves[0].drained = false;
    assert_eq!(back.decide(&[("eu", Some(3))]), (numbers(&[("eu", 3)]), vec![]));
}

#[test]
fn an_undone_drain_turns_its_moves_round() {
    let case = |ready: u32| {
        let rows: Shares<'_> = &[("eu", Some(3)), ("us", Some(3))];
        let moves = vec![moved("web", "eu", "us", Some(3))];
        Case::new("Divided", rows, moves).reports("eu", GENERATION, "web", ready, 3)
    };
    assert_eq!(case(3).decide(&[("eu", Some(3))]), (numbers(&[("eu", 3)]), vec![]));
    let still = (numbers(&[("eu", 3), ("us", 1)]), ways(&[("us", "eu", 1)]));
    assert_eq!(case(2).decide(&[("eu", Some(3))]), still, "the old ones are not well");
}

#[test]
fn a_whole_goes_at_once_and_a_copy_when_another_is_healthy() {
    let rows: Shares<'_> = &[("eu", Some(3)), ("us", Some(3))];
    let single = |ready| {
        let case = Case::new("Single", rows, vec![moved("web", "eu", "us", Some(3))]).drained("eu");
        case.reports("us", GENERATION, "web", ready, 3).decide(&[("us", Some(3))])
    };
    assert_eq!(single(2), (numbers(&[("eu", 3), ("us", 3)]), ways(&[("eu", "us", 3)])));
    assert_eq!(single(3), (numbers(&[("us", 3)]), vec![]));
    let copies = |ready| {
        let case = Case::new("Duplicated", rows, vec![]).drained("eu");
        case.reports("us", GENERATION, "web", ready, 3).decide(&[("us", Some(3))])
    };
    assert_eq!(copies(1), (numbers(&[("eu", 3), ("us", 3)]), ways(&[("eu", "us", 3)])));
    assert_eq!(copies(3), (numbers(&[("us", 3)]), vec![]));
    let three: Shares<'_> = &[("ap", Some(3)), ("eu", Some(3)), ("us", Some(3))];
    let other = Case::new("Duplicated", three, vec![]).drained("eu").reports("us", GENERATION, "web", 3, 3);
    let left: Shares<'_> = &[("ap", Some(3)), ("us", Some(3))];
    assert_eq!(other.decide(left), (numbers(&[("ap", 3), ("us", 3)]), vec![]), "whichever is healthy");
    let undone = Case::new("Duplicated", rows, vec![moved("web", "eu", "us", Some(3))]);
    assert_eq!(undone.decide(&[("eu", Some(3)), ("us", Some(3))]), (numbers(&[("eu", 3), ("us", 3)]), vec![]));
    let nowhere = Case::new("Duplicated", &[("eu", Some(3))], vec![]);
    assert_eq!(nowhere.decide(&[]), (vec![], vec![]), "the policy has it nowhere");
}

#[test]
fn what_belongs_together_goes_together_and_what_is_not_counted_last() {
    let case = |web: u32, api: u32| {
        let mut case =
            Case::new("Single", &[("eu", Some(2)), ("us", Some(2))], vec![moved("web", "eu", "us", Some(2))]);
        for row in &mut case.previous.rows {
            row.components.insert("api".into(), share(Some(1)));
            row.components.insert("settings".into(), share(None));
        }
        case.previous.moves.insert(0, moved("api", "eu", "us", Some(1)));
        case.previous.moves.insert(1, moved("settings", "eu", "us", None));
        let case = case.drained("eu").reports("us", GENERATION, "web", web, 2);
        let case = case.reports("us", GENERATION, "api", api, 1).reports("us", GENERATION, "settings", 0, 0);
        let (web, api, settings): (Shares<'_>, Shares<'_>, Shares<'_>) =
            (&[("us", Some(2))], &[("us", Some(1))], &[("us", None)]);
        let solution = case.solution(&[("web", web), ("api", api), ("settings", settings)]);
        solution.moves.len()
    };
    assert_eq!([case(1, 1), case(2, 0), case(2, 1)], [3, 3, 0]);
}

#[test]
fn a_fall_that_was_decided_earlier_says_why_when_it_is_done() {
    let rows: Shares<'_> = &[("eu", Some(3)), ("us", Some(4))];
    let case =
        Case::new("Divided", rows, vec![moved("web", "eu", "us", Some(2))]).reports("us", GENERATION, "web", 4, 4);
    let mut solution = case.solution(&[("web", &[("eu", Some(1)), ("us", Some(4))])]);
    let share = solution.shares.get_mut(&Uid::from("eu")).and_then(|shares| shares.remove("web")).expect("a share");
    assert_eq!(share.replicas, Some(1));
    assert_eq!(share.reason, "1, down from 3: as many are healthy elsewhere by now");
}
