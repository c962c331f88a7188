//! How fast placements are decided, without store and members: a fleet, many Applications of five kinds, and the product's
//! own `flow::schedule`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Row, load::Samples, process::Usage};
use crate::{
    flow::schedule::{
        Candidate, Cessions, Decision, Fleet, Neighbours, Problem, Profiles, Rebalance, Room, Solution, decide,
    },
    model::{
        Demand, ObjectName, Placement, Policy, Resources, Sketch, Timestamp, Uid,
        cluster::{PROVIDER_LABEL, Property, REGION_LABEL, ZONE_LABEL},
        placement::Row as PlacementRow,
        quantity::{CPU, MEMORY, PODS},
        revision::{RenderedComponent, ReplicasAt},
        sketch::Shape,
    },
};

const GIBIBYTE: i64 = 1 << 30;
const NODES_PER_CLUSTER_MIN: u32 = 4;
/// Thousandths of a core that one Application asks for on average, all its replicas together, with as much again to spare.
const CPU_PER_APPLICATION: i64 = 16_000;
/// Clusters that change between two decisions.
const CHANGES: usize = 3;
/// Reasons told with each decision that is kept.
const REFUSALS_MAX: usize = 256;

/// A name, and the properties of the policy of one Application in a fleet of so many clusters.
type Kind = (&'static str, fn(usize, usize) -> Value);

/// Policies, by kind; what differs between Applications of one kind is said by the number.
const KINDS: [Kind; 5] = [
    ("free capacity", |_, _| json!({"mode": "Divided"})),
    ("static weights", |_, clusters| {
        let weight = |number: usize| json!({"clusters": [name(number * clusters / 8)], "weight": number + 1});
        json!({"mode": "Divided", "division": "Weighted", "weights": (0..8).map(weight).collect::<Vec<_>>()})
    }),
    ("aggregated, chosen by labels", |number, _| {
        let expression = json!({"key": "ring", "operator": "In", "values": [(number % 4).to_string(), "4"]});
        json!({"mode": "Divided", "division": "Aggregated", "clusterSelector": {"matchExpressions": [expression]}})
    }),
    (
        "spread over regions",
        |_, _| json!({"mode": "Divided", "spreadConstraints": [{"by": "region", "minGroups": 3, "maxGroups": 4, "maxSkew": 2}]}),
    ),
    (
        "in full, in ten clusters",
        |number, clusters| json!({"mode": "Duplicated", "clusterSelector": {"matchLabels": {"decade": (number % (clusters / 10).max(1)).to_string()}}}),
    ),
];

/// What the agents told last.
pub(super) type Sketches = BTreeMap<Uid, Sketch>;

pub(super) struct Application {
    pub kind: usize,
    pub policies: Vec<Policy>,
    pub components: Vec<RenderedComponent>,
    pub previous: Placement,
}

#[derive(Default)]
struct Times {
    cold: Vec<Duration>,
    incremental: Vec<Duration>,
    /// Of `incremental`, with the reasons in words.
    told: Vec<Duration>,
}

/// One row for all kinds and one for each of them.
pub fn run(clusters: usize, applications: usize) -> anyhow::Result<Vec<Row>> {
    let cpu = 2 * CPU_PER_APPLICATION * applications as i64 / clusters as i64;
    let (mut fleet, mut sketches) = fleet(clusters, cpu);
    let mut all: Vec<Application> = (0..applications).map(|number| application(number, clusters)).collect();
    let mut times: Vec<Times> = KINDS.iter().map(|_| Times::default()).collect();
    let mut unplaced = 0;
    let begin = Instant::now();
    for application in &mut all {
        let (decision, took) = timed(&mut fleet, application);
        times[application.kind].cold.push(took);
        let solution = decision.tell(&fleet, 0);
        unplaced += usize::from(!solution.unplaced.is_empty());
        keep((&mut fleet, &mut sketches), application, solution);
    }
    let in_all = begin.elapsed();
    for (number, application) in all.iter_mut().enumerate() {
        change(&mut fleet, &mut sketches, number);
        if let Some(replicas) = &mut application.components[0].replicas {
            replicas.count += 1 + number as u32 % 3;
        }
        let (decision, took) = timed(&mut fleet, application);
        times[application.kind].incremental.push(took);
        let begin = Instant::now();
        let solution = decision.tell(&fleet, REFUSALS_MAX);
        times[application.kind].told.push(took + begin.elapsed());
        keep((&mut fleet, &mut sketches), application, solution);
    }
    let mut sum = Times::default();
    for of_kind in &times {
        sum.cold.extend(&of_kind.cold);
        sum.incremental.extend(&of_kind.incremental);
        sum.told.extend(&of_kind.told);
    }
    let mut rows = vec![row(clusters, "all", sum)];
    rows[0].insert("decisions_and_sketches_per_s".into(), json!((applications as f64 / in_all.as_secs_f64()).round()));
    rows[0].insert("applications".into(), json!(applications));
    rows[0].insert("unplaced".into(), json!(unplaced));
    rows[0].insert("memory_mib".into(), json!(Usage::of(std::process::id())?.rss_bytes >> 20));
    rows.extend(KINDS.iter().zip(times).map(|((kind, _), times)| row(clusters, kind, times)));
    Ok(rows)
}

fn row(clusters: usize, kind: &str, times: Times) -> Row {
    let bare: f64 = times.cold.iter().map(Duration::as_secs_f64).sum();
    let mut row = Row::from_iter([
        ("clusters".to_owned(), json!(clusters)),
        ("kind".to_owned(), json!(kind)),
        ("cold_decisions_per_s".to_owned(), json!((times.cold.len() as f64 / bare).round())),
    ]);
    for (name, times) in [("cold", times.cold), ("incremental", times.incremental), ("incremental_told", times.told)] {
        let mut samples: Samples = times.into_iter().collect();
        for percentile in [50.0, 99.0] {
            let us = samples.percentile(percentile).as_nanos() as f64 / 1000.0;
            row.insert(format!("{name}_p{percentile}_us"), json!((us * 10.0).round() / 10.0));
        }
    }
    row
}

pub(super) fn timed(fleet: &mut Fleet, application: &Application) -> (Decision, Duration) {
    let held = BTreeSet::new();
    let known = Some(&application.previous).filter(|placement| placement.decision > 0);
    let problem = Problem {
        now: Timestamp::from_seconds(0),
        policies: &application.policies,
        components: &application.components,
        previous: known,
        running: None,
        held: &held,
        neighbours: &Neighbours::default(),
        profiles: &Profiles::default(),
        rebalance: Rebalance::No,
        cessions: &Cessions::new(),
    };
    let begin = Instant::now();
    let decision = decide(fleet, &problem);
    (decision, begin.elapsed())
}

/// Remembers the answer, and lets what is new start at once: its agent tells of the room that is left.
pub(super) fn keep((fleet, sketches): (&mut Fleet, &mut Sketches), application: &mut Application, solution: Solution) {
    let count = |row: Option<&PlacementRow>| {
        row.and_then(|row| row.components.values().next()).and_then(|share| share.replicas).unwrap_or(0)
    };
    let demand = application.components[0].demand.clone().unwrap_or_default();
    let mut rows: Vec<PlacementRow> = Vec::new();
    for (cluster, components) in solution.shares {
        let before = application.previous.rows.iter().find(|row| row.cluster == cluster);
        let cluster_name = fleet.get(&cluster).map(|known| known.name.clone()).unwrap_or_default();
        let row = PlacementRow {
            cluster,
            cluster_name,
            generation: 1,
            revision: "v1".into(),
            components,
            removals: Vec::new(),
            trace: String::new(),
        };
        let more = count(Some(&row)).saturating_sub(count(before));
        if more > 0 {
            start(fleet, sketches, &row.cluster, &demand, i64::from(more));
        }
        rows.push(row);
    }
    application.previous.rows = rows;
    application.previous.decision += 1;
}

/// A few clusters change by a pod that comes or goes.
fn change(fleet: &mut Fleet, sketches: &mut Sketches, number: usize) {
    let demand = demand(number);
    for step in 0..CHANGES {
        let uid = uid((number * 7919 + step * 104_729) % fleet.len());
        start(fleet, sketches, &uid, &demand, if step % 2 == 0 { -1 } else { 1 });
    }
}

/// So many pods start on the nodes of a cluster, more where more is free, or end.
fn start(fleet: &mut Fleet, sketches: &mut Sketches, uid: &Uid, demand: &Demand, pods: i64) {
    let Some(sketch) = sketches.get_mut(uid) else { return };
    for (name, amount) in demand.requests.0.iter().map(|(name, amount)| (name.as_str(), *amount)).chain([(PODS, 1)]) {
        let free = |shape: &Shape| shape.free.get(name).max(1);
        let mut left: i64 = sketch.shapes.iter().map(|shape| i64::from(shape.count) * free(shape)).sum();
        let mut rest = amount * pods;
        for shape in &mut sketch.shapes {
            let (count, free) = (i64::from(shape.count), free(shape));
            // Rounded, and the next shape makes up for it.
            let each = i128::from(rest) * i128::from(free) * 2 + i128::from(left);
            let each = each.div_euclid(2 * i128::from(left.max(1))) as i64;
            shape.free.add(&Resources::of([(name, each)]), -1);
            left -= count * free;
            rest -= count * each;
        }
    }
    fleet.set_room(uid, Some(Room::of(sketch)));
}

fn name(number: usize) -> String {
    format!("cluster-{number:05}")
}

pub(super) fn uid(number: usize) -> Uid {
    Uid(format!("{number:08x}-0000-4000-8000-000000000000"))
}

/// With so many thousandths of a core in each cluster, in eight regions.
pub(super) fn fleet(clusters: usize, cpu: i64) -> (Fleet, Sketches) {
    let mut sketches = Sketches::new();
    let candidate = |number: usize| {
        let nodes = NODES_PER_CLUSTER_MIN + number as u32 % 5;
        let shape = |part: u32| {
            let each = (cpu / i64::from(nodes)).max(4_000) * i64::from(80 + part * 20) / 100;
            let free = Resources::of([(CPU, each), (MEMORY, each * GIBIBYTE / 250), (PODS, (each / 50).max(110))]);
            Shape { count: nodes / 2, free, ..Shape::default() }
        };
        let sketch = Sketch { shapes: (0..3).map(shape).collect(), ..Sketch::default() };
        let label = |key: &str, value: String| (key.to_owned(), value);
        let labels = [
            label(REGION_LABEL, format!("region-{}", number % 8)),
            label(ZONE_LABEL, format!("zone-{}", number % 24)),
            label(PROVIDER_LABEL, format!("provider-{}", number % 3)),
            label("ring", (number % 5).to_string()),
            label("decade", (number / 10).to_string()),
        ];
        let candidate = Candidate {
            name: name(number),
            labels: labels.into(),
            properties: [("cost".to_owned(), Property::Integer(number as i64 % 17))].into(),
            accepted: true,
            room: Some(Room::of(&sketch)),
            ..Candidate::default()
        };
        sketches.insert(uid(number), sketch);
        (uid(number), candidate)
    };
    let fleet = Fleet::of((0..clusters).map(candidate));
    (fleet, sketches)
}

/// One of twelve sizes of pods.
pub(super) fn demand(number: usize) -> Demand {
    let cpu = [100, 250, 500, 1000][number % 4];
    let memory = [GIBIBYTE / 4, GIBIBYTE, 2 * GIBIBYTE][number / 4 % 3];
    Demand { requests: Resources::of([(CPU, cpu), (MEMORY, memory)]), ..Demand::default() }
}

fn application(number: usize, clusters: usize) -> Application {
    let kind = number % KINDS.len();
    let properties = KINDS[kind].1(number / KINDS.len(), clusters);
    let count = if kind == 4 { 2 } else { 4 + number as u32 % 29 };
    application_of(number, kind, properties, count)
}

pub(super) fn application_of(number: usize, kind: usize, properties: Value, count: u32) -> Application {
    let component = RenderedComponent {
        name: "web".into(),
        type_: "webservice".into(),
        manifests: Vec::new(),
        demand: Some(demand(number)),
        replicas: Some(ReplicasAt { manifest: 0, pointer: "/spec/replicas".into(), count }),
        ..RenderedComponent::default()
    };
    let previous = Placement {
        application: ObjectName::new("default", &format!("app-{number}")),
        application_uid: Uid(format!("app-{number}")),
        decision: 0,
        rows: Vec::new(),
        refusals: Vec::new(),
        unplaced: Default::default(),
        moves: Vec::new(),
        rebalanced: String::new(),
        claims: Vec::new(),
        preempted: BTreeMap::new(),
    };
    let policy = Policy { name: "placement".into(), type_: "placement".into(), properties };
    Application { kind, policies: vec![policy], components: vec![component], previous }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_measured() {
        let rows = run(20, 50).expect("rows");
        assert_eq!(rows.len(), KINDS.len() + 1);
        assert_eq!(rows[0]["unplaced"], 0);
        assert!(rows.iter().all(|row| row["incremental_p99_us"].as_f64() > Some(0.0)));
    }
}
