//! Who makes room: as few and as unimportant as may be, and nobody where it does not help; and what becomes of those.

use super::*;
use crate::{
    flow::schedule::preempt::choose,
    model::placement::{Claim, Victim},
};

/// Replicas of one step each that run in a cluster, and can leave one by one.
fn tenant(name: &str, priority: i32, cluster: &str, replicas: u32) -> Tenancy {
    let demand = component(name, replicas).demand.expect("a demand");
    Tenancy {
        application: ObjectName::new("default", name),
        application_uid: name.into(),
        priority,
        cluster: uid_of(cluster),
        components: vec![(name.to_owned(), Some(replicas))],
        pods: vec![(demand, replicas)],
        divisible: true,
    }
}

/// The same, together or not at all.
fn whole(name: &str, priority: i32, cluster: &str, replicas: u32) -> Tenancy {
    Tenancy { divisible: false, ..tenant(name, priority, cluster, replicas) }
}

fn chosen(case: &Case, tenancies: &[Tenancy]) -> Vec<Claim> {
    let mut fleet = Fleet::of(case.fleet.clone());
    let claims = choose(&mut fleet, &case.problem(), tenancies, "web-v1");
    let after: BTreeMap<Uid, Candidate> = fleet.iter().map(|(uid, known)| (uid.clone(), known.clone())).collect();
    assert_eq!(after, case.fleet, "the fleet is as before");
    let reversed: Vec<Tenancy> = tenancies.iter().rev().cloned().collect();
    assert_eq!(choose(&mut fleet, &case.problem(), &reversed, "web-v1"), claims, "in whatever order they are given");
    claims
}

/// `eu 3: batch 5>2`: where, how many pods come, and who leaves.
fn words(claims: &[Claim]) -> Vec<String> {
    let victim = |victim: &Victim| {
        let (had, keeps) = victim.replicas.expect("replicas");
        format!("{} {had}>{keeps}", victim.application.name)
    };
    let claim = |claim: &Claim| {
        let pods: u32 = claim.pods.iter().map(|(_, number)| number).sum();
        let victims: Vec<String> = claim.victims.iter().map(victim).collect();
        format!("{} {pods}: {}", claim.cluster_name, victims.join(" ")).trim_end().to_owned()
    };
    claims.iter().map(claim).collect()
}

#[test]
fn no_more_leave_than_needed_and_the_least_important_first() {
    type Row<'r> = (&'r str, Vec<Policy>, u32, &'r [(&'r str, u32)], Vec<Tenancy>, &'r [&'r str]);
    let duplicated = || vec![policy("placement", json!({"mode": "Duplicated"}))];
    let in_eu = || vec![policy("placement", json!({"mode": "Divided", "clusters": ["eu"]}))];
    let even = || {
        vec![policy(
            "placement",
            json!({"mode": "Divided", "spreadConstraints": [{"by": "cluster", "minGroups": 2, "maxSkew": 0}]}),
        )]
    };
    let rows: [Row<'_>; 14] = [
        ("all fit", divided(), 3, &[("eu", 3)], vec![tenant("a", 0, "eu", 5)], &[]),
        ("so many as are missing", divided(), 3, &[("eu", 1)], vec![tenant("a", 0, "eu", 5)], &["eu 3: a 5>3"]),
        ("nobody is enough", divided(), 9, &[("eu", 1)], vec![tenant("a", 0, "eu", 5)], &[]),
        (
            "the lower priority",
            divided(),
            3,
            &[("eu", 0)],
            vec![tenant("a", 1, "eu", 5), tenant("b", 0, "eu", 3)],
            &["eu 3: b 3>0"],
        ),
        (
            "the higher only for what the lower does not give",
            divided(),
            4,
            &[("eu", 0)],
            vec![tenant("a", 1, "eu", 5), tenant("b", 0, "eu", 3)],
            &["eu 4: a 5>4 b 3>0"],
        ),
        (
            "one large part instead of several small ones",
            divided(),
            4,
            &[("eu", 0)],
            vec![tenant("a", 0, "eu", 2), tenant("b", 0, "eu", 4), tenant("c", 0, "eu", 2)],
            &["eu 4: b 4>0"],
        ),
        (
            "what leaves as a whole leaves wholly",
            divided(),
            1,
            &[("eu", 0)],
            vec![whole("a", 0, "eu", 4)],
            &["eu 1: a 4>0"],
        ),
        (
            "what is free is used first, and claimed",
            divided(),
            10,
            &[("eu", 6), ("us", 0)],
            vec![tenant("a", 0, "us", 20)],
            &["eu 6:", "us 4: a 20>16"],
        ),
        (
            "where most is gained",
            divided(),
            4,
            &[("ap", 0), ("eu", 0), ("us", 0)],
            vec![tenant("a", 0, "ap", 2), tenant("b", 0, "eu", 6), tenant("c", 0, "us", 3)],
            &["eu 4: b 6>2"],
        ),
        (
            "not where the policy does not go",
            in_eu(),
            4,
            &[("eu", 0), ("us", 0)],
            vec![tenant("a", 0, "eu", 5), tenant("b", 0, "us", 9)],
            &["eu 4: a 5>1"],
        ),
        (
            "one cluster for all",
            vec![],
            4,
            &[("eu", 3), ("us", 0)],
            vec![tenant("a", 0, "eu", 2), tenant("b", 0, "us", 3)],
            &["eu 4: a 2>1"],
        ),
        (
            "every cluster that lacks room",
            duplicated(),
            2,
            &[("ap", 2), ("eu", 1), ("us", 0)],
            vec![tenant("a", 0, "eu", 5), tenant("b", 0, "us", 5)],
            &["eu 2: a 5>4", "us 2: b 5>3"],
        ),
        (
            "some are better than none",
            duplicated(),
            2,
            &[("eu", 0), ("us", 0)],
            vec![tenant("a", 0, "eu", 5)],
            &["eu 2: a 5>3"],
        ),
        (
            "as the spread asks",
            even(),
            6,
            &[("eu", 6), ("us", 1)],
            vec![tenant("a", 0, "us", 5)],
            &["eu 3:", "us 3: a 5>3"],
        ),
    ];
    for (name, policies, replicas, fleet, tenancies, expected) in rows {
        let case = Case::new(policies, replicas, fleet);
        assert_eq!(words(&chosen(&case, &tenancies)), expected, "{name}");
    }
}

#[test]
fn an_application_that_is_all_or_nothing_gets_all() {
    let policies = vec![policy("placement", json!({"mode": "Divided", "allOrNothing": true}))];
    let mut case = Case::new(policies, 2, &[("eu", 2)]);
    case.components.push(component("api", 3));
    assert_eq!(words(&chosen(&case, &[tenant("a", 0, "eu", 2)])), [""; 0], "one more is missing then");
    assert_eq!(words(&chosen(&case, &[tenant("a", 0, "eu", 4)])), ["eu 5: a 4>1"]);
}

#[test]
fn nobody_leaves_for_an_edit_that_fits_nowhere() {
    let mut case = Case::new(divided(), 2, &[("eu", 2)]);
    case.settle();
    case.resize(3);
    assert!(!case.solve().outgrown.is_empty());
    assert_eq!(words(&chosen(&case, &[tenant("a", 0, "eu", 9)])), [""; 0]);
}

fn ceding(case: &mut Case, cluster: &str, keeps: u32) {
    let cession = Cession { keeps, by: "default/db".into(), patient_until: case.now };
    case.cessions = [(uid_of(cluster), [("web".to_owned(), cession)].into())].into();
}

#[test]
fn what_makes_room_moves_where_there_is_some_and_else_goes() {
    let duplicated = vec![policy("placement", json!({"mode": "Duplicated"}))];
    type Shares<'r> = &'r [(&'r str, u32)];
    let rows: [(&str, Vec<Policy>, u32, Shares<'_>, Shares<'_>); 6] = [
        ("to the other one", divided(), 2, &[("eu", 6), ("us", 6)], &[("eu", 2), ("us", 4)]),
        ("nowhere", divided(), 2, &[("eu", 6)], &[("eu", 2)]),
        ("all of it", divided(), 0, &[("eu", 6)], &[]),
        ("the only one, elsewhere", vec![], 0, &[("eu", 8), ("us", 6)], &[("us", 6)]),
        ("the only one", vec![], 0, &[("eu", 6)], &[]),
        ("one of several copies", duplicated, 0, &[("eu", 6), ("us", 6)], &[("us", 6)]),
    ];
    for (name, policies, keeps, clusters, expected) in rows {
        let mut case = Case::new(policies, 6, clusters);
        let wide = name == "to the other one";
        if wide {
            case.at("us").cordoned = true;
        }
        case.settle();
        if wide {
            case.at("us").cordoned = false;
        }
        ceding(&mut case, "eu", keeps);
        let solution = case.solve();
        expect(&case, &solution, expected);
        let sum: u32 = expected.iter().map(|(_, number)| number).sum();
        assert_eq!(solution.unplaced.contains_key("web"), sum < 6, "{name}: {:?}", solution.unplaced);
        match solution.shares.get(&uid_of("eu")) {
            Some(shares) => assert!(shares["web"].reason.ends_with("down from 6: makes room for default/db"), "{name}"),
            None => assert!(refusals(&solution).contains(&"eu: makes room for default/db".into()), "{name}"),
        }
        case.settle();
        let again = case.solve();
        expect(&case, &again, expected);
    }
}

/// Also where nothing else changes: because not all fit, or because nobody knows what the policies mean.
#[test]
fn what_stays_as_it_is_makes_room_and_leaves_what_is_deleted() {
    let whole = || vec![policy("placement", json!({"mode": "Divided", "allOrNothing": true}))];
    let unread = || vec![policy("placement", json!({"mode": "Divided", "profile": "gone"}))];
    for (before, after) in [(whole(), whole()), (divided(), unread()), (vec![], unread())] {
        let mut case = Case::new(before, 6, &[("eu", 6)]);
        case.settle();
        case.policies = after;
        let mut deleted =
            Case { fleet: case.fleet.clone(), previous: case.previous.clone(), ..Case::new(vec![], 6, &[]) };
        deleted.policies.clone_from(&case.policies);
        deleted.at("eu").deleting = true;
        expect(&deleted, &deleted.solve(), &[]);
        ceding(&mut case, "eu", 2);
        let solution = case.solve();
        expect(&case, &solution, &[("eu", 2)]);
        assert!(solution.unplaced.contains_key("web"));
    }
}

#[test]
fn what_waits_for_a_persons_yes_stays() {
    for policies in [divided(), vec![]] {
        let mut case = Case::new(policies, 6, &[("eu", 6)]);
        case.settle();
        ceding(&mut case, "eu", 0);
        case.held = [uid_of("eu")].into();
        expect(&case, &case.solve(), &[("eu", 6)]);
    }
}

/// A cluster: its room, and who runs there: priorities, replicas, and whether they can leave one by one.
type Odd = (u32, Vec<(i32, u32, bool)>);

/// A fleet, how many are to come, and by which policy.
fn odd() -> impl Strategy<Value = (Vec<Odd>, u32, usize)> {
    let tenant = (0..3i32, 1..6u32, any::<bool>());
    (prop::collection::vec((0..5u32, prop::collection::vec(tenant, 0..4)), 1..5), 1..20u32, 0..4usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn a_choice_helps_and_nobody_in_it_could_stay((clusters, replicas, mode) in odd()) {
        let names = ["ap", "eu", "sa", "us"];
        let rooms: Vec<(&str, u32)> = names.iter().zip(&clusters).map(|(name, (room, _))| (*name, *room)).collect();
        let mut tenancies = Vec::new();
        for (cluster, (_, tenants)) in names.iter().zip(&clusters) {
            for (place, (priority, replicas, divisible)) in tenants.iter().enumerate() {
                let one = tenant(&format!("{cluster}{place}"), *priority, cluster, *replicas);
                tenancies.push(Tenancy { divisible: *divisible, ..one });
            }
        }
        let policies = [
            divided(),
            vec![],
            vec![policy("placement", json!({"mode": "Duplicated"}))],
            vec![policy("placement", json!({"mode": "Divided", "limits": [{"clusterSelector": {}, "max": 4}]}))],
        ];
        let case = Case::new(policies[mode].clone(), replicas, &rooms);
        let claims = chosen(&case, &tenancies);
        // Replicas placed, if so many of each leave.
        let placed = |left: &BTreeMap<String, u32>| {
            let mut fleet = case.fleet.clone();
            for tenancy in &tenancies {
                let number = left.get(&tenancy.application.name).copied().unwrap_or(0);
                let room = fleet.get_mut(&tenancy.cluster).and_then(|known| known.room.as_mut()).expect("a room");
                room.give_back(&tenancy.pods[0].0, number);
            }
            let solution = solve(&mut Fleet::of(fleet), &case.problem());
            let shares = solution.shares.values().map(|shares| u64::from(shares["web"].replicas.unwrap_or(0)));
            shares.sum::<u64>()
        };
        let all: BTreeMap<String, u32> =
            tenancies.iter().map(|tenancy| (tenancy.application.name.clone(), tenancy.pods[0].1)).collect();
        let victims = || claims.iter().flat_map(|claim| &claim.victims);
        let left: BTreeMap<String, u32> =
            victims().map(|victim| (victim.application.name.clone(), victim.leaves())).collect();
        let (now, best) = (placed(&BTreeMap::new()), placed(&all));
        prop_assert_eq!(claims.is_empty(), best <= now, "only where it helps");
        prop_assert_eq!(placed(&left), best, "as much as if all were gone");
        let highest = |left: &BTreeMap<String, u32>| {
            tenancies.iter().filter(|tenancy| left.contains_key(&tenancy.application.name)).map(|known| known.priority).max()
        };
        if let Some(highest) = highest(&left) {
            let lower = tenancies.iter().filter(|tenancy| tenancy.priority < highest);
            let lower = lower.map(|tenancy| (tenancy.application.name.clone(), tenancy.pods[0].1)).collect();
            prop_assert!(placed(&lower) < best, "the lower ones do not suffice");
        }
        for (name, number) in &left {
            let tenancy = tenancies.iter().find(|tenancy| tenancy.application.name == *name).expect("a tenant");
            let fewer = if tenancy.divisible { number - 1 } else { 0 };
            let mut spared = left.clone();
            spared.insert(name.clone(), fewer);
            prop_assert!(placed(&spared) < best, "{} could stay: {:?}", name, words(&claims));
        }
    }
}
