//! Merging a map into an object (RFC 7396), for traits.

use serde_json::{Map, Value};

/// `null` removes a key, a map is merged, anything else replaces.
pub fn merge(target: &mut Value, overlay: &Map<String, Value>) {
    let target = as_map(target);
    for (key, value) in overlay {
        match value {
            Value::Null => drop(target.remove(key)),
            Value::Object(map) => merge(target.entry(key.clone()).or_insert(Value::Null), map),
            other => drop(target.insert(key.clone(), other.clone())),
        }
    }
}

/// Merges `map` into `metadata.<field>` of what is at `target`: an object, or a template within one.
pub fn merge_metadata(target: &mut Value, field: &str, map: &Map<String, Value>) {
    let metadata = as_map(target).entry("metadata").or_insert(Value::Null);
    merge(as_map(metadata).entry(field.to_owned()).or_insert(Value::Null), map);
}

/// The map at `value`; whatever else is there is replaced by an empty one.
pub fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made a map above")
}

/// What stands at `path`, whatever it is, if everything on the way is a map.
pub fn child<'a>(target: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(target, |node, key| node.as_object_mut()?.get_mut(*key))
}
