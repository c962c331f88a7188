//! What a pod says about the nodes it may run on, beside what it asks for.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Reader, field_path};
use crate::model::{
    demand::{HOSTNAME_LABEL, Spread, SpreadRule},
    object::FieldErrorKind,
    selector::{LabelSelector, Operator, Requirement},
};

/// Of the required node affinity. A term that chooses nodes by their fields (their name) chooses none that a sketch could
/// tell of.
pub fn node_terms(reader: &Reader<'_>, spec: &str) -> Vec<Vec<Requirement>> {
    let required = format!("{spec}/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution");
    let terms = reader.items(&required, "nodeSelectorTerms");
    let rule = |at: String| requirement(reader, &at);
    // An empty term matches nothing, as in Kubernetes.
    let nothing = || Requirement { key: String::new(), operator: Operator::Exists, values: Vec::new() };
    let term = |at: String| {
        let mut rules: Vec<_> = reader.items(&at, "matchExpressions").into_iter().filter_map(rule).collect();
        if rules.is_empty() || !reader.items(&at, "matchFields").is_empty() {
            rules.push(nothing());
        }
        rules
    };
    terms.into_iter().map(term).collect()
}

fn requirement(reader: &Reader<'_>, at: &str) -> Option<Requirement> {
    match serde_json::from_value(reader.object.pointer(at)?.clone()) {
        Ok(requirement) => Some(requirement),
        Err(error) => {
            reader.fault(
                &field_path(at),
                FieldErrorKind::Invalid,
                format!("not a requirement on node labels: {error}"),
            );
            None
        }
    }
}

/// Topology spread constraints that must hold, and required anti-affinity, as far as they are about pods of the same
/// kind: what they say about others nobody can tell ahead.
pub fn spread(reader: &Reader<'_>, spec: &str) -> Vec<Spread> {
    let labels = own_labels(reader, spec);
    let mut spread: Vec<Spread> = Vec::new();
    for at in reader.items(spec, "topologySpreadConstraints") {
        let field = |name: &str| reader.object.pointer(&format!("{at}/{name}"));
        let number = |name: &str| field(name).and_then(Value::as_u64).and_then(|value| u32::try_from(value).ok());
        let must = field("whenUnsatisfiable").and_then(Value::as_str) != Some("ScheduleAnyway");
        if must && is_own(reader, &at, &labels) {
            let rule =
                SpreadRule::Skew { most: number("maxSkew").unwrap_or(1), places: number("minDomains").unwrap_or(0) };
            spread.extend(topology(reader, &at).map(|topology| Spread { topology, rule }));
        }
    }
    let required = format!("{spec}/affinity/podAntiAffinity");
    for at in reader.items(&required, "requiredDuringSchedulingIgnoredDuringExecution") {
        if is_own(reader, &at, &labels) {
            spread.extend(topology(reader, &at).map(|topology| Spread { topology, rule: SpreadRule::OnePer }));
        }
    }
    // A port of the node is for one pod of it.
    let ports = |container: String| reader.items(&container, "ports");
    let on_host = |at: &String| reader.object.pointer(&format!("{at}/hostPort")).and_then(Value::as_u64) > Some(0);
    if reader.items(spec, "containers").into_iter().flat_map(ports).any(|at| on_host(&at)) {
        spread.push(Spread { topology: HOSTNAME_LABEL.into(), rule: SpreadRule::OnePer });
    }
    spread.sort();
    spread.dedup();
    spread
}

fn topology(reader: &Reader<'_>, at: &str) -> Option<String> {
    let key = reader.object.pointer(&format!("{at}/topologyKey")).and_then(Value::as_str).filter(|key| !key.is_empty());
    if key.is_none() {
        reader.fault(&format!("{}.topologyKey", field_path(at)), FieldErrorKind::Required, "");
    }
    key.map(str::to_owned)
}

/// Labels of the pods of this kind.
fn own_labels(reader: &Reader<'_>, spec: &str) -> BTreeMap<String, String> {
    let template = spec.strip_suffix("/spec").unwrap_or_default();
    let labels = reader.object.pointer(&format!("{template}/metadata/labels")).and_then(Value::as_object);
    let label = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(label).collect()
}

/// Whether a constraint is about pods of its own kind. One without a selector is about none.
fn is_own(reader: &Reader<'_>, at: &str, labels: &BTreeMap<String, String>) -> bool {
    let selector = reader.object.pointer(&format!("{at}/labelSelector")).filter(|selector| !selector.is_null());
    let selector = selector.and_then(|selector| serde_json::from_value::<LabelSelector>(selector.clone()).ok());
    selector.is_some_and(|selector| selector.matches(labels))
}

pub fn claims(reader: &Reader<'_>, spec: &str) -> Vec<String> {
    let name = |at: String| reader.object.pointer(&format!("{at}/persistentVolumeClaim/claimName"));
    let names = reader.items(spec, "volumes").into_iter().filter_map(name);
    let mut claims: Vec<String> = names.filter_map(|name| Some(name.as_str()?.to_owned())).collect();
    claims.sort();
    claims.dedup();
    claims
}
