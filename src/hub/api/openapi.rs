//! OpenAPI v3, for `kubectl explain` and for clients that check before they send. Follows from the kinds.

use std::{collections::BTreeMap, sync::LazyLock};

use bytes::Bytes;
use prost::Message;
use serde_json::{Map, Value, json};

use super::discovery;
use crate::{
    kinds::{Kind, Status, Verb},
    model::Digest,
};

/// The documents by path (`apis/core.oam.dev/v1beta1`), made once: kinds do not change while the hub runs.
static DOCUMENTS: LazyLock<BTreeMap<String, Document>> = LazyLock::new(|| {
    let paths = discovery::group_versions().into_iter();
    paths.map(|(path, group, version)| (path.clone(), Document::new(&path, &group, &version))).collect()
});

pub struct Document {
    pub bytes: Bytes,
    /// Hex; its address and ETag.
    pub hash: String,
}

impl Document {
    fn new(path: &str, group: &str, version: &str) -> Self {
        let bytes = Bytes::from(document(path, group, version).to_string());
        let hash = Digest::of(&bytes).to_string().to_uppercase();
        Self { bytes, hash }
    }
}

pub fn find(path: &str) -> Option<&'static Document> {
    DOCUMENTS.get(path)
}

/// `/openapi/v3`.
pub fn index() -> Value {
    let entry = |(path, document): (&String, &Document)| {
        let url = format!("/openapi/v3/{path}?hash={}", document.hash);
        (path.clone(), json!({"serverRelativeURL": url}))
    };
    json!({"paths": DOCUMENTS.iter().map(entry).collect::<Map<_, _>>()})
}

/// `/openapi/v2`: the least document there is. Clients that want schemas read v3.
pub fn v2() -> Value {
    json!({"swagger": "2.0", "info": {"title": "hanse", "version": "v1"}, "paths": {}, "definitions": {}})
}

/// The same in the form that kubectl reads before it creates what it cannot have checked by the hub (a kind without patch). No
/// kind stands in it, and what does not stand in it kubectl lets pass.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// Clients ask for it by a name that is no media type (`…spec.v2@v1.0+protobuf`); this much is common to both.
pub const V2_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2";

pub fn v2_protobuf() -> Bytes {
    let info = Info { title: "hanse".into(), version: "v1".into() };
    Swagger { swagger: "2.0".into(), info: Some(info) }.encode_to_vec().into()
}

/// The first fields of gnostic's `openapi.v2.Document`.
#[derive(Clone, PartialEq, prost::Message)]
struct Swagger {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

fn document(path: &str, group: &str, version: &str) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for kind in discovery::kinds_of(group, version) {
        let name = schema_name(kind);
        let mut schema = kind.schema.open_api();
        schema["x-kubernetes-group-version-kind"] = json!([gvk(kind)]);
        schemas.insert(name.clone(), schema);
        schemas.insert(format!("{name}List"), list_schema(kind));
        let root = format!("/{path}/");
        let base = if kind.is_namespaced() { format!("{root}namespaces/{{namespace}}/") } else { root.clone() };
        paths.insert(format!("{base}{}", kind.plural), collection(kind));
        paths.insert(format!("{base}{}/{{name}}", kind.plural), item(kind, &kind.verbs, ""));
        if kind.is_namespaced() {
            let listing = json!({"get": operation(kind, Verb::List, "ForAllNamespaces")});
            paths.insert(format!("{root}{}", kind.plural), listing);
        }
        let status_verbs: &[Verb] = match kind.status {
            Status::None => &[],
            Status::Served => &[Verb::Get, Verb::Update, Verb::Patch],
            Status::HubOnly => &[Verb::Get],
        };
        if !status_verbs.is_empty() {
            paths.insert(format!("{base}{}/{{name}}/status", kind.plural), item(kind, status_verbs, "Status"));
        }
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "hanse", "version": "v1"},
        "paths": paths, "components": {"schemas": schemas},
    })
}

/// Reversed domain, version, kind: `dev.oam.core.v1beta1.Application`.
fn schema_name(kind: &Kind) -> String {
    let group = if kind.gvk.group.is_empty() { "core.api.k8s.io" } else { &kind.gvk.group };
    let reversed = group.split('.').rev().collect::<Vec<_>>().join(".");
    format!("{reversed}.{}.{}", kind.gvk.version, kind.gvk.kind)
}

fn gvk(kind: &Kind) -> Value {
    json!({"group": kind.gvk.group, "version": kind.gvk.version, "kind": kind.gvk.kind})
}

fn list_schema(kind: &Kind) -> Value {
    let mut list_gvk = gvk(kind);
    list_gvk["kind"] = json!(format!("{}List", kind.gvk.kind));
    json!({
        "type": "object", "required": ["items"], "x-kubernetes-group-version-kind": [list_gvk],
        "properties": {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {
                "continue": {"type": "string"}, "resourceVersion": {"type": "string"},
                "remainingItemCount": {"type": "integer", "format": "int64"},
            }},
            "items": {"type": "array", "items": reference(&schema_name(kind))},
        },
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn collection(kind: &Kind) -> Value {
    let mut operations = json!({});
    if kind.serves(Verb::List) {
        operations["get"] = operation(kind, Verb::List, "");
    }
    if kind.serves(Verb::Create) {
        operations["post"] = operation(kind, Verb::Create, "");
    }
    if kind.serves(Verb::DeleteCollection) {
        operations["delete"] = operation(kind, Verb::DeleteCollection, "");
    }
    operations
}

fn item(kind: &Kind, verbs: &[Verb], part: &str) -> Value {
    let mut operations = json!({});
    let methods = [(Verb::Get, "get"), (Verb::Update, "put"), (Verb::Patch, "patch"), (Verb::Delete, "delete")];
    for (verb, method) in methods.into_iter().filter(|(verb, _)| verbs.contains(verb)) {
        operations[method] = operation(kind, verb, part);
    }
    operations
}

fn operation(kind: &Kind, verb: Verb, part: &str) -> Value {
    let (action, prefix) = match verb {
        Verb::Create => ("post", "create"),
        Verb::Delete => ("delete", "delete"),
        Verb::DeleteCollection => ("deletecollection", "deleteCollection"),
        Verb::Get => ("get", "read"),
        Verb::List => ("list", "list"),
        Verb::Patch => ("patch", "patch"),
        Verb::Update => ("put", "replace"),
        Verb::Watch => ("watch", "watch"),
    };
    let answered = if verb == Verb::List { format!("{}List", schema_name(kind)) } else { schema_name(kind) };
    let group: String = kind.gvk.group.split('.').map(capitalised).collect();
    let id = format!("{prefix}{group}{}{}{part}", capitalised(&kind.gvk.version), kind.gvk.kind);
    let code = if verb == Verb::Create { "201" } else { "200" };
    let mut out = json!({
        "operationId": id, "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(kind),
        "parameters": parameters(verb),
        "responses": {code: {"description": "OK", "content": {"application/json": {"schema": reference(&answered)}}}},
    });
    let body = |schema: Value, types: &[&str]| {
        let content: Map<_, _> = types.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
        json!({"content": content, "required": true})
    };
    let types = ["application/json", "application/yaml"];
    match verb {
        Verb::Create | Verb::Update => out["requestBody"] = body(reference(&schema_name(kind)), &types),
        Verb::Patch => {
            let types = ["application/json-patch+json", "application/merge-patch+json"];
            out["requestBody"] = body(json!({"type": "object"}), &types);
        }
        _ => {}
    }
    out
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn parameters(verb: Verb) -> Value {
    let names: &[&str] = match verb {
        Verb::Create | Verb::Update | Verb::Patch => &["dryRun", "fieldManager", "fieldValidation"],
        Verb::Delete => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        Verb::DeleteCollection => &["dryRun", "fieldSelector", "labelSelector", "propagationPolicy"],
        Verb::List | Verb::Watch => &[
            "allowWatchBookmarks",
            "continue",
            "fieldSelector",
            "labelSelector",
            "limit",
            "resourceVersion",
            "resourceVersionMatch",
            "sendInitialEvents",
            "timeoutSeconds",
            "watch",
        ],
        Verb::Get => &[],
    };
    let type_of = |name: &str| match name {
        "allowWatchBookmarks" | "sendInitialEvents" | "watch" => "boolean",
        "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
        _ => "string",
    };
    let parameter =
        |name: &&str| json!({"name": name, "in": "query", "schema": {"type": type_of(name), "uniqueItems": true}});
    json!(names.iter().map(parameter).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn every_kind_is_described_and_its_patch_declares_field_validation() {
        for kind in kinds::all() {
            let path = discovery::group_versions().into_iter().find(|(_, group, _)| *group == kind.gvk.group);
            let (path, ..) = path.expect("a served group");
            let document: Value = serde_json::from_slice(&find(&path).expect("a document").bytes).expect("json");
            assert!(document["components"]["schemas"][schema_name(kind)]["properties"]["metadata"].is_object());
            if kind.serves(Verb::Patch) {
                let text = document["paths"].to_string();
                assert!(text.contains("fieldValidation"), "{}", kind.plural);
            }
        }
    }
}
