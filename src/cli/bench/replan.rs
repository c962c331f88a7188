//! How fast and how well a fleet is replanned that lost a cluster: the product's own `flow::schedule::drill`, at three
//! grades of fill.
//!
//! The bound is on what cannot be helped: with every free amount of the whole fleet in one place, or with all nodes that are
//! left for the replicas of one size alone, so many of the lost ones would still find no room. Policies, and that a
//! component's replicas are placed together or not at all, are not counted into it: the gap to it is theirs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Row,
    load::Samples,
    placement::{Application, Sketches, application_of, fleet, keep, timed, uid},
};
use crate::{
    flow::schedule::{
        Fleet, Neighbours, Profiles,
        drill::{self, Component, Replanned, Tenant},
    },
    model::{
        Demand, Timestamp, Uid,
        quantity::{CPU, MEMORY},
    },
};

/// Clusters that are lost, one at a time, each from the same fleet.
const LOSSES: usize = 20;
/// Of five Applications two are divided by free capacity alone.
const KINDS: [fn(usize) -> Value; 5] = [
    |_| json!({"mode": "Divided"}),
    |_| json!({"mode": "Divided"}),
    |_| json!({"mode": "Divided", "spreadConstraints": [{"by": "region", "minGroups": 3, "maxGroups": 4}]}),
    |number| {
        let ring = json!({"ring": (number % 5).to_string()});
        json!({"mode": "Divided", "division": "Aggregated", "clusterSelector": {"matchLabels": ring}})
    },
    |number| {
        let region = json!({"topology.kubernetes.io/region": format!("region-{}", number % 8)});
        json!({"mode": "Divided", "clusterSelector": {"matchLabels": region}})
    },
];

#[derive(Default)]
struct Sums {
    times: Vec<Duration>,
    affected: usize,
    lost: u64,
    unplaced: u64,
    bound: u64,
    moved: u64,
    healthy: u64,
}

/// One row for each grade of fill, in percent of the cores.
pub fn run(clusters: usize, applications: usize, fills: &[u32]) -> anyhow::Result<Vec<Row>> {
    Ok(fills.iter().map(|&fill| row(clusters, applications, fill)).collect())
}

fn row(clusters: usize, applications: usize, fill: u32) -> Row {
    let profiles = Profiles::default();
    let mut all: Vec<Application> = (0..applications).map(application).collect();
    let asked: i64 = all.iter().map(|application| asked(application, CPU)).sum();
    let wanted = asked * 100 / i64::from(fill);
    let each = wanted / clusters as i64;
    // Nodes of a cluster come in sizes, and do not add up to what it was asked to have.
    let has = free(&fleet(clusters, each).0, CPU, None);
    let each = (i128::from(each) * i128::from(wanted) / i128::from(has.max(1))) as i64;
    let (mut fleet, mut sketches): (Fleet, Sketches) = fleet(clusters, each);
    let before = free(&fleet, CPU, None);
    let mut waiting = 0;
    for application in &mut all {
        let (decision, _) = timed(&mut fleet, application);
        let solution = decision.tell(&fleet, 0);
        waiting += usize::from(!solution.unplaced.is_empty());
        keep((&mut fleet, &mut sketches), application, solution);
    }
    let tenants: Vec<Tenant<'_>> = all.iter().map(|application| tenant(application, &profiles)).collect();
    let filled = 100.0 * (1.0 - free(&fleet, CPU, None) as f64 / before as f64);
    let mut sums = Sums::default();
    for loss in 0..LOSSES {
        let lost = uid((loss * clusters / LOSSES + loss) % clusters);
        sums.add(&fleet, &tenants, lost);
    }
    sums.row(clusters, applications, (fill, filled, waiting))
}

impl Sums {
    fn add(&mut self, fleet: &Fleet, tenants: &[Tenant<'_>], lost: Uid) {
        let mut copy = fleet.clone();
        let lost = BTreeSet::from([lost]);
        let now = Timestamp::from_seconds(0);
        let begin = Instant::now();
        let replanned = drill::replan(&mut copy, now, &lost, tenants);
        self.times.push(begin.elapsed());
        self.affected += replanned.len();
        let mut gone = Vec::new();
        for Replanned { tenant, solution } in &replanned {
            let tenant = &tenants[*tenant];
            for component in tenant.components {
                let told: Component = drill::told(&copy, tenant, &component.name, &lost, solution);
                self.lost += told.lost;
                self.unplaced += told.unplaced;
                self.moved += told.moved;
                let demand = component.demand.as_ref();
                gone.extend(demand.map(|demand| (demand, told.lost)));
            }
        }
        let rows = tenants.iter().flat_map(|tenant| &tenant.placement.rows);
        let healthy = rows.filter(|row| !lost.contains(&row.cluster)).flat_map(|row| row.components.values());
        self.healthy += healthy.map(|share| u64::from(share.replicas.unwrap_or(0))).sum::<u64>();
        let by_amount = [CPU, MEMORY].into_iter().map(|name| bound(fleet, name, &gone, &lost)).max().unwrap_or(0);
        self.bound += by_amount.max(bound_by_nodes(fleet, &gone, &lost));
    }

    fn row(self, clusters: usize, applications: usize, (fill, filled, waiting): (u32, f64, usize)) -> Row {
        let mut times: Samples = self.times.into_iter().collect();
        let ms = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
        let percent = |part: u64, all: u64| (part as f64 * 100_000.0 / all.max(1) as f64).round() / 1000.0;
        Row::from_iter([
            ("clusters".to_owned(), json!(clusters)),
            ("applications".to_owned(), json!(applications)),
            ("fill_percent".to_owned(), json!(fill)),
            ("filled_percent".to_owned(), json!((filled * 10.0).round() / 10.0)),
            ("waiting_before".to_owned(), json!(waiting)),
            ("losses".to_owned(), json!(LOSSES)),
            ("replan_p50_ms".to_owned(), json!(ms(times.percentile(50.0)))),
            ("replan_max_ms".to_owned(), json!(ms(times.percentile(100.0)))),
            ("applications_replanned".to_owned(), json!(self.affected)),
            ("replicas_lost".to_owned(), json!(self.lost)),
            ("unplaced".to_owned(), json!(self.unplaced)),
            ("unplaced_bound".to_owned(), json!(self.bound)),
            ("gap_percent".to_owned(), json!(percent(self.unplaced.saturating_sub(self.bound), self.lost))),
            ("healthy_moved".to_owned(), json!(self.moved)),
            ("healthy_moved_percent".to_owned(), json!(percent(self.moved, self.healthy))),
        ])
    }
}

fn application(number: usize) -> Application {
    let kind = number % KINDS.len();
    application_of(number, kind, KINDS[kind](number / KINDS.len()), 4 + number as u32 % 29)
}

fn tenant<'a>(application: &'a Application, profiles: &'a Profiles) -> Tenant<'a> {
    static ALONE: Neighbours = Neighbours::NONE;
    let Application { policies, components, previous, .. } = application;
    Tenant {
        name: &previous.application,
        policies,
        components,
        placement: previous,
        running: None,
        profiles,
        neighbours: &ALONE,
        scheduler: None,
        priority: 0,
    }
}

fn asked(application: &Application, resource: &str) -> i64 {
    let of = |component: &crate::model::revision::RenderedComponent| {
        let demand = component.demand.as_ref().map_or(0, |demand| demand.requests.get(resource));
        demand * i64::from(component.replicas.as_ref().map_or(0, |replicas| replicas.count))
    };
    application.components.iter().map(of).sum()
}

fn free(fleet: &Fleet, resource: &str, without: Option<&BTreeSet<Uid>>) -> i64 {
    let stays = |uid: &Uid| without.is_none_or(|without| !without.contains(uid));
    let rooms = fleet.iter().filter(|(uid, _)| stays(uid)).filter_map(|(_, candidate)| candidate.room.as_ref());
    rooms.map(|room| room.free(resource)).sum()
}

/// So many of the lost replicas exceed the free amount of one resource, the largest being left out first.
fn bound(fleet: &Fleet, resource: &str, gone: &[(&Demand, u64)], lost: &BTreeSet<Uid>) -> u64 {
    let mut by_amount: BTreeMap<i64, u64> = BTreeMap::new();
    for (demand, replicas) in gone {
        *by_amount.entry(demand.requests.get(resource)).or_default() += replicas;
    }
    let all: i64 = by_amount.iter().map(|(amount, &replicas)| amount * replicas as i64).sum();
    let mut beyond = all - free(fleet, resource, Some(lost));
    let mut left_out = 0;
    for (&amount, &replicas) in by_amount.iter().rev() {
        if beyond <= 0 || amount == 0 {
            break;
        }
        let needed = ((beyond + amount - 1) / amount) as u64;
        left_out += needed.min(replicas);
        beyond -= amount * needed.min(replicas) as i64;
    }
    left_out
}

/// So many find no node, each size by itself.
fn bound_by_nodes(fleet: &Fleet, gone: &[(&Demand, u64)], lost: &BTreeSet<Uid>) -> u64 {
    let mut by_demand: BTreeMap<&Demand, u64> = BTreeMap::new();
    for (demand, replicas) in gone {
        *by_demand.entry(demand).or_default() += replicas;
    }
    let room = |demand: &Demand| -> u64 {
        let rooms = fleet.iter().filter(|(uid, _)| !lost.contains(*uid)).filter_map(|(_, known)| known.room.as_ref());
        rooms.map(|room| u64::from(room.for_demand(demand))).sum()
    };
    by_demand.into_iter().map(|(demand, replicas)| replicas.saturating_sub(room(demand))).sum()
}

#[cfg(test)]
mod tests {
    use super::{super::placement::demand, *};

    #[test]
    fn every_grade_of_fill_is_measured() {
        let rows = run(20, 60, &[50, 80]).expect("rows");
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(|row| row["replicas_lost"].as_u64() > Some(0)), "{rows:?}");
        assert_eq!((&rows[0]["unplaced"], &rows[0]["unplaced_bound"]), (&json!(0), &json!(0)), "{rows:?}");
    }

    #[test]
    fn what_fits_on_no_node_is_not_to_be_helped() {
        let (fleet, _) = fleet(2, 4_000);
        let lost = BTreeSet::from([uid(0)]);
        let left: u64 = fleet
            .get(&uid(1))
            .and_then(|known| known.room.as_ref())
            .map_or(0, |room| room.for_demand(&demand(3)).into());
        assert!(left > 0);
        assert_eq!(bound_by_nodes(&fleet, &[(&demand(3), left)], &lost), 0);
        assert_eq!(bound_by_nodes(&fleet, &[(&demand(3), left), (&demand(3), 3), (&demand(0), 1)], &lost), 3);
    }

    #[test]
    fn the_bound_leaves_the_largest_out_first() {
        let (fleet, _) = fleet(2, 4_000);
        let lost = BTreeSet::from([uid(0)]);
        let left = free(&fleet, CPU, Some(&lost));
        let (small, large) = (demand(0), demand(3));
        let fitting = (left / 1000) as u64;
        assert_eq!(bound(&fleet, CPU, &[(&large, fitting)], &lost), 0);
        assert_eq!(bound(&fleet, CPU, &[(&large, fitting + 2)], &lost), 2);
        assert_eq!(
            bound(&fleet, CPU, &[(&large, fitting + 2), (&small, 10)], &lost),
            3,
            "the small ones take one more place"
        );
    }
}
