//! What people do to the simulated federation: the API's writes, without its HTTP, and hands on the members.

use serde_json::{Value, json};

use super::{At, World, site::Site};
use crate::{
    flow::admit,
    hub::keys,
    kinds::{
        self, Kind, Origin,
        metadata::{keep_deletion, mark_deleted},
    },
    model::Uid,
    sim::member::{Config, Member},
    store::{Operation, object},
};

impl World {
    /// A member joins under this name; the hub has accepted it and given it these labels.
    pub fn join(&mut self, name: &str, config: Config, labels: &[(&str, &str)]) -> At {
        let now = self.now();
        let skew = self.chance.between(0, 4_000) as i64 - 2_000;
        let cluster = self.new_uid("cluster");
        let at = self.sites.len();
        self.sites.push(Site::new(name, cluster.clone(), Member::new(config, now), skew));
        self.register(at, labels);
        self.member_changed(at);
        self.start_agent(at);
        at
    }

    /// A cluster that was deleted on the hub joins again, as another one.
    pub fn join_again(&mut self, at: At, labels: &[(&str, &str)]) {
        let cluster = self.new_uid("cluster");
        self.rejoin(at, cluster);
        self.register(at, labels);
    }

    fn register(&mut self, at: At, labels: &[(&str, &str)]) {
        let site = &self.sites[at];
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value)));
        let value = json!({
            "apiVersion": kinds::CLUSTER.gvk.api_version(), "kind": "Cluster",
            "metadata": {"name": site.name, "labels": Value::Object(labels.collect())},
            "spec": {"accepted": true},
        });
        let status = json!({
            "certificate": {"keyFingerprint": site.key, "serial": "1"},
            "join": {"token": "t", "keyFingerprint": site.key, "systemUid": site.member.facts().system_uid},
        });
        let (name, uid) = (site.name.clone(), site.cluster.clone());
        self.store_object(&kinds::CLUSTER, "", &name, |world| {
            let (value, status, uid) = (value.clone(), Some(status.clone()), Some(uid.clone()));
            Some(world.prepare(&kinds::CLUSTER, "", &name, value, status, uid))
        });
    }

    pub fn put_priority_class(&mut self, name: &str, value: i32) {
        let kind = &kinds::PRIORITY_CLASS;
        let class = json!({
            "apiVersion": kind.gvk.api_version(), "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
        });
        self.store_object(kind, "", name, |world| Some(world.prepare(kind, "", name, class.clone(), None, None)));
    }

    /// Creates or replaces an Application, as the API does; its faults where it is not admitted.
    pub fn put_application(&mut self, application: &Value) -> Result<(), String> {
        let metadata = &application["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or("default");
        let old = self.object(&kinds::APPLICATION, namespace, metadata["name"].as_str().unwrap_or_default());
        let faults = admit::admit(application, old.as_ref());
        if !faults.is_empty() {
            return Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        }
        let namespace = application["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        let name = application["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.store_object(&kinds::APPLICATION, &namespace, &name, |world| {
            Some(world.prepare(&kinds::APPLICATION, &namespace, &name, application.clone(), None, None))
        });
        Ok(())
    }

    /// Deletes an object of the hub: at once, or by a deletionTimestamp while it has finalizers.
    pub fn delete_object(&mut self, kind: &Kind, namespace: &str, name: &str) -> bool {
        let Some(value) = self.object(kind, namespace, name) else { return false };
        if value["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
            let key = keys::key(kind, namespace, name);
            self.write_object(&key.clone(), |world| world.store().get(&key).map(|_| Operation::Delete(key.clone())));
        } else if value["metadata"].get("deletionTimestamp").is_none() {
            self.change_object(kind, namespace, name, |world, value| {
                if value["metadata"].get("deletionTimestamp").is_none() {
                    let origin = Origin { user: "sim".into(), ..Origin::default() };
                    mark_deleted(value, world.now().wall, &origin);
                }
            });
        }
        true
    }

    /// Changes an object of the hub in place.
    pub fn edit_object(&mut self, kind: &Kind, namespace: &str, name: &str, change: impl Fn(&mut Value)) -> bool {
        if self.object(kind, namespace, name).is_none() {
            return false;
        }
        let make = |world: &mut Self| {
            let mut value = world.object(kind, namespace, name)?;
            change(&mut value);
            Some(world.prepare(kind, namespace, name, value, None, None))
        };
        self.store_object(kind, namespace, name, make);
        true
    }

    fn change_object(&mut self, kind: &Kind, namespace: &str, name: &str, change: impl Fn(&mut Self, &mut Value)) {
        self.store_object(kind, namespace, name, |world| {
            let mut value = world.object(kind, namespace, name)?;
            change(world, &mut value);
            Some(value)
        });
    }

    /// As it is stored.
    pub fn object(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Value> {
        let entry = self.store().get(&keys::key(kind, namespace, name))?;
        serde_json::from_slice(&object::json(&entry.value).ok()?).ok()
    }

    /// All of a kind.
    pub fn objects(&self, kind: &Kind) -> Vec<Value> {
        let prefix = keys::prefix(kind, None);
        let entries = self.store().entries().filter(|entry| entry.key.as_str().starts_with(&prefix));
        entries.filter_map(|entry| serde_json::from_slice(&object::json(&entry.value).ok()?).ok()).collect()
    }

    pub fn site(&self, name: &str) -> Option<At> {
        self.sites.iter().position(|site| site.name == name)
    }

    /// Does something to a member as one who works in it.
    pub fn in_member<T>(&mut self, at: At, change: impl FnOnce(&mut Member, crate::model::Now) -> T) -> T {
        let now = self.now();
        let result = change(&mut self.sites[at].member, now);
        self.member_changed(at);
        result
    }

    pub(super) fn new_uid(&mut self, kind: &str) -> Uid {
        Uid(format!("{kind}-{:016x}", self.chance.next()))
    }

    /// As the API makes of it what is stored.
    fn prepare(
        &mut self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        mut value: Value,
        status: Option<Value>,
        uid: Option<Uid>,
    ) -> Value {
        let old = self.object(kind, namespace, name);
        let trace = format!("{:032x}", self.chance.next());
        let kept = |field: &str| old.as_ref().and_then(|old| old["metadata"].get(field)).cloned();
        let metadata = &mut value["metadata"];
        metadata["namespace"] = namespace.into();
        metadata["uid"] = match (kept("uid"), uid) {
            (Some(kept), _) => kept,
            (None, Some(uid)) => uid.0.into(),
            (None, None) => self.new_uid("uid").0.into(),
        };
        metadata["creationTimestamp"] = kept("creationTimestamp").unwrap_or_else(|| self.now().wall.to_string().into());
        for field in ["deletionTimestamp", "finalizers"] {
            if let Some(kept) = kept(field) {
                value["metadata"][field] = kept;
            }
        }
        if let Some(finalizer) = kind.hub_finalizer.filter(|_| old.is_none()) {
            value["metadata"]["finalizers"] = json!([finalizer]);
        }
        let changed = old.as_ref().is_none_or(|old| old["spec"] != value["spec"]);
        let generation = kept("generation").and_then(|generation| generation.as_i64()).unwrap_or_default();
        value["metadata"]["generation"] = (generation + i64::from(changed)).into();
        if let Some(status) = old.as_ref().map(|old| old["status"].clone()).filter(|status| !status.is_null()) {
            value["status"] = status;
        }
        if let Some(status) = status {
            value["status"] = status;
        }
        keep_deletion(old.as_ref(), &mut value);
        (kind.hooks.prepare)(&mut value, old.as_ref(), &Origin { user: "sim".into(), trace, ..Origin::default() });
        value
    }

    fn store_object(
        &mut self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        mut make: impl FnMut(&mut Self) -> Option<Value>,
    ) {
        let key = keys::key(kind, namespace, name);
        self.write_object(&key.clone(), |world| Some(Operation::Put(key.clone(), object::encode(&make(world)?))));
    }
}
