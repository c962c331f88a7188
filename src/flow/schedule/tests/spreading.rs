//! Spread constraints: of what every cluster gets in full, and several that bound a skew each.

use super::policies::{placement_with, regions, settles, why};
use super::*;

/// Cluster, region, zone.
const PLACES: [(&str, &str, &str); 6] = [
    ("ap", "asia", "asia-1"),
    ("cn", "asia", "asia-2"),
    ("de", "europe", "europe-1"),
    ("eu", "europe", "europe-1"),
    ("fr", "europe", "europe-2"),
    ("us", "america", "america-1"),
];

fn spread_case(mode: &str, constraints: serde_json::Value, replicas: u32, rooms: [u32; 6]) -> Case {
    let named: Vec<_> = PLACES.iter().map(|(name, ..)| *name).zip(rooms).collect();
    let policies = placement_with(json!({"mode": mode, "spreadConstraints": constraints}));
    let mut case = Case::new(policies, replicas, &named);
    regions(&mut case, &PLACES.map(|(name, region, _)| (name, region)));
    for (name, _, zone) in PLACES {
        case.at(name).labels.insert(crate::model::cluster::ZONE_LABEL.into(), zone.into());
    }
    case
}

#[test]
fn copies_are_spread_over_groups() {
    let rows = [
        (json!([{"by": "cluster", "maxGroups": 2}]), vec!["ap", "cn"]),
        (json!([{"by": "region", "maxGroups": 1}]), vec!["de", "eu", "fr"]),
        (json!([{"by": "region", "minGroups": 3, "maxSkew": 1}]), vec!["ap", "cn", "de", "eu", "us"]),
        (json!([{"by": "region", "maxSkew": 1}, {"by": "zone", "maxSkew": 1}]), vec!["ap", "cn", "de", "eu", "fr"]),
        (
            json!([{"by": "region", "maxSkew": 1, "minGroups": 3}, {"by": "zone", "maxSkew": 1}]),
            vec!["ap", "cn", "de", "eu", "us"],
        ),
        (json!([{"by": "cluster", "maxGroups": 3}, {"by": "region", "minGroups": 3}]), vec!["ap", "de", "us"]),
        (json!([{"by": "zone", "minGroups": 5}]), vec!["ap", "cn", "de", "eu", "fr", "us"]),
    ];
    for (constraints, expected) in rows {
        let mut case = spread_case("Duplicated", constraints.clone(), 4, [9; 6]);
        let solution = case.settle();
        assert!(solution.unplaced.is_empty() && !solution.waiting, "{constraints}: {solution:#?}");
        let expected: Vec<(&str, u32)> = expected.into_iter().map(|name| (name, 4)).collect();
        expect(&case, &solution, &expected);
        assert_eq!(solution.refusals.len() + expected.len(), 6, "{constraints}");
        settles(&mut case, &expected);
    }
}

#[test]
fn a_copy_that_runs_stays_as_long_as_the_spread_can_be_kept_with_it() {
    let constraints = json!([{"by": "region", "minGroups": 2, "maxGroups": 2}, {"by": "cluster", "maxGroups": 2}]);
    let mut case = spread_case("Duplicated", constraints, 4, [9, 0, 0, 9, 0, 0]);
    settles(&mut case, &[("ap", 4), ("eu", 4)]);
    case.at("de").room = cluster("de", 90).room;
    case.at("us").room = cluster("us", 90).room;
    settles(&mut case, &[("ap", 4), ("eu", 4)]);
    case.fleet.remove(&uid_of("ap"));
    settles(&mut case, &[("eu", 4), ("us", 4)]);
    assert_eq!(why(&case.solve(), "de"), "left out by the spread over region and cluster: others were chosen");
    assert!(why(&case.solve(), "fr").starts_with("room for 0 of 4"), "{}", why(&case.solve(), "fr"));
}

#[test]
fn copies_that_cannot_be_spread_are_refused_in_words_and_what_runs_stays() {
    let two = json!([{"by": "region", "minGroups": 2}]);
    let mut case = spread_case("Duplicated", two, 4, [9, 0, 0, 9, 0, 0]);
    case.settle();
    case.fleet.remove(&uid_of("ap"));
    let solution = case.solve();
    expect(&case, &solution, &[("eu", 4)]);
    assert_eq!(
        solution.unplaced["web"],
        "no choice of clusters keeps the spread; it runs in 1, and comes to no other until one does"
    );
    assert!(solution.waiting, "room elsewhere would help");
    case.at("de").room = cluster("de", 9).room;
    assert_eq!(
        why(&case.solve(), "de"),
        "left out by the spread over region: nothing new is placed until it can be kept"
    );
    case.at("us").labels.clear();
    assert_eq!(why(&case.solve(), "us"), "room for 0 of 4 replicas: no node has enough cpu left");
    case.at("us").room = cluster("us", 9).room;
    assert_eq!(why(&case.solve(), "us"), "left out by the spread over region: it does not say where it is");
    regions(&mut case, &[("us", "america")]);
    settles(&mut case, &[("de", 4), ("eu", 4), ("us", 4)]);
}

/// The first of ordered groups of clusters in which the constraints can be kept.
#[test]
fn a_later_group_of_clusters_counts_where_the_first_cannot_be_spread_over() {
    let mut case = spread_case("Duplicated", json!([{"by": "region", "minGroups": 2}]), 4, [9; 6]);
    case.policies[0].properties["groups"] =
        json!([{"clusters": ["de", "eu"]}, {"clusters": ["fr", "us"]}, {"clusterSelector": {}}]);
    let solution = case.settle();
    expect(&case, &solution, &[("fr", 4), ("us", 4)]);
    assert_eq!(why(&solution, "ap"), "fr took it: an earlier group of the policy has it");
    assert_eq!(why(&solution, "de"), "left out by the spread over region: others were chosen");
}

#[test]
fn replicas_keep_the_skews_of_several_constraints_together() {
    let by = |one: &str, other: &str, skew: u32| json!([{"by": one, "maxSkew": skew}, {"by": other, "maxSkew": skew}]);
    let rows = [
        // A group of which no cluster is chosen does not count.
        (by("region", "zone", 1), 12, [9; 6], vec![("ap", 3), ("cn", 3), ("de", 2), ("eu", 1), ("fr", 3)]),
        (by("cluster", "region", 1), 6, [9, 9, 9, 0, 0, 9], vec![("ap", 1), ("cn", 1), ("de", 2), ("us", 2)]),
    ];
    for (constraints, replicas, rooms, expected) in rows {
        let mut case = spread_case("Divided", constraints.clone(), replicas, rooms);
        let solution = case.settle();
        assert!(solution.unplaced.is_empty(), "{constraints}: {solution:#?}");
        expect(&case, &solution, &expected);
        settles(&mut case, &expected);
    }
    // Four in each region, and all five zones: the only one in America would have more than its skew.
    let constraints =
        json!([{"by": "region", "minGroups": 3, "maxSkew": 1}, {"by": "zone", "minGroups": 5, "maxSkew": 1}]);
    let solution = spread_case("Divided", constraints.clone(), 12, [9; 6]).solve();
    assert!(solution.unplaced["web"].starts_with("no choice of clusters keeps the spread with 12 replicas"));
    let case = spread_case("Divided", constraints, 5, [9; 6]);
    let solution = case.solve();
    assert_eq!(counts(&case, &solution).values().sum::<u32>(), 5, "one in each zone, {solution:#?}");
}
