//! Volumes and where they are mounted: `volumeMounts`, sorted by kind, or the older list `volumes`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::model::object::FieldErrorKind;

use super::{
    container::{Flavour, set},
    properties::{Faults, Properties},
};

pub struct Volumes {
    /// Of the container.
    pub mounts: Vec<Value>,
    /// Of the pod.
    pub volumes: Vec<Value>,
}

/// The order in which kinds are walked, whatever the order they are written in.
const KINDS: [&str; 5] = ["pvc", "configMap", "secret", "emptyDir", "hostPath"];
/// The list has no `hostPath`.
const LISTED_KINDS: [&str; 4] = ["configMap", "emptyDir", "pvc", "secret"];

const FILE_MODE: i64 = 0o644;
const ITEM_MODE: i64 = 0o777;

/// `None` where neither property is given.
pub fn read(properties: &Properties<'_>, flavour: Flavour) -> Option<Volumes> {
    let Some(by_kind) = properties.properties("volumeMounts") else { return listed(properties) };
    // Not rendered now, so nothing in it can be missing; but what is there must be what it is declared to be.
    let unused = Faults::default();
    listed(&properties.telling(&unused));
    unused.into_vec().into_iter().filter(|fault| fault.kind != FieldErrorKind::Required).for_each(|fault| {
        properties.tell(fault);
    });
    Some(by_kind_of(&by_kind, flavour))
}

fn by_kind_of(by_kind: &Properties<'_>, flavour: Flavour) -> Volumes {
    let mut named = BTreeSet::new();
    let (mut mounts, mut volumes) = (Vec::new(), Vec::new());
    for kind in KINDS {
        for volume in by_kind.items(kind).into_iter().flatten() {
            let mut mount = mount(&volume);
            if flavour == Flavour::Webservice {
                volume.text("subPath");
            }
            set(&mut mount, "subPath", volume.as_map().get("subPath").cloned());
            mounts.push(Value::Object(mount));
            // One volume may be mounted in several places.
            let rendered = volume_of(kind, &volume);
            if named.insert(volume.as_map().get("name").and_then(Value::as_str)) {
                volumes.push(rendered);
            }
        }
    }
    Volumes { mounts, volumes }
}

fn listed(properties: &Properties<'_>) -> Option<Volumes> {
    let listed = properties.items("volumes")?;
    let mounts = listed.iter().map(|volume| Value::Object(mount(volume))).collect();
    let volume = |volume: &Properties<'_>| {
        let kind = volume.choice("type", &LISTED_KINDS).unwrap_or("emptyDir");
        volume_of(kind, volume)
    };
    Some(Volumes { mounts, volumes: listed.iter().map(volume).collect() })
}

fn mount(volume: &Properties<'_>) -> Map<String, Value> {
    let mut mount = Map::new();
    mount.insert("name".into(), volume.required_text("name").into());
    mount.insert("mountPath".into(), volume.required_text("mountPath").into());
    mount
}

fn volume_of(kind: &str, volume: &Properties<'_>) -> Value {
    let (field, source) = match kind {
        "pvc" => ("persistentVolumeClaim", json!({"claimName": volume.required_text("claimName")})),
        "configMap" => ("configMap", files(volume, "name", "cmName")),
        "secret" => ("secret", files(volume, "secretName", "secretName")),
        "hostPath" => ("hostPath", json!({"path": volume.required_text("path")})),
        _ => ("emptyDir", json!({"medium": volume.choice("medium", &["", "Memory"]).unwrap_or_default()})),
    };
    json!({"name": volume.as_map().get("name"), field: source})
}

/// A ConfigMap or Secret whose keys become files. `field` is where its name goes, `property` where it was written.
fn files(volume: &Properties<'_>, field: &str, property: &str) -> Value {
    let mut source = Map::new();
    source.insert(field.to_owned(), volume.required_text(property).into());
    source.insert("defaultMode".into(), volume.integer("defaultMode").unwrap_or(FILE_MODE).into());
    set(&mut source, "items", volume.items("items").map(|items| items.iter().map(item).collect::<Vec<_>>()));
    Value::Object(source)
}

fn item(item: &Properties<'_>) -> Value {
    item.required_text("key");
    item.required_text("path");
    let mut rendered = item.as_map().clone();
    rendered.insert("mode".into(), item.integer("mode").unwrap_or(ITEM_MODE).into());
    Value::Object(rendered)
}
