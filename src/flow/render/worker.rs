//! `worker`: a Deployment that nobody connects to.

use serde_json::{Map, Value};

use super::{
    ComponentType, Context, Draft,
    container::{self, Flavour},
    metadata,
    properties::Properties,
};

pub const TYPE: ComponentType = ComponentType { name: "worker", draft };

fn draft(context: &Context<'_>, properties: &Properties<'_>) -> Vec<Draft> {
    let (container, pod) = container::parts(context, properties, Flavour::Worker);
    let mut template = Map::new();
    template.insert("labels".into(), Value::Object(metadata::pod_labels(context)));
    vec![container::deployment(context, template, container, pod)]
}
