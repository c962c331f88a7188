//! `annotations`: annotations on the workload and on its pods, and on the jobs of a CronJob; `null` takes one away.

use serde_json::Value;

use super::{TraitType, overlay, properties::Properties};

pub const TYPE: TraitType = TraitType { name: "annotations", apply };

/// Where templates stand whose objects are to have the annotations too.
const TEMPLATES: [&[&str]; 3] =
    [&["spec", "template"], &["spec", "jobTemplate"], &["spec", "jobTemplate", "spec", "template"]];

fn apply(workload: &mut Value, properties: &Properties<'_>) {
    properties.check_values("a string or null", |value| value.is_string() || value.is_null());
    overlay::merge_metadata(workload, "annotations", properties.as_map());
    for path in TEMPLATES {
        if let Some(template) = overlay::child(workload, path) {
            overlay::merge_metadata(template, "annotations", properties.as_map());
        }
    }
}
