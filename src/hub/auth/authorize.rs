//! The one function that says who may do what.

use super::{ADMIN_GROUP, AUTHENTICATED_GROUP, Subject, VIEWER_GROUP};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// `get`, `list`, `create`, …; for paths the method in lower case.
    pub verb: String,
    pub group: String,
    /// Plural. Empty: the request is for a path.
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub path: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow,
    /// In the words that kubectl users know.
    Deny(String),
}

/// Tells of the hub's own machines: for who may read all, and nobody else.
pub const REPLICAS_PATH: &str = "/replicas";

const READ: [&str; 3] = ["get", "list", "watch"];

/// Pure: the same question has the same answer on every replica.
pub fn authorize(subject: &Subject, attributes: &Attributes) -> Decision {
    let is_in = |group: &str| subject.groups.iter().any(|name| name == group);
    let is_path = attributes.resource.is_empty();
    let allowed = is_in(ADMIN_GROUP)
        || is_in(VIEWER_GROUP) && READ.contains(&attributes.verb.as_str())
        // Whoever is somebody may ask who that is and what it may do, and about placement.
        || is_in(AUTHENTICATED_GROUP) && attributes.verb == "create" && is_a_question(attributes)
        // Discovery names kinds, not objects: whoever is somebody may read it, or no client would start.
        || is_path && is_in(AUTHENTICATED_GROUP) && attributes.verb == "get" && attributes.path != REPLICAS_PATH
        || is_path && is_health(&attributes.path) && attributes.verb == "get";
    if allowed { Decision::Allow } else { Decision::Deny(refusal(subject, attributes)) }
}

/// Of what is told in answer each object is authorised by itself.
fn is_a_question(attributes: &Attributes) -> bool {
    match attributes.group.as_str() {
        "hub.hanse.dev" => ["placementreviews", "drillreviews"].contains(&attributes.resource.as_str()),
        "authentication.k8s.io" => attributes.resource == "selfsubjectreviews",
        "authorization.k8s.io" => {
            ["selfsubjectaccessreviews", "selfsubjectrulesreviews"].contains(&attributes.resource.as_str())
        }
        _ => false,
    }
}

fn is_health(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

fn refusal(subject: &Subject, attributes: &Attributes) -> String {
    let Attributes { verb, group, resource, subresource, namespace, name, path } = attributes;
    if resource.is_empty() {
        return format!("forbidden: User {:?} cannot {verb} path {path:?}", subject.user);
    }
    let dotted = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
    let named = if name.is_empty() { String::new() } else { format!(" {name:?}") };
    let part = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let place = match namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let user = &subject.user;
    format!(
        "{dotted}{named} is forbidden: User {user:?} cannot {verb} resource {part:?} in API group {group:?} {place}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(groups: &[&str]) -> Subject {
        Subject { user: "u".into(), groups: groups.iter().map(|group| (*group).to_owned()).collect() }
    }

    fn applications(verb: &'static str) -> Attributes {
        Attributes {
            verb: verb.into(),
            group: "core.oam.dev".into(),
            resource: "applications".into(),
            namespace: "x".into(),
            ..Attributes::default()
        }
    }

    fn path(path: &str) -> Attributes {
        Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() }
    }

    #[test]
    fn rights_come_from_groups() {
        let (admin, viewer, nobody) =
            (subject(&[ADMIN_GROUP]), subject(&[VIEWER_GROUP]), subject(&[AUTHENTICATED_GROUP]));
        let allowed = |subject: &Subject, attributes| authorize(subject, &attributes) == Decision::Allow;
        assert!(allowed(&admin, applications("delete")) && allowed(&viewer, applications("watch")));
        assert!(!allowed(&viewer, applications("create")) && !allowed(&nobody, applications("get")));
        assert!(allowed(&nobody, path("/apis")) && allowed(&Subject::anonymous(), path("/readyz/store")));
        assert!(!allowed(&Subject::anonymous(), path("/version")));
        assert!(allowed(&viewer, path("/replicas")) && !allowed(&nobody, path("/replicas")));
        assert!(!allowed(&Subject::anonymous(), path("/healthzz")));
    }

    #[test]
    fn refusals_read_as_upstream_writes_them() {
        assert_eq!(
            authorize(&subject(&[]), &applications("list")),
            Decision::Deny(
                "applications.core.oam.dev is forbidden: User \"u\" cannot list resource \"applications\" in API group \
                 \"core.oam.dev\" in the namespace \"x\""
                    .into()
            )
        );
    }
}
