//! `scheduling.k8s.io/v1 PriorityClass`: who is placed first where there is not room for all. Fields as in Kubernetes.

use serde_json::{Value, json};

use super::{
    Backing, Column, ColumnType, Hooks, Kind, NameRule, Scope, Status, Verb, age, cluster::text_column, metadata, name,
    schema::Schema,
};
use crate::model::{FieldError, GroupVersionKind, object::FieldErrorKind::Forbidden, priority::VALUE_MAX};

pub fn priority_class() -> Kind {
    let schema = metadata::root([
        (
            "value",
            Schema::integer()
                .minimum(i64::from(i32::MIN))
                .maximum(VALUE_MAX)
                .describe("The higher comes first. It stays as it is while the class is there."),
        ),
        (
            "globalDefault",
            Schema::boolean().describe("Whether it is that of Applications that name none; of several the lowest is."),
        ),
        ("description", Schema::string()),
        (
            "preemptionPolicy",
            Schema::string().choices(["Never", "PreemptLowerPriority"]).describe(
                "PreemptLowerPriority, which is the default: what finds no room may take it from Applications of \
                     lower priority. Never: it waits.",
            ),
        ),
    ]);
    Kind {
        gvk: GroupVersionKind::new("scheduling.k8s.io", "v1", "PriorityClass"),
        plural: "priorityclasses".into(),
        singular: "priorityclass".into(),
        short_names: vec!["pc".into()],
        categories: vec![],
        scope: Scope::Cluster,
        backing: Backing::Store,
        verbs: Verb::ALL.into(),
        refusals: vec![],
        status: Status::None,
        schema: schema.required(["value"]).describe(
            "A priority that placement policies name by priorityClassName: of Applications that wait, those of a higher \
             one are decided first, and may take room from those of a lower one.",
        ),
        columns: vec![
            name(),
            Column {
                type_: ColumnType::Integer,
                ..text_column("Value", 0, "The higher comes first.", |class| class["value"].clone())
            },
            text_column("Global-Default", 0, "Whether it is that of those that name none.", |class| {
                json!((class["globalDefault"] == true).to_string())
            }),
            age(),
        ],
        selectable: vec![],
        name: NameRule::Subdomain,
        hub_finalizer: None,
        holds_objects: false,
        keeps_namespace: false,
        collection_deletion_max: None,
        hooks: Hooks { check: same_value, ..Hooks::default() },
    }
}

fn same_value(class: &Value, old: Option<&Value>) -> Vec<FieldError> {
    match old.is_none_or(|old| old["value"] == class["value"]) {
        true => vec![],
        false => vec![FieldError::new("value", Forbidden, "may not be changed in an update")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_as_long_as_its_class() {
        let class = |value: i64| json!({"value": value, "description": value.to_string()});
        assert_eq!(same_value(&class(7), None), []);
        assert_eq!(same_value(&class(7), Some(&class(7))), []);
        assert_eq!(same_value(&class(8), Some(&class(7))).len(), 1);
    }
}
