//! Rollup: what was decided and what was reported → `status` of the Application, in OAM's shape.
//!
//! Owns: the phase, the conditions and the words of a status. Must never: read unknown as healthy or as gone, or change
//! a byte when no fact changed (rule 13).

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use self::service::Service;
use crate::model::{
    Application, Conditions, FieldError, Now, ObjectName, Placement, Report, Uid,
    condition::{Condition, Truth},
    placement::{Claim, Move, Row, Share, Victim},
    report::ObjectState,
    revision::Revision,
};

mod service;
#[cfg(test)]
mod tests;

/// Services listed in a status; the Work views hold all.
pub const SERVICES_MAX: usize = 500;
/// Applied resources, placement rows and refusals listed in a status, each.
pub const LISTED_MAX: usize = 500;
/// Terms spelled out in a sum.
const TERMS_MAX: usize = 20;

#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub application: &'a Application,
    /// The stored `status`, for the transition times of its conditions.
    pub previous: &'a Value,
    /// The newest revision, and its name.
    pub revision: Option<(&'a str, &'a Revision)>,
    pub placement: Option<&'a Placement>,
    pub reports: &'a BTreeMap<Uid, Arc<Report>>,
    /// Whether the agent of a cluster is heard of; a cluster that is missing here is gone.
    pub clusters: &'a BTreeMap<Uid, Truth>,
    /// Why the newest spec could not be rendered; empty where it was.
    pub faults: &'a [FieldError],
    /// Why the placement was decided without what a plug-in says.
    pub plugin: Option<&'a str>,
    /// A priority class that it names, and that is not there.
    pub class: Option<&'a str>,
    /// Removals that wait for a person's yes, in words, by cluster name.
    pub held: &'a BTreeMap<String, String>,
}

/// The whole of `status`; equal facts give equal bytes.
pub fn status(now: Now, facts: &Facts<'_>) -> Value {
    let services = service::services(facts);
    let progress = Progress::of(facts, &services);
    let healthy = services.iter().filter(|service| service.healthy).count();
    let shown: Vec<Value> = services.iter().take(SERVICES_MAX).map(Service::json).collect();
    let mut status = json!({
        "status": progress.phase(),
        "observedGeneration": facts.application.metadata.generation,
        "conditions": conditions(now, facts, &progress),
        "services": shown,
        "serviceCounts": {"total": services.len(), "healthy": healthy},
        "appliedResources": applied_resources(facts),
    });
    if let Some((name, revision)) = facts.revision {
        status["latestRevision"] =
            json!({"name": name, "revision": revision.number, "revisionHash": revision.spec_digest.short()});
    }
    if let Some(placement) = facts.placement {
        status["placement"] = placement_json(facts, placement);
    }
    status
}

/// Where the Application stands, counted once for phase and conditions.
struct Progress<'a> {
    facts: &'a Facts<'a>,
    services: usize,
    healthy: usize,
    /// Services whose cluster has not done what the newest generation says.
    behind: usize,
    /// Services of clusters that are not heard of.
    unknown: usize,
    /// The first thing that is wrong, in words.
    trouble: Option<String>,
    broken: bool,
    removing: Vec<&'a str>,
    /// Of those, where removals wait because not all that comes before them is applied.
    delayed: Vec<&'a str>,
}

impl<'a> Progress<'a> {
    fn of(facts: &'a Facts<'a>, services: &[Service<'_>]) -> Self {
        let rows = facts.placement.map(|placement| placement.rows.as_slice()).unwrap_or_default();
        let delayed = |row: &&Row| {
            let report = facts.reports.get(&row.cluster).filter(|report| report.generation == row.generation);
            !row.removals.is_empty() && report.is_some_and(|report| !report.applied)
        };
        let worst = services.iter().find(|service| !service.healthy);
        Self {
            facts,
            services: services.len(),
            healthy: services.iter().filter(|service| service.healthy).count(),
            behind: services.iter().filter(|service| service.behind).count(),
            unknown: services.iter().filter(|service| service.unknown).count(),
            trouble: worst.map(|worst| format!("{} in {}: {}", worst.component, worst.cluster, worst.message)),
            broken: services.iter().any(|service| service.broken),
            removing: rows.iter().filter(|row| !row.removals.is_empty()).map(|row| row.cluster_name.as_str()).collect(),
            delayed: rows.iter().filter(delayed).map(|row| row.cluster_name.as_str()).collect(),
        }
    }

    fn deleting(&self) -> bool {
        self.facts.application.metadata.deletion_timestamp.is_some()
    }

    fn unplaced(&self) -> Option<String> {
        let unplaced = &self.facts.placement?.unplaced;
        let sentences: Vec<_> = unplaced.iter().map(|(component, what)| format!("{component}: {what}")).collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }

    /// KubeVela's words.
    fn phase(&self) -> &'static str {
        match () {
            () if self.deleting() => "deleting",
            () if !self.facts.faults.is_empty() => "rendering",
            () if self.facts.placement.is_none() => "starting",
            () if self.broken || self.unknown > 0 => "unhealthy",
            () if self.unplaced().is_some() || self.behind > 0 || self.healthy < self.services => "runningWorkflow",
            () => "running",
        }
    }

    fn ready(&self) -> (Truth, &'static str, String) {
        let counted = format!("{} of {} services are healthy", self.healthy, self.services);
        let told = || self.trouble.clone().map_or_else(|| counted.clone(), |trouble| format!("{counted}; {trouble}"));
        if self.deleting() {
            return (Truth::False, "Deleting", self.waiting());
        }
        if !self.facts.faults.is_empty() {
            return (Truth::False, "RenderFailed", join(self.facts.faults));
        }
        if let Some(unplaced) = self.unplaced() {
            return (Truth::False, "Unplaced", unplaced);
        }
        match self.facts.placement {
            None => (Truth::False, "Starting", String::new()),
            Some(_) if self.broken => (Truth::False, "Unhealthy", told()),
            Some(_) if self.healthy + self.unknown < self.services => (Truth::False, "Progressing", told()),
            Some(_) if self.unknown > 0 => (Truth::Unknown, "ClusterSilent", told()),
            Some(_) => (Truth::True, "Available", counted),
        }
    }

    /// What is kept where it leaves until what comes in its stead is healthy.
    fn handing_over(&self) -> Option<String> {
        let placement = self.facts.placement?;
        let known = placement.moves.first()?;
        let (from, to) = (name_of(placement, &known.from), name_of(placement, &known.to));
        let number = known.replicas.map(|replicas| format!("{replicas} of ")).unwrap_or_default();
        let more = match placement.moves.len() - 1 {
            0 => String::new(),
            more => format!("; and {more} more moves"),
        };
        Some(format!("{number}{} stay in {from} until they are healthy in {to}{more}", known.component))
    }

    fn waiting(&self) -> String {
        match self.removing.as_slice() {
            [] => "nothing is left to remove".into(),
            names => format!("waiting for {} to confirm the removals", first_of(names)),
        }
    }

    /// An agent applies first and removes last, so what cannot be applied holds the removals up.
    fn delay(&self) -> String {
        match self.delayed.as_slice() {
            [] => String::new(),
            names => format!("; until they are, nothing is removed in {}", first_of(names)),
        }
    }

    fn reconciling(&self) -> (Truth, &'static str, String) {
        if self.deleting() {
            return (Truth::True, "Deleting", self.waiting());
        }
        let removing = !self.removing.is_empty();
        match () {
            () if self.behind > 0 => {
                let message = format!("{} services are not applied yet{}", self.behind, self.delay());
                (Truth::True, "Applying", message)
            }
            () if removing => (Truth::True, "Removing", self.waiting()),
            () if self.handing_over().is_some() => {
                (Truth::True, "HandingOver", self.handing_over().unwrap_or_default())
            }
            () if self.healthy + self.unknown < self.services && !self.broken => {
                (Truth::True, "Progressing", self.trouble.clone().unwrap_or_default())
            }
            () => (Truth::False, "Settled", String::new()),
        }
    }

    fn stalled(&self) -> (Truth, &'static str, String) {
        match (self.facts.faults.is_empty(), self.unplaced()) {
            _ if self.deleting() => (Truth::False, "Moving", String::new()),
            (false, _) => (Truth::True, "RenderFailed", join(self.facts.faults)),
            (true, Some(unplaced)) => (Truth::True, "Unplaced", unplaced),
            (true, None) => (Truth::False, "Moving", String::new()),
        }
    }
}

fn conditions(now: Now, facts: &Facts<'_>, progress: &Progress<'_>) -> Conditions {
    let previous = facts.previous.get("conditions").cloned().unwrap_or(Value::Null);
    let mut conditions: Conditions = serde_json::from_value(previous).unwrap_or_default();
    let mut set = |type_: &str, (status, reason, message): (Truth, &str, String)| {
        conditions.set(Condition {
            type_: type_.to_owned(),
            status,
            reason: reason.to_owned(),
            message,
            last_transition_time: now.wall,
            observed_generation: Some(facts.application.metadata.generation),
        });
    };
    let rendered = facts.faults.is_empty();
    let revision = facts.revision.map(|(name, _)| name.to_owned());
    set("Parsed", (Truth::True, "Available", String::new()));
    set(
        "Render",
        match rendered {
            true => (Truth::True, "Available", String::new()),
            false => (Truth::False, "RenderFailed", join(facts.faults)),
        },
    );
    set(
        "Revision",
        match &revision {
            Some(name) => (Truth::True, "Available", name.clone()),
            None => (Truth::False, "NoRevision", String::new()),
        },
    );
    set(
        "Placed",
        match (facts.placement, progress.unplaced()) {
            (None, _) => (Truth::False, "NotDecided", String::new()),
            (Some(_), Some(unplaced)) => (Truth::False, "Unplaced", unplaced),
            (Some(placement), None) => (Truth::True, "Placed", sum(facts, placement)),
        },
    );
    set("Ready", progress.ready());
    set("Reconciling", progress.reconciling());
    set("Stalled", progress.stalled());
    if let Some(why) = facts.plugin {
        set("PluginFailed", (Truth::True, "NoAnswer", why.to_owned()));
    }
    if let Some(class) = facts.class {
        let what =
            format!("there is no priority class {class:?}: it waits behind those that name one, as if it named none");
        set("PriorityClassMissing", (Truth::True, "NotFound", what));
    }
    let making_room = facts.placement.and_then(making_room);
    if let Some(words) = &making_room {
        set("Preempting", (Truth::True, "MakingRoom", words.clone()));
    }
    let preempted = facts.placement.filter(|placement| !placement.preempted.is_empty());
    if let Some(placement) = preempted {
        let words: Vec<_> = placement.preempted.iter().map(|(name, words)| format!("{name}: {words}")).collect();
        set("Preempted", (Truth::True, "LowerPriority", words.join("; ")));
    }
    if !facts.held.is_empty() {
        let words: Vec<_> = facts.held.iter().map(|(cluster, words)| format!("{cluster}: {words}")).collect();
        set("RemovalsHeld", (Truth::True, "NotConfirmed", words.join("; ")));
    }
    // These are there only while they hold.
    conditions.0.retain(|condition| match condition.type_.as_str() {
        "PluginFailed" => facts.plugin.is_some(),
        "PriorityClassMissing" => facts.class.is_some(),
        "RemovalsHeld" => !facts.held.is_empty(),
        "Preempting" => making_room.is_some(),
        "Preempted" => preempted.is_some(),
        _ => true,
    });
    conditions
}

/// `2 of default/batch leave eu`: who makes room for what is missing.
pub fn making_room(placement: &Placement) -> Option<String> {
    let leaves = |claim: &Claim, victim: &Victim| match victim.replicas {
        Some(_) => format!("{} of {} leave {}", victim.leaves(), victim.application, claim.cluster_name),
        None => format!("{} of {} leaves {}", victim.component, victim.application, claim.cluster_name),
    };
    let each = |claim| move |victim| leaves(claim, victim);
    let mut all = placement.claims.iter().flat_map(|claim| claim.victims.iter().map(each(claim)));
    let words: Vec<String> = all.by_ref().take(TERMS_MAX).collect();
    let more = all.count();
    match (words.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(words.join(", ")),
        (false, more) => Some(format!("{}, and {more} more", words.join(", "))),
    }
}

fn claims(placement: &Placement) -> Vec<Value> {
    let victim = |victim: &Victim| {
        let ObjectName { namespace, name } = &victim.application;
        let mut told = json!({"namespace": namespace, "application": name, "component": victim.component});
        if let Some((had, keeps)) = victim.replicas {
            (told["replicas"], told["keeps"]) = (had.into(), keeps.into());
        }
        told
    };
    let claim = |claim: &Claim| json!({"cluster": claim.cluster_name, "victims": claim.victims.iter().map(victim).collect::<Vec<_>>()});
    placement.claims.iter().take(LISTED_MAX).map(claim).collect()
}

fn placement_json(facts: &Facts<'_>, placement: &Placement) -> Value {
    let line = |row: &Row, component: &str, share: &Share| {
        let mut line = json!({"cluster": row.cluster_name, "component": component, "reason": share.reason});
        if let Some(replicas) = share.replicas {
            line["replicas"] = replicas.into();
        }
        line
    };
    let rows = placement.rows.iter().flat_map(|row| row.components.iter().map(move |(name, share)| (row, name, share)));
    let rows: Vec<Value> = rows.take(LISTED_MAX).map(|(row, name, share)| line(row, name, share)).collect();
    let refusals = placement.refusals.iter().take(LISTED_MAX).map(|refusal| {
        json!({
            "cluster": refusal.cluster_name,
            "component": refusal.component,
            "reason": refusal.why.reason(),
            "message": refusal.why.to_string(),
        })
    });
    let mut told = json!({
        "decision": placement.decision,
        "sum": sum(facts, placement),
        "rows": rows,
        "refusals": refusals.collect::<Vec<_>>(),
        "unplaced": placement.unplaced,
    });
    if !placement.moves.is_empty() {
        told["moves"] = moves(placement).into();
    }
    if !placement.claims.is_empty() {
        told["claims"] = claims(placement).into();
    }
    if !placement.rebalanced.is_empty() {
        told["rebalanced"] = placement.rebalanced.clone().into();
    }
    told
}

fn moves(placement: &Placement) -> Vec<Value> {
    let line = |known: &Move| {
        let mut line = json!({
            "component": known.component,
            "from": name_of(placement, &known.from),
            "to": name_of(placement, &known.to),
        });
        if let Some(replicas) = known.replicas {
            line["replicas"] = replicas.into();
        }
        line
    };
    placement.moves.iter().take(LISTED_MAX).map(line).collect()
}

/// Both ends of a move have a row.
fn name_of<'p>(placement: &'p Placement, cluster: &'p Uid) -> &'p str {
    let row = placement.rows.iter().find(|row| row.cluster == *cluster);
    row.map_or(cluster.0.as_str(), |row| row.cluster_name.as_str())
}

/// `30 = 12 + 10 + 8`; several components are told apart by name, `api 2 = 2; web 9 = 3 + 4 + 2`.
fn sum(facts: &Facts<'_>, placement: &Placement) -> String {
    let names: Vec<&str> = facts.application.spec.components.iter().map(|component| component.name.as_str()).collect();
    let mut sums = Vec::new();
    for name in &names {
        // What is still where it leaves counts where it goes to.
        let leaving = |row: &Row| -> u32 {
            let from = placement.moves.iter().filter(|known| known.component == *name && known.from == row.cluster);
            from.filter_map(|known| known.replicas).sum()
        };
        let share = |row: &Row| {
            let (runs, leaving) = (row.components.get(*name)?.replicas?, leaving(row));
            (leaving == 0 || runs > leaving).then(|| runs.saturating_sub(leaving))
        };
        let terms: Vec<u32> = placement.rows.iter().filter_map(share).collect();
        if terms.is_empty() {
            continue;
        }
        let total: u64 = terms.iter().map(|&term| u64::from(term)).sum();
        let mut words: Vec<String> = terms.iter().take(TERMS_MAX).map(u32::to_string).collect();
        if terms.len() > TERMS_MAX {
            words.push(format!("… in {} clusters", terms.len()));
        }
        let label = if names.len() > 1 { format!("{name} ") } else { String::new() };
        sums.push(format!("{label}{total} = {}", words.join(" + ")));
    }
    sums.join("; ")
}

/// What is applied where, as far as the newest reports say.
fn applied_resources(facts: &Facts<'_>) -> Vec<Value> {
    let rows = facts.placement.map(|placement| placement.rows.as_slice()).unwrap_or_default();
    let reported = rows.iter().filter_map(|row| Some((row, facts.reports.get(&row.cluster)?)));
    let objects = reported.flat_map(|(row, report)| report.objects.iter().map(move |object| (row, object)));
    let applied = objects.filter(|(_, object)| matches!(object.state, ObjectState::Applied | ObjectState::Paused));
    let line = |(row, object): (&Row, &crate::model::report::ObjectReport)| {
        let (gvk, name) = (&object.object.gvk, &object.object.name);
        let mut line = json!({
            "cluster": row.cluster_name,
            "creator": "workflow",
            "apiVersion": gvk.api_version(),
            "kind": gvk.kind,
            "name": name.name,
        });
        if !name.namespace.is_empty() {
            line["namespace"] = name.namespace.as_str().into();
        }
        line
    };
    applied.take(LISTED_MAX).map(line).collect()
}

fn join(faults: &[FieldError]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn first_of(names: &[&str]) -> String {
    match names.len() {
        0..=5 => names.join(", "),
        more => format!("{} and {} more", names[..5].join(", "), more - 5),
    }
}
