//! Server-side apply in small: whose field is it.
//!
//! Each manager's last intent is kept as the fields it listed. Applying merges the new intent into the live object,
//! removes what the manager listed before and lists no longer (unless another manager lists it too), and leaves every
//! other field alone. Lists are merged item by item where Kubernetes keys them, and replaced as a whole elsewhere.

use serde_json::{Map, Value};

use super::catalogue::{item_key, list_keys};

/// Merges `new` into `live` as the manager whose previous intent was `old`, against everybody else's intents.
pub fn apply(live: &mut Value, old: &Value, new: &Value, others: &[&Value]) {
    withdraw(live, old, new, others, "");
    merge(live, new, "");
}

fn merge(live: &mut Value, new: &Value, field: &str) {
    match (live, new) {
        (Value::Object(live), Value::Object(new)) => {
            for (key, value) in new {
                match live.get_mut(key) {
                    Some(slot) => merge(slot, value, key),
                    None => drop(live.insert(key.clone(), value.clone())),
                }
            }
        }
        (Value::Array(live), Value::Array(new)) if is_keyed(field, live, new) => {
            for item in new {
                match find_mut(live, item, field) {
                    Some(slot) => merge(slot, item, ""),
                    None => live.push(item.clone()),
                }
            }
        }
        (live, new) => live.clone_from(new),
    }
}

/// Removes from `live` what `old` lists and `new` does not, except what one of `others` lists.
fn withdraw(live: &mut Value, old: &Value, new: &Value, others: &[&Value], field: &str) {
    match (live, old) {
        (Value::Object(live), Value::Object(old)) => {
            for (key, old) in old {
                let others = others.iter().filter_map(|other| other.get(key)).collect::<Vec<_>>();
                withdraw_key(live, key, old, new.get(key), &others);
            }
        }
        (Value::Array(live), Value::Array(old)) if is_keyed(field, live, old) => {
            for item in old {
                let others = others.iter().filter_map(|other| find(other.as_array()?, item, field)).collect::<Vec<_>>();
                match new.as_array().and_then(|new| find(new, item, field)) {
                    Some(new) => {
                        if let Some(slot) = find_mut(live, item, field) {
                            withdraw(slot, item, new, &others, "");
                        }
                    }
                    // An item goes whole, with what the member defaulted in it.
                    None if others.is_empty() => live.retain(|slot| !same_item(slot, item, field)),
                    None => {}
                }
            }
        }
        _ => {}
    }
}

fn withdraw_key(live: &mut Map<String, Value>, key: &str, old: &Value, new: Option<&Value>, others: &[&Value]) {
    let Some(slot) = live.get_mut(key) else { return };
    match new {
        Some(new) => withdraw(slot, old, new, others, key),
        None if has_parts(slot, old, key) => withdraw(slot, old, &Value::Null, others, key),
        None if others.is_empty() => *slot = Value::Null,
        None => {}
    }
    let emptied = match slot {
        Value::Null => true,
        Value::Object(map) => map.is_empty() && new.is_none(),
        Value::Array(list) => list.is_empty() && new.is_none(),
        _ => false,
    };
    if emptied {
        live.remove(key);
    }
}

/// Whether a field is owned part by part rather than as a whole.
fn has_parts(live: &Value, old: &Value, field: &str) -> bool {
    match (live, old) {
        (Value::Object(_), Value::Object(old)) => !old.is_empty(),
        (Value::Array(live), Value::Array(old)) => is_keyed(field, live, old),
        _ => false,
    }
}

/// What somebody who writes the whole object took over by changing `before` into `after`: the changed fields.
pub fn claim(before: &Value, after: &Value, field: &str) -> Option<Value> {
    match (before, after) {
        (before, after) if before == after => None,
        (Value::Object(before), Value::Object(after)) => {
            let changed = |(key, value): (&String, &Value)| {
                let claimed = match before.get(key) {
                    Some(before) => claim(before, value, key)?,
                    None => value.clone(),
                };
                Some((key.clone(), claimed))
            };
            Some(Value::Object(after.iter().filter_map(changed).collect()))
        }
        (Value::Array(before), Value::Array(after)) if is_keyed(field, before, after) => {
            let changed = |item: &Value| {
                let Some(before) = find(before, item, field) else { return Some(item.clone()) };
                let mut claimed = claim(before, item, "")?;
                for key in list_keys(field, item).into_iter().flatten() {
                    claimed[*key] = item[*key].clone();
                }
                Some(claimed)
            };
            Some(Value::Array(after.iter().filter_map(changed).collect()))
        }
        (_, after) => Some(after.clone()),
    }
}

/// Takes the claimed fields out of an intent: who overwrites a field owns it from then on.
pub fn disown(intent: &mut Value, claimed: &Value, field: &str) {
    match (intent, claimed) {
        (Value::Object(intent), Value::Object(claimed)) => {
            for (key, claimed) in claimed {
                let Some(slot) = intent.get_mut(key) else { continue };
                if has_parts(slot, claimed, key) {
                    disown(slot, claimed, key);
                } else {
                    intent.remove(key);
                }
            }
        }
        (Value::Array(intent), Value::Array(claimed)) => {
            for item in claimed {
                let keys = list_keys(field, item).unwrap_or_default();
                let Some(slot) = find_mut(intent, item, field) else { continue };
                let mut rest = item.clone();
                if let Some(rest) = rest.as_object_mut() {
                    rest.retain(|key, _| !keys.contains(&key.as_str()));
                }
                disown(slot, &rest, "");
            }
        }
        _ => {}
    }
}

fn is_keyed(field: &str, live: &[Value], new: &[Value]) -> bool {
    live.iter().chain(new).all(|item| list_keys(field, item).is_some())
}

fn same_item(a: &Value, b: &Value, field: &str) -> bool {
    list_keys(field, b).is_some_and(|keys| item_key(a, keys) == item_key(b, keys))
}

fn find<'a>(list: &'a [Value], item: &Value, field: &str) -> Option<&'a Value> {
    list.iter().find(|slot| same_item(slot, item, field))
}

fn find_mut<'a>(list: &'a mut [Value], item: &Value, field: &str) -> Option<&'a mut Value> {
    list.iter_mut().find(|slot| same_item(slot, item, field))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_we_no_longer_list_goes_and_a_foreign_one_stays() {
        let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"replicas": 3, "paused": true}});
        let mut live = old.clone();
        live["metadata"]["labels"]["foreign"] = json!("x");
        live["spec"]["defaulted"] = json!(10);
        let new = json!({"metadata": {"labels": {"a": "9"}}, "spec": {"replicas": 3}});
        apply(&mut live, &old, &new, &[]);
        assert_eq!(
            live,
            json!({"metadata": {"labels": {"a": "9", "foreign": "x"}}, "spec": {"replicas": 3, "defaulted": 10}})
        );
    }

    #[test]
    fn what_another_manager_lists_too_survives_our_leaving() {
        let ours = json!({"data": {"shared": "1", "only": "2"}});
        let mut live = ours.clone();
        apply(&mut live, &ours, &json!({}), &[&json!({"data": {"shared": "1"}})]);
        assert_eq!(live, json!({"data": {"shared": "1"}}));
    }

    #[test]
    fn keyed_lists_merge_by_item_and_lose_only_our_items() {
        let old = json!({"containers": [{"name": "web", "image": "a", "env": [{"name": "X", "value": "1"}]},
            {"name": "side", "image": "s"}]});
        let mut live = json!({"containers": [
            {"name": "injected", "image": "mesh"},
            {"name": "web", "image": "a", "pullPolicy": "Always", "env": [{"name": "X", "value": "1"}]},
            {"name": "side", "image": "s", "pullPolicy": "Always"}]});
        let new = json!({"containers": [{"name": "web", "image": "b", "env": [{"name": "Y", "value": "2"}]}]});
        apply(&mut live, &old, &new, &[]);
        assert_eq!(
            live,
            json!({"containers": [
                {"name": "injected", "image": "mesh"},
                {"name": "web", "image": "b", "pullPolicy": "Always", "env": [{"name": "Y", "value": "2"}]}]})
        );
    }

    #[test]
    fn ports_are_the_same_with_and_without_the_default_protocol() {
        let mut live = json!({"ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}]});
        let new = json!({"ports": [{"containerPort": 80, "name": "web"}]});
        apply(&mut live, &json!({}), &new, &[]);
        assert_eq!(live, json!({"ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}]}));
    }

    #[test]
    fn an_atomic_list_is_replaced_whole() {
        let mut live = json!({"command": ["a", "b", "c"]});
        apply(&mut live, &json!({"command": ["a", "b", "c"]}), &json!({"command": ["z"]}), &[]);
        assert_eq!(live, json!({"command": ["z"]}));
    }

    #[test]
    fn who_overwrites_a_field_owns_it_until_we_apply_it_again() {
        let before = json!({"spec": {"replicas": 3, "containers": [{"name": "web", "image": "a"}]}});
        let mut after = before.clone();
        after["spec"]["replicas"] = json!(5);
        after["spec"]["containers"][0]["image"] = json!("hot");
        let claimed = claim(&before, &after, "").expect("two fields changed");
        assert_eq!(claimed, json!({"spec": {"replicas": 5, "containers": [{"name": "web", "image": "hot"}]}}));
        let mut ours = before.clone();
        disown(&mut ours, &claimed, "");
        assert_eq!(ours, json!({"spec": {"containers": [{"name": "web"}]}}));
        // We leave `replicas` without ever listing it again: it is theirs, so it stays.
        let mut live = after.clone();
        apply(&mut live, &ours, &json!({"spec": {"containers": [{"name": "web", "image": "a"}]}}), &[&claimed]);
        assert_eq!(live["spec"]["replicas"], json!(5));
        assert_eq!(live["spec"]["containers"][0]["image"], json!("a"));
    }
}
