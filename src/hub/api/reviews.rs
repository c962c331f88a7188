//! Reviews: questions about oneself, answered by the very function that decides (kinds with `Backing::Review`).
//!
//! Must never: answer about anybody but the caller, or keep anything. Those about placement are answered elsewhere
//! ([`super::questions`]).

use http::HeaderMap;
use serde_json::{Value, json};

use super::{
    discovery,
    path::Target,
    query::Validation,
    status::{Refusal, Result},
    write,
};
use crate::{
    hub::auth::{Attributes, Decision, Subject, authorize},
    kinds::{self, Kind, Review, strict::Finding},
};

/// Paths that are no resources.
const PATHS: [&str; 9] =
    ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi/*", "/readyz", "/version"];

/// A sound review, and what strict decoding found.
pub fn read(
    target: &Target,
    headers: &HeaderMap,
    (bytes, validation): (&[u8], Validation),
) -> Result<(Value, Vec<Finding>)> {
    let kind = target.kind;
    let (mut value, findings) = write::decode(kind, headers, bytes, validation)?;
    kind.schema.normalise(&mut value);
    let mut faults = kind.schema.validate(&value, crate::hub::limits::FAULTS_MAX);
    faults.extend((kind.hooks.check)(&value, None));
    if !faults.is_empty() {
        return Err(Refusal::invalid(kind, "", &faults));
    }
    Ok((value, findings))
}

/// `None` for what only the leader can answer.
pub fn answer(subject: &Subject, review: Review, spec: &Value) -> Option<Value> {
    match review {
        Review::Subject => Some(json!({"userInfo": {"username": subject.user, "groups": subject.groups}})),
        Review::Access => Some(access(subject, spec)),
        Review::Rules => Some(rules(subject, spec["namespace"].as_str().unwrap_or_default())),
        Review::Placement | Review::Drill => None,
    }
}

fn access(subject: &Subject, spec: &Value) -> Value {
    let text = |part: &Value, field: &str| part[field].as_str().unwrap_or_default().to_owned();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let attributes = match path.is_object() {
        true => Attributes { verb: text(path, "verb"), path: text(path, "path"), ..Attributes::default() },
        false => Attributes {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            path: String::new(),
        },
    };
    match authorize(subject, &attributes) {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny(reason) => json!({"allowed": false, "reason": reason}),
    }
}

/// Every verb of every kind, asked one by one.
fn rules(subject: &Subject, namespace: &str) -> Value {
    let may = |attributes: Attributes| authorize(subject, &attributes) == Decision::Allow;
    let mut resource_rules = vec![];
    for kind in kinds::all() {
        let whole = ("", kind.verbs.iter().map(|verb| verb.name()).collect());
        for (subresource, verbs) in std::iter::once(whole).chain(discovery::subresources(kind)) {
            let asked = |verb: &str| attributes(kind, subresource, verb, namespace);
            let verbs: Vec<&str> = verbs.into_iter().filter(|verb| may(asked(verb))).collect();
            let resource = match subresource {
                "" => kind.plural.clone(),
                subresource => format!("{}/{subresource}", kind.plural),
            };
            if !verbs.is_empty() {
                resource_rules.push(json!({"verbs": verbs, "apiGroups": [kind.gvk.group], "resources": [resource]}));
            }
        }
    }
    let path = |path: &str| Attributes { verb: "get".into(), path: path.to_owned(), ..Attributes::default() };
    let paths: Vec<&str> = PATHS.into_iter().filter(|name| may(path(name))).collect();
    let path_rules = match paths.is_empty() {
        true => json!([]),
        false => json!([{"verbs": ["get"], "nonResourceURLs": paths}]),
    };
    json!({"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": false})
}

fn attributes(kind: &Kind, subresource: &str, verb: &str, namespace: &str) -> Attributes {
    Attributes {
        verb: verb.to_owned(),
        group: kind.gvk.group.clone(),
        resource: kind.plural.clone(),
        subresource: subresource.to_owned(),
        namespace: if kind.is_namespaced() { namespace.to_owned() } else { String::new() },
        ..Attributes::default()
    }
}
