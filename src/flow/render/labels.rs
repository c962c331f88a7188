//! `labels`: labels on the workload and on its pods; `null` takes one away.

use serde_json::Value;

use super::{TraitType, overlay, properties::Properties};

pub const TYPE: TraitType = TraitType { name: "labels", apply };

fn apply(workload: &mut Value, properties: &Properties<'_>) {
    properties.check_values("a string or null", |value| value.is_string() || value.is_null());
    overlay::merge_metadata(workload, "labels", properties.as_map());
    if let Some(template) = overlay::child(workload, &["spec", "template"]) {
        overlay::merge_metadata(template, "labels", properties.as_map());
    }
}
