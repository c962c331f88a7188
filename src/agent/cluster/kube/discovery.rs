//! Which path a kind has in this member. Read once per group version, and again when a kind is not in it.

use std::collections::BTreeMap;

use kube::Client;
use parking_lot::Mutex;

use super::{rejected, rejection};
use crate::{
    agent::cluster::Rejection,
    model::{GroupVersionKind, ObjectRef},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub plural: String,
    pub namespaced: bool,
}

#[derive(Debug, Default)]
pub struct Discovery {
    known: Mutex<BTreeMap<GroupVersionKind, Resource>>,
}

impl Discovery {
    pub async fn resource(&self, client: &Client, gvk: &GroupVersionKind) -> Result<Resource, Rejection> {
        if let Some(resource) = self.known.lock().get(gvk).cloned() {
            return Ok(resource);
        }
        let unknown = || rejection("KindUnknown", format!("the member serves no {gvk}"));
        let listed = match gvk.group.as_str() {
            "" => client.list_core_api_resources(&gvk.version).await,
            _ => client.list_api_group_resources(&gvk.api_version()).await,
        };
        let listed = listed.map_err(rejected).map_err(|error| match error.reason.as_str() {
            "NotFound" => unknown(),
            _ => error,
        })?;
        let mut known = self.known.lock();
        // Subresources carry a slash in their name, and may carry the kind of another resource.
        for resource in listed.resources.into_iter().filter(|resource| !resource.name.contains('/')) {
            let kind = GroupVersionKind { kind: resource.kind, ..gvk.clone() };
            known.insert(kind, Resource { plural: resource.name, namespaced: resource.namespaced });
        }
        known.get(gvk).cloned().ok_or_else(unknown)
    }

    /// A watch found nothing at its path: the definition may be gone, or have come back in another shape.
    pub fn forget(&self, gvk: &GroupVersionKind) {
        self.known.lock().remove(gvk);
    }
}

impl Resource {
    /// The path of one object. Names that are no names of Kubernetes never become part of a path.
    pub fn path(&self, gvk: &GroupVersionKind, object: &ObjectRef) -> Result<String, Rejection> {
        let (namespace, name) = (&object.name.namespace, &object.name.name);
        for part in [name, namespace] {
            // RBAC names may hold colons; nothing may hold what has a meaning in a path.
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
            if part == "." || part == ".." || !part.chars().all(plain) {
                return Err(rejection("Invalid", format!("{part:?} is not a name")));
            }
        }
        let root = match gvk.group.as_str() {
            "" => format!("/api/{}", gvk.version),
            group => format!("/apis/{group}/{}", gvk.version),
        };
        match self.namespaced {
            true if namespace.is_empty() => Err(rejection("Invalid", format!("{object} lacks a namespace"))),
            true => Ok(format!("{root}/namespaces/{namespace}/{}/{name}", self.plural)),
            false => Ok(format!("{root}/{}/{name}", self.plural)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    #[test]
    fn paths_are_those_of_the_api_and_nothing_leads_out_of_them() {
        let resource = |plural: &str, namespaced| Resource { plural: plural.into(), namespaced };
        let path = |group: &str, resource: Resource, namespace: &str, name: &str| {
            let gvk = GroupVersionKind::new(group, "v1", "X");
            resource.path(&gvk, &ObjectRef { gvk: gvk.clone(), name: ObjectName::new(namespace, name) }).ok()
        };
        for (found, expected) in [
            (path("", resource("pods", true), "n", "p"), Some("/api/v1/namespaces/n/pods/p")),
            (path("apps", resource("deployments", true), "n", "d"), Some("/apis/apps/v1/namespaces/n/deployments/d")),
            (path("rbac", resource("clusterroles", false), "n", "a:b"), Some("/apis/rbac/v1/clusterroles/a:b")),
            (path("", resource("pods", true), "", "p"), None),
            (path("", resource("pods", true), "n", ".."), None),
            (path("", resource("pods", true), "n/../kube-system", "p"), None),
            (path("", resource("pods", true), "n", "p?force=true"), None),
        ] {
            assert_eq!(found.as_deref(), expected);
        }
    }
}
