//! With and apart: what other Applications close, and what they never take away.

use super::*;
use crate::model::{application::Affinity, cluster::REGION_LABEL};

fn neighbour(name: &str, affinity: serde_json::Value, clusters: &[&str]) -> Neighbour {
    let clusters: BTreeSet<Uid> = clusters.iter().map(|name| uid_of(name)).collect();
    let labels = [("tier".to_owned(), "back".to_owned())].into();
    let affinity: Affinity = serde_json::from_value(affinity).expect("an affinity");
    Neighbour { named: Named { name: name.into(), labels }, affinity, placed: clusters.clone(), present: clusters }
}

fn case(mode: &str, affinity: serde_json::Value, others: Vec<Neighbour>) -> Case {
    let policies = vec![policy("placement", json!({"mode": mode, "affinity": affinity}))];
    let mut case = Case::new(policies, 6, &[("ap", 10), ("eu", 10), ("us", 10)]);
    let labels = [("app".to_owned(), "web".to_owned())].into();
    case.neighbours = Neighbours { own: Named { name: "web".into(), labels }, others };
    for (name, region) in [("ap", "east"), ("eu", "west"), ("us", "west")] {
        case.at(name).labels.insert(REGION_LABEL.into(), region.into());
    }
    case
}

fn clusters(case: &Case, solution: &Solution) -> Vec<String> {
    counts(case, solution).into_keys().collect()
}

#[test]
fn terms_open_and_close_clusters_by_topology() {
    let back = json!({"selector": {"matchLabels": {"tier": "back"}}});
    let in_region = json!({"application": "db", "topology": "region"});
    let rows: [(serde_json::Value, &[&str]); 9] = [
        (json!({"apart": [{"application": "db"}]}), &["ap", "us"]),
        (json!({"with": [{"application": "db"}]}), &["eu"]),
        (json!({"apart": [in_region]}), &["ap"]),
        (json!({"with": [in_region]}), &["eu", "us"]),
        (json!({"apart": [back]}), &["ap", "us"]),
        (json!({"apart": [{"selector": {}}]}), &["ap", "us"]),
        (json!({"apart": [{"application": "other"}]}), &["ap", "eu", "us"]),
        (json!({"with": [in_region], "apart": [{"application": "db"}]}), &["us"]),
        (json!({"apart": [{"application": "db", "topology": "rack"}]}), &["ap", "eu", "us"]),
    ];
    for mode in ["Divided", "Duplicated"] {
        for (affinity, expected) in &rows {
            let case = case(mode, affinity.clone(), vec![neighbour("db", json!({}), &["eu"])]);
            let solution = case.solve();
            assert_eq!(clusters(&case, &solution), *expected, "{mode} {affinity}");
            assert_eq!(solution.refusals.len(), 3 - expected.len());
        }
    }
}

#[test]
fn every_closed_cluster_is_told_by_whom() {
    let case = case(
        "Divided",
        json!({"with": [{"application": "db", "topology": "region"}], "apart": [{"application": "db"}]}),
        vec![neighbour("db", json!({}), &["eu"])],
    );
    let expected =
        ["ap: its region has nothing of db: it runs elsewhere", "eu: its cluster has db, and the two are to be apart"];
    assert_eq!(refusals(&case.solve()), expected);
}

#[test]
fn whoever_is_avoided_avoids_too() {
    let shy = neighbour("db", json!({"apart": [{"selector": {"matchLabels": {"app": "web"}}}]}), &["eu"]);
    let case = case("Divided", json!({}), vec![shy]);
    assert_eq!(clusters(&case, &case.solve()), ["ap", "us"]);
}

#[test]
fn nothing_that_runs_is_taken_away() {
    for mode in ["Divided", "Duplicated"] {
        for affinity in [json!({"apart": [{"application": "db"}]}), json!({"with": [{"application": "gone"}]})] {
            let mut case = case(mode, json!({}), Vec::new());
            let before = case.settle();
            case.policies = vec![policy("placement", json!({"mode": mode, "affinity": affinity}))];
            case.neighbours.others = vec![neighbour("db", json!({}), &["ap", "eu", "us"])];
            assert_eq!(counts(&case, &case.solve()), counts(&case, &before), "{mode} {affinity}");
        }
    }
}

#[test]
fn the_first_of_a_group_does_not_wait_for_itself() {
    let group = json!({"with": [{"selector": {"matchLabels": {"app": "web"}}, "topology": "region"}]});
    let first = case("Divided", group.clone(), Vec::new());
    assert_eq!(clusters(&first, &first.solve()), ["ap", "eu", "us"]);
    let mut peer = neighbour("peer", group.clone(), &["ap"]);
    peer.named.labels = first.neighbours.own.labels.clone();
    let second = case("Divided", group, vec![peer]);
    assert_eq!(clusters(&second, &second.solve()), ["ap"]);
}

#[test]
fn who_waits_in_a_circle_is_told_of_it_and_who_runs_breaks_it() {
    let with = |name: &str| json!({"with": [{"application": name}]});
    let circle = |clusters: &[&str]| {
        let others = vec![neighbour("db", with("log"), &[]), neighbour("log", with("web"), clusters)];
        case("Divided", with("db"), others)
    };
    let waiting = circle(&[]).solve();
    let words = "it waits for db, which waits for log, which waits for web";
    assert_eq!((waiting.unplaced["web"].as_str(), waiting.waiting), (words, true));
    let others = circle(&["eu"]).solve();
    assert_eq!(others.unplaced["web"], "no cluster can take it: 3 away from what it is to be with");
    let nobody = case("Divided", with("db"), Vec::new()).solve();
    assert_eq!(refusals(&nobody)[0], "ap: its cluster has nothing of db: there is none");
}

proptest! {
    /// What is new is never where a term forbids it, and what ran still runs.
    #[test]
    fn what_is_to_be_apart_never_meets_and_what_is_to_be_together_does(
        (divided, by_region) in any::<(bool, bool)>(),
        present in prop::collection::btree_set(0usize..3, 0..3),
        before in 0u32..8,
        after in 0u32..20,
        apart in any::<bool>(),
    ) {
        let names = ["ap", "eu", "us"];
        let here: Vec<&str> = present.iter().map(|&index| names[index]).collect();
        let mode = if divided { "Divided" } else { "Duplicated" };
        let mut case = case(mode, json!({}), Vec::new());
        case.scale(before);
        let old = case.settle();
        case.scale(after);
        let topology = if by_region { "region" } else { "cluster" };
        let term = json!([{"application": "db", "topology": topology}]);
        let affinity = if apart { json!({"apart": term}) } else { json!({"with": term}) };
        case.policies = vec![policy("placement", json!({"mode": mode, "affinity": affinity}))];
        case.neighbours.others = vec![neighbour("db", json!({}), &here)];
        let solution = case.solve();
        let (old, new) = (counts(&case, &old), counts(&case, &solution));
        let region = |name: &str| if name == "ap" { "east" } else { "west" };
        let near = |name: &str| here.iter().any(|other| *other == name || by_region && region(other) == region(name));
        for (name, count) in &new {
            let grew = *count > old.get(name).copied().unwrap_or(0);
            prop_assert!(near(name) != apart || !grew || !divided && old.contains_key(name), "{name}: {old:?} {new:?}");
        }
        if after >= before {
            prop_assert!(old.iter().all(|(name, count)| *count == 0 || new.get(name) >= Some(count)), "{old:?} {new:?}");
        }
    }
}
