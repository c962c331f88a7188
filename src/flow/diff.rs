//! Work × live → actions: what is to be done about one object.
//!
//! Owns: what counts as drift, as ours, as paused. Must never: order a deletion that no [`Removal`] names, or take
//! what was not observed for absent.
//!
//! Drift is told from a *projection*: the live values at the fields that the manifest sets, as the member stored,
//! defaulted and normalised them. Its digest is remembered after each write; only when it changes has someone touched
//! our fields. So `1000m` that comes back as `1` is no drift, nor is a field that only others set.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::model::{Digest, Timestamp, Uid, work::Removal};

/// What is known of an object in the member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Not looked at yet: neither there nor absent.
    Nothing,
    Absent,
    Present(Seen),
}

/// An object in the member, as far as ownership and drift can tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    pub uid: Uid,
    /// The Application that its label names.
    pub owner: Option<Uid>,
    /// Digest of its projection onto the manifest; absent where there is no manifest to compare with.
    pub projection: Option<Digest>,
    pub terminating: bool,
    pub paused_until: Option<Timestamp>,
}

/// What was written last, from the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remembered<'a> {
    pub uid: Option<&'a Uid>,
    /// Digest of the manifest.
    pub result: Option<Digest>,
    pub projection: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// As it should be.
    Nothing,
    /// It has to be seen before anything can be said.
    Look,
    Apply(Cause),
    /// Only this very object.
    Delete(Uid),
    /// Being deleted; it is awaited.
    AwaitGone,
    /// A removal is done: the object is gone, or is not ours any more.
    Done,
    /// Writes to it are stopped in the member.
    Paused(Timestamp),
    Refuse(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Missing,
    /// The manifest is another than the one written last.
    Changed,
    /// Someone changed fields of ours.
    Drift,
}

/// A no of ours, with a stable word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("exists already and carries no hanse.dev/application-uid label, so it is not ours to change")]
    NotOurs,
    #[error("belongs to another Application, uid {0}")]
    OtherApplication(Uid),
    #[error("the removal names no uid, and the ledger does not say that this agent made the object")]
    NotInLedger,
}

impl Refusal {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotOurs | Self::OtherApplication(_) => "NotOurs",
            Self::NotInLedger => "NotInLedger",
        }
    }
}

/// What to do about one manifest whose digest is `result`. `paused_until` is that of the namespace.
pub fn manifest(
    application: &Uid,
    result: Digest,
    remembered: Option<Remembered<'_>>,
    known: &Known,
    paused_until: Option<Timestamp>,
    now: Timestamp,
) -> Action {
    let written = remembered.filter(|remembered| remembered.result == Some(result));
    let seen = match known {
        Known::Nothing => return Action::Look,
        Known::Absent => return pause(paused_until, None, now).unwrap_or(Action::Apply(Cause::Missing)),
        Known::Present(seen) => seen,
    };
    match &seen.owner {
        None => return Action::Refuse(Refusal::NotOurs),
        Some(owner) if owner != application => return Action::Refuse(Refusal::OtherApplication(owner.clone())),
        Some(_) => {}
    }
    if seen.terminating {
        return Action::AwaitGone;
    }
    let cause = match written {
        None => Cause::Changed,
        Some(written) if written.projection.is_none() || written.projection != seen.projection => Cause::Drift,
        Some(_) => return Action::Nothing,
    };
    pause(paused_until, seen.paused_until, now).unwrap_or(Action::Apply(cause))
}

/// What to do about one removal.
pub fn removal(
    application: &Uid,
    removal: &Removal,
    remembered: Option<Remembered<'_>>,
    known: &Known,
    paused_until: Option<Timestamp>,
    now: Timestamp,
) -> Action {
    let seen = match known {
        Known::Nothing => return Action::Look,
        Known::Absent => return Action::Done,
        Known::Present(seen) => seen,
    };
    if seen.owner.as_ref() != Some(application) {
        return Action::Done;
    }
    let made = remembered.and_then(|remembered| remembered.uid) == Some(&seen.uid);
    match &removal.uid {
        // The name was given to another object since.
        Some(uid) if *uid != seen.uid && !made => return Action::Done,
        // The first write may have gone unanswered, so a ledger line without a uid is proof enough beside the label.
        None if remembered.is_none_or(|remembered| remembered.uid.is_some() && !made) => {
            return Action::Refuse(Refusal::NotInLedger);
        }
        _ => {}
    }
    if seen.terminating {
        return Action::AwaitGone;
    }
    pause(paused_until, seen.paused_until, now).unwrap_or_else(|| Action::Delete(seen.uid.clone()))
}

fn pause(namespace: Option<Timestamp>, object: Option<Timestamp>, now: Timestamp) -> Option<Action> {
    namespace.max(object).filter(|until| *until > now).map(Action::Paused)
}

/// A pause annotation: RFC 3339. What does not parse pauses nothing; it would never expire.
pub fn paused_until(annotation: Option<&str>) -> Option<Timestamp> {
    annotation?.parse().ok().map(Timestamp)
}

/// Fields that the server sets, and those that are no orders: never written, never compared.
const SERVER_FIELDS: [&str; 7] =
    ["creationTimestamp", "deletionTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"];

/// The manifest as it is written: owned by `application`, without what only a server may set.
pub fn prepared(mut manifest: Value, owner_label: &str, application: &Uid) -> Value {
    if let Some(object) = manifest.as_object_mut() {
        object.remove("status");
        let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.retain(|field, _| !SERVER_FIELDS.contains(&field.as_str()));
            let labels = metadata.entry("labels").or_insert_with(|| Value::Object(Map::new()));
            if !labels.is_object() {
                *labels = Value::Object(Map::new());
            }
            labels[owner_label] = Value::String(application.0.clone());
        }
    }
    manifest
}

/// Where the replicas of a workload stand.
const REPLICAS: &str = "/spec/replicas";

pub fn replicas(manifest: &Value) -> Option<&Value> {
    manifest.pointer(REPLICAS)
}

/// For a workload whose replicas an autoscaler of the member sets: all but those.
pub fn without_replicas(mut manifest: Value) -> Value {
    if let Some(spec) = manifest.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("replicas");
    }
    manifest
}

/// For a workload whose replicas an autoscaler of the member sets: the manifest with as many as there are, so that
/// writing it changes none. (Leaving the field out would give it up, and a member where nobody else has set it yet falls
/// back to 1.) Written as of this very state: where it is another by now, the member says so.
///
/// A manifest that says zero, or begins after zero, is an order: an autoscaler does not act at zero by itself.
pub fn with_live_replicas(mut manifest: Value, live: u32, cause: Cause, version: u64) -> Value {
    let wanted = replicas(&manifest).and_then(Value::as_u64);
    let ordered = cause == Cause::Changed && (wanted == Some(0) || live == 0);
    if wanted.is_some() && !ordered {
        crate::model::pointer::set(&mut manifest, REPLICAS, live.into());
        if version > 0 {
            crate::model::pointer::set(&mut manifest, "/metadata/resourceVersion", version.to_string().into());
        }
    }
    manifest
}

/// The live values at the fields of `desired`. Lists of maps are matched by their merge keys, so that an item another
/// manager added is no drift; all other lists count whole.
pub fn projection(desired: &Value, live: &Value) -> Value {
    let desired = readable(desired);
    let Some(object) = desired.as_object() else { return Value::Null };
    let fields = object.iter().filter(|(field, _)| !matches!(field.as_str(), "apiVersion" | "kind" | "status"));
    let mut projected = Map::new();
    for (field, wanted) in fields {
        let Some(found) = live.get(field) else { continue };
        let value = if field == "metadata" { metadata(wanted, found) } else { project(field, wanted, found) };
        projected.insert(field.clone(), value);
    }
    Value::Object(projected)
}

/// A Secret's `stringData` can only be written; what it says is read from `data`.
fn readable(desired: &Value) -> Cow<'_, Value> {
    let texts = desired.get("stringData").and_then(Value::as_object);
    match texts.filter(|_| desired.get("kind").and_then(Value::as_str) == Some("Secret")) {
        None => Cow::Borrowed(desired),
        Some(texts) => {
            let mut secret = desired.clone();
            for key in texts.keys() {
                crate::model::pointer::set(
                    &mut secret,
                    &format!("/data/{}", crate::model::pointer::escape(key)),
                    Value::Null,
                );
            }
            Cow::Owned(secret)
        }
    }
}

fn metadata(wanted: &Value, found: &Value) -> Value {
    let Some(wanted) = wanted.as_object() else { return Value::Null };
    let compared = wanted.iter().filter(|(field, _)| {
        !SERVER_FIELDS.contains(&field.as_str()) && !matches!(field.as_str(), "name" | "namespace" | "generateName")
    });
    let projected =
        compared.filter_map(|(field, wanted)| Some((field.clone(), project(field, wanted, found.get(field)?))));
    Value::Object(projected.collect())
}

fn project(field: &str, desired: &Value, live: &Value) -> Value {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            let shared = desired
                .iter()
                .filter_map(|(field, wanted)| Some((field.clone(), project(field, wanted, live.get(field)?))));
            Value::Object(shared.collect())
        }
        (Value::Array(desired), Value::Array(live)) => match matched(field, desired, live) {
            Some(pairs) => Value::Array(pairs.into_iter().map(|(wanted, found)| project("", wanted, found)).collect()),
            None => Value::Array(live.clone()),
        },
        _ => live.clone(),
    }
}

/// Merge keys of the lists of maps in Kubernetes' own types (`x-kubernetes-list-map-keys`, patch merge keys), by the
/// name of the list. Elsewhere a list counts whole: at worst that costs one apply, which changes nothing.
fn merge_keys(field: &str) -> &'static [&'static [&'static str]] {
    match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims"
        | "secrets" => &[&["name"]],
        "volumeMounts" => &[&["mountPath"]],
        "volumeDevices" => &[&["devicePath"]],
        "ports" => &[&["containerPort", "protocol"], &["port", "protocol"]],
        "hostAliases" => &[&["ip"]],
        "conditions" => &[&["type"]],
        "topologySpreadConstraints" => &[&["topologyKey", "whenUnsatisfiable"]],
        "ownerReferences" => &[&["uid"]],
        _ => &[],
    }
}

/// The live item for each desired one that has one, in desired order; `None` where keys do not tell items apart.
fn matched<'a>(field: &str, desired: &'a [Value], live: &'a [Value]) -> Option<Vec<(&'a Value, &'a Value)>> {
    let keys = merge_keys(field).iter().find(|keys| desired.iter().all(|item| item.get(keys[0]).is_some()))?;
    let key_of = |item: &'a Value| -> Vec<Cow<'a, Value>> { keys.iter().map(|key| key_value(item, key)).collect() };
    let distinct = |items: &'a [Value]| {
        let mut texts: Vec<String> = items.iter().map(|item| format!("{:?}", key_of(item))).collect();
        texts.sort();
        texts.windows(2).all(|pair| pair[0] != pair[1])
    };
    if !distinct(desired) || !distinct(live) {
        return None;
    }
    let find = |wanted: &'a Value| live.iter().find(|found| key_of(found) == key_of(wanted));
    Some(desired.iter().filter_map(|wanted| Some((wanted, find(wanted)?))).collect())
}

fn key_value<'a>(item: &'a Value, key: &str) -> Cow<'a, Value> {
    match item.get(key) {
        Some(value) => Cow::Borrowed(value),
        None if key == "protocol" => Cow::Owned(Value::String("TCP".into())),
        None => Cow::Owned(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{GroupVersionKind, ObjectName, ObjectRef, work::RemovalReason};

    fn drifted(desired: &Value, stored: &Value, now: &Value) -> bool {
        projection(desired, stored) != projection(desired, now)
    }

    #[test]
    fn only_a_change_of_our_fields_is_drift() {
        let desired = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"a": "b"}},
            "spec": {"replicas": 3, "template": {"spec": {"containers": [
                {"name": "web", "image": "nginx", "args": ["-x"], "env": [{"name": "A", "value": "1"}],
                 "resources": {"requests": {"cpu": "1000m"}}, "ports": [{"containerPort": 80}]}]}}}});
        let stored = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {"replicas": 3, "revisionHistoryLimit": 10, "template": {"spec": {"containers": [
                {"name": "web", "image": "nginx", "args": ["-x"], "env": [{"name": "A", "value": "1"}],
                 "imagePullPolicy": "Always", "resources": {"requests": {"cpu": "1"}},
                 "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}}, "status": {"replicas": 1}});
        let container = "/spec/template/spec/containers/0";
        for (pointer, value, expected) in [
            ("/metadata/resourceVersion", json!("8"), false),
            ("/metadata/labels/theirs", json!("x"), false),
            ("/metadata/annotations", json!({"deployment.kubernetes.io/revision": "1"}), false),
            ("/spec/revisionHistoryLimit", json!(2), false),
            ("/status/replicas", json!(3), false),
            (&format!("{container}/env"), json!([{"name": "B"}, {"name": "A", "value": "1"}]), false),
            ("/spec/template/spec/containers", json!([{"name": "sidecar"}, stored.pointer(container)]), false),
            ("/metadata/labels/a", json!("c"), true),
            ("/spec/replicas", json!(4), true),
            (&format!("{container}/image"), json!("evil"), true),
            (&format!("{container}/args"), json!(["-x", "-y"]), true),
            (&format!("{container}/env"), json!([{"name": "B"}]), true),
            (&format!("{container}/ports/0/containerPort"), json!(81), true),
            ("/spec/template/spec/containers", json!([]), true),
        ] {
            let mut live = stored.clone();
            assert!(crate::model::pointer::set(&mut live, pointer, value), "{pointer}");
            assert_eq!(drifted(&desired, &stored, &live), expected, "{pointer}");
        }
        let mut without = stored.clone();
        without["spec"].as_object_mut().map(|spec| spec.remove("replicas"));
        assert!(drifted(&desired, &stored, &without), "a removed field is drift");
    }

    #[test]
    fn drift_of_string_data_is_seen_in_data() {
        let desired =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "v"}});
        let stored = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "dg=="}});
        let changed = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "eA=="}});
        let extended =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "dg==", "l": ""}});
        assert!(drifted(&desired, &stored, &changed));
        assert!(!drifted(&desired, &stored, &extended));
    }

    #[test]
    fn items_that_keys_cannot_tell_apart_count_whole() {
        let desired = json!({"spec": {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}});
        let stored = json!({"spec": {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}});
        let swapped = json!({"spec": {"ports": [{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        assert!(!drifted(&desired, &stored, &swapped), "port and protocol together tell them apart");
        let twice = json!({"spec": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}});
        let live = json!({"spec": {"env": [{"name": "A", "value": "2"}, {"name": "B", "value": "2"}]}});
        assert_eq!(projection(&twice, &live), live);
    }

    #[test]
    fn what_is_written_is_labelled_and_free_of_server_fields() {
        let manifest = json!({"kind": "ConfigMap", "metadata": {"name": "c", "uid": "x", "creationTimestamp": null,
            "managedFields": [], "labels": {"mine": "1"}}, "status": {}, "data": {"a": "b"}});
        assert_eq!(
            prepared(manifest, "owner", &"app".into()),
            json!({"kind": "ConfigMap", "metadata": {"name": "c", "labels": {"mine": "1", "owner": "app"}}, "data": {"a": "b"}})
        );
    }

    fn seen(owner: Option<&str>) -> Seen {
        Seen {
            uid: "live".into(),
            owner: owner.map(Uid::from),
            projection: Some(Digest::of(b"stored")),
            ..Seen::default()
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn manifests_lead_to_the_least_action() {
        let (result, other) = (Digest::of(b"desired"), Digest::of(b"other"));
        let uid = Uid::from("live");
        let written =
            |result| Remembered { uid: Some(&uid), result: Some(result), projection: Some(Digest::of(b"stored")) };
        let ours = || Known::Present(seen(Some("app")));
        let with = |change: &dyn Fn(&mut Seen)| {
            let mut seen = seen(Some("app"));
            change(&mut seen);
            Known::Present(seen)
        };
        for (name, remembered, known, namespace_pause, expected) in [
            ("not looked at", Some(written(result)), Known::Nothing, None, Action::Look),
            ("absent", Some(written(result)), Known::Absent, None, Action::Apply(Cause::Missing)),
            ("absent, namespace paused", None, Known::Absent, Some(at(200)), Action::Paused(at(200))),
            ("absent, pause expired", None, Known::Absent, Some(at(100)), Action::Apply(Cause::Missing)),
            ("in order", Some(written(result)), ours(), None, Action::Nothing),
            ("in order and paused", Some(written(result)), ours(), Some(at(200)), Action::Nothing),
            ("new manifest", Some(written(other)), ours(), None, Action::Apply(Cause::Changed)),
            ("never written by this ledger", None, ours(), None, Action::Apply(Cause::Changed)),
            (
                "drifted",
                Some(written(result)),
                with(&|seen| seen.projection = Some(Digest::of(b"changed"))),
                None,
                Action::Apply(Cause::Drift),
            ),
            (
                "drifted, object paused",
                Some(written(result)),
                with(&|seen| (seen.projection, seen.paused_until) = (None, Some(at(150)))),
                Some(at(120)),
                Action::Paused(at(150)),
            ),
            ("foreign", None, Known::Present(seen(None)), None, Action::Refuse(Refusal::NotOurs)),
            (
                "another Application's, though we wrote it once",
                Some(written(result)),
                Known::Present(seen(Some("app-2"))),
                None,
                Action::Refuse(Refusal::OtherApplication("app-2".into())),
            ),
            ("going", Some(written(result)), with(&|seen| seen.terminating = true), None, Action::AwaitGone),
        ] {
            let action = manifest(&"app".into(), result, remembered, &known, namespace_pause, at(100));
            assert_eq!(action, expected, "{name}");
        }
    }

    #[test]
    fn removals_touch_only_the_object_they_name() {
        let (live, old) = (Uid::from("live"), Uid::from("old"));
        let order = |uid: Option<&str>| Removal {
            object: ObjectRef { gvk: GroupVersionKind::new("", "v1", "ConfigMap"), name: ObjectName::new("n", "c") },
            uid: uid.map(Uid::from),
            revision: "app-v1".into(),
            reason: RemovalReason::NotInRevision,
            author: "ann".into(),
        };
        let made = |uid| Some(Remembered { uid, ..Remembered::default() });
        let ours = || Known::Present(seen(Some("app")));
        let going = || Known::Present(Seen { terminating: true, ..seen(Some("app")) });
        for (name, order, remembered, known, expected) in [
            ("not looked at", order(Some("live")), None, Known::Nothing, Action::Look),
            ("gone", order(Some("live")), None, Known::Absent, Action::Done),
            ("named", order(Some("live")), None, ours(), Action::Delete(live.clone())),
            ("the name was given away", order(Some("old")), None, ours(), Action::Done),
            ("made again by this agent", order(Some("old")), made(Some(&live)), ours(), Action::Delete(live.clone())),
            ("no label of ours", order(Some("live")), made(Some(&live)), Known::Present(seen(None)), Action::Done),
            ("another's label", order(Some("live")), None, Known::Present(seen(Some("app-2"))), Action::Done),
            ("unnamed, in the ledger", order(None), made(Some(&live)), ours(), Action::Delete(live.clone())),
            ("unnamed, write unanswered", order(None), made(None), ours(), Action::Delete(live.clone())),
            ("unnamed, not in the ledger", order(None), None, ours(), Action::Refuse(Refusal::NotInLedger)),
            ("unnamed, another was made", order(None), made(Some(&old)), ours(), Action::Refuse(Refusal::NotInLedger)),
            ("going", order(Some("live")), None, going(), Action::AwaitGone),
        ] {
            assert_eq!(removal(&"app".into(), &order, remembered, &known, None, at(100)), expected, "{name}");
        }
        let paused = removal(&"app".into(), &order(Some("live")), None, &ours(), Some(at(101)), at(100));
        assert_eq!(paused, Action::Paused(at(101)));
    }

    #[test]
    fn a_pause_that_does_not_parse_pauses_nothing() {
        assert_eq!(paused_until(Some("2026-01-01T00:00:00Z")), Some(at(1_767_225_600)));
        assert_eq!(paused_until(Some("for ever")), None);
        assert_eq!(paused_until(None), None);
    }
}
