//! Hints help, or are not given.

use super::*;
use crate::{
    flow::schedule::hints::helps,
    model::cluster::{ClusterTaint, REGION_LABEL, TaintEffect},
};

fn placed_by(properties: serde_json::Value) -> Vec<Policy> {
    vec![policy("placement", properties)]
}

fn taint(effect: TaintEffect) -> ClusterTaint {
    ClusterTaint { key: "t".into(), value: String::new(), effect, time_added: None }
}

fn hints_of(case: &Case) -> Vec<Hint> {
    let mut fleet = Fleet::of(case.fleet.clone());
    let solution = solve(&mut fleet, &case.problem());
    let found = hints(&mut fleet, &case.problem(), &solution);
    let after: BTreeMap<Uid, Candidate> = fleet.iter().map(|(uid, known)| (uid.clone(), known.clone())).collect();
    assert_eq!(after, case.fleet, "the fleet is as before");
    assert_eq!(solve(&mut fleet, &case.problem()), solution, "and decides as before");
    found
}

fn messages(case: &Case) -> Vec<String> {
    hints_of(case).into_iter().map(|hint| hint.message).collect()
}

#[test]
fn the_limit_to_raise_is_named_with_the_number_that_suffices() {
    let limits =
        json!({"mode": "Divided", "limits": [{"clusters": ["eu"], "max": 2}, {"clusterSelector": {}, "max": 6}]});
    let case = Case::new(placed_by(limits), 10, &[("ap", 1), ("eu", 4), ("us", 20)]);
    assert_eq!(
        messages(&case),
        [
            "raising limits[0].max from 2 to 3 (of eu) would place all of web",
            "raising limits[1].max from 6 to 7 (of us) would place all of web",
            "room for 1 more in ap (100m cpu each; the next one lacks 100m cpu on a node) would place all of web",
            "asking for 9 replicas instead of 10 would place all of web",
        ]
    );
}

#[test]
fn the_nearest_cluster_is_named_with_what_it_lacks() {
    let mut case = Case::new(divided(), 12, &[("ap", 3), ("eu", 4)]);
    case.resize(2);
    let hint = &hints_of(&case)[0];
    let lacks = Resources::of([(CPU, 100)]);
    let each = Resources::of([(CPU, 200)]);
    assert_eq!(hint.change, Change::AddRoom { cluster: "ap".into(), replicas: 9, each, lacks }, "eu lacks 200m");
}

#[test]
fn clusters_that_only_need_a_word_are_named() {
    let selecting = json!({"mode": "Divided", "clusterSelector": {"matchLabels": {"tier": "gold"}}});
    let weighing = json!({"mode": "Divided", "division": "Weighted", "weights": [{"clusters": ["eu"], "weight": 1}]});
    let divided = json!({"mode": "Divided"});
    let cases: [(_, fn(&mut Candidate), _); 7] = [
        (divided.clone(), |us| us.cordoned = true, "uncordoning us"),
        (divided.clone(), |us| us.accepted = false, "accepting us"),
        (divided.clone(), |us| us.silent = true, "hearing of us again"),
        (
            divided,
            |us| us.taints = vec![taint(TaintEffect::NoSchedule)],
            "tolerating, or taking off, the taint t:NoSchedule of us",
        ),
        (json!({"mode": "Divided", "clusters": ["eu"]}), |_| (), "naming us in the policies"),
        (selecting, |us| us.labels.clear(), "labelling us tier=gold"),
        (weighing, |_| (), "giving us the weight 1"),
    ];
    for (policy, alter, expected) in cases {
        let mut case = Case::new(placed_by(policy), 5, &[("eu", 2), ("us", 9)]);
        for name in ["eu", "us"] {
            case.at(name).labels.insert("tier".into(), "gold".into());
        }
        alter(case.at("us"));
        let found = messages(&case);
        assert!(found.contains(&format!("{expected} would place all of web")), "{expected}: {found:?}");
    }
}

#[test]
fn the_bound_of_a_spread_is_named() {
    let policy = json!({"mode": "Divided", "spreadConstraints": [{"by": "region", "maxSkew": 1, "minGroups": 2}]});
    let mut case = Case::new(placed_by(policy), 8, &[("eu", 9), ("us", 2)]);
    for (name, region) in [("eu", "europe"), ("us", "america")] {
        case.at(name).labels.insert(REGION_LABEL.into(), region.into());
    }
    let found = messages(&case);
    for expected in [
        "raising spreadConstraints[0].maxSkew over region from 1 to 4 would place all of web",
        "lowering spreadConstraints[0].minGroups over region from 2 to 1 would place all of web",
        "room for 2 more in us (100m cpu each; the next one lacks 100m cpu on a node) would place all of web",
        "asking for 5 replicas instead of 8 would place all of web",
    ] {
        assert!(found.contains(&expected.to_owned()), "{expected}: {found:#?}");
    }
}

#[test]
fn what_is_placed_and_what_nothing_would_help_has_no_hints() {
    assert_eq!(messages(&Case::new(divided(), 3, &[("eu", 9)])), Vec::<String>::new());
    assert_eq!(messages(&Case::new(divided(), 3, &[])), Vec::<String>::new());
    let mut case = Case::new(divided(), 2, &[("eu", 9)]);
    case.at("eu").deleting = true;
    assert_eq!(messages(&case), Vec::<String>::new());
}

#[test]
fn an_edit_that_waits_is_told_what_it_waits_for() {
    let mut case = Case::new(divided(), 4, &[("eu", 4)]);
    case.settle();
    case.resize(2);
    let found = messages(&case);
    assert!(found.contains(&"asking for 2 replicas instead of 4 would place all of web".to_owned()), "{found:#?}");
}

const NAMES: [&str; 7] = ["ap", "br", "de", "eu", "jp", "us", "za"];

/// Bounds of every kind that a hint may be about.
fn bounding() -> impl Strategy<Value = serde_json::Value> {
    prop::sample::select(vec![
        json!({}),
        json!({"limits": [{"clusters": ["ap", "br"], "min": 2, "max": 6}, {"clusterSelector": {}, "max": 9}]}),
        json!({"spreadConstraints": [{"by": "region", "minGroups": 2, "maxSkew": 2}]}),
        json!({"spreadConstraints": [{"by": "cluster", "maxGroups": 2}], "limits": [{"clusterSelector": {}, "min": 3}]}),
        json!({"division": "Weighted", "weights": [{"clusters": ["ap", "eu"], "weight": 3}]}),
        json!({"clusters": ["ap", "de"], "maxMoves": 1}),
        json!({"clusterSelector": {"matchLabels": {"tier": "gold"}}, "allOrNothing": true}),
    ])
}

proptest! {
    /// The change of a hint, made by itself on a fresh fleet, does what the hint says; one step less does not.
    #[test]
    fn a_hint_that_would_not_help_is_never_given(
        mut policy in bounding(),
        rooms in prop::collection::vec(0u32..12, 2..7),
        (replicas, more) in (1u32..60, 0u32..30),
        states in prop::collection::vec(0u32..12, 7),
    ) {
        policy["mode"] = "Divided".into();
        let named: Vec<_> = NAMES.into_iter().zip(rooms.iter().copied()).collect();
        let mut case = Case::new(placed_by(policy), replicas, &named);
        for (number, (name, _)) in named.iter().enumerate() {
            let labels = &mut case.at(name).labels;
            labels.insert(REGION_LABEL.into(), ["a", "b", "c"][number % 3].into());
            labels.extend((number % 2 == 0).then(|| ("tier".into(), "gold".into())));
        }
        case.settle();
        for (cluster, state) in case.fleet.values_mut().zip(states) {
            match state {
                0 => cluster.cordoned = true,
                1 => cluster.silent = true,
                2 => cluster.accepted = false,
                3 => cluster.taints = vec![taint(TaintEffect::NoSchedule)],
                4 => cluster.taints = vec![taint(TaintEffect::NoExecute)],
                5 => cluster.labels.clear(),
                _ => {}
            }
        }
        case.scale(replicas + more);
        let before = case.solve();
        for hint in hints_of(&case) {
            let json = serde_json::to_string(&hint).expect("JSON");
            prop_assert_eq!(&serde_json::from_str::<Hint>(&json).expect("a hint"), &hint);
            let tried = |change: &Change| {
                let mut fleet = Fleet::of(case.fleet.clone());
                let after = change.solve(&mut fleet, &case.problem(), &hint.component)?;
                helps(&before, &after, &hint.component)
            };
            let effect = tried(&hint.change);
            prop_assert_eq!(effect, Some((hint.all, hint.more)), "{}", hint.message);
            if let Change::AddRoom { cluster, replicas, each, lacks } = hint.change.clone() {
                let less = Change::AddRoom { cluster, replicas: replicas - 1, each, lacks };
                prop_assert!(tried(&less) < effect, "{} is more than is needed", hint.message);
            }
        }
    }
}
