//! What the platform has to say: filters, scores and rules of a profile, and profiles that cannot be carried out.

use super::*;
use crate::{
    flow::schedule::{
        expression::Expression,
        filter::{Chosen, Filter, Headroom, Holds, Membership, Rule, Sketched, Taints, View},
    },
    model::{
        application::{ClusterSet, PlacementPolicy},
        cluster::{ClusterTaint, Property, TaintEffect},
        quantity::MEMORY,
    },
};

fn case(spec: serde_json::Value, replicas: u32, clusters: &[(&str, u32)]) -> Case {
    let mut case = Case::new(divided(), replicas, clusters);
    case.profiles.insert("default", Profile::of(&spec));
    case
}

/// A cluster of so many steps, of which so many are free.
fn taken(name: &str, size: u32, free: (u32, u32)) -> Candidate {
    let steps = |count: u32| i64::from(count) * STEP;
    let resources = |cpu: u32, memory: u32| Resources::of([(CPU, steps(cpu)), (MEMORY, steps(memory)), (PODS, 1000)]);
    let shapes = vec![Shape { count: 1, free: resources(free.0, free.1), ..Shape::default() }];
    let sketch = Sketch { shapes, allocatable: resources(size, size), ..Sketch::default() };
    Candidate { name: name.into(), accepted: true, room: Some(Room::of(&sketch)), ..Candidate::default() }
}

#[track_caller]
fn placed(case: &mut Case, expected: &[(&str, u32)]) -> Solution {
    let solution = case.settle();
    expect(case, &solution, expected);
    solution
}

fn why(solution: &Solution, cluster: &str) -> String {
    let told = solution.refusals.iter().find(|refusal| refusal.cluster_name == cluster);
    told.map(|refusal| format!("{}: {}", refusal.why.reason(), refusal.why)).unwrap_or_default()
}

#[test]
fn every_filter_refuses_with_its_own_words_and_lets_the_rest_pass() {
    let now = Timestamp::from_seconds(1_000);
    let expression = |text: &str| Expression::read(text).expect("an expression");
    let policy = PlacementPolicy {
        target: ClusterSet { clusters: vec!["eu".into()], ..ClusterSet::default() },
        ..serde_json::from_value(json!({"mode": "Divided"})).expect("a policy")
    };
    let grouped: PlacementPolicy =
        serde_json::from_value(json!({"mode": "Divided", "groups": [{"clusters": ["eu"]}]})).expect("a policy");
    let topology = serde_json::from_value(json!({"clusterLabelSelector": {"a": "b"}})).expect("a topology");
    let topologies = [topology];
    let taint =
        ClusterTaint { key: "k".into(), value: "v".into(), effect: TaintEffect::NoSchedule, time_added: Some(now) };
    let fine = || taken("eu", 10, (5, 5));
    let with = |change: &dyn Fn(&mut Candidate)| {
        let mut cluster = fine();
        change(&mut cluster);
        cluster
    };
    let filters: Vec<(Box<dyn Filter + '_>, Vec<Candidate>)> = vec![
        (
            Box::new(Membership),
            vec![
                with(&|cluster| cluster.deleting = true),
                with(&|cluster| cluster.accepted = false),
                with(&|cluster| cluster.silent = true),
                with(&|cluster| cluster.cordoned = true),
            ],
        ),
        (Box::new(Chosen::new(&[], Some(&policy))), vec![with(&|cluster| cluster.name = "us".into())]),
        (Box::new(Chosen::new(&[], Some(&grouped))), vec![with(&|cluster| cluster.name = "us".into())]),
        (Box::new(Taints { tolerations: &[] }), vec![with(&|cluster| cluster.taints = vec![taint.clone()])]),
        (Box::new(Headroom { percent: 20 }), vec![taken("eu", 10, (1, 5)), taken("eu", 10, (5, 1))]),
        (Box::new(Sketched), vec![with(&|cluster| cluster.room = None)]),
        (
            Box::new(Rule { expression: expression("name != 'us' || labels.x == ''"), message: "m".into() }),
            vec![with(&|cluster| cluster.name = "us".into())],
        ),
        (
            Box::new(Holds(std::sync::Arc::new(Ok(expression("name == 'eu'"))))),
            vec![with(&|cluster| cluster.name = "us".into())],
        ),
    ];
    let uid = Uid::from("u");
    for (filter, refused) in &filters {
        let judge = |cluster: &Candidate| filter.judge(&View { uid: &uid, cluster, now }).standing;
        assert_eq!(judge(&fine()), standing::Standing::Open, "{filter:?}");
        for cluster in refused {
            let word = match judge(cluster) {
                standing::Standing::Open => panic!("{filter:?} has nothing against {cluster:?}"),
                standing::Standing::Gone(_) => "Deleting",
                standing::Standing::Keeps(why) | standing::Standing::Leaves(why) => why.reason(),
            };
            assert!(filter.words().contains(&word), "{word} of {filter:?}");
        }
    }
    let chosen = Chosen::new(&topologies, None);
    let refused = chosen.judge(&View { uid: &uid, cluster: &fine(), now }).standing;
    assert!(matches!(refused, standing::Standing::Leaves(Why::SelectorMismatch { .. })), "{refused:?}");
}

#[test]
fn a_rule_of_the_platform_keeps_away_what_is_new_and_moves_nothing() {
    let rule = json!({"filters": [{"type": "Expression", "expression": "properties.cost < 5", "message": "too dear"}]});
    let mut case = case(json!({}), 4, &[("ap", 10), ("eu", 10), ("us", 10)]);
    case.at("ap").properties.insert("cost".into(), Property::Integer(1));
    case.at("eu").properties.insert("cost".into(), Property::Integer(9));
    placed(&mut case, &[("ap", 2), ("eu", 1), ("us", 1)]);
    case.profiles.insert("default", Profile::of(&rule));
    let solution = placed(&mut case, &[("ap", 2), ("eu", 1), ("us", 1)]);
    assert_eq!(solution.refusals, [], "what runs is not refused");
    case.components[0].replicas.as_mut().expect("replicas").count = 8;
    let solution = placed(&mut case, &[("ap", 6), ("eu", 1), ("us", 1)]);
    assert!(solution.unplaced.is_empty());
    case.previous = None;
    let solution = case.solve();
    assert_eq!(why(&solution, "eu"), "RuleFalse: too dear (a rule of the platform)");
    assert!(why(&solution, "us").starts_with("RuleFailed: a rule of the platform fails on it"), "{solution:#?}");
}

#[test]
fn scores_say_who_is_first_by_their_weights() {
    let spec = |least: u32, cost: u32| {
        json!({"scores": [
            {"type": "LeastAllocated", "weight": least},
            {"type": "Property", "property": "cost", "worst": 10, "best": 0, "weight": cost},
        ]})
    };
    // `ap` has most room, `eu` is cheapest, `us` is both a little.
    let mut case = case(spec(1, 1), 3, &[]);
    for (name, free, cost) in [("ap", 90, 10), ("eu", 30, 0), ("us", 80, 4)] {
        let mut cluster = taken(name, 100, (free, free));
        cluster.properties.insert("cost".into(), Property::Integer(cost));
        case.fleet.insert(uid_of(name), cluster);
    }
    for (weights, first) in [((1, 0), "ap"), ((1, 1), "us"), ((1, 4), "eu")] {
        case.previous = None;
        case.profiles.insert("default", Profile::of(&spec(weights.0, weights.1)));
        placed(&mut case, &[(first, 3)]);
    }
    // What runs stays, and the policy's own preference comes first.
    case.profiles.insert("default", Profile::of(&spec(1, 0)));
    placed(&mut case, &[("eu", 3)]);
    case.previous = None;
    case.policies =
        vec![policy("placement", json!({"mode": "Divided", "preferences": [{"by": "cost", "order": "Lowest"}]}))];
    placed(&mut case, &[("eu", 3)]);
}

#[test]
fn balance_packing_and_headroom_follow_the_room_that_is_left() {
    let mut case = case(json!({"scores": [{"type": "MostAllocated", "weight": 1}]}), 2, &[]);
    for (name, free) in [("ap", (90, 90)), ("eu", (20, 60)), ("us", (50, 50))] {
        case.fleet.insert(uid_of(name), taken(name, 100, free));
    }
    placed(&mut case, &[("eu", 2)]);
    case.previous = None;
    case.profiles.insert("default", Profile::of(&json!({"scores": [{"type": "Balanced", "weight": 1}]})));
    case.fleet.insert(uid_of("us"), taken("us", 100, (50, 40)));
    placed(&mut case, &[("ap", 2)]);
    case.previous = None;
    case.profiles.insert("default", Profile::of(&json!({"filters": [{"type": "Headroom", "percent": 30}]})));
    placed(&mut case, &[("ap", 1), ("us", 1)]);
    case.fleet.insert(uid_of("ap"), taken("ap", 100, (29, 90)));
    case.fleet.insert(uid_of("us"), taken("us", 100, (50, 29)));
    case.previous = None;
    let solution = case.solve();
    assert_eq!(why(&solution, "ap"), "NoHeadroom: 29 % of its cpu are free, and the platform keeps 30 % free");
    assert_eq!(why(&solution, "us"), "NoHeadroom: 29 % of its memory are free, and the platform keeps 30 % free");
    assert_eq!(
        solution.unplaced["web"], "no cluster can take it: 3 refused by a rule of the platform",
        "{solution:#?}"
    );
}

#[test]
fn a_score_that_is_no_number_refuses_the_cluster() {
    for (expression, detail) in [
        ("properties.cost * 1000", "3000 is not between -100 and 100"),
        ("name", "it is of type string, not a number"),
        ("1.0 / 0.0", "inf is no number"),
        ("properties.nobody", "No such key: nobody"),
    ] {
        let mut case =
            case(json!({"scores": [{"type": "Expression", "expression": expression, "weight": 1}]}), 2, &[("eu", 9)]);
        case.at("eu").properties.insert("cost".into(), Property::Integer(3));
        let solution = case.solve();
        let told = why(&solution, "eu");
        assert!(told.contains(detail), "{told}");
        assert!(solution.shares.is_empty() && !solution.unplaced.is_empty());
    }
}

#[test]
fn taints_can_be_switched_off_and_silence_cannot() {
    let mut case = case(json!({"filters": [{"type": "Taints", "enabled": false}]}), 4, &[("ap", 9), ("eu", 9)]);
    let taint = |effect| ClusterTaint { key: "k".into(), value: String::new(), effect, time_added: None };
    case.at("ap").taints = vec![taint(TaintEffect::NoExecute), taint(TaintEffect::PreferNoSchedule)];
    placed(&mut case, &[("ap", 2), ("eu", 2)]);
    for change in [
        |cluster: &mut Candidate| cluster.silent = true,
        |cluster: &mut Candidate| cluster.accepted = false,
        |cluster: &mut Candidate| cluster.cordoned = true,
        |cluster: &mut Candidate| cluster.deleting = true,
    ] {
        let kept = case.fleet.clone();
        change(case.at("ap"));
        case.previous = None;
        placed(&mut case, &[("eu", 4)]);
        case.fleet = kept;
    }
}

#[test]
fn a_profile_that_is_missing_or_faulty_leaves_all_where_it_is() {
    let named = |name: &str| vec![policy("placement", json!({"mode": "Divided", "profile": name}))];
    let mut case = Case::new(named("gold"), 4, &[("ap", 9), ("eu", 9)]);
    assert_eq!(case.solve().unplaced["web"], "there is no PlacementProfile \"gold\"");
    case.profiles.insert("gold", Profile::of(&json!({})));
    placed(&mut case, &[("ap", 2), ("eu", 2)]);
    case.components[0].replicas.as_mut().expect("replicas").count = 8;
    for faulty in [
        json!({"filters": [{"type": "Astrology"}]}),
        json!({"scores": [{"type": "Expression", "expression": "labels.", "weight": 1}]}),
        json!([]),
    ] {
        case.profiles.insert("gold", Profile::of(&faulty));
        let solution = placed(&mut case, &[("ap", 2), ("eu", 2)]);
        let told = &solution.unplaced["web"];
        assert!(told.starts_with("the PlacementProfile \"gold\" cannot be carried out: "), "{told}");
        assert!(solution.waiting);
    }
    case.profiles.remove("gold");
    placed(&mut case, &[("ap", 2), ("eu", 2)]);
    // Nobody else is concerned.
    case.policies = divided();
    placed(&mut case, &[("ap", 4), ("eu", 4)]);
}

#[test]
fn who_goes_by_which_profile_is_known() {
    let gold = policy("placement", json!({"mode": "Divided", "profile": "gold", "components": ["web"]}));
    let names = |policies: &[Policy]| profiles_of(policies, ["web", "api"].into_iter());
    assert_eq!(names(&[]), BTreeSet::from(["default".to_owned()]));
    assert_eq!(names(std::slice::from_ref(&gold)), BTreeSet::from(["default".to_owned(), "gold".to_owned()]));
    let all = policy("placement", json!({"mode": "Divided", "profile": "gold"}));
    assert_eq!(names(&[all]), BTreeSet::from(["gold".to_owned()]));
}
