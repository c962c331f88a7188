//! Live → report: what an agent says of a work.
//!
//! Owns: health in four words, the counts of replicas, and why something does not run, in the member's words. Must
//! never: read what was not observed as healthy or as gone.

use crate::model::{
    ObjectRef, Report, Resources, Uid, Work,
    quantity::PODS,
    report::{ComponentReport, Health, ObjectReport, ObjectState, Refused, ReplicaCount, WorkloadReport},
};

pub mod facts;
mod health;

pub use health::observe;

/// What one live object says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub health: Health,
    /// A stable CamelCase word where it is not healthy.
    pub reason: String,
    pub message: String,
    /// Of workloads that have some; `bound` is not theirs to say.
    pub replicas: Option<ReplicaCount>,
}

impl Default for Observed {
    fn default() -> Self {
        Self { health: Health::Unknown, reason: String::new(), message: String::new(), replicas: None }
    }
}

/// The pods of one workload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pods {
    pub bound: u32,
    /// What those ask for together.
    pub held: Resources,
    /// Of the first pod in trouble.
    pub trouble: Option<String>,
    /// An autoscaler of the member says how many there are.
    pub scaled: bool,
}

/// One object of a work as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing<'a> {
    pub object: &'a ObjectRef,
    /// Empty for a removal.
    pub component: &'a str,
    pub uid: Option<&'a Uid>,
    pub state: ObjectState,
    /// Why the state is not `Applied`: a stable word and the member's, or our, sentence.
    pub obstacle: Option<(&'a str, &'a str)>,
    /// Absent while it was not observed.
    pub observed: Option<&'a Observed>,
    pub pods: Pods,
}

/// Sums a work up. `standings` are its manifests in order, then the removals that are not done.
pub fn report(work: &Work, standings: &[Standing<'_>], removed: &[ObjectRef], refused: Option<Refused>) -> Report {
    let manifests = || standings.iter().filter(|standing| !standing.component.is_empty());
    let mut components: Vec<ComponentReport> = Vec::new();
    for standing in manifests() {
        if components.iter().all(|component| component.name != standing.component) {
            let of_it: Vec<_> = manifests().filter(|other| other.component == standing.component).collect();
            components.push(component(standing.component, &of_it));
        }
    }
    Report {
        application: work.application_uid.clone(),
        cluster: work.cluster.clone(),
        generation: work.generation,
        revision: work.revision.clone(),
        applied: manifests().all(|standing| standing.state == ObjectState::Applied),
        refused,
        components,
        objects: standings.iter().map(object).collect(),
        removed: removed.to_vec(),
        trace: work.trace.clone(),
    }
}

fn object(standing: &Standing<'_>) -> ObjectReport {
    let observed = standing.observed.cloned().unwrap_or_default();
    let (reason, message) = match standing.obstacle {
        Some((reason, message)) => (reason.to_owned(), message.to_owned()),
        None if observed.health == Health::Healthy => (String::new(), String::new()),
        None => (observed.reason, observed.message),
    };
    ObjectReport {
        object: standing.object.clone(),
        uid: standing.uid.cloned(),
        state: standing.state,
        health: observed.health,
        reason,
        message,
    }
}

fn component(name: &str, standings: &[&Standing<'_>]) -> ComponentReport {
    let workload = |standing: &&Standing<'_>| {
        let mut held = standing.pods.held.clone();
        if standing.pods.bound > 0 {
            held.add(&Resources::of([(PODS, 1)]), standing.pods.bound.into());
        }
        Some(WorkloadReport {
            object: standing.object.clone(),
            replicas: ReplicaCount { bound: standing.pods.bound, ..standing.observed?.replicas? },
            held,
            scaled: standing.pods.scaled,
        })
    };
    let mut workloads: Vec<WorkloadReport> = standings.iter().filter_map(workload).collect();
    let mut held = Resources::default();
    workloads.iter().for_each(|workload| held.add(&workload.held, 1));
    let replicas = workloads.iter().map(|workload| workload.replicas).reduce(|sum, next| ReplicaCount {
        desired: sum.desired.saturating_add(next.desired),
        ready: sum.ready.saturating_add(next.ready),
        updated: sum.updated.saturating_add(next.updated),
        bound: sum.bound.saturating_add(next.bound),
    });
    if standings.len() == 1 {
        workloads.clear();
    }
    let healthy = standings.iter().all(|standing| {
        standing.state == ObjectState::Applied
            && standing.observed.is_some_and(|observed| observed.health == Health::Healthy)
    });
    let worst = standings.iter().filter_map(|standing| complaint(standing)).min();
    let message = match worst {
        Some((_, message)) => message,
        // KubeVela's clients expect the count here.
        None => standings
            .iter()
            .filter_map(|standing| Some(standing.observed?.message.clone()))
            .find(|m| !m.is_empty())
            .unwrap_or_default(),
    };
    ComponentReport {
        name: name.to_owned(),
        healthy,
        message,
        replicas,
        held,
        workloads,
        scaled: standings.iter().any(|standing| standing.pods.scaled),
    }
}

/// What is wrong with one object, the most telling first: what was refused, then what failed, then why pods do not
/// run, then what is under way.
fn complaint(standing: &Standing<'_>) -> Option<(u8, String)> {
    let named = |reason: &str, message: &str| match (reason, message) {
        ("", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    };
    if let Some((reason, message)) = standing.obstacle {
        return Some((0, format!("{}: {}", standing.object, named(reason, message))));
    }
    let observed = standing.observed?;
    if observed.health == Health::Healthy {
        return None;
    }
    let counted = observed.replicas.map(|replicas| format!(" (Ready:{}/{})", replicas.ready, replicas.desired));
    let counted = counted.unwrap_or_default();
    // A deadline that passed says less than what keeps the pods from running.
    let late = observed.reason == "ProgressDeadlineExceeded";
    match &standing.pods.trouble {
        _ if observed.health == Health::Unhealthy && !late => {
            Some((1, named(&observed.reason, &observed.message) + &counted))
        }
        Some(trouble) => Some((2, trouble.clone() + &counted)),
        None if late => Some((3, named(&observed.reason, &observed.message) + &counted)),
        None => Some((4, observed.message.clone())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Digest, GroupVersionKind, ObjectName};

    fn reference(kind: &str, name: &str) -> ObjectRef {
        ObjectRef { gvk: GroupVersionKind::new("apps", "v1", kind), name: ObjectName::new("shop", name) }
    }

    fn work() -> Work {
        Work {
            application: ObjectName::new("shop", "web"),
            application_uid: "app".into(),
            cluster: "eu".into(),
            generation: 4,
            revision: "web-v2".into(),
            application_blob: Digest::of(b""),
            manifests: vec![],
            removals: vec![],
            features: vec![],
            trace: "t".into(),
        }
    }

    fn deployment(ready: i64, failure: Option<&str>) -> Observed {
        let conditions = match failure {
            Some(text) => {
                json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": text}])
            }
            None => json!([{"type": "Available", "status": if ready == 3 { "True" } else { "False" }}]),
        };
        observe(
            &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 3},
            "status": {"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "readyReplicas": ready,
                "availableReplicas": ready, "conditions": conditions}}),
        )
    }

    fn standing<'a>(object: &'a ObjectRef, observed: Option<&'a Observed>) -> Standing<'a> {
        let pods = Pods { bound: 2, held: Resources::of([("cpu", 300)]), ..Pods::default() };
        Standing { object, component: "web", uid: None, state: ObjectState::Applied, obstacle: None, observed, pods }
    }

    #[test]
    fn components_say_what_matters_most() {
        let reference = reference("Deployment", "web");
        let (good, slow, full) =
            (deployment(3, None), deployment(1, None), deployment(1, Some("exceeded quota: pods=2")));
        let trouble = Some("ImagePullBackOff: container web: no such image".into());
        let troubled = Pods { bound: 2, trouble, ..Pods::default() };
        let refused = Standing {
            state: ObjectState::Refused,
            obstacle: Some(("Forbidden", "no")),
            ..standing(&reference, Some(&good))
        };
        for (name, standing, healthy, message) in [
            ("healthy", standing(&reference, Some(&good)), true, "Ready:3/3"),
            (
                "healthy in spite of one pod",
                Standing { pods: troubled.clone(), ..standing(&reference, Some(&good)) },
                true,
                "Ready:3/3",
            ),
            ("under way", standing(&reference, Some(&slow)), false, "Ready:1/3"),
            (
                "pods in trouble",
                Standing { pods: troubled.clone(), ..standing(&reference, Some(&slow)) },
                false,
                "ImagePullBackOff: container web: no such image (Ready:1/3)",
            ),
            (
                "quota before pods",
                Standing { pods: troubled, ..standing(&reference, Some(&full)) },
                false,
                "FailedCreate: exceeded quota: pods=2 (Ready:1/3)",
            ),
            ("refused", refused, false, "Deployment shop/web: Forbidden: no"),
            ("not observed", Standing { state: ObjectState::Pending, ..standing(&reference, None) }, false, ""),
            ("applied, not observed", standing(&reference, None), false, ""),
        ] {
            let report = report(&work(), &[standing], &[], None);
            let found = &report.components[0];
            assert_eq!((found.healthy, found.message.as_str()), (healthy, message), "{name}");
        }
    }

    #[test]
    fn replicas_are_summed_and_bound_comes_from_the_pods() {
        let (a, b, observed) = (reference("Deployment", "a"), reference("Deployment", "b"), deployment(3, None));
        let standings = [standing(&a, Some(&observed)), standing(&b, Some(&observed))];
        let report = report(&work(), &standings, &[], None);
        let expected = ReplicaCount { desired: 6, ready: 6, updated: 6, bound: 4 };
        assert_eq!(report.components.iter().map(|found| found.replicas).collect::<Vec<_>>(), [Some(expected)]);
        assert_eq!(report.components[0].held, Resources::of([("cpu", 600), ("pods", 4)]));
        let told: Vec<_> =
            report.components[0].workloads.iter().map(|told| (&told.object, told.replicas.bound)).collect();
        assert_eq!(told, [(&a, 2), (&b, 2)], "each of them");
        assert!(report.applied);
    }

    #[test]
    fn a_removal_under_way_is_listed_but_delays_no_component() {
        let (kept, going, observed) = (reference("Deployment", "a"), reference("Deployment", "b"), deployment(3, None));
        let removal = Standing { component: "", state: ObjectState::Removing, ..standing(&going, Some(&observed)) };
        let gone = reference("Deployment", "c");
        let report = report(&work(), &[standing(&kept, Some(&observed)), removal], std::slice::from_ref(&gone), None);
        assert!(report.applied && report.components.len() == 1 && report.components[0].healthy);
        assert_eq!(report.objects[1].state, ObjectState::Removing);
        assert_eq!(report.removed, [gone]);
    }
}
