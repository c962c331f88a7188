//! The `placement` policy: a table for each filter, division and bound, and what holds of all of them in odd states.

use super::*;
use crate::model::cluster::{ClusterTaint, Property, TaintEffect};

pub fn placement_with(properties: serde_json::Value) -> Vec<Policy> {
    let mut all = json!({"mode": "Divided"});
    for (name, value) in properties.as_object().expect("a map") {
        all[name] = value.clone();
    }
    vec![policy("placement", all)]
}

fn taint(key: &str, effect: TaintEffect, seconds: i64) -> ClusterTaint {
    let time_added = Some(Timestamp::from_seconds(seconds));
    ClusterTaint { key: key.into(), value: String::new(), effect, time_added }
}

#[track_caller]
pub fn settles(case: &mut Case, expected: &[(&str, u32)]) {
    let solution = case.settle();
    expect(case, &solution, expected);
}

pub fn why(solution: &Solution, cluster: &str) -> String {
    let told = solution.refusals.iter().find(|refusal| refusal.cluster_name == cluster);
    told.map(|refusal| refusal.why.to_string()).unwrap_or_default()
}

#[test]
fn clusters_are_chosen_by_expressions_over_their_labels() {
    let expressions = [
        (json!({"key": "tier", "operator": "In", "values": ["gold", "silver"]}), vec!["ap", "eu"]),
        (json!({"key": "tier", "operator": "NotIn", "values": ["gold"]}), vec!["eu", "us"]),
        (json!({"key": "tier", "operator": "Exists"}), vec!["ap", "eu"]),
        (json!({"key": "tier", "operator": "DoesNotExist"}), vec!["us"]),
        (json!({"key": "age", "operator": "Gt", "values": ["3"]}), vec!["us"]),
        (json!({"key": "age", "operator": "Lt", "values": ["3"]}), vec!["eu"]),
    ];
    for (expression, chosen) in expressions {
        let selector = json!({"clusterSelector": {"matchExpressions": [expression]}});
        let mut case = Case::new(placement_with(selector), 6, &[("ap", 10), ("eu", 10), ("us", 10)]);
        let mut label = |name: &str, key: &str, value: &str| {
            case.at(name).labels.insert(key.into(), value.into());
        };
        label("ap", "tier", "gold");
        label("ap", "age", "old");
        label("eu", "tier", "silver");
        label("eu", "age", "2");
        label("us", "age", "4");
        let solution = case.solve();
        assert_eq!(counts(&case, &solution).into_keys().collect::<Vec<_>>(), chosen, "{expression}");
        assert_eq!(solution.refusals.len(), 3 - chosen.len());
    }
}

#[test]
fn an_expression_chooses_and_its_fault_is_told_of_the_cluster() {
    let mut case = Case::new(
        placement_with(json!({"expression": "properties.cost < 5 && free.cpu > 500"})),
        8,
        &[("ap", 10), ("eu", 10), ("sa", 4), ("us", 10)],
    );
    for (name, cost) in [("ap", 4), ("sa", 4), ("us", 7)] {
        case.at(name).properties.insert("cost".into(), Property::Integer(cost));
    }
    let solution = case.settle();
    expect(&case, &solution, &[("ap", 8)]);
    assert_eq!(why(&solution, "us"), "does not satisfy properties.cost < 5 && free.cpu > 500");
    assert_eq!(why(&solution, "sa"), "does not satisfy properties.cost < 5 && free.cpu > 500");
    assert!(why(&solution, "eu").starts_with("the policy's expression fails on it: "), "{}", why(&solution, "eu"));
    // What the replicas took themselves is no reason to leave.
    settles(&mut case, &[("ap", 8)]);
    case.at("sa").room = cluster("sa", 30).room;
    case.scale(20);
    settles(&mut case, &[("ap", 8), ("sa", 12)]);
}

#[test]
fn a_taint_keeps_away_what_does_not_tolerate_it() {
    let rows = [
        (TaintEffect::NoSchedule, json!([]), vec![("us", 6)]),
        (TaintEffect::NoExecute, json!([]), vec![("us", 6)]),
        (TaintEffect::PreferNoSchedule, json!([]), vec![("us", 6)]),
        (TaintEffect::NoSchedule, json!([{"key": "gpu", "operator": "Exists"}]), vec![("eu", 3), ("us", 3)]),
        (TaintEffect::NoSchedule, json!([{"key": "gpu", "effect": "NoSchedule"}]), vec![("eu", 3), ("us", 3)]),
        (TaintEffect::NoSchedule, json!([{"key": "gpu", "effect": "NoExecute"}]), vec![("us", 6)]),
        (TaintEffect::NoSchedule, json!([{"key": "gpu", "value": "other"}]), vec![("us", 6)]),
        (TaintEffect::NoSchedule, json!([{"operator": "Exists"}]), vec![("eu", 3), ("us", 3)]),
        (TaintEffect::PreferNoSchedule, json!([{"operator": "Exists"}]), vec![("eu", 3), ("us", 3)]),
    ];
    for (effect, tolerations, expected) in rows {
        let mut case = Case::new(placement_with(json!({"tolerations": tolerations})), 6, &[("eu", 10), ("us", 10)]);
        case.at("eu").taints = vec![taint("gpu", effect, 0)];
        let solution = case.solve();
        expect(&case, &solution, &expected);
        if expected.len() == 1 && effect == TaintEffect::NoSchedule {
            assert_eq!(why(&solution, "eu"), "tainted gpu:NoSchedule, which the policy does not tolerate");
        }
    }
}

#[test]
fn an_avoided_cluster_takes_what_the_others_have_no_room_for() {
    let mut case = Case::new(divided(), 14, &[("eu", 10), ("us", 10)]);
    case.at("eu").taints = vec![taint("spot", TaintEffect::PreferNoSchedule, 0)];
    expect(&case, &case.solve(), &[("eu", 4), ("us", 10)]);
}

#[test]
fn what_runs_stays_under_no_schedule_and_moves_under_no_execute() {
    let mut case = Case::new(divided(), 6, &[("eu", 10), ("us", 10)]);
    case.settle();
    case.at("eu").taints = vec![taint("gpu", TaintEffect::NoSchedule, 0)];
    expect(&case, &case.solve(), &[("eu", 3), ("us", 3)]);
    case.at("eu").taints = vec![taint("gpu", TaintEffect::NoExecute, 0)];
    expect(&case, &case.solve(), &[("us", 6)]);
    case.at("us").room = Some(Room::default());
    let solution = case.solve();
    expect(&case, &solution, &[("eu", 3), ("us", 3)]);
    assert!(solution.unplaced.contains_key("web"), "it stays until it fits elsewhere, and says so");
}

#[test]
fn a_toleration_ends_when_its_seconds_are_over() {
    let tolerations = json!([{"key": "down", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
    let mut case = Case::new(placement_with(json!({"tolerations": tolerations})), 6, &[("eu", 10), ("us", 10)]);
    case.settle();
    case.at("eu").taints = vec![taint("down", TaintEffect::NoExecute, 1_000_000)];
    for (seconds, left) in [(0, 3), (299, 3), (300, 0), (100, 3), (301, 0)] {
        case.now = Timestamp::from_seconds(1_000_000 + seconds);
        let solution = case.solve();
        assert_eq!(counts(&case, &solution).get("eu").copied().unwrap_or(0), left, "after {seconds} s");
        let until = (left > 0).then(|| Timestamp::from_seconds(1_000_300));
        assert_eq!(solution.until, until, "whoever decides is told when to look again");
    }
}

#[test]
fn a_later_group_takes_what_the_first_has_no_room_for_and_gives_first() {
    let groups = json!([{"name": "own", "clusters": ["us"]}, {"name": "rented", "clusterSelector": {"matchLabels": {"rented": "yes"}}}]);
    let mut case = Case::new(placement_with(json!({"groups": groups})), 8, &[("ap", 10), ("eu", 10), ("us", 10)]);
    case.at("eu").labels.insert("rented".into(), "yes".into());
    let solution = case.settle();
    expect(&case, &solution, &[("us", 8)]);
    assert_eq!(why(&solution, "ap"), "is in none of the policy's groups");
    case.scale(14);
    expect(&case, &case.solve(), &[("eu", 4), ("us", 10)]);
    case.settle();
    case.scale(12);
    expect(&case, &case.solve(), &[("eu", 2), ("us", 10)]);
    case.settle();
    case.scale(5);
    expect(&case, &case.solve(), &[("us", 5)]);
}

#[test]
fn in_full_it_runs_in_the_first_group_that_can_take_it() {
    let groups = json!([{"clusters": ["us"]}, {"clusters": ["ap", "eu"]}]);
    let policies = vec![policy("placement", json!({"mode": "Duplicated", "groups": groups}))];
    let mut case = Case::new(policies, 4, &[("ap", 10), ("eu", 10), ("us", 10)]);
    let solution = case.solve();
    expect(&case, &solution, &[("us", 4)]);
    assert_eq!(why(&solution, "eu"), "us took it: an earlier group of the policy has it");
    case.at("us").room = Some(Room::default());
    settles(&mut case, &[("ap", 4), ("eu", 4)]);
    case.at("us").room = cluster("us", 10).room;
    expect(&case, &case.solve(), &[("ap", 4), ("eu", 4)]);
}

#[test]
fn static_weights_are_kept_at_every_total() {
    let weights = json!([{"clusters": ["eu"], "weight": 3}, {"clusterSelector": {}, "weight": 1}, {"clusters": ["us"], "weight": 9}]);
    let mut case = Case::new(
        placement_with(json!({"division": "Weighted", "weights": weights})),
        5,
        &[("ap", 100), ("eu", 100), ("us", 100)],
    );
    let solution = case.settle();
    expect(&case, &solution, &[("ap", 1), ("eu", 3), ("us", 1)]);
    assert_eq!(solution.shares[&uid_of("eu")]["web"].reason, "3 of 5 by weight 3");
    for (total, expected) in [(10, [2, 6, 2]), (11, [2, 7, 2]), (4, [1, 2, 1]), (40, [8, 24, 8]), (9, [2, 5, 2])] {
        case.scale(total);
        let solution = case.settle();
        expect(&case, &solution, &[("ap", expected[0]), ("eu", expected[1]), ("us", expected[2])]);
    }
    // New weights are a new answer, not just one for what comes next.
    case.policies = placement_with(
        json!({"division": "Weighted", "weights": [{"clusters": ["us"], "weight": 2}, {"clusters": ["ap"], "weight": 1}]}),
    );
    let solution = case.settle();
    expect(&case, &solution, &[("ap", 3), ("us", 6)]);
    assert_eq!(why(&solution, "eu"), "no weight of the policy is for it");
}

#[test]
fn a_full_cluster_leaves_its_weight_to_the_others() {
    let weights = json!([{"clusterSelector": {}, "weight": 1}]);
    let policies = placement_with(json!({"division": "Weighted", "weights": weights}));
    let mut case = Case::new(policies, 9, &[("ap", 1), ("eu", 100), ("us", 100)]);
    settles(&mut case, &[("ap", 1), ("eu", 4), ("us", 4)]);
}

#[test]
fn room_without_a_weight_is_no_room() {
    let weights = json!([{"clusters": ["eu"], "weight": 1}]);
    let policies = placement_with(json!({"division": "Weighted", "weights": weights}));
    let mut case = Case::new(policies, 9, &[("ap", 100), ("eu", 5), ("us", 100)]);
    let solution = case.settle();
    expect(&case, &solution, &[]);
    assert_eq!(solution.unplaced["web"], "room for 5 of 9 replicas; 0 run, nothing new is placed until all fit");
}

#[test]
fn aggregated_replicas_use_as_few_clusters_as_hold_them() {
    let mut case =
        Case::new(placement_with(json!({"division": "Aggregated"})), 8, &[("ap", 10), ("eu", 30), ("us", 20)]);
    settles(&mut case, &[("eu", 8)]);
    case.scale(32);
    settles(&mut case, &[("eu", 30), ("us", 2)]);
    case.scale(10);
    settles(&mut case, &[("eu", 10)]);
}

#[test]
fn bounds_of_a_cluster_are_kept() {
    let limits = json!([{"clusters": ["eu"], "max": 3}, {"clusters": ["ap"], "min": 4}, {"clusters": ["us"], "min": 2, "max": 5}]);
    let mut case = Case::new(placement_with(json!({"limits": limits})), 6, &[("ap", 3), ("eu", 100), ("us", 100)]);
    let solution = case.settle();
    expect(&case, &solution, &[("eu", 2), ("us", 4)]);
    assert_eq!(why(&solution, "ap"), "room for 3, and a part is of at least 4");
    case.scale(9);
    let solution = case.settle();
    assert_eq!(counts(&case, &solution).values().sum::<u32>(), 6, "3 and 5 are 8: {solution:#?}");
    case.at("ap").room = cluster("ap", 10).room;
    case.scale(12);
    settles(&mut case, &[("ap", 6), ("eu", 2), ("us", 4)]);
    case.policies = placement_with(json!({"limits": [{"clusters": ["us"], "max": 1}]}));
    let solution = case.settle();
    assert_eq!(counts(&case, &solution)["us"], 1, "what is beyond a new maximum moves");
}

#[test]
fn the_cheapest_cluster_is_filled_first() {
    let preferences = json!([{"by": "cost", "order": "Lowest"}, {"by": "nines", "order": "Highest", "weight": 2}]);
    let mut case = Case::new(
        placement_with(json!({"preferences": preferences})),
        15,
        &[("ap", 10), ("eu", 10), ("sa", 10), ("us", 10)],
    );
    for (name, cost, nines) in [("ap", 5, 2), ("eu", 3, 3), ("us", 1, 1)] {
        let properties =
            [("cost".into(), Property::Integer(cost)), ("nines".into(), Property::Text(nines.to_string()))];
        case.at(name).properties = properties.into();
    }
    // 5-4, 3-6, 1-2, and one that says nothing.
    settles(&mut case, &[("eu", 10), ("us", 5)]);
    case.scale(35);
    settles(&mut case, &[("ap", 10), ("eu", 10), ("sa", 5), ("us", 10)]);
    case.scale(9);
    settles(&mut case, &[("eu", 9)]);
}

#[test]
fn no_more_replicas_move_than_may() {
    let mut case = Case::new(placement_with(json!({"maxMoves": 2})), 12, &[("ap", 20), ("eu", 20), ("us", 20)]);
    case.settle();
    case.policies = placement_with(json!({"maxMoves": 2, "limits": [{"clusters": ["us"], "max": 1}]}));
    let solution = case.settle();
    assert_eq!(solution.unplaced["web"], "3 replicas would have to move, and the policy lets 2 at once; 12 run");
    assert_eq!(counts(&case, &solution).values().sum::<u32>(), 12);
    case.policies = placement_with(json!({"maxMoves": 3, "limits": [{"clusters": ["us"], "max": 1}]}));
    let solution = case.settle();
    assert_eq!((counts(&case, &solution)["us"], solution.unplaced.len()), (1, 0));
}

#[test]
fn other_weights_share_all_replicas_out_anew() {
    let weighted = |eu: u32| {
        let weights = json!([{"clusters": ["eu"], "weight": eu}, {"clusterSelector": {}, "weight": 1}]);
        placement_with(json!({"division": "Weighted", "weights": weights}))
    };
    let mut case = Case::new(weighted(1), 6, &[("eu", 20), ("us", 20)]);
    settles(&mut case, &[("eu", 3), ("us", 3)]);
    case.policies = weighted(2);
    settles(&mut case, &[("eu", 4), ("us", 2)]);
}

#[test]
fn aggregated_replicas_come_to_where_some_run() {
    let aggregated = placement_with(json!({"division": "Aggregated"}));
    let mut case = Case::new(aggregated, 2, &[("eu", 10), ("us", 9)]);
    settles(&mut case, &[("eu", 2)]);
    *case.at("us") = cluster("us", 50);
    case.scale(6);
    settles(&mut case, &[("eu", 6)]);
}

#[test]
fn a_lower_total_is_carried_out_also_where_the_spread_cannot_be_kept() {
    let mut case = Case::new(divided(), 6, &[("eu", 20), ("us", 20)]);
    settles(&mut case, &[("eu", 3), ("us", 3)]);
    case.policies = placement_with(json!({"spreadConstraints": [{"by": "cluster", "minGroups": 3}]}));
    case.scale(4);
    let solution = case.settle();
    assert!(solution.unplaced["web"].starts_with("no choice of clusters keeps the spread"), "{:?}", solution.unplaced);
    assert_eq!(counts(&case, &solution).values().sum::<u32>(), 4);
}

#[test]
fn what_must_leave_is_no_move_that_the_policy_bounds() {
    let mut case = Case::new(placement_with(json!({"maxMoves": 0})), 12, &[("ap", 20), ("eu", 20), ("us", 20)]);
    settles(&mut case, &[("ap", 4), ("eu", 4), ("us", 4)]);
    case.at("eu").taints = vec![taint("maintenance", TaintEffect::NoExecute, 0)];
    settles(&mut case, &[("ap", 6), ("us", 6)]);
}

#[test]
fn all_of_an_application_is_placed_or_nothing() {
    let mut case = Case::new(placement_with(json!({"allOrNothing": true})), 4, &[("eu", 10), ("us", 10)]);
    case.components.push(component("api", 30));
    let solution = case.settle();
    expect(&case, &solution, &[]);
    assert_eq!(solution.unplaced.len(), 2);
    assert_eq!(why(&solution, "eu"), "nobody took it: all 30 or nothing new, and only 16 fit");
    let web = solution.refusals.iter().find(|refusal| refusal.component == "web").expect("a reason");
    assert_eq!(web.why.to_string(), "nothing new is placed until api is");
    case.components[1].replicas.as_mut().expect("replicas").count = 6;
    settles(&mut case, &[("eu", 2), ("us", 2)]);
}

#[test]
fn a_changed_mode_comes_to_the_total_that_is_said() {
    let mut case = Case::new(divided(), 6, &[("eu", 10), ("us", 10)]);
    case.settle();
    case.policies = vec![policy("placement", json!({"mode": "Duplicated", "total": 6}))];
    let solution = case.settle();
    expect(&case, &solution, &[("eu", 3), ("us", 3)]);
    assert!(
        solution.unplaced["web"]
            .starts_with("6 replicas in each of 2 clusters are 12, and the policy says a total of 6")
    );
    case.policies = vec![policy("placement", json!({"mode": "Duplicated", "total": 12}))];
    settles(&mut case, &[("eu", 6), ("us", 6)]);
}

pub fn regions(case: &mut Case, regions: &[(&str, &str)]) {
    for (name, region) in regions {
        case.at(name).labels.insert(crate::model::cluster::REGION_LABEL.into(), (*region).into());
    }
}

const REGIONS: [(&str, &str); 5] =
    [("ap", "asia"), ("cn", "asia"), ("de", "europe"), ("eu", "europe"), ("us", "america")];

fn spread_case(constraints: serde_json::Value, replicas: u32, rooms: [u32; 5]) -> Case {
    let named: Vec<_> = REGIONS.iter().map(|(name, _)| *name).zip(rooms).collect();
    let mut case = Case::new(placement_with(json!({"spreadConstraints": constraints})), replicas, &named);
    regions(&mut case, &REGIONS);
    case
}

#[test]
fn replicas_are_spread_over_groups() {
    let by_region = |bounds: serde_json::Value| {
        let mut constraint = json!({"by": "region"});
        bounds.as_object().expect("a map").iter().for_each(|(name, value)| constraint[name] = value.clone());
        json!([constraint])
    };
    let rows = [
        (by_region(json!({"maxGroups": 1})), 10, vec![("de", 5), ("eu", 5)]),
        (by_region(json!({"minGroups": 3})), 3, vec![("ap", 1), ("de", 1), ("us", 1)]),
        (by_region(json!({"maxSkew": 1})), 9, vec![("ap", 2), ("cn", 1), ("de", 2), ("eu", 1), ("us", 3)]),
        (json!([{"by": "cluster", "maxGroups": 2}]), 10, vec![("de", 5), ("eu", 5)]),
        (json!([{"by": "cluster", "maxGroups": 2}, {"by": "region", "minGroups": 2}]), 10, vec![("de", 6), ("ap", 4)]),
    ];
    for (constraints, replicas, expected) in rows {
        let mut case = spread_case(constraints.clone(), replicas, [20, 10, 30, 30, 8]);
        let solution = case.settle();
        assert!(solution.unplaced.is_empty(), "{constraints}: {solution:#?}");
        expect(&case, &solution, &expected);
    }
}

/// Where the clusters in use are full, others are tried, whatever the order by habit says.
#[test]
fn a_full_pair_of_clusters_is_left_for_one_with_room() {
    let constraints = json!([{"by": "cluster", "maxGroups": 2}, {"by": "region", "minGroups": 2, "maxGroups": 2}]);
    let mut case = spread_case(constraints, 10, [5, 0, 5, 0, 0]);
    settles(&mut case, &[("ap", 5), ("de", 5)]);
    for name in ["cn", "eu"] {
        case.at(name).room = cluster(name, 200).room;
    }
    case.scale(20);
    let solution = case.settle();
    let counted = counts(&case, &solution);
    assert_eq!((counted.values().sum::<u32>(), counted.len()), (20, 2), "{solution:#?}");
    assert_eq!(counted.values().filter(|&&count| count == 5).count(), 1, "one of the full ones stays as it is");
}

#[test]
fn a_spread_that_cannot_be_kept_is_refused_in_words() {
    let mut case = spread_case(json!([{"by": "region", "maxGroups": 1}]), 70, [20, 10, 30, 30, 8]);
    let solution = case.solve();
    expect(&case, &solution, &[]);
    assert_eq!(
        solution.unplaced["web"],
        "no choice of clusters keeps the spread with 70 replicas; 0 run, nothing new is placed until one does"
    );
    assert_eq!(solution.refusals.len(), 5);
    case.at("us").labels.clear();
    assert_eq!(why(&case.solve(), "us"), "left out by the spread over region: it does not say where it is");
}

fn odd_policies() -> impl Strategy<Value = serde_json::Value> {
    let spread = prop::sample::select(vec![
        json!([]),
        json!([{"by": "region", "minGroups": 2}]),
        json!([{"by": "region", "maxGroups": 2}]),
        json!([{"by": "region", "maxSkew": 2}]),
        json!([{"by": "cluster", "maxGroups": 3}]),
        json!([{"by": "cluster", "maxSkew": 3}]),
        json!([{"by": "cluster", "minGroups": 2, "maxGroups": 4}, {"by": "region", "minGroups": 2, "maxGroups": 2}]),
        json!([{"by": "cluster", "maxGroups": 3}, {"by": "region", "maxSkew": 4}]),
    ]);
    let division = prop::sample::select(vec![
        json!({}),
        json!({"division": "Aggregated"}),
        json!({"division": "Weighted", "weights": [{"clusters": ["ap", "eu"], "weight": 3}, {"clusterSelector": {}, "weight": 1}]}),
        json!({"preferences": [{"by": "cost", "order": "Lowest"}]}),
        json!({"groups": [{"clusters": ["de", "br"]}, {"clusterSelector": {}}]}),
    ]);
    let limits = prop::sample::select(vec![
        json!([]),
        json!([{"clusterSelector": {}, "max": 9}]),
        json!([{"clusterSelector": {}, "min": 3}]),
        json!([{"clusters": ["ap", "br"], "min": 2, "max": 6}]),
    ]);
    (spread, division, limits).prop_map(|(spread, mut policy, limits)| {
        policy["spreadConstraints"] = spread;
        policy["limits"] = limits;
        policy
    })
}

/// Clusters in three regions, some of them in odd states.
fn odd_case(policy: serde_json::Value, rooms: &[u32], replicas: u32, states: &[u32]) -> Case {
    let named: Vec<_> = NAMES.into_iter().zip(rooms.iter().copied()).collect();
    let mut case = Case::new(placement_with(policy), replicas, &named);
    for (number, name) in NAMES.into_iter().enumerate().take(rooms.len()) {
        regions(&mut case, &[(name, ["a", "b", "c"][number % 3])]);
        case.at(name).properties.insert("cost".into(), Property::Integer(number as i64 / 2));
    }
    unsettle(&mut case, states);
    case
}

fn unsettle(case: &mut Case, states: &[u32]) {
    for (cluster, state) in case.fleet.values_mut().zip(states) {
        match state {
            0 => cluster.cordoned = true,
            1 => cluster.silent = true,
            2 => cluster.deleting = true,
            3 => cluster.taints = vec![taint("t", TaintEffect::NoSchedule, 0)],
            4 => cluster.taints = vec![taint("t", TaintEffect::NoExecute, 0)],
            5 => cluster.labels.clear(),
            _ => {}
        }
    }
}

/// Whether the shares of a placed component keep what its policy bounds.
fn keeps_bounds(case: &Case, solution: &Solution) -> Result<(), String> {
    let policy: crate::model::application::PlacementPolicy =
        serde_json::from_value(case.policies[0].properties.clone()).expect("a policy");
    let counted = counts(case, solution);
    let used: Vec<(&Candidate, u32)> = case
        .fleet
        .values()
        .filter_map(|cluster| Some((cluster, *counted.get(&cluster.name)?)))
        .filter(|(cluster, count)| *count > 0 && !cluster.silent && !cluster.cordoned)
        .collect();
    let pinned = counted.values().filter(|&&count| count > 0).count() > used.len();
    let wanted: u32 = counted.values().sum();
    for (cluster, count) in &used {
        let limit = policy.limits.iter().find(|limit| limit.target.chooses(cluster));
        if let Some(limit) = limit
            && (limit.max.is_some_and(|max| *count > max) || limit.min.is_some_and(|min| *count < min))
        {
            return Err(format!("{count} in {} break {limit:?}", cluster.name));
        }
    }
    for constraint in &policy.spread_constraints {
        let mut groups: BTreeMap<String, u32> = BTreeMap::new();
        for (cluster, count) in &used {
            let region = cluster.labels.get(crate::model::cluster::REGION_LABEL).cloned();
            let group = if constraint.by == "cluster" { Some(cluster.name.clone()) } else { region };
            *groups.entry(group.ok_or("a group without a name")?).or_default() += count;
        }
        let (most, least) = (groups.values().max().copied().unwrap_or(0), groups.values().min().copied().unwrap_or(0));
        let short = constraint.min_groups.is_some_and(|min| groups.len() < min.min(wanted) as usize);
        let many = constraint.max_groups.is_some_and(|max| groups.len() > max as usize);
        let skewed = constraint.max_skew.is_some_and(|max| most - least > max);
        if !pinned && (short || many || skewed) {
            return Err(format!("{groups:?} break {constraint:?}"));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn spread_holds_or_is_refused_with_reason(
        policy in odd_policies(),
        rooms in clusters(),
        totals in prop::collection::vec(0u32..60, 1..4),
        states in prop::collection::vec(0u32..24, 7),
    ) {
        let mut case = odd_case(policy, &rooms, 0, &states);
        for total in totals {
            case.scale(total);
            let before = case.previous.clone();
            let solution = case.settle();
            let sum = counts(&case, &solution).values().sum::<u32>();
            match solution.unplaced.is_empty() {
                true => {
                    prop_assert_eq!(sum, total);
                    let kept = keeps_bounds(&case, &solution);
                    prop_assert!(kept.is_ok(), "{}: {solution:#?}", kept.unwrap_err());
                }
                false => {
                    prop_assert!(sum <= total || before.is_some());
                    for (uid, cluster) in &case.fleet {
                        let has = solution.shares.get(uid).is_some_and(|shares| shares.contains_key("web"));
                        let told = solution.refusals.iter().filter(|refusal| refusal.cluster == *uid).count();
                        prop_assert!(has || told == 1, "{}: {solution:#?}", cluster.name);
                    }
                }
            }
            let again = case.solve();
            prop_assert_eq!(&again.shares, &solution.shares, "solving twice changes nothing");
        }
    }

    #[test]
    fn monotone_in_capacity(
        policy in odd_policies(),
        rooms in clusters(),
        more in prop::collection::vec(0u32..20, 7),
        total in 1u32..60,
    ) {
        // What can be placed can be placed where there is more room, and nobody is left without.
        let case = odd_case(policy.clone(), &rooms, total, &[]);
        let larger: Vec<u32> = rooms.iter().zip(&more).map(|(room, more)| room + more).collect();
        let larger = odd_case(policy, &larger, total, &[]);
        if case.solve().unplaced.is_empty() {
            let solution = larger.solve();
            prop_assert!(solution.unplaced.is_empty(), "{solution:#?}");
        }
    }

    #[test]
    fn minimum_disruption(
        rooms in clusters(),
        first in 0u32..60,
        second in 0u32..60,
        states in prop::collection::vec(0u32..24, 7),
    ) {
        // Nothing leaves a cluster that may keep it, but for a lower total.
        let mut case = odd_case(json!({}), &rooms, first, &[]);
        let before = case.settle();
        let before = counts(&case, &before);
        unsettle(&mut case, &states);
        case.scale(second);
        let after = case.solve();
        let now = counts(&case, &after);
        let leaves = |name: &str| {
            let cluster = case.fleet.values().find(|cluster| cluster.name == name).expect("a cluster");
            cluster.deleting || cluster.taints.iter().any(|taint| taint.effect == TaintEffect::NoExecute)
        };
        let left: u32 = before.iter().filter(|(name, _)| !leaves(name)).map(|(name, count)| count.saturating_sub(now.get(name).copied().unwrap_or(0))).sum();
        let stayed: u32 = before.iter().filter(|(name, _)| !leaves(name)).map(|(_, count)| count).sum();
        prop_assert_eq!(left, stayed.saturating_sub(second), "{:?} became {:?}", before, now);
    }

    /// The shortlist is taken only where nothing but room tells clusters apart; a bound that bounds nothing lists all.
    #[test]
    fn the_shortlist_changes_nothing(
        division in prop::sample::select(vec![
            json!({}),
            json!({"division": "Aggregated"}),
            json!({"division": "Weighted", "weights": [{"clusters": ["ap", "eu"], "weight": 3}, {"clusterSelector": {}, "weight": 1}]}),
        ]),
        rooms in clusters(),
        totals in prop::collection::vec(0u32..12, 1..4),
        states in prop::collection::vec(0u32..24, 7),
    ) {
        let mut all = division.clone();
        all["limits"] = json!([{"clusterSelector": {}, "max": 4_000_000_000u32}]);
        let (mut listed, mut whole) = (odd_case(division, &rooms, 0, &states), odd_case(all, &rooms, 0, &states));
        for total in totals {
            listed.scale(total);
            whole.scale(total);
            let (one, other) = (listed.settle(), whole.settle());
            prop_assert_eq!(counts(&listed, &one), counts(&whole, &other));
            let words = |solution: &Solution| solution.refusals.iter().map(|refusal| refusal.why.reason()).collect::<Vec<_>>();
            prop_assert_eq!(words(&one), words(&other));
        }
    }
}

/// Who may be chosen by a name or a label is looked up; what comes of it is what looking at each cluster gives.
#[test]
fn what_is_looked_up_is_what_looking_at_every_cluster_gives() {
    let texts = [
        ("topology", json!({"clusters": ["c1", "c7", "nobody"]})),
        ("topology", json!({"clusterLabelSelector": {"tier": "1", "ring": "0"}})),
        ("topology", json!({"clusterLabelSelector": {}})),
        ("placement", json!({"clusterSelector": {"matchLabels": {"tier": "2"}}})),
        ("placement", json!({"clusters": ["c2", "c3"], "clusterSelector": {"matchLabels": {"tier": "2"}}})),
        (
            "placement",
            json!({
                "clusterSelector": {"matchExpressions": [
                    {"key": "ring", "operator": "Exists"},
                    {"key": "tier", "operator": "In", "values": ["0", "2", "9"]},
                ]},
                "groups": [{"name": "first", "clusters": ["c3"]}, {"name": "rest", "clusterSelector": {}}],
                "division": "Weighted",
                "weights": [{"clusters": ["c0", "c3"], "weight": 7}, {"clusterSelector": {}, "weight": 1}],
                "limits": [{"clusters": ["c6"], "max": 3}],
                "preferences": [{"by": "ring", "order": "Lowest"}],
            }),
        ),
    ];
    let candidate = |number: usize| {
        let mut candidate = cluster(&format!("c{number}"), 5);
        let labels =
            [("tier", number % 3), ("ring", number % 2)].map(|(key, value)| (key.to_owned(), value.to_string()));
        candidate.labels = labels.into();
        candidate.deleting = number == 4 || number == 6;
        candidate.cordoned = number == 3;
        candidate.taints = if number == 5 { vec![taint("t", TaintEffect::PreferNoSchedule, 0)] } else { Vec::new() };
        candidate
    };
    for (type_, mut properties) in texts {
        if type_ == "placement" {
            properties["mode"] = "Divided".into();
        }
        let (topologies, placement) = match type_ {
            "topology" => (vec![serde_json::from_value(properties.clone()).expect("a topology")], None),
            _ => (Vec::new(), Some(serde_json::from_value(properties.clone()).expect("a placement"))),
        };
        let rules = standing::Rules::new(&topologies, placement.as_ref(), None, None, true);
        let mut fleet = Fleet::of((0..9).map(|number| (uid_of(&format!("c{number}")), candidate(number))));
        let now = Timestamp::from_seconds(0);
        for change in 0..3 {
            // A column that is kept is brought up to date cluster by cluster.
            let kept = fleet.standings("kept", &rules, now);
            let fresh = fleet.standings(&format!("fresh {change}"), &rules, now);
            let all: Vec<(Uid, Candidate)> = fleet.iter().map(|(uid, known)| (uid.clone(), known.clone())).collect();
            let each = rules.stand_all(all.len(), None, (0..).zip(&all), now);
            for id in 0..all.len() as fleet::Id {
                let of = |column: &standing::Standings| {
                    (column.of(id).clone(), column.tier(id), column.weight(id), column.limit(id))
                };
                assert_eq!(of(&fresh), of(&each), "{properties}: {}", all[id as usize].1.name);
                assert_eq!(of(&kept), of(&each), "{properties}: {}", all[id as usize].1.name);
            }
            let mut changed = candidate(change + 3);
            changed.labels.insert("tier".into(), "2".into());
            changed.deleting = change == 0;
            fleet.upsert(&uid_of(&changed.name.clone()), changed);
        }
    }
}
