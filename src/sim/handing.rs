//! Rule 3, for what is handed over from one cluster to another: an old part goes when as much of the new is, or was, ready.
//!
//! Owns: what is remembered to tell it: the moves that placements tell of, and how many replicas members had ready since
//! those began. Read from what was stored and from the members themselves, never from what an agent says of one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::world::Site;
use crate::model::{GroupVersionKind, ObjectName, ObjectRef, Uid};

/// One end of a move: cluster, Application, component.
type End = (Uid, Uid, String);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    component: String,
    from: Uid,
    to: Uid,
    replicas: u32,
}

/// Replicas ready in a member, since something is to come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ready {
    most: u32,
    least: u32,
}

#[derive(Debug, Default)]
pub struct Handing {
    /// By Application: before its placement was written last, and after.
    told: BTreeMap<Uid, [Vec<Way>; 2]>,
    /// (Application, component) that made room for others: that does not wait for ever.
    preempted: BTreeSet<(Uid, String)>,
    ends: BTreeMap<End, Ready>,
    /// When a person last wrote an Application: what falls then may be what nobody wants any more.
    changed_ms: BTreeMap<Uid, u64>,
}

/// A replica fewer: of which object's component, where.
#[derive(Debug)]
pub struct Fall {
    pub cluster: Uid,
    pub application: Uid,
    pub component: String,
    pub before: u32,
    pub after: u32,
}

impl Handing {
    pub fn person_changed(&mut self, now_ms: u64, application: Uid) {
        self.changed_ms.insert(application, now_ms);
    }

    /// An Application's placement was written.
    pub fn told(&mut self, application: &Uid, before: Option<&Value>, after: Option<&Value>, sites: &[Site]) {
        let told = [ways(before), ways(after)];
        let ends: BTreeSet<End> = told
            .iter()
            .flatten()
            .flat_map(|way| [&way.from, &way.to].map(|end| (end.clone(), application.clone(), way.component.clone())))
            .collect();
        self.ends.retain(|end, _| end.1 != *application || ends.contains(end));
        for end in ends {
            let ready = ready_in(sites.iter().find(|site| site.cluster == end.0), &end);
            self.ends.entry(end).or_insert(Ready { most: ready, least: ready });
        }
        self.told.insert(application.clone(), told);
        let components = after.into_iter().flat_map(|head| head["preempted"].as_object().into_iter().flatten());
        self.preempted.extend(components.map(|(component, _)| (application.clone(), component.clone())));
    }

    /// Something changed in a member.
    pub fn seen(&mut self, site: &Site) {
        for (end, known) in self.ends.iter_mut().filter(|(end, _)| end.0 == site.cluster) {
            let ready = ready_in(Some(site), end);
            *known = Ready { most: known.most.max(ready), least: known.least.min(ready) };
        }
    }

    /// What is wrong with a fall, where a move is its reason; `decided` says what a cluster has of the component.
    pub fn fault(&self, now_ms: u64, fall: &Fall, decided: impl Fn(&Uid) -> u32) -> Option<String> {
        let Fall { cluster, application, component, before, after } = fall;
        let changed_ms = self.changed_ms.get(application).copied();
        if changed_ms.is_some_and(|at_ms| now_ms <= at_ms + super::check::INTENT_MS) {
            return None;
        }
        if self.preempted.contains(&(application.clone(), component.clone())) {
            return None;
        }
        let [told, now] = self.told.get(application)?;
        let end = |cluster: &Uid| (cluster.clone(), application.clone(), component.clone());
        let of = |ways: &'_ [Way], holds: &dyn Fn(&Way) -> bool| -> u32 {
            ways.iter().filter(|way| way.component == *component && holds(way)).map(|way| way.replicas).sum()
        };
        let leaving = of(told, &|way| way.from == *cluster);
        // What came there in the stead of others goes when those others stay, or go elsewhere.
        if leaving == 0 || of(told, &|way| way.to == *cluster) > 0 || of(now, &|way| way.to == *cluster) > 0 {
            return None;
        }
        // Nothing healthy is lost with it.
        if self.ends.get(&end(cluster)).is_none_or(|ready| ready.least == 0) {
            return None;
        }
        let places: BTreeSet<&Uid> =
            told.iter().filter(|way| way.component == *component && way.from == *cluster).map(|way| &way.to).collect();
        let come = |place: &&Uid| {
            let old = decided(place).saturating_sub(of(told, &|way| way.to == **place));
            self.ends.get(&end(place)).map_or(0, |ready| ready.most.saturating_sub(old))
        };
        let ready: u32 = places.iter().map(come).sum();
        let places: Vec<&str> = places.iter().map(|place| place.0.as_str()).collect();
        (ready < before - after).then(|| {
            format!(
                "{component} in {cluster} fell from {before} to {after}, and in {} only {ready} of what comes in their stead were \
                 ever ready",
                places.join(", ")
            )
        })
    }
}

fn ways(head: Option<&Value>) -> Vec<Way> {
    let text = |known: &Value, field: &str| known[field].as_str().unwrap_or_default().to_owned();
    let known = head.into_iter().flat_map(|head| head["moves"].as_array().into_iter().flatten());
    let counted = known.filter_map(|known| {
        Some(Way {
            component: text(known, "component"),
            from: Uid(text(known, "from")),
            to: Uid(text(known, "to")),
            replicas: u32::try_from(known["replicas"].as_u64()?).ok()?,
        })
    });
    counted.collect()
}

fn ready_in(site: Option<&Site>, (_, application, component): &End) -> u32 {
    let gvk = GroupVersionKind::new("apps", "v1", "Deployment");
    let object = ObjectRef { gvk, name: ObjectName::new("default", component) };
    let member = site.map(|site| &site.member).filter(|member| member.owner(&object) == Some(&application.0));
    let live = member.and_then(|member| member.get(&object)).unwrap_or_default();
    live["status"]["readyReplicas"].as_u64().unwrap_or(0) as u32
}
