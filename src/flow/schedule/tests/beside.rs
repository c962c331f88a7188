//! Components of several objects that run pods: each cluster that has the component runs all of them.

use super::policies::{placement_with, why};
use super::*;
use crate::model::revision::Beside;

fn cpu(steps: i64) -> Demand {
    Demand { requests: Resources::of([(CPU, steps * STEP)]), ..Demand::default() }
}

/// Beside `web`: two pods of three steps.
fn case(mode: &str, replicas: u32, rooms: &[(&str, u32)]) -> Case {
    let mut case = Case::new(placement_with(json!({"mode": mode})), replicas, rooms);
    case.components[0].beside = vec![Beside { manifest: 1, demand: cpu(3), count: 2, ends: true }];
    case
}

#[test]
fn what_is_placed_whole_has_room_for_all_of_its_pods() {
    let rooms = [("ap", 9), ("eu", 10), ("us", 30)];
    let solution = case("Duplicated", 4, &rooms).solve();
    expect(&case("Duplicated", 4, &rooms), &solution, &[("eu", 4), ("us", 4)]);
    assert_eq!(why(&solution, "ap"), "room for 1 of 2 replicas: cpu");
    let mut single = case("Duplicated", 4, &[("ap", 9), ("eu", 10)]);
    single.policies.clear();
    expect(&single, &single.solve(), &[("eu", 4)]);
}

#[test]
fn a_part_of_a_total_brings_what_runs_beside_it() {
    // Six of the room are for the others, wherever the first replica is.
    let solved = case("Divided", 10, &[("ap", 6), ("eu", 12), ("us", 12)]);
    let solution = solved.solve();
    expect(&solved, &solution, &[("eu", 5), ("us", 5)]);
    assert!(why(&solution, "ap").starts_with("room for 0 of 10 replicas"), "{}", why(&solution, "ap"));
    let full = case("Divided", 13, &[("ap", 6), ("eu", 12), ("us", 12)]);
    let solution = full.solve();
    expect(&full, &solution, &[]);
    assert!(solution.unplaced["web"].starts_with("room for 12 of 13 replicas"), "{}", solution.unplaced["web"]);
}

#[test]
fn another_component_finds_what_all_of_them_leave() {
    let mut two = case("Divided", 4, &[("eu", 12)]);
    two.components.push(component("other", 2));
    let solution = two.solve();
    assert!(solution.unplaced.is_empty(), "{solution:#?}");
    two.components[1] = component("other", 3);
    let solution = two.solve();
    assert_eq!(solution.unplaced.len(), 1, "{solution:#?}");
}

#[test]
fn an_edit_of_what_runs_beside_is_fitted_or_waits() {
    let mut edited = case("Divided", 4, &[("eu", 12)]);
    edited.settle();
    // Of the twelve ten are taken, as reservations do.
    edited.at("eu").room.as_mut().expect("a room").take(&cpu(3), 2);
    let grown = |count| vec![Beside { manifest: 1, demand: cpu(4), count, ends: true }];
    edited.components[0].beside = grown(2);
    let solution = edited.solve();
    assert!(solution.outgrown.is_empty(), "{solution:#?}");
    edited.components[0].beside = grown(3);
    let solution = edited.solve();
    assert!(solution.outgrown.contains("web"), "{solution:#?}");
    expect(&edited, &solution, &[("eu", 4)]);
}
