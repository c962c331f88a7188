//! Drills: who is decided first, and what one leaves to the next.

use super::{
    super::drill::{Affected, Drill, Tenant, drill, lost},
    *,
};
use crate::model::application::ClusterSet;

/// An Application of replicas of one step each, divided, and where it runs.
struct App {
    name: ObjectName,
    policies: Vec<Policy>,
    components: Vec<RenderedComponent>,
    placement: Placement,
    neighbours: Neighbours,
}

fn app(name: &str, shares: &[(&str, u32)]) -> App {
    let row = |&(cluster, replicas): &(&str, u32)| Row {
        cluster: uid_of(cluster),
        cluster_name: cluster.into(),
        generation: 1,
        revision: "v1".into(),
        components: [("web".to_owned(), Share { replicas: Some(replicas), reason: String::new() })].into(),
        removals: Vec::new(),
        trace: String::new(),
    };
    let name = ObjectName::new("shop", name);
    let placement = Placement {
        application: name.clone(),
        application_uid: "app".into(),
        decision: 1,
        rows: shares.iter().map(row).collect(),
        refusals: Vec::new(),
        unplaced: BTreeMap::new(),
        moves: Vec::new(),
        rebalanced: String::new(),
        claims: Vec::new(),
        preempted: BTreeMap::new(),
    };
    let total = shares.iter().map(|(_, replicas)| replicas).sum();
    App {
        name,
        policies: divided(),
        components: vec![component("web", total)],
        placement,
        neighbours: Neighbours::NONE,
    }
}

fn drilled(rooms: &[(&str, u32)], apps: &[App], losing: &[&str]) -> Drill {
    let mut fleet = Fleet::of(fleet(rooms));
    let losing = losing.iter().map(|name| (*name).to_owned()).collect();
    let lost = lost(&fleet, &[ClusterSet { clusters: losing, cluster_selector: None }]).expect("known clusters");
    drill(&mut fleet, Timestamp::from_seconds(0), &lost, &tenants(apps, &Profiles::default()))
}

fn tenants<'a>(apps: &'a [App], profiles: &'a Profiles) -> Vec<Tenant<'a>> {
    let tenant = |app: &'a App| {
        let App { name, policies, components, placement, neighbours } = app;
        Tenant {
            name,
            policies,
            components,
            placement,
            running: None,
            profiles,
            neighbours,
            scheduler: None,
            priority: 0,
        }
    };
    apps.iter().map(tenant).collect()
}

fn summary(application: &Affected) -> (&str, u64, u64, Vec<(&str, u32, u32)>) {
    let component = &application.components[0];
    let changes = component.changes.iter().map(|to| (to.cluster.as_str(), to.from, to.to)).collect();
    (&application.name, component.lost, component.unplaced, changes)
}

#[test]
fn who_has_least_left_is_helped_first_and_leaves_the_rest_to_the_next() {
    let apps = [
        app("a-third", &[("eu", 1), ("us", 2)]),
        app("elsewhere", &[("us", 3)]),
        app("half", &[("eu", 2), ("us", 2)]),
        app("whole", &[("eu", 2)]),
    ];
    let told = drilled(&[("ap", 1), ("eu", 9), ("us", 4)], &apps, &["eu"]);
    let summaries: Vec<_> = told.applications.iter().map(summary).collect();
    assert_eq!(
        summaries,
        [
            ("whole", 2, 0, vec![("eu", 2, 0), ("us", 0, 2)]),
            ("half", 2, 0, vec![("ap", 0, 1), ("eu", 2, 0), ("us", 2, 3)]),
            ("a-third", 1, 0, vec![("eu", 1, 0), ("us", 2, 3)]),
        ]
    );
    let total = &told.total;
    assert_eq!((total.lost, total.replaced, total.unplaced, total.moved), (5, 5, 0, 0));
    assert_eq!((total.applications, total.short, total.down), (3, 0, 0));
}

/// Of others it sees where they are by then, not where they were.
#[test]
fn who_keeps_apart_or_together_does_so_in_a_drill() {
    let neighbour = |name: &str, clusters: &[&str]| {
        let placed: BTreeSet<Uid> = clusters.iter().map(|name| uid_of(name)).collect();
        let named = Named { name: name.into(), ..Named::default() };
        Neighbour { named, affinity: Default::default(), present: placed.clone(), placed }
    };
    for (key, expected) in [("apart", "us"), ("with", "ap")] {
        // The first goes to where most room is.
        let mut second = app("second", &[("eu", 1)]);
        second.policies =
            vec![policy("placement", json!({"mode": "Divided", "affinity": {key: [{"application": "first"}]}}))];
        let own = Named { name: "second".into(), ..Named::default() };
        second.neighbours = Neighbours { own, others: vec![neighbour("first", &["eu"])] };
        let told = drilled(&[("ap", 9), ("eu", 9), ("us", 4)], &[app("first", &[("eu", 1)]), second], &["eu"]);
        let changes = &told.applications[1].components[0].changes;
        let gained: Vec<&str> =
            changes.iter().filter(|change| change.to > 0).map(|change| change.cluster.as_str()).collect();
        assert_eq!((told.applications[0].name.as_str(), gained), ("first", vec![expected]), "{key}");
    }
}

#[test]
fn what_does_not_fit_says_why_and_what_would_help() {
    let apps = [app("first", &[("eu", 3)]), app("second", &[("eu", 2)])];
    let told = drilled(&[("eu", 0), ("us", 4)], &apps, &["eu"]);
    assert_eq!(summary(&told.applications[1]), ("second", 2, 2, vec![("eu", 2, 0)]));
    let second = &told.applications[1];
    assert_eq!(second.components[0].message, "room for 1 of 2 replicas; 0 run, nothing new is placed until all fit");
    assert_eq!(
        second.hints[0].message,
        "room for 1 more in us (100m cpu each; the next one lacks 100m cpu on a node) would place all of web"
    );
    assert_eq!((told.total.short, told.total.down, told.total.replaced), (1, 1, 3));
}

#[test]
fn what_another_scheduler_decides_waits_for_it() {
    let apps = [app("bound", &[("eu", 3), ("us", 1)])];
    let profiles = Profiles::default();
    let mut tenants = tenants(&apps, &profiles);
    tenants[0].scheduler = Some("mine");
    let mut fleet = Fleet::of(fleet(&[("eu", 0), ("us", 40)]));
    let told = drill(&mut fleet, Timestamp::from_seconds(0), &[uid_of("eu")].into(), &tenants);
    assert_eq!(summary(&told.applications[0]), ("bound", 3, 3, vec![("eu", 3, 0)]));
    assert_eq!(told.applications[0].components[0].message, "waits for the scheduler \"mine\"");
    assert_eq!(told.applications[0].hints, []);
}

#[test]
fn nothing_or_nobody_cannot_be_lost() {
    let fleet = Fleet::of(fleet(&[("eu", 1)]));
    let named = |name: &str| ClusterSet { clusters: vec![name.into()], cluster_selector: None };
    let selector = crate::model::selector::LabelSelector::parse("tier=gold").expect("a selector");
    let labelled = ClusterSet { clusters: Vec::new(), cluster_selector: Some(selector) };
    assert_eq!(lost(&fleet, &[named("eu"), named("mars")]), Err("no cluster named mars has joined".into()));
    assert_eq!(lost(&fleet, &[labelled]), Err("no cluster has the labels tier in (gold)".into()));
    assert!(lost(&fleet, &[]).is_err());
}

proptest! {
    /// Every lost replica is told of as one that runs elsewhere or nowhere, nobody is promised room twice, and the order
    /// of the input is irrelevant.
    #[test]
    fn a_drill_adds_up_and_never_exceeds_capacity(
        rooms in prop::collection::vec(0u32..20, 3..6),
        shares in prop::collection::vec(prop::collection::vec(0u32..6, 6), 1..6),
        losing in 0usize..3,
    ) {
        const NAMES: [&str; 6] = ["ap", "br", "de", "eu", "jp", "us"];
        let rooms: Vec<(&str, u32)> = NAMES.into_iter().zip(rooms).collect();
        let parts = |shares: &Vec<u32>| -> Vec<(&str, u32)> {
            rooms.iter().zip(shares).map(|((name, _), &replicas)| (*name, replicas)).filter(|part| part.1 > 0).collect()
        };
        let mut apps: Vec<App> =
            shares.iter().enumerate().map(|(number, shares)| app(&format!("app-{number}"), &parts(shares))).collect();
        let told = drilled(&rooms, &apps, &[rooms[losing].0]);
        apps.reverse();
        prop_assert_eq!(&drilled(&rooms, &apps, &[rooms[losing].0]), &told);
        let mut gained: BTreeMap<&str, u32> = BTreeMap::new();
        for component in told.applications.iter().flat_map(|application| &application.components) {
            let came: u64 = component.changes.iter().map(|to| u64::from(to.to.saturating_sub(to.from))).sum();
            prop_assert_eq!(component.lost, came + component.unplaced);
            prop_assert_eq!(component.unplaced > 0, !component.message.is_empty());
            for to in &component.changes {
                *gained.entry(&to.cluster).or_default() += to.to.saturating_sub(to.from);
            }
        }
        for (name, room) in &rooms {
            prop_assert!(gained.get(name).copied().unwrap_or(0) <= *room, "{} holds {}", name, room);
        }
    }
}
