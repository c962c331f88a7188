//! Room: what still fits into a cluster, node by node, after everything that is decided has been taken off.
//!
//! Which node a replica will run on, and which of two comes first, is the member's choice. Replicas that are decided and
//! not yet seen on a node are therefore counted where they do most harm ([`floating`]): nobody is promised a place that
//! one of them may take, nor theirs taken by whoever is promised another. Exact for demands of one size; of several
//! sizes the rest is promised once the first are seen.
//!
//! Must never: let go of what is decided. A replica that no node could take holds its amounts all the same.

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    bounds,
    floating::{self, Floating, Group},
};
use crate::model::{
    Demand, Resources, Sketch,
    quantity::PODS,
    sketch::{NamespaceRules, NodeKind, SHAPES_MAX},
};

mod growth;

/// Shapes up to which it is looked at every node whether several demands fit beside each other.
const LOOKED_AT_MAX: usize = 512;

/// Free capacity by node shape, from which demands are taken one after another. Amounts stand in rows of one column for
/// each resource, because they are read a million times where a fleet is large.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Room {
    frame: Arc<Frame>,
    shapes: Vec<Slot>,
    /// Of one node of each shape.
    free: Vec<i64>,
    /// What was taken.
    floating: Vec<Floating>,
    /// What the quotas of each namespace leave.
    quotas: BTreeMap<String, Resources>,
}

/// What stays as it is while room is taken.
#[derive(Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Frame {
    /// Sorted. What is not here no node has.
    resources: Vec<String>,
    pub kinds: Vec<NodeKind>,
    /// Keys of the node labels that are told of.
    pub labels: Vec<String>,
    pub namespaces: BTreeMap<String, NamespaceRules>,
    /// Of all nodes together, taken or not.
    allocatable: Resources,
}

/// `count` nodes of one kind with the same room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    pub count: u32,
    pub kind: u32,
}

/// What one replica takes of a node, by column; the slot for its pod included.
struct Ask {
    amounts: Vec<(usize, i64)>,
    /// It asks for a resource that no node has.
    nowhere: bool,
}

impl Room {
    pub fn of(sketch: &Sketch) -> Self {
        let mut resources: Vec<String> = sketch.allocatable.0.keys().cloned().chain([PODS.to_owned()]).collect();
        resources.extend(sketch.shapes.iter().flat_map(|shape| shape.free.0.keys().cloned()));
        resources.sort();
        resources.dedup();
        let mut kinds: Vec<NodeKind> = sketch.shapes.iter().map(|shape| shape.kind.clone()).collect();
        kinds.sort();
        kinds.dedup();
        let slot = |kind: &NodeKind, count| Slot { count, kind: kinds.partition_point(|known| known < kind) as u32 };
        let shapes = sketch.shapes.iter().map(|shape| slot(&shape.kind, shape.count)).collect();
        let row = |free: &Resources| resources.iter().map(|name| free.get(name)).collect::<Vec<_>>();
        let free = sketch.shapes.iter().flat_map(|shape| row(&shape.free)).collect();
        let quotas = sketch.namespaces.iter().filter(|(_, rules)| !rules.quota.is_empty());
        let quotas = quotas.map(|(name, rules)| (name.clone(), rules.quota.clone())).collect();
        let frame = Frame {
            resources,
            kinds,
            labels: sketch.labels.clone(),
            namespaces: sketch.namespaces.clone(),
            allocatable: sketch.allocatable.clone(),
        };
        Self { frame: Arc::new(frame), shapes, free, floating: Vec::new(), quotas }
    }

    /// How many replicas of `demand` still fit, where none of their kind run. Saturates at `u32::MAX`.
    pub fn for_demand(&self, demand: &Demand) -> u32 {
        let demand = &*self.granted(demand);
        let fits = self.on_nodes(demand);
        let fits = match self.floating.is_empty() || fits == 0 {
            true => fits,
            false => self.beside_floating(demand, fits),
        };
        fits.min(self.by_quota(demand).unwrap_or(u64::MAX)).min(u32::MAX.into()) as u32
    }

    /// As if nothing had been taken.
    fn on_nodes(&self, demand: &Demand) -> u64 {
        let ask = self.ask(demand);
        let chosen = bounds::Chosen::of(&self.frame, demand);
        match bounds::per_node(demand, &self.shapes, &chosen, |index| self.per_node(index, &ask)) {
            None => {
                let admitted = (0..self.shapes.len()).filter(|&index| chosen.admits(self.shapes[index].kind));
                let on = |index: usize| self.per_node(index, &ask).saturating_mul(self.shapes[index].count.into());
                admitted.map(on).fold(0, u64::saturating_add)
            }
            Some(each) => {
                let on = |index: usize| {
                    let fits = if chosen.admits(self.shapes[index].kind) { self.per_node(index, &ask) } else { 0 };
                    fits.min(each).saturating_mul(self.shapes[index].count.into())
                };
                bounds::over_places(demand, &self.frame, &self.shapes, &chosen, on)
            }
        }
    }

    /// Of `fits` replicas, those that find their place wherever what was taken may land, and leave it its own.
    fn beside_floating(&self, demand: &Demand, fits: u64) -> u64 {
        let chosen = bounds::Chosen::of(&self.frame, demand);
        let near: Vec<&Floating> = self
            .floating
            .iter()
            .filter(|float| chosen.meets(&bounds::Chosen::of(&self.frame, &float.demand)))
            .collect();
        let groups: Vec<Group<'_>> = near.iter().map(|float| (&*float.demand, float.replicas)).collect();
        let mut left = fits.saturating_sub(self.lost(demand, &groups));
        for (name, amount) in whole(demand) {
            left = left.min((self.free(name).max(0) / amount).unsigned_abs());
        }
        for (index, float) in near.iter().enumerate() {
            // One that does not find its place anyway keeps nobody else out, but from what it holds.
            if float.demand.is_like(demand) || float.fits < float.replicas {
                continue;
            }
            let mut groups = groups.clone();
            groups[index] = (demand, 0);
            let mut spares = |replicas: u64| {
                groups[index].1 = replicas;
                float.fits.saturating_sub(self.lost(&float.demand, &groups)) >= float.replicas
            };
            if !spares(left) {
                // The first so many do no harm, the next one does.
                let (mut good, mut bad) = (0, left);
                while bad - good > 1 {
                    let middle = good + (bad - good) / 2;
                    if spares(middle) { good = middle } else { bad = middle }
                }
                left = good;
            }
        }
        left
    }

    /// Places of `demand` that `groups` cost at most, wherever they land.
    fn lost(&self, demand: &Demand, groups: &[Group<'_>]) -> u64 {
        let by_pods = floating::lost_pods(demand, groups);
        // Counting heads is exact where none is smaller; beyond the bound it has to do, for this looks at every node.
        let smaller = groups.iter().any(|(other, replicas)| *replicas > 0 && floating::is_smaller(other, demand));
        if !smaller || self.shapes.len() > LOOKED_AT_MAX {
            return by_pods;
        }
        let ask = self.ask(demand);
        let chosen = bounds::Chosen::of(&self.frame, demand);
        let admitted = (0..self.shapes.len()).filter(|&index| chosen.admits(self.shapes[index].kind));
        let nodes: Vec<_> = admitted
            .map(|index| (u64::from(self.shapes[index].count), self.per_node(index, &ask), self.row(index)))
            .collect();
        let name = |&(column, amount): &(usize, i64)| (&*self.frame.resources[column], column, amount);
        let columns: Vec<_> = ask.amounts.iter().map(name).collect();
        by_pods.min(floating::lost_amounts(&columns, &nodes, groups))
    }

    /// How many more replicas of `demand` fit where `had` of their kind run or are reserved here. That is what is asked
    /// of kinds that keep apart from each other: a node that has one is not free for another.
    pub fn for_more(&self, demand: &Demand, had: u32) -> u32 {
        let more = self.for_demand(demand);
        if demand.spread.is_empty() || had == 0 {
            return more;
        }
        let mut without = self.clone();
        without.give_back(demand, had);
        more.min(without.for_demand(demand).saturating_sub(had))
    }

    /// Takes `replicas` of `demand` off, whether or not they fit.
    pub fn take(&mut self, demand: &Demand, replicas: u32) {
        if replicas == 0 {
            return;
        }
        let demand = self.granted(demand).into_owned();
        self.charge(&demand, replicas, -1);
        match self.floating.iter_mut().find(|float| float.demand.is_like(&demand)) {
            Some(float) => float.replicas += u64::from(replicas),
            None => {
                let fits = self.on_nodes(&demand);
                self.floating.push(Floating { demand: Arc::new(demand), replicas: replicas.into(), fits });
            }
        }
    }

    /// Puts back what `replicas` of `demand` hold: what was taken first, then what runs, on all nodes that admit them alike,
    /// for that is where the member's scheduler spread them.
    pub fn give_back(&mut self, demand: &Demand, replicas: u32) {
        let demand = &*self.granted(demand);
        let ask = self.ask(demand);
        let chosen = bounds::Chosen::of(&self.frame, demand);
        let admitting: Vec<usize> = self.most_first(&chosen, |room, index| u64::from(room.shapes[index].count));
        let nodes: u64 = admitting.iter().map(|&index| u64::from(self.shapes[index].count)).sum();
        let mut left = u64::from(replicas);
        if let Some(float) = self.floating.iter_mut().find(|float| float.demand.is_like(demand)) {
            let taken = left.min(float.replicas);
            float.replicas -= taken;
            left -= taken;
        }
        self.floating.retain(|float| float.replicas > 0);
        self.charge(demand, replicas, 1);
        if nodes == 0 || left == 0 {
            return;
        }
        let (each, mut more) = (left / nodes, left % nodes);
        for index in admitting {
            let count = u64::from(self.shapes[index].count);
            let here = more.min(count);
            more -= here;
            let emptier = if here > 0 && here < count { self.split(index, here as u32) } else { None };
            if let Some(emptier) = emptier {
                self.shift(emptier, &ask, each + 1, 1);
            }
            self.shift(index, &ask, each + u64::from(here == count), 1);
        }
        for index in 0..self.floating.len() {
            self.floating[index].fits = self.on_nodes(&self.floating[index].demand.clone());
        }
    }

    /// What one more replica of `demand` lacks, for people: `cpu`, or that no node admits it.
    pub fn scarce(&self, demand: &Demand) -> String {
        let demand = &*self.granted(demand);
        if self.shapes.iter().all(|shape| shape.count == 0) {
            return "no node is ready".into();
        }
        let chosen = bounds::Chosen::of(&self.frame, demand);
        let admitting: Vec<usize> =
            (0..self.shapes.len()).filter(|&index| chosen.admits(self.shapes[index].kind)).collect();
        if admitting.is_empty() {
            return chosen.nothing(demand, &self.frame);
        }
        if let Some(lack) = self.lack_of_quota(demand) {
            return lack;
        }
        let amount = |index: usize, name: &str| self.column(name).map_or(0, |column| self.row(index)[column]);
        let lacks = |name: &str, asked: i64| {
            self.free(name) < asked || admitting.iter().all(|&index| amount(index, name) < asked)
        };
        let lacking = |(name, asked): &(&String, &i64)| **asked > 0 && lacks(name, **asked);
        if let Some((name, _)) = demand.requests.0.iter().find(lacking) {
            return format!("no node has enough {name} left");
        }
        if lacks(PODS, 1) {
            return "no node has a pod slot left".into();
        }
        if self.for_demand(demand) == 0 && self.on_nodes(demand) > 0 {
            return "what is left may be needed by what is decided and not seen there yet".into();
        }
        if !demand.spread.is_empty() {
            let places: Vec<_> = demand.spread.iter().map(|spread| spread.topology.as_str()).collect();
            return format!("its replicas keep apart by {}", places.join(" and "));
        }
        let names: Vec<_> =
            demand.requests.0.iter().filter(|&(_, &amount)| amount > 0).map(|(name, _)| &**name).collect();
        if names.is_empty() { "pod slots".into() } else { names.join(" and ") }
    }

    /// Free amount of one resource on all nodes together, for comparing clusters when no demand tells them apart.
    pub fn free(&self, resource: &str) -> i64 {
        let Some(column) = self.column(resource) else { return 0 };
        let on = |index: usize| self.row(index)[column].max(0).saturating_mul(i64::from(self.shapes[index].count));
        let all = (0..self.shapes.len()).map(on).fold(0, i64::saturating_add);
        let taken = self.floating.iter().map(|float| float.amount(resource)).fold(0, i64::saturating_add);
        all.saturating_sub(taken).max(0)
    }

    /// What there is of one resource on all nodes together, taken or not.
    pub fn allocatable(&self, resource: &str) -> i64 {
        self.frame.allocatable.get(resource)
    }

    /// Whether something beside room bounds the pods of this namespace here: where nothing does, demands that differ in
    /// their namespace only are the same.
    pub fn has_rules(&self, namespace: &str) -> bool {
        self.frame.namespaces.contains_key(namespace)
    }

    /// What the member makes of a demand: LimitRanges fill in what it leaves unsaid.
    fn granted<'d>(&self, demand: &'d Demand) -> Cow<'d, Demand> {
        let rules = self.frame.namespaces.get(&demand.namespace);
        match rules.filter(|rules| !rules.defaults.is_empty() && !demand.unsaid.is_empty()) {
            Some(rules) => Cow::Owned(bounds::granted(demand, &rules.defaults)),
            None => Cow::Borrowed(demand),
        }
    }

    /// How many replicas the quotas of its namespace leave room for; `None` where they bound nothing.
    fn by_quota(&self, demand: &Demand) -> Option<u64> {
        let left = self.quotas.get(&demand.namespace)?;
        let fits = |(name, &left): (&String, &i64)| bounds::by_quota(demand, name, left);
        left.0.iter().filter_map(fits).min()
    }

    fn lack_of_quota(&self, demand: &Demand) -> Option<String> {
        let left = self.quotas.get(&demand.namespace)?;
        let spent = left.0.iter().find(|(name, left)| bounds::by_quota(demand, name, **left) == Some(0))?.0;
        let namespace = &demand.namespace;
        Some(match bounds::asked_of_quota(demand, spent) {
            0 => format!("a quota of namespace {namespace} bounds {spent}, and the pods do not say theirs"),
            _ => format!("a quota of namespace {namespace} leaves too little {spent}"),
        })
    }

    fn charge(&mut self, demand: &Demand, replicas: u32, sign: i64) {
        let Some(left) = self.quotas.get_mut(&demand.namespace) else { return };
        for (name, left) in &mut left.0 {
            let amount = bounds::asked_of_quota(demand, name).saturating_mul(replicas.into());
            *left = left.saturating_add(amount.saturating_mul(sign));
        }
    }

    fn ask(&self, demand: &Demand) -> Ask {
        let mut ask = Ask { amounts: Vec::new(), nowhere: false };
        for (name, amount) in whole(demand) {
            match self.column(name) {
                Some(column) => ask.amounts.push((column, amount)),
                None => ask.nowhere = true,
            }
        }
        ask
    }

    fn per_node(&self, index: usize, ask: &Ask) -> u64 {
        if ask.nowhere {
            return 0;
        }
        let row = self.row(index);
        let fits = |&(column, amount): &(usize, i64)| (row[column].max(0) / amount) as u64;
        ask.amounts.iter().map(fits).min().unwrap_or(0)
    }

    /// Shapes that admit the demand, by falling `amount`, then by place.
    fn most_first(&self, chosen: &bounds::Chosen, amount: impl Fn(&Self, usize) -> u64) -> Vec<usize> {
        let admitted = (0..self.shapes.len()).filter(|&index| chosen.admits(self.shapes[index].kind));
        let mut order: Vec<(Reverse<u64>, usize)> =
            admitted.map(|index| (Reverse(amount(self, index)), index)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, index)| index).collect()
    }

    /// Makes `nodes` of a shape a shape of their own; `None` where they are all of it, or the bound of shapes is
    /// reached.
    fn split(&mut self, index: usize, nodes: u32) -> Option<usize> {
        let Slot { count, kind } = self.shapes[index];
        if nodes >= count || self.shapes.len() >= 2 * SHAPES_MAX {
            return None;
        }
        self.shapes[index].count -= nodes;
        self.shapes.push(Slot { count: nodes, kind });
        self.free.extend_from_within(self.span(index));
        Some(self.shapes.len() - 1)
    }

    fn shift(&mut self, index: usize, ask: &Ask, replicas: u64, sign: i64) {
        let times = i64::try_from(replicas).unwrap_or(i64::MAX).saturating_mul(sign);
        let row = self.row_mut(index);
        for &(column, amount) in &ask.amounts {
            row[column] = row[column].saturating_add(amount.saturating_mul(times));
        }
    }

    fn column(&self, resource: &str) -> Option<usize> {
        self.frame.resources.binary_search_by(|name| name.as_str().cmp(resource)).ok()
    }

    fn span(&self, index: usize) -> std::ops::Range<usize> {
        let width = self.frame.resources.len();
        index * width..(index + 1) * width
    }

    fn row(&self, index: usize) -> &[i64] {
        &self.free[self.span(index)]
    }

    fn row_mut(&mut self, index: usize) -> &mut [i64] {
        let span = self.span(index);
        &mut self.free[span]
    }
}

/// What one replica takes: its requests and a slot.
pub(super) fn whole(demand: &Demand) -> impl Iterator<Item = (&str, i64)> {
    let requests = demand.requests.0.iter().map(|(name, amount)| (name.as_str(), *amount));
    requests.filter(|&(name, amount)| amount > 0 && name != PODS).chain([(PODS, 1)])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        demand::{HOSTNAME_LABEL, Spread, SpreadRule, Taint, Toleration},
        quantity::{CPU, MEMORY},
        sketch::Shape,
    };

    fn cpu(milli: i64) -> Demand {
        Demand { requests: Resources::of([(CPU, milli)]), ..Demand::default() }
    }

    fn room(shapes: &[(u32, i64)]) -> Room {
        Room::of(&sketch(shapes))
    }

    fn sketch(shapes: &[(u32, i64)]) -> Sketch {
        let shape = |&(count, milli): &(u32, i64)| Shape {
            count,
            free: Resources::of([(CPU, milli), (PODS, 110)]),
            ..Shape::default()
        };
        Sketch { shapes: shapes.iter().map(shape).collect(), ..Sketch::default() }
    }

    #[test]
    fn taken_replicas_leave_exactly_the_rest() {
        let mut room = room(&[(2, 4000), (3, 1000)]);
        assert_eq!(room.for_demand(&cpu(1000)), 11);
        room.take(&cpu(1000), 5);
        assert_eq!(room.for_demand(&cpu(1000)), 6);
        assert_eq!(room.for_demand(&cpu(2000)), 1, "wherever they land: at worst one large node has 2000m left");
    }

    #[test]
    fn slots_for_pods_bound_what_asks_for_nothing() {
        let mut room = room(&[(2, 4000)]);
        assert_eq!(room.for_demand(&cpu(0)), 220);
        room.take(&cpu(0), 219);
        assert_eq!(room.for_demand(&cpu(100)), 1);
        room.take(&cpu(100), 1);
        assert_eq!(room.scarce(&cpu(100)), "no node has a pod slot left");
    }

    #[test]
    fn a_scarce_resource_is_named() {
        let gpu = Demand { requests: Resources::of([(CPU, 1), ("nvidia.com/gpu", 1)]), ..Demand::default() };
        assert_eq!(room(&[(1, 1000)]).scarce(&gpu), "no node has enough nvidia.com/gpu left");
        assert_eq!(room(&[]).scarce(&gpu), "no node is ready");
        let chosen = Demand { node_selector: [("disk".to_owned(), "ssd".to_owned())].into(), ..cpu(1) };
        assert_eq!(room(&[(1, 1000)]).scarce(&chosen), "no node matches its node selector and tolerations");
    }

    #[test]
    fn taints_keep_room_for_those_who_tolerate_them() {
        let mut sketch = sketch(&[(1, 2000)]);
        sketch.shapes[0].kind.taints =
            vec![Taint { key: "gpu".into(), value: String::new(), effect: "NoSchedule".into() }];
        let room = Room::of(&sketch);
        assert_eq!(room.for_demand(&cpu(1000)), 0);
        let toleration = Toleration { key: "gpu".into(), operator: "Exists".into(), ..Toleration::default() };
        assert_eq!(room.for_demand(&Demand { tolerations: vec![toleration], ..cpu(1000) }), 2);
    }

    #[test]
    fn what_fits_no_node_holds_its_room_in_pieces() {
        let mut room = room(&[(3, 4000)]);
        room.take(&cpu(2500), 4);
        assert_eq!(room.free(CPU), 2000, "three fit, the fourth holds what it asks for all the same");
        assert_eq!(room.for_demand(&cpu(500)), 4);
        room.take(&cpu(2500), 1);
        assert_eq!((room.free(CPU), room.for_demand(&cpu(1))), (0, 0));
        room.give_back(&cpu(2500), 1);
        assert_eq!(room.free(CPU), 2000);
    }

    #[test]
    fn what_is_given_back_lies_where_it_was_spread() {
        let mut full = room(&[(4, 0)]);
        full.give_back(&cpu(500), 4);
        assert_eq!((full.for_demand(&cpu(500)), full.for_demand(&cpu(1000))), (4, 0), "one on each node");
        full.give_back(&cpu(500), 2);
        assert_eq!(full.for_demand(&cpu(1000)), 2);
    }

    const ZONE: &str = "topology.kubernetes.io/zone";

    /// Nodes by zone: how many, and what each has free.
    fn zones(shapes: &[(&str, u32, i64)]) -> Sketch {
        let mut sketch = sketch(&shapes.iter().map(|&(_, count, milli)| (count, milli)).collect::<Vec<_>>());
        for (shape, (zone, ..)) in sketch.shapes.iter_mut().zip(shapes) {
            shape.kind.labels = [(ZONE.to_owned(), (*zone).to_owned())].into();
        }
        sketch.labels = vec![ZONE.to_owned()];
        sketch
    }

    fn apart(topology: &str, rule: SpreadRule) -> Demand {
        Demand { spread: vec![Spread { topology: topology.into(), rule }], ..cpu(500) }
    }

    fn skew(most: u32) -> SpreadRule {
        SpreadRule::Skew { most, places: 0 }
    }

    #[test]
    fn pods_that_keep_apart_get_a_place_of_their_own() {
        let room = Room::of(&zones(&[("a", 2, 4000), ("b", 1, 600), ("c", 1, 100)]));
        for (topology, rule, expected) in [
            (HOSTNAME_LABEL, SpreadRule::OnePer, 3),
            (ZONE, SpreadRule::OnePer, 2),
            // No pod fits into c, so nowhere may there be more than the skew.
            (ZONE, skew(1), 2),
            (ZONE, skew(3), 4),
            (HOSTNAME_LABEL, skew(2), 5),
            // Nothing is known of racks: one place is certain.
            ("rack", SpreadRule::OnePer, 1),
            ("rack", skew(1), 1),
        ] {
            assert_eq!(room.for_demand(&apart(topology, rule)), expected, "{topology} {rule:?}");
        }
        let even = Room::of(&zones(&[("a", 1, 4000), ("b", 1, 2000)]));
        assert_eq!(even.for_demand(&apart(ZONE, skew(1))), 9, "four in b, five in a");
        let wide = apart(ZONE, SpreadRule::Skew { most: 1, places: 3 });
        assert_eq!(even.for_demand(&wide), 2, "with two zones of three the emptiest counts as empty");
    }

    #[test]
    fn nodes_that_are_not_tolerated_count_as_places_all_the_same() {
        let mut sketch = zones(&[("a", 1, 4000), ("b", 1, 4000)]);
        sketch.shapes[1].kind.taints = vec![Taint { key: "x".into(), effect: "NoSchedule".into(), ..Taint::default() }];
        assert_eq!(Room::of(&sketch).for_demand(&apart(ZONE, skew(2))), 2);
        let chosen = Demand { node_selector: [(ZONE.to_owned(), "a".to_owned())].into(), ..apart(ZONE, skew(2)) };
        assert_eq!(Room::of(&sketch).for_demand(&chosen), 8, "a node that is not chosen is no place");
    }

    #[test]
    fn what_runs_of_a_kind_takes_its_places() {
        let mut room = Room::of(&zones(&[("a", 3, 4000), ("b", 2, 4000)]));
        let web = apart(HOSTNAME_LABEL, SpreadRule::OnePer);
        room.take(&web, 2);
        assert_eq!((room.for_more(&web, 2), room.for_more(&web, 5)), (3, 0));
        assert_eq!(room.for_demand(&web), 3);
        assert_eq!(room.for_more(&cpu(500), 7), room.for_demand(&cpu(500)));
    }

    #[test]
    fn a_quota_bounds_its_namespace_alone() {
        let mut sketch = sketch(&[(4, 4000)]);
        let quota = Resources::of([(CPU, 1200), (PODS, 9)]);
        sketch.namespaces = [("shop".to_owned(), NamespaceRules { quota, ..NamespaceRules::default() })].into();
        let mut room = Room::of(&sketch);
        let shop = |milli| Demand { namespace: "shop".into(), ..cpu(milli) };
        assert_eq!((room.for_demand(&shop(500)), room.for_demand(&cpu(500))), (2, 32));
        assert_eq!(room.for_demand(&shop(100)), 9);
        assert_eq!(room.for_demand(&shop(0)), 0, "the member refuses pods that do not say what the quota bounds");
        assert_eq!(room.scarce(&shop(0)), "a quota of namespace shop bounds cpu, and the pods do not say theirs");
        room.take(&shop(500), 2);
        assert_eq!((room.for_demand(&shop(500)), room.for_demand(&shop(200))), (0, 1));
        assert_eq!(room.scarce(&shop(500)), "a quota of namespace shop leaves too little cpu");
        room.give_back(&shop(500), 1);
        assert_eq!(room.for_demand(&shop(500)), 1);
    }

    #[test]
    fn a_limit_range_says_what_a_container_leaves_unsaid() {
        let mut sketch = sketch(&[(1, 4000)]);
        let rules = NamespaceRules {
            defaults: Resources::of([(CPU, 250), ("limits.cpu", 1000)]),
            quota: Resources::of([("limits.cpu", 5000)]),
            ..NamespaceRules::default()
        };
        sketch.namespaces = [("shop".to_owned(), rules)].into();
        let room = Room::of(&sketch);
        let unsaid = Resources::of([(CPU, 2), ("limits.cpu", 2), (MEMORY, 2)]);
        let shop = Demand { namespace: "shop".into(), unsaid: unsaid.clone(), ..cpu(100) };
        assert_eq!(room.for_demand(&shop), 2, "600m each, and limits of 2000m each within 5000m");
        assert_eq!(room.for_demand(&Demand { unsaid, ..cpu(100) }), 40, "elsewhere nobody fills it in");
    }

    #[test]
    fn a_bound_volume_ties_its_pods_to_its_zone() {
        let mut sketch = zones(&[("a", 1, 4000), ("b", 1, 1000)]);
        let claims = [("data".to_owned(), vec!["b".to_owned()])].into();
        sketch.namespaces = [("shop".to_owned(), NamespaceRules { claims, ..NamespaceRules::default() })].into();
        let room = Room::of(&sketch);
        let shop = |claim: &str| Demand { namespace: "shop".into(), claims: vec![claim.into()], ..cpu(500) };
        assert_eq!((room.for_demand(&shop("data")), room.for_demand(&shop("other"))), (2, 10));
    }

    #[test]
    fn what_is_decided_is_not_crowded_out_by_what_is_promised_after_it() {
        let mut room = room(&[(1, 200), (1, 100)]);
        room.take(&cpu(200), 1);
        assert_eq!(room.for_demand(&cpu(100)), 0, "it might land where only the other one fits");
        assert!(room.scarce(&cpu(100)).contains("not seen there yet"));
        room.take(&cpu(400), 1);
        assert_eq!(room.for_demand(&cpu(100)), 0);
    }

    #[test]
    fn what_fits_nowhere_keeps_nobody_else_out() {
        let mut room = room(&[(4, 1000)]);
        room.take(&cpu(2000), 1);
        assert_eq!((room.for_demand(&cpu(100)), room.for_demand(&cpu(1000))), (20, 2), "but from what it holds");
    }

    /// The member's scheduler, at its worst: any order, any node that fits.
    fn schedule(nodes: &mut [i64], mut pods: Vec<i64>, numbers: &mut impl FnMut(usize) -> usize) -> usize {
        let mut waiting = 0;
        while !pods.is_empty() {
            let pod = pods.swap_remove(numbers(pods.len()));
            let fitting: Vec<usize> = (0..nodes.len()).filter(|&node| nodes[node] >= pod).collect();
            match fitting.is_empty() {
                true => waiting += 1,
                false => nodes[fitting[numbers(fitting.len())]] -= pod,
            }
        }
        waiting
    }

    /// Cores and memory, in small numbers.
    type Amounts = [i64; 2];

    fn small(amounts: Amounts) -> Demand {
        Demand { requests: Resources::of([(CPU, amounts[0]), (MEMORY, amounts[1])]), ..Demand::default() }
    }

    /// Whether any order and any choice of nodes leaves a pod without one; `pods` are sizes and how many of each.
    fn strands(nodes: Vec<Amounts>, pods: &[(Amounts, u32)], seen: &mut BTreeSet<(Vec<Amounts>, Vec<u32>)>) -> bool {
        let state = (nodes.clone(), pods.iter().map(|(_, left)| *left).collect());
        if !seen.insert(state) {
            return false;
        }
        (0..pods.len()).filter(|&next| pods[next].1 > 0).any(|next| {
            let size = pods[next].0;
            let fits = |node: &Amounts| (0..2).all(|resource| node[resource] >= size[resource]);
            let fitting: Vec<usize> = (0..nodes.len()).filter(|&node| fits(&nodes[node])).collect();
            fitting.is_empty()
                || fitting.into_iter().any(|node| {
                    let (mut nodes, mut pods) = (nodes.clone(), pods.to_vec());
                    nodes[node] = std::array::from_fn(|resource| nodes[node][resource] - size[resource]);
                    nodes.sort_unstable();
                    pods[next].1 -= 1;
                    strands(nodes, &pods, seen)
                })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// The member at its very worst: every order and every choice of nodes is tried.
        #[test]
        fn rule_06_no_order_of_the_member_strands_what_is_promised(
            nodes in prop::collection::vec([0i64..9, 0i64..9], 1..4),
            asked in prop::collection::vec(([1i64..6, 0i64..6], 1u32..5), 1..4),
        ) {
            let shape = |&[cpu, memory]: &Amounts| {
                let free = Resources::of([(CPU, cpu), (MEMORY, memory), (PODS, 110)]);
                Shape { count: 1, free, ..Shape::default() }
            };
            let mut room = Room::of(&Sketch { shapes: nodes.iter().map(shape).collect(), ..Sketch::default() });
            let mut promised = Vec::new();
            for (size, wanted) in asked {
                let given = wanted.min(room.for_demand(&small(size)));
                room.take(&small(size), given);
                promised.push((size, given));
            }
            prop_assert!(!strands(nodes, &promised, &mut BTreeSet::new()), "{:?}", promised);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_free_that_is_taken(
            shapes in prop::collection::vec((0u32..5, 0i64..5000), 0..5),
            takes in prop::collection::vec((1i64..3000, 0u32..20), 0..8),
        ) {
            let mut room = room(&shapes);
            let free = room.free(CPU);
            let taken: i64 = takes.iter().map(|&(milli, replicas)| milli * i64::from(replicas)).sum();
            for &(milli, replicas) in &takes {
                room.take(&cpu(milli), replicas);
            }
            prop_assert_eq!(room.free(CPU), (free - taken).max(0));
            for &(milli, replicas) in &takes {
                room.give_back(&cpu(milli), replicas);
            }
            prop_assert!(room.free(CPU) <= free);
        }

        #[test]
        fn a_taken_replica_is_never_promised_again(
            shapes in prop::collection::vec((0u32..5, 0i64..5000), 0..5),
            milli in 1i64..3000,
            takes in prop::collection::vec(0u32..20, 0..8),
            asked in 1i64..3000,
        ) {
            let mut room = room(&shapes);
            for replicas in takes {
                let before = room.for_demand(&cpu(milli));
                let free = room.free(CPU);
                room.take(&cpu(milli), replicas);
                prop_assert_eq!(room.for_demand(&cpu(milli)), before.saturating_sub(replicas));
                prop_assert_eq!(free - room.free(CPU), (milli * i64::from(replicas)).min(free));
                prop_assert!(i64::from(room.for_demand(&cpu(asked))) * asked <= room.free(CPU));
            }
        }

        #[test]
        fn whatever_is_promised_finds_a_node_however_the_member_places_it(
            nodes in prop::collection::vec(0i64..2000, 1..6),
            sizes in prop::collection::vec(1i64..12, 1..30),
            wanted in prop::collection::vec(1u32..6, 30),
            seed: u64,
        ) {
            let shapes: Vec<(u32, i64)> = nodes.iter().map(|&milli| (1, milli)).collect();
            let mut room = room(&shapes);
            let mut pods = Vec::new();
            for (size, &wanted) in sizes.iter().map(|size| size * 50).zip(&wanted) {
                let given = wanted.min(room.for_demand(&cpu(size)));
                room.take(&cpu(size), given);
                pods.extend(std::iter::repeat_n(size, given as usize));
            }
            let mut state = seed;
            let mut numbers = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            for _ in 0..20 {
                prop_assert_eq!(schedule(&mut nodes.clone(), pods.clone(), &mut numbers), 0, "{:?}", pods);
            }
        }
    }
}
