//! Discovery, in both forms: which kinds there are and what can be asked of them. All of it follows from the kinds.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::kinds::{self, Kind, Scope, Status, Verb};

/// The media type of aggregated discovery; answered exactly like this.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether `Accept` lists the aggregated form in the version that is served. Parameters come in any order.
pub fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let parts: BTreeSet<_> = range.split(';').map(str::trim).collect();
        ["application/json", "g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"]
            .iter()
            .all(|part| parts.contains(part))
    })
}

/// `/api` (the core group) or `/apis` (all others), aggregated.
pub fn aggregated(core: bool) -> Value {
    let items: Vec<_> = groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .into_iter()
                .map(|version| {
                    let resources: Vec<_> = kinds_of(group, version).map(resource_v2).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// `/api`.
pub fn core_versions(server: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
    })
}

/// `/apis`.
pub fn group_list() -> Value {
    let named = groups().into_iter().filter(|(group, _)| !group.is_empty());
    let groups: Vec<_> = named.map(|(group, versions)| group_body(group, &versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`.
pub fn group(name: &str) -> Option<Value> {
    let groups = groups();
    let versions = groups.get(name).filter(|_| !name.is_empty())?;
    let mut body = group_body(name, versions);
    body["kind"] = json!("APIGroup");
    body["apiVersion"] = json!("v1");
    Some(body)
}

/// `/api/v1` and `/apis/{group}/{version}`.
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let mut resources = vec![];
    for kind in kinds_of(group, version) {
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.is_namespaced(),
            "kind": kind.gvk.kind, "verbs": verbs(kind), "shortNames": kind.short_names,
            "categories": kind.categories,
        }));
        for (name, verbs) in subresources(kind) {
            resources.push(json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.is_namespaced(),
                "kind": kind.gvk.kind, "verbs": verbs,
            }));
        }
    }
    let group_version = group_version(group, version);
    (!resources.is_empty()).then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
    })
}

/// Every group version that is served, as paths below `/`: `api/v1`, `apis/core.oam.dev/v1beta1`.
pub fn group_versions() -> Vec<(String, String, String)> {
    let mut found = vec![];
    for (group, versions) in groups() {
        for version in versions {
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            found.push((path, group.to_owned(), version.to_owned()));
        }
    }
    found
}

pub fn kinds_of<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Kind> + 'a {
    kinds::all().into_iter().filter(move |kind| kind.gvk.group == group && kind.gvk.version == version)
}

fn groups() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for kind in kinds::all() {
        let versions = groups.entry(&kind.gvk.group).or_default();
        if !versions.contains(&kind.gvk.version.as_str()) {
            versions.push(&kind.gvk.version);
        }
    }
    groups
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn group_body(name: &str, versions: &[&str]) -> Value {
    let entry = |version: &&str| json!({"groupVersion": group_version(name, version), "version": version});
    let entries: Vec<_> = versions.iter().map(entry).collect();
    json!({"name": name, "versions": entries, "preferredVersion": entries.first()})
}

fn verbs(kind: &Kind) -> Vec<&'static str> {
    let mut verbs: Vec<_> = kind.verbs.iter().map(|verb| verb.name()).collect();
    verbs.sort_unstable();
    verbs
}

pub fn subresources(kind: &Kind) -> Vec<(&'static str, Vec<&'static str>)> {
    let posted = kind.hooks.posted.iter().map(|name| (*name, vec![Verb::Create.name()]));
    let status = match kind.status {
        Status::None => vec![],
        Status::Served => vec![("status", [Verb::Get, Verb::Patch, Verb::Update].map(Verb::name).into())],
        Status::HubOnly => vec![("status", vec![Verb::Get.name()])],
    };
    posted.chain(status).collect()
}

fn resource_v2(kind: &'static Kind) -> Value {
    let response_kind = json!({"group": kind.gvk.group, "version": kind.gvk.version, "kind": kind.gvk.kind});
    let subresource =
        |(name, verbs): (&str, Vec<&str>)| json!({"subresource": name, "responseKind": response_kind, "verbs": verbs});
    let subresources: Vec<_> = subresources(kind).into_iter().map(subresource).collect();
    let mut resource = json!({
        "resource": kind.plural, "responseKind": response_kind, "singularResource": kind.singular,
        "scope": if kind.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
        "verbs": verbs(kind), "shortNames": kind.short_names, "categories": kind.categories,
    });
    if !subresources.is_empty() {
        resource["subresources"] = json!(subresources);
    }
    resource
}
