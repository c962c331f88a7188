//! JSON pointers (RFC 6901) as values: where a manifest is patched for one cluster.

use serde_json::Value;

/// Sets the value at `pointer`, creating missing *maps* on the way. Returns false, changing nothing, where the path
/// runs through something that is neither a map nor an existing list item.
pub fn set(target: &mut Value, pointer: &str, value: Value) -> bool {
    let Some((parent, last)) = pointer.rsplit_once('/') else { return false };
    if !reachable(target, parent) {
        return false;
    }
    let mut node = target;
    for token in parent.split('/').skip(1).map(unescape) {
        node = match node {
            Value::Object(map) => map.entry(token).or_insert_with(|| Value::Object(Default::default())),
            Value::Array(list) => match token.parse::<usize>().ok().and_then(|index| list.get_mut(index)) {
                Some(item) => item,
                None => return false,
            },
            _ => return false,
        };
    }
    match node {
        Value::Object(map) => {
            map.insert(unescape(last), value);
            true
        }
        Value::Array(list) => {
            last.parse::<usize>().ok().and_then(|index| list.get_mut(index)).map(|item| *item = value).is_some()
        }
        _ => false,
    }
}

fn reachable(target: &Value, parent: &str) -> bool {
    let mut node = target;
    for token in parent.split('/').skip(1).map(unescape) {
        node = match node {
            Value::Object(map) => match map.get(&token) {
                Some(child) => child,
                None => return true,
            },
            Value::Array(list) => match token.parse::<usize>().ok().and_then(|index| list.get(index)) {
                Some(item) => item,
                None => return false,
            },
            _ => return false,
        };
    }
    node.is_object() || node.is_array()
}

pub fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn set_creates_maps_and_refuses_what_it_cannot_reach() {
        let mut object = json!({"spec": {"list": [{"a": 1}], "text": "x"}});
        assert!(set(&mut object, "/spec/replicas", json!(3)));
        assert!(set(&mut object, "/metadata/labels/a~1b", json!("c")));
        assert!(set(&mut object, "/spec/list/0/a", json!(2)));
        let before = object.clone();
        assert!(!set(&mut object, "/spec/text/deeper/still", json!(1)));
        assert!(!set(&mut object, "/spec/list/7", json!(1)));
        assert!(!set(&mut object, "", json!(1)));
        assert_eq!(object, before);
        assert_eq!(
            object,
            json!({"spec": {"list": [{"a": 2}], "text": "x", "replicas": 3}, "metadata": {"labels": {"a/b": "c"}}})
        );
    }
}
