//! What another scheduler decided: carried out as a whole, or not at all.

use super::*;
use crate::model::binding::Binding;

fn binding(parts: &[(&str, u32)]) -> Binding {
    let share = |&(name, replicas): &(&str, u32)| (uid_of(name), [("web".to_owned(), Some(replicas))].into());
    Binding { generation: 1, shares: parts.iter().map(share).collect(), overcommit: false, author: "alice".into() }
}

fn bound(case: &Case, binding: Option<&Binding>) -> Solution {
    let mut fleet = Fleet::of(case.fleet.clone());
    bind(&mut fleet, &case.problem(), &Bound { scheduler: "mine", generation: 1, binding })
}

fn running(case: &mut Case, parts: &[(&str, u32)]) {
    let solution = bound(case, Some(&binding(parts)));
    expect(case, &solution, parts);
    case.previous = Some(placement(&case.fleet, &solution));
}

#[test]
fn nothing_is_chosen_before_it_is_bound() {
    let mut case = Case::new(divided(), 4, &[("eu", 9), ("us", 9)]);
    let solution = bound(&case, None);
    assert!(solution.shares.is_empty() && solution.waiting);
    assert_eq!(solution.unplaced["web"], "waits for the scheduler \"mine\" to bind generation 1");
    running(&mut case, &[("eu", 1), ("us", 3)]);
    // Of another generation it says nothing, and what runs goes on in its own revision.
    case.ran = Some((divided(), case.components.clone()));
    let old = Binding { generation: 2, ..binding(&[("eu", 4)]) };
    let solution = bound(&case, Some(&old));
    expect(&case, &solution, &[("eu", 1), ("us", 3)]);
    assert_eq!(solution.outgrown, BTreeSet::from(["web".to_owned()]));
}

#[test]
fn a_binding_says_who_bound_and_binding_twice_changes_nothing() {
    let mut case = Case::new(divided(), 4, &[("eu", 9), ("us", 9)]);
    running(&mut case, &[("eu", 1), ("us", 3)]);
    let solution = bound(&case, Some(&binding(&[("eu", 3), ("us", 1)])));
    assert_eq!(solution.shares[&uid_of("us")]["web"].reason, "1, down from 3: bound by alice for mine");
    assert_eq!(solution.shares[&uid_of("eu")]["web"].reason, "3, up from 1: bound by alice for mine");
    case.previous = Some(placement(&case.fleet, &solution));
    assert_eq!(bound(&case, Some(&binding(&[("eu", 3), ("us", 1)]))), solution);
}

#[test]
fn never_over_the_room_unless_said_and_never_by_half() {
    let mut case = Case::new(divided(), 12, &[("eu", 5), ("us", 9)]);
    let much = binding(&[("eu", 6), ("us", 6)]);
    let solution = bound(&case, Some(&much));
    assert!(solution.shares.is_empty());
    assert_eq!(refusals(&solution), ["eu: room for 5 of 6 replicas: cpu"]);
    assert_eq!(
        solution.unplaced["web"],
        "the binding by alice cannot be carried out: eu: room for 5 of 6 replicas: cpu"
    );
    expect(&case, &bound(&case, Some(&Binding { overcommit: true, ..much })), &[("eu", 6), ("us", 6)]);
    // What runs needs no room: only what is new does.
    running(&mut case, &[("eu", 4), ("us", 8)]);
    case.at("eu").room = cluster("eu", 1).room;
    expect(&case, &bound(&case, Some(&binding(&[("eu", 5), ("us", 7)]))), &[("eu", 5), ("us", 7)]);
    let solution = bound(&case, Some(&binding(&[("eu", 6), ("us", 6)])));
    expect(&case, &solution, &[("eu", 4), ("us", 8)]);
}

#[test]
fn what_no_scheduler_may_choose_is_refused() {
    for (change, told) in [
        ((|cluster| cluster.silent = true) as fn(&mut Candidate), "eu: its agent is silent"),
        (|cluster| cluster.accepted = false, "eu: not accepted by the hub"),
        (|cluster| cluster.cordoned = true, "eu: cordoned"),
        (|cluster| cluster.room = None, "eu: has not reported its capacity yet"),
    ] {
        let mut case = self::case();
        change(case.at("eu"));
        assert_eq!(refusals(&bound(&case, Some(&binding(&[("eu", 4)])))), [told]);
        // What runs there stays.
        let mut ran = self::case();
        running(&mut ran, &[("eu", 4)]);
        change(ran.at("eu"));
        expect(&ran, &bound(&ran, Some(&binding(&[("eu", 4)]))), &[("eu", 4)]);
    }
    let mut case = self::case();
    case.policies.push(policy("topology", json!({"clusters": ["us"]})));
    assert_eq!(refusals(&bound(&case, Some(&binding(&[("eu", 4)])))), ["eu: not among the named clusters"]);
}

fn case() -> Case {
    Case::new(divided(), 4, &[("eu", 9), ("us", 9)])
}

#[test]
fn a_cluster_that_goes_takes_its_part_and_the_rest_stays() {
    let mut case = case();
    running(&mut case, &[("eu", 1), ("us", 3)]);
    case.at("eu").deleting = true;
    let solution = bound(&case, Some(&binding(&[("eu", 1), ("us", 3)])));
    expect(&case, &solution, &[("us", 3)]);
    assert!(solution.unplaced["web"].contains("is gone"), "{solution:#?}");
    expect(&case, &bound(&case, None), &[("us", 3)]);
}

#[test]
fn what_waits_for_a_yes_stays_whatever_is_bound() {
    let mut case = case();
    running(&mut case, &[("eu", 1), ("us", 3)]);
    case.held.insert(uid_of("us"));
    expect(&case, &bound(&case, Some(&binding(&[("eu", 4)]))), &[("eu", 4), ("us", 3)]);
}

#[test]
fn several_components_share_the_room_and_an_edit_is_fitted_into_what_it_frees() {
    let mut case = Case::new(divided(), 4, &[("eu", 6)]);
    case.components.push(component("api", 4));
    let both = |web: u32, api: u32| Binding {
        shares: [(uid_of("eu"), [("web".to_owned(), Some(web)), ("api".to_owned(), Some(api))].into())].into(),
        ..binding(&[])
    };
    let solution = bound(&case, Some(&both(4, 4)));
    assert_eq!(refusals(&solution), ["eu: room for 2 of 4 replicas: cpu"]);
    // Three of two steps each fit where four of one ran and two more were free.
    let mut case = Case::new(divided(), 4, &[("eu", 6)]);
    running(&mut case, &[("eu", 4)]);
    case.at("eu").room = cluster("eu", 2).room;
    case.ran = Some((divided(), case.components.clone()));
    case.resize(2);
    expect(&case, &bound(&case, Some(&binding(&[("eu", 3)]))), &[("eu", 3)]);
    let solution = bound(&case, Some(&binding(&[("eu", 4)])));
    assert_eq!(refusals(&solution), ["eu: room for 3 of 4 replicas: cpu"]);
    assert!(!solution.outgrown.is_empty());
}
