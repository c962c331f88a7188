//! One line per component and cluster: is it healthy, and if not, why, in the member's words.

use serde_json::{Value, json};

use super::Facts;
use crate::model::{
    Report,
    condition::Truth,
    object::GroupVersionKind,
    placement::{Row, Share},
    report::{ComponentReport, Health, ObjectState},
    revision::RenderedComponent,
};

pub struct Service<'a> {
    pub component: &'a str,
    pub cluster: &'a str,
    namespace: &'a str,
    workload: Option<&'a GroupVersionKind>,
    traits: Vec<&'a str>,
    pub healthy: bool,
    pub message: String,
    /// The cluster has not done all that its newest generation says.
    pub behind: bool,
    /// The cluster is not heard of, so what was last reported may be wrong by now.
    pub unknown: bool,
    /// Something is wrong that waiting alone does not mend.
    pub broken: bool,
}

/// Unhealthy ones first, then in order of component and cluster name.
pub fn services<'a>(facts: &Facts<'a>) -> Vec<Service<'a>> {
    let mut services = Vec::new();
    for row in facts.placement.map(|placement| placement.rows.as_slice()).unwrap_or_default() {
        for (component, share) in &row.components {
            services.push(service(facts, row, component, share));
        }
    }
    services.sort_by_key(|service| (service.healthy, service.component, service.cluster));
    services
}

fn service<'a>(facts: &Facts<'a>, row: &'a Row, component: &'a str, share: &Share) -> Service<'a> {
    let rendered =
        facts.revision.and_then(|(_, revision)| revision.components.iter().find(|known| known.name == component));
    let declared = facts.application.spec.components.iter().find(|known| known.name == component);
    let mut service = Service {
        component,
        cluster: &row.cluster_name,
        namespace: &facts.application.metadata.namespace,
        workload: rendered.and_then(|rendered| Some(&rendered.manifests.first()?.object.gvk)),
        traits: declared
            .into_iter()
            .flat_map(|declared| &declared.traits)
            .map(|trait_| trait_.type_.as_str())
            .collect(),
        healthy: false,
        message: String::new(),
        behind: true,
        unknown: facts.clusters.get(&row.cluster) != Some(&Truth::True),
        broken: false,
    };
    match facts.reports.get(&row.cluster) {
        None => service.message = format!("waiting for the agent of {}", row.cluster_name),
        Some(report) => judge(&mut service, row, rendered, share, report),
    }
    if service.unknown {
        service.healthy = false;
        service.message = format!("the agent of {} is silent; last known: {}", row.cluster_name, service.message);
    }
    service
}

fn judge(service: &mut Service<'_>, row: &Row, rendered: Option<&RenderedComponent>, share: &Share, report: &Report) {
    if let Some(refused) = &report.refused {
        service.broken = true;
        service.message = format!("{}: {}", refused.reason, refused.message);
        return;
    }
    if report.generation != row.generation {
        service.message = format!("generation {} is on its way; it has {}", row.generation, report.generation);
        return;
    }
    let reported = report.components.iter().find(|reported| reported.name == service.component);
    let mine = |object: &&crate::model::report::ObjectReport| {
        rendered.is_some_and(|rendered| rendered.manifests.iter().any(|manifest| manifest.object == object.object))
    };
    let objects: Vec<_> = report.objects.iter().filter(mine).collect();
    let pending = objects.iter().any(|object| object.state == ObjectState::Pending);
    let refused = objects.iter().find(|object| object.state == ObjectState::Refused);
    service.behind = reported.is_none() || pending || refused.is_some() || (!report.applied && objects.is_empty());
    service.healthy = !service.behind && reported.is_some_and(|reported| reported.healthy);
    service.broken = refused.is_some() || objects.iter().any(|object| object.health == Health::Unhealthy);
    service.message = match refused {
        Some(object) => format!("{}: {}: {}", object.object, object.reason, object.message),
        None => words(reported, share, &objects),
    };
}

fn words(reported: Option<&ComponentReport>, share: &Share, objects: &[&crate::model::report::ObjectReport]) -> String {
    let Some(reported) = reported else { return "not observed yet".into() };
    // KubeVela's own words for a workload that counts its replicas.
    let decided = share.replicas.filter(|_| !reported.scaled);
    let ready =
        reported.replicas.map(|replicas| format!("Ready:{}/{}", replicas.ready, decided.unwrap_or(replicas.desired)));
    let detail = match reported.message.is_empty() {
        false => Some(reported.message.clone()),
        true => objects.iter().find(|object| !object.message.is_empty()).map(|object| object.message.clone()),
    };
    match (ready, detail.filter(|_| !reported.healthy)) {
        (Some(ready), Some(detail)) => format!("{ready}; {detail}"),
        (Some(words), None) | (None, Some(words)) => words,
        (None, None) => reported.message.clone(),
    }
}

impl Service<'_> {
    pub fn json(&self) -> Value {
        let traits = self.traits.iter().map(|type_| json!({"type": type_, "healthy": !self.behind}));
        let mut service = json!({
            "name": self.component,
            "namespace": self.namespace,
            "cluster": self.cluster,
            "healthy": self.healthy,
            "workloadHealthy": self.healthy,
            "message": self.message,
            "traits": traits.collect::<Vec<_>>(),
        });
        if let Some(workload) = self.workload {
            service["workloadDefinition"] = json!({"apiVersion": workload.api_version(), "kind": workload.kind});
        }
        service
    }
}
