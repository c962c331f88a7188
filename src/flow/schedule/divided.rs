//! Divided: a component's replicas as a total over the targets.
//!
//! Owns: the way from a component and the fleet to the small integer problem ([`super::integer`]) and back, with the
//! reasons.
//!
//! Only the difference to the previous answer is divided. More replicas go where the policy says; fewer are taken in the
//! same way; those of a cluster that leaves move. Where the difference does not fit, nothing new is placed and what runs
//! stays, because half a scale-up nobody asked for is worse than a clear no.
//!
//! Where a replica asks for something else than before, all of them are the difference: each cluster is looked at as if
//! what runs there were gone. What fits stays, the rest moves, and where not all fit the edit is outgrown.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    Cession, Placing, Room,
    explain::{No, Shortage, misfit},
    fleet::{Domains, Id},
    integer::{self, Answer, Count, Slot, Task, Verdict},
    policies::Group,
    rebalance::{Rebalance, Terms, rebalance},
    shortlist::Shortlist,
    solver::{Solver, makes_room},
    standing::{Limit, Standing, Standings},
    whole::nobody_fits,
};
use crate::model::{
    Demand,
    application::{Division, PlacementPolicy, SpreadConstraint},
    placement::Why,
    revision::{Beside, RenderedComponent},
};

/// What the policy asks of a component's division.
struct Ask<'a> {
    division: Division,
    constraints: &'a [SpreadConstraint],
    max_moves: Option<u32>,
    afresh: bool,
}

/// A slot, and what the integer problem does not need of its cluster.
struct Part {
    slot: Slot,
    standing: Standing,
    /// More than this do not fit as they are asked for now; no bound where that is as before.
    bound: u32,
    /// Why it is no slot like others, where it is not its standing.
    why: Option<Why>,
}

impl<'a> Solver<'a> {
    pub fn divided(&mut self, group: &Group<'a>, policy: &PlacementPolicy, placing: &Placing) {
        let (counted, others): (Vec<_>, Vec<_>) =
            group.components.iter().copied().partition(|component| component.replicas.is_some());
        for component in &counted {
            self.divide_one(component, policy, placing);
        }
        // What has no replicas to count (a ConfigMap, a Job) goes wherever the counted components of its group run.
        for component in others {
            let targets: Vec<Id> = match counted.is_empty() {
                true => self.open(placing).collect(),
                false => counted.iter().flat_map(|counted| self.holders(counted)).collect(),
            };
            for id in targets {
                self.give(id, component, None, || "where the divided components run".into());
            }
            if counted.is_empty() {
                for id in self.previous(component).keys().copied().collect::<Vec<_>>() {
                    if matches!(placing.of(id), Standing::Keeps(_)) {
                        self.keep(id, component);
                    }
                }
            }
            let otherwise = counted.first().map(|counted| Why::Together { component: counted.name.clone() });
            self.refuse(No::new(component, placing).otherwise(otherwise.unwrap_or(Why::NotNamed)));
        }
    }

    fn divide_one(&mut self, component: &'a RenderedComponent, policy: &PlacementPolicy, placing: &Placing) {
        let wanted = component.replicas.as_ref().map_or(0, |replicas| replicas.count);
        let demand = component.demand.clone().unwrap_or_default();
        let before = self.demand_before(component);
        let ask = Ask {
            division: policy.division,
            constraints: &policy.spread_constraints,
            max_moves: policy.max_moves,
            afresh: self.reweighs(component, policy),
        };
        let capacities = self.fleet.capacities(&demand);
        let domains: Vec<_> = ask.constraints.iter().map(|constraint| self.domains(constraint)).collect();

        // Those that hold something are looked at one by one, of the others those that matter.
        let mut parts: BTreeMap<Id, Part> = BTreeMap::new();
        for (id, had) in self.counts(component) {
            parts.insert(id, self.part(id, had, (component, &demand), before, placing, capacities[id as usize]));
        }
        // What runs beside it, each in a cluster of its own, no column tells of.
        let open = self.open(placing).filter(|_| !component.beside.is_empty());
        for id in self.taken_from().chain(placing.laid_over()).chain(open) {
            let part = || self.part(id, 0, (component, &demand), None, placing, capacities[id as usize]);
            parts.entry(id).or_insert_with(part);
        }
        let looked_at: Vec<Id> = parts.keys().copied().collect();
        let shortlist = Shortlist {
            standings: &placing.standings,
            capacities: &capacities,
            domains: &domains,
            looked_at: &looked_at,
            // At a total of zero somebody still gets the workload.
            needed: wanted.max(1),
            weighted: ask.division == Division::Weighted,
        };
        let listed = shortlist.list();
        let open = |slot: Slot| Part { slot, standing: Standing::Open, bound: u32::MAX, why: None };
        let mut parts: Vec<Part> = parts.into_values().chain(listed.slots.into_iter().map(open)).collect();
        parts.sort_unstable_by_key(|part| part.slot.id);
        for part in &mut parts {
            let id = part.slot.id as usize;
            ask.fit(part, &placing.standings, |number| domains[number].of.get(id).copied());
        }

        let slots: Vec<Slot> = parts.iter().map(|part| part.slot.clone()).collect();
        let ids: Vec<Id> = slots.iter().map(|slot| slot.id).collect();
        let counts: Vec<Count> =
            ask.constraints.iter().zip(&domains).map(|(asked, of)| count(asked, of, &ids)).collect();
        let task = Task {
            wanted,
            slots: &slots,
            beyond: listed.beyond,
            division: ask.division,
            counts: &counts,
            max_moves: ask.max_moves,
            afresh: ask.afresh,
        };
        let Answer { shares, verdict, left_out } = match integer::solve(&task) {
            Ok(answer) => answer,
            Err(broken) => {
                self.broke(component, broken);
                return;
            }
        };

        let had: Vec<u32> = slots.iter().map(|slot| slot.had).collect();
        let terms = self.terms(policy, wanted).filter(|_| verdict == Verdict::Placed && shares == had);
        let shares = terms.map_or(shares, |terms| rebalance(&task, &had, &terms));
        let rebalanced =
            slots.iter().zip(&shares).map(|(slot, &share)| u64::from(slot.had.saturating_sub(share))).sum();
        let rebalanced = terms.map_or(0, |_| rebalanced);
        self.count_rebalanced(rebalanced);

        let placed: u64 = shares.iter().map(|&share| u64::from(share)).sum();
        let runs = parts.iter().any(|part| part.slot.had > 0);
        let beyond = parts.iter().zip(&shares).any(|(part, &share)| share > part.bound);
        let shortage = Shortage { demand: demand.clone(), capacities: capacities.clone(), wanted, enough: 1 };
        if before.is_some() && runs && (placed < wanted.into() || beyond) {
            return self.outgrown(component, &demand, wanted, &parts, (placing, shortage));
        }
        let room = parts.iter().map(|part| u64::from(part.slot.room)).sum::<u64>().saturating_add(listed.beyond);
        self.tell_of_verdict(component, &task, (verdict, placed, room), placing);

        let had: u64 = parts.iter().map(|part| u64::from(part.slot.had)).sum();
        let figures = Figures { wanted, room, had, division: ask.division, rebalanced: rebalanced > 0 };
        let mut no = No::new(component, placing).without_room(shortage);
        for ((part, &share), left_out) in parts.iter().zip(&shares).zip(left_out) {
            let Part { slot, standing, .. } = part;
            // At a total of zero the holders keep the workload, scaled to nothing: it is still placed there.
            let stays = matches!(standing, Standing::Open | Standing::Keeps(_));
            let present = share > 0 || (wanted == 0 && stays && self.has(component, slot.id).is_some());
            if present {
                let cession = self.cession(slot.id, component).filter(|cession| share <= cession.keeps);
                self.give(slot.id, component, Some(share), || figures.reason(slot, share, cession));
            }
            self.settle_room(slot, share, (component, &demand), before);
            if present {
                continue;
            }
            let why = match (standing, &part.why) {
                (Standing::Keeps(why) | Standing::Leaves(why) | Standing::Gone(why), _) => Some(why.clone()),
                (Standing::Open, Some(why)) => Some(why.clone()),
                (Standing::Open, None) if slot.high() == 0 => {
                    Some(Why::NoRoom { room: 0, wanted, scarce: self.scarce(slot.id, &demand) })
                }
                (Standing::Open, None) if left_out && verdict == Verdict::Placed => Some(left_out_of(&ask)),
                (Standing::Open, None) => None,
            };
            if let Some(why) = why {
                no.explicit.insert(slot.id, why);
            }
        }
        let other = self.largest(&parts, &shares);
        let detail = match verdict {
            Verdict::Placed => format!("all {wanted} replicas are placed, and what runs stays"),
            Verdict::Short(fits) => format!("all {wanted} or nothing new, and only {fits} fit"),
            Verdict::Stuck(stay) => format!("{stay} of {wanted} replicas fit nowhere else"),
            Verdict::Unspreadable => "nothing new is placed until the spread can be kept".into(),
            Verdict::Moves(moves) => format!("{moves} replicas would have to move"),
        };
        for (asked, of) in ask.constraints.iter().zip(&domains).filter(|(asked, _)| asked.by != "cluster") {
            no.unlabelled.push((of.clone(), lacks_label(asked)));
        }
        if ask.division == Division::Weighted {
            no.unweighted = true;
        }
        let verdict_is_no = verdict != Verdict::Placed;
        self.refuse(no.otherwise(Why::OutScored { other, detail }));
        if wanted == 0 && self.holders(component).is_empty() && !verdict_is_no {
            self.place_nothing(component, &parts, placing);
        }
    }

    /// `before` is what each replica that runs asks for, where that is another demand.
    fn part(
        &self,
        id: Id,
        had: u32,
        (component, demand): (&RenderedComponent, &Demand),
        before: Option<&Demand>,
        placing: &Placing,
        capacity: u32,
    ) -> Part {
        let standing = placing.of(id).clone();
        let is_open = standing == Standing::Open;
        // The column is for clusters from which nothing was taken and where none of its kind run.
        let capacity = match had > 0 || self.is_taken_from(id) || !component.beside.is_empty() {
            true => self.room_beside(id, component).map_or(0, |room| room.for_more(demand, had)),
            false => capacity,
        };
        let (mut stays, mut bound) = (had, u32::MAX);
        let room = match before {
            None => {
                if is_open {
                    capacity
                } else {
                    0
                }
            }
            Some(before) => {
                let emptied = self.room_beside(id, component).map(|room| {
                    let mut room = room.into_owned();
                    room.give_back(before, had);
                    room
                });
                let fits = emptied.map_or(0, |room| room.for_demand(demand));
                // What shrinks fits where it is, whatever is known of the rest.
                let alike = self.beside_before(component).is_none_or(|runs| runs == component.beside);
                bound = if alike && is_within(demand, before) { fits.max(had) } else { fits };
                stays = if is_open { had.min(bound) } else { had };
                if is_open { bound - stays } else { 0 }
            }
        };
        let might = match standing {
            Standing::Open | Standing::Keeps(_) => stays,
            Standing::Leaves(_) => had,
            Standing::Gone(_) => 0,
        };
        if matches!(standing, Standing::Leaves(_) | Standing::Gone(_)) {
            stays = 0;
        }
        let keeps = self.cession(id, component).map_or(u32::MAX, |cession| cession.keeps);
        let slot = Slot {
            id,
            had,
            stays: stays.min(keeps),
            might: might.min(keeps),
            room,
            weight: placing.standings.weight(id),
            tier: placing.standings.tier(id),
            min: 0,
            pinned: matches!(standing, Standing::Keeps(_)),
            leaves: matches!(standing, Standing::Leaves(_)),
        };
        Part { slot, standing, bound, why: None }
    }

    /// What is left for the replicas of a component beside its other pods, which come with the first of them. `None` where
    /// those have no room.
    fn room_beside(&self, id: Id, component: &RenderedComponent) -> Option<Cow<'_, Room>> {
        let room = self.room(id)?;
        let runs: &[Beside] = match self.has(component, id) {
            Some(_) => self.beside_before(component).unwrap_or(&component.beside),
            None => &[],
        };
        if runs == component.beside {
            return Some(Cow::Borrowed(room));
        }
        let mut emptied = room.clone();
        runs.iter().for_each(|beside| emptied.give_back(&beside.demand, beside.count));
        let pods = component.beside.iter().map(|beside| (component.name.as_str(), &beside.demand, beside.count));
        misfit(pods, &emptied).ok().map(Cow::Owned)
    }

    /// Takes what is new off the rooms of this decision.
    fn settle_room(
        &mut self,
        slot: &Slot,
        share: u32,
        (component, demand): (&RenderedComponent, &Demand),
        before: Option<&Demand>,
    ) {
        let more = share.saturating_sub(slot.had);
        if !self.counts_on || !(more > 0 || before.is_some_and(|_| slot.had > 0)) {
            return;
        }
        let room = if share > 0 { self.room_beside(slot.id, component) } else { self.room(slot.id).map(Cow::Borrowed) };
        let Some(mut left) = room.map(Cow::into_owned) else { return };
        match before {
            Some(before) => {
                left.give_back(before, slot.had);
                left.take(demand, share);
            }
            None => left.take(demand, more),
        }
        self.take(slot.id, left);
    }

    fn tell_of_verdict(
        &mut self,
        component: &RenderedComponent,
        task: &Task<'_>,
        (verdict, placed, room): (Verdict, u64, u64),
        placing: &Placing,
    ) {
        let wanted = task.wanted;
        let what = match verdict {
            Verdict::Placed => return,
            Verdict::Short(0) if room == 0 => nobody_fits(self.fleet.len(), self.tally(placing)),
            Verdict::Short(fits) => {
                format!("room for {fits} of {wanted} replicas; {placed} run, nothing new is placed until all fit")
            }
            Verdict::Stuck(stay) => {
                format!("{stay} of {wanted} replicas fit nowhere else, and stay in clusters that they are to leave")
            }
            Verdict::Unspreadable => format!(
                "no choice of clusters keeps the spread with {wanted} replicas; {placed} run, nothing new is placed until \
                 one does"
            ),
            Verdict::Moves(moves) => format!(
                "{moves} replicas would have to move, and the policy lets {} at once; {placed} run",
                task.max_moves.unwrap_or_default()
            ),
        };
        self.lack(component, what);
    }

    /// As they are asked for now the replicas fit nowhere; every cluster says how many it could take.
    fn outgrown(
        &mut self,
        component: &'a RenderedComponent,
        demand: &Demand,
        wanted: u32,
        parts: &[Part],
        (placing, shortage): (&Placing, Shortage),
    ) {
        let stays = |part: &&Part| matches!(part.standing, Standing::Open | Standing::Keeps(_));
        let fits = |part: &Part| part.slot.high().min(part.bound);
        let in_parts = parts.iter().filter(stays).map(|part| u64::from(fits(part))).sum::<u64>();
        let beyond = self.open(placing).filter(|id| parts.binary_search_by_key(id, |part| part.slot.id).is_err());
        let elsewhere = beyond.map(|id| u64::from(shortage.capacities[id as usize])).sum::<u64>();
        let all = in_parts.saturating_add(elsewhere);
        self.outgrow(
            component,
            format!(
                "room for {all} of {wanted} replicas as they are asked for now; the revision that runs goes on until all fit"
            ),
        );
        // Every cluster tells its room, also one that has some.
        let mut no = No::new(component, placing).without_room(Shortage { enough: u32::MAX, ..shortage });
        for part in parts.iter().filter(|part| part.standing == Standing::Open) {
            let scarce = self.scarce(part.slot.id, demand);
            no.explicit.insert(part.slot.id, Why::NoRoom { room: fits(part), wanted, scarce });
        }
        self.refuse(no);
    }

    /// A total of zero on first placement: the cluster with most room gets the workload without replicas.
    fn place_nothing(&mut self, component: &RenderedComponent, parts: &[Part], placing: &Placing) {
        let open = parts.iter().filter(|part| part.standing == Standing::Open);
        let best = |part: &&Part| {
            // As the shortlist ranks them: by weight, where there are weights.
            let weight = placing.standings.weight(part.slot.id);
            let room = if weight > 0 { 0 } else { part.slot.room };
            (std::cmp::Reverse(weight), std::cmp::Reverse(room), part.slot.id)
        };
        let roomiest = open.min_by_key(best).map(|part| part.slot.id);
        match roomiest.or_else(|| self.open(placing).next()) {
            Some(id) => self.give(id, component, Some(0), || "0 of 0: most room".into()),
            None => self.lack(component, "no cluster can take it".into()),
        }
    }

    fn largest(&self, parts: &[Part], shares: &[u32]) -> String {
        let most = parts.iter().zip(shares).filter(|&(_, &share)| share > 0);
        let most = most.min_by_key(|&(part, &share)| (std::cmp::Reverse(share), part.slot.id));
        most.map_or_else(|| "nobody".to_owned(), |(part, _)| self.fleet.at(part.slot.id).name.clone())
    }

    /// Whether the weights are others than those of what runs.
    fn reweighs(&self, component: &RenderedComponent, policy: &PlacementPolicy) -> bool {
        let Some(running) = self.problem.running else { return false };
        let names = |known: &PlacementPolicy| known.components.is_empty() || known.components.contains(&component.name);
        let mut known = running.policies.iter().filter(|known| known.type_ == "placement");
        let before = known
            .find_map(|known| serde_json::from_value::<PlacementPolicy>(known.properties.clone()).ok().filter(names));
        policy.division == Division::Weighted
            && before.is_none_or(|before| (before.division, &before.weights) != (policy.division, &policy.weights))
    }

    /// What may move though it could stay; absent where nothing is asked for.
    fn terms(&self, policy: &PlacementPolicy, wanted: u32) -> Option<Terms> {
        let said = policy.rebalance.as_ref();
        let asked = match self.problem.rebalance {
            Rebalance::No => false,
            Rebalance::Periodic => said.is_some_and(|said| said.period_seconds.is_some()),
            Rebalance::Asked | Rebalance::Whole => true,
        };
        let whole = self.problem.rebalance == Rebalance::Whole;
        asked.then(|| Terms::new(said.and_then(|said| said.cost), policy.max_moves, wanted, whole))
    }

    pub fn domains(&mut self, constraint: &SpreadConstraint) -> std::sync::Arc<Domains> {
        match constraint.by.as_str() {
            "cluster" => Default::default(),
            by => self.fleet.domains(by),
        }
    }
}

impl Ask<'_> {
    /// Fits a part into what the policy allows in its cluster.
    fn fit(&self, part: &mut Part, standings: &Standings, domain: impl Fn(usize) -> Option<u32>) {
        let Limit { min, max } = standings.limit(part.slot.id);
        let slot = &mut part.slot;
        slot.stays = slot.stays.min(max);
        slot.room = slot.room.min(max - slot.stays);
        if part.standing != Standing::Open {
            return;
        }
        let lacks = |(number, constraint): (usize, &SpreadConstraint)| {
            let none = constraint.by != "cluster" && domain(number).is_none_or(|of| of == Domains::NONE);
            none.then(|| lacks_label(constraint))
        };
        part.why = if self.division == Division::Weighted && slot.weight == 0 {
            Some(Why::NoWeight)
        } else if slot.high() < min {
            Some(Why::BelowMinimum { room: slot.high(), min })
        } else {
            self.constraints.iter().enumerate().find_map(lacks)
        };
        if part.why.is_some() {
            (slot.stays, slot.room, slot.leaves) = (0, 0, true);
        } else {
            slot.min = min;
        }
    }
}

pub fn lacks_label(constraint: &SpreadConstraint) -> Why {
    Why::Spread { by: constraint.by.clone(), detail: "it does not say where it is".into() }
}

fn left_out_of(ask: &Ask<'_>) -> Why {
    match ask.constraints.is_empty() {
        true => Why::Spread { by: "minimums".into(), detail: "others take the replicas with theirs".into() },
        false => spread_out(ask.constraints, "others were chosen"),
    }
}

pub fn spread_out(constraints: &[SpreadConstraint], detail: &str) -> Why {
    let by: Vec<&str> = constraints.iter().map(|constraint| constraint.by.as_str()).collect();
    Why::Spread { by: by.join(" and "), detail: detail.to_owned() }
}

/// A constraint, and which groups these clusters are in.
pub fn count(asked: &SpreadConstraint, of: &Domains, ids: &[Id]) -> Count {
    let by_cluster = asked.by == "cluster";
    Count {
        of: if by_cluster { Vec::new() } else { ids.iter().map(|&id| of.of[id as usize]).collect() },
        min: asked.min_groups.unwrap_or(0),
        max: asked.max_groups.unwrap_or(u32::MAX),
        skew: asked.max_skew,
    }
}

/// Whether one demand asks for no more than the other, and for no other nodes.
fn is_within(demand: &Demand, other: &Demand) -> bool {
    let requests = &demand.requests.0;
    requests.iter().all(|(name, &amount)| amount <= other.requests.get(name))
        && (&demand.node_selector, &demand.tolerations) == (&other.node_selector, &other.tolerations)
}

/// What the reasons quote.
struct Figures {
    wanted: u32,
    had: u64,
    room: u64,
    division: Division,
    rebalanced: bool,
}

impl Figures {
    fn reason(&self, slot: &Slot, share: u32, cession: Option<&Cession>) -> String {
        let Self { wanted, had, room, .. } = self;
        let how = || match self.division {
            Division::FreeCapacity => format!("by free capacity, {} of {room}", slot.room),
            Division::Weighted => format!("by weight {}", slot.weight),
            Division::Aggregated => format!("in as few clusters as may be, room for {}", slot.high()),
        };
        match (slot.had, share) {
            (before, share)
                if share < before
                    && let Some(Cession { by, .. }) = cession =>
            {
                format!("{share} of {wanted}, down from {before}: {}", makes_room(by))
            }
            (0, share) if self.rebalanced => format!("{share} of {wanted} by a rebalance {}", how()),
            (before, share) if self.rebalanced && share != before => {
                let way = if share > before { "up" } else { "down" };
                format!("{share} of {wanted}, {way} from {before} by a rebalance {}", how())
            }
            (0, share) => format!("{share} of {wanted} {}", how()),
            (before, share) if share > before => {
                format!("{share} of {wanted}, up from {before}: {} more {}", share - before, how())
            }
            (before, share) if share < before && u64::from(*wanted) < *had => {
                format!("{share} of {wanted}, down from {before}: the total went from {had} to {wanted}")
            }
            (before, share) if share < before && share == slot.high() => {
                format!("{share} of {wanted}, down from {before}: no more fit as they are asked for now")
            }
            (before, share) if share < before => {
                format!("{share} of {wanted}, down from {before}: the policy has the rest elsewhere")
            }
            (_, share) => format!("{share} of {wanted}"),
        }
    }
}
