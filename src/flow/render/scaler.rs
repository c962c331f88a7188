//! `scaler`: how many replicas.

use serde_json::{Map, Value};

use crate::model::object::FieldErrorKind;

use super::{TraitType, properties::Properties};

pub const TYPE: TraitType = TraitType { name: "scaler", apply };

fn apply(workload: &mut Value, properties: &Properties<'_>) {
    let replicas = if properties.has("replicas") { properties.integer("replicas") } else { Some(1) };
    let Some(replicas) = replicas else { return };
    if i32::try_from(replicas).is_ok_and(|replicas| replicas >= 0) {
        set_replicas(workload, replicas, properties);
    } else {
        properties.fault("replicas", FieldErrorKind::Invalid, format!("{replicas} is not between 0 and {}", i32::MAX));
    }
}

fn set_replicas(workload: &mut Value, replicas: i64, properties: &Properties<'_>) {
    let Value::Object(fields) = workload else { return };
    match fields.entry("spec").or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(spec) => drop(spec.insert("replicas".into(), replicas.into())),
        _ => properties.fault("replicas", FieldErrorKind::Invalid, "the spec of the component's workload is not a map"),
    }
}
