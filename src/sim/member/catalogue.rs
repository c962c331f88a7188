//! The kinds a simulated member serves, and how lists inside their objects are keyed.

use serde_json::Value;

use crate::model::GroupVersionKind;

/// One served kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub namespaced: bool,
}

const fn namespaced(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Served {
    Served { group, version, kind, plural, namespaced: true }
}

const fn global(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Served {
    Served { group, version, kind, plural, namespaced: false }
}

const SERVED: &[Served] = &[
    namespaced("", "v1", "ConfigMap", "configmaps"),
    namespaced("", "v1", "Secret", "secrets"),
    namespaced("", "v1", "Service", "services"),
    namespaced("", "v1", "ServiceAccount", "serviceaccounts"),
    namespaced("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    namespaced("", "v1", "Pod", "pods"),
    namespaced("", "v1", "ResourceQuota", "resourcequotas"),
    namespaced("", "v1", "LimitRange", "limitranges"),
    global("", "v1", "Namespace", "namespaces"),
    global("", "v1", "Node", "nodes"),
    global("", "v1", "PersistentVolume", "persistentvolumes"),
    namespaced("apps", "v1", "Deployment", "deployments"),
    namespaced("apps", "v1", "StatefulSet", "statefulsets"),
    namespaced("apps", "v1", "DaemonSet", "daemonsets"),
    namespaced("batch", "v1", "Job", "jobs"),
    namespaced("batch", "v1", "CronJob", "cronjobs"),
    namespaced("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    namespaced("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    namespaced("networking.k8s.io", "v1", "Ingress", "ingresses"),
    namespaced("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    namespaced("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    namespaced("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
    global("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles"),
    global("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings"),
    global("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"),
    global("storage.k8s.io", "v1", "StorageClass", "storageclasses"),
];

/// `None` where the member knows no such kind.
pub fn served(gvk: &GroupVersionKind) -> Option<&'static Served> {
    SERVED.iter().find(|kind| kind.group == gvk.group && kind.version == gvk.version && kind.kind == gvk.kind)
}

impl Served {
    /// `deployments.apps`, `services`: how messages name the resource.
    pub fn resource(&self) -> String {
        qualified(self.plural, self.group)
    }

    /// `Deployment.apps`, `Service`: how messages name the kind.
    pub fn qualified_kind(&self) -> String {
        qualified(self.kind, self.group)
    }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

/// What tells the items of a list apart, as `x-kubernetes-list-map-keys` of the built-in kinds has it. `None`: the list
/// is atomic and belongs as a whole to who applied it last.
pub fn list_keys(field: &str, item: &Value) -> Option<&'static [&'static str]> {
    Some(match field {
        "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "env" | "imagePullSecrets" => &["name"],
        "volumeMounts" => &["mountPath"],
        "volumeDevices" => &["devicePath"],
        "hostAliases" => &["ip"],
        "ownerReferences" => &["uid"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        "ports" if item.get("containerPort").is_some() => &["containerPort", "protocol"],
        "ports" if item.get("port").is_some() => &["port", "protocol"],
        _ => return None,
    })
}

/// The identity of a list item under [`list_keys`]; a missing protocol is TCP, its default.
pub fn item_key(item: &Value, keys: &[&str]) -> Vec<Value> {
    let part = |key: &&str| match item.get(*key) {
        None if *key == "protocol" => Value::from("TCP"),
        part => part.cloned().unwrap_or_default(),
    };
    keys.iter().map(part).collect()
}
