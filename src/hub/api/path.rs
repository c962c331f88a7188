//! URLs and methods as what they ask for.

use http::Method;

use super::status::{Refusal, Result};
use crate::kinds::{self, Kind, Verb};

/// What a URL names.
#[derive(Debug, PartialEq)]
pub enum Route {
    /// `/healthz`, `/livez`, `/readyz` and single checks below them.
    Health,
    Version,
    /// `/replicas`: the hub's own processes, also where the store cannot be read.
    Replicas,
    /// `/api` and `/apis`: the roots of discovery.
    CoreVersions,
    Groups,
    Group(String),
    Resources {
        group: String,
        version: String,
    },
    OpenApiIndex,
    /// The document of one group version: `apis/core.oam.dev/v1beta1`.
    OpenApi(String),
    OpenApiV2,
    Resource(Target),
}

/// A resource, one object of it or a subresource.
#[derive(Debug, Clone)]
pub struct Target {
    pub kind: &'static Kind,
    /// Absent: cluster-scoped, or all namespaces.
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<Subresource>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    Binding,
    Status,
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        let parts = |target: &Self| (target.namespace.clone(), target.name.clone(), target.subresource);
        std::ptr::eq(self.kind, other.kind) && parts(self) == parts(other)
    }
}

impl Target {
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// Empty where the URL names a collection.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    pub fn is_status(&self) -> bool {
        self.subresource == Some(Subresource::Status)
    }
}

pub fn parse(path: &str) -> Result<Route> {
    let segments: Vec<String> =
        path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect::<Result<_>>()?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    Ok(match segments[..] {
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["version"] => Route::Version,
        ["replicas"] => Route::Replicas,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group(group.to_owned()),
        ["api", "v1"] => Route::Resources { group: String::new(), version: "v1".to_owned() },
        ["apis", group, version] => Route::Resources { group: group.to_owned(), version: version.to_owned() },
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", ref rest @ ..] => Route::OpenApi(rest.join("/")),
        ["openapi", "v2"] => Route::OpenApiV2,
        ["api", "v1", ref rest @ ..] => Route::Resource(target("", "v1", rest)?),
        ["apis", group, version, ref rest @ ..] => Route::Resource(target(group, version, rest)?),
        _ => return Err(Refusal::no_such_path()),
    })
}

fn target(group: &str, version: &str, segments: &[&str]) -> Result<Target> {
    // `namespaces/x/y…` is a namespaced resource, but `namespaces/x/status` a subresource of the namespace.
    let (namespace, segments) = match segments {
        ["namespaces", _, "status"] => (None, segments),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
        _ => (None, segments),
    };
    let (plural, name, subresource) = match *segments {
        [plural] => (plural, None, None),
        [plural, name] => (plural, Some(name.to_owned()), None),
        [plural, name, subresource] => (plural, Some(name.to_owned()), Some(subresource)),
        _ => return Err(Refusal::no_such_path()),
    };
    let kind = kinds::find(group, version, plural).ok_or_else(Refusal::no_such_path)?;
    let subresource = match subresource {
        None => None,
        Some("binding") if kind.hooks.posted.contains(&"binding") => Some(Subresource::Binding),
        Some("status") if kind.has_status() => Some(Subresource::Status),
        Some(other) => return Err(Refusal::no_such_subresource(kind, name.as_deref().unwrap_or_default(), other)),
    };
    // Objects of a namespaced kind are named within a namespace; only collections reach across all of them.
    if kind.is_namespaced() && namespace.is_none() && name.is_some() || !kind.is_namespaced() && namespace.is_some() {
        return Err(Refusal::no_such_path());
    }
    Ok(Target { kind, namespace, name, subresource })
}

/// The verb that a method asks for; `watch` is a GET with a query parameter.
pub fn verb(method: &Method, target: &Target, watch: bool) -> Result<Verb> {
    let one = target.name.is_some();
    if target.subresource == Some(Subresource::Binding) {
        return if *method == Method::POST { Ok(Verb::Create) } else { Err(Refusal::method_unknown()) };
    }
    Ok(match *method {
        Method::GET | Method::HEAD if watch => Verb::Watch,
        Method::GET | Method::HEAD if one => Verb::Get,
        Method::GET | Method::HEAD => Verb::List,
        Method::POST if !one => Verb::Create,
        Method::PUT if one => Verb::Update,
        Method::PATCH if one => Verb::Patch,
        Method::DELETE if one => Verb::Delete,
        Method::DELETE => Verb::DeleteCollection,
        _ => return Err(Refusal::method_unknown()),
    })
}

fn decode(segment: &str) -> Result<String> {
    let malformed = || Refusal::bad_request("the URL is not well encoded");
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let byte = match (first, rest) {
            (b'%', [high, low, tail @ ..]) => {
                rest = tail;
                let digit = |c: u8| (c as char).to_digit(16).ok_or_else(malformed);
                (digit(*high)? << 4 | digit(*low)?) as u8
            }
            (b'%', _) => return Err(malformed()),
            (byte, _) => *byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plural, namespace, name, subresource.
    type Parts = (String, Option<String>, Option<String>, Option<Subresource>);

    fn resource(path: &str) -> Option<Parts> {
        match parse(path) {
            Ok(Route::Resource(target)) => {
                Some((target.kind.plural.clone(), target.namespace, target.name, target.subresource))
            }
            _ => None,
        }
    }

    #[test]
    fn urls_name_what_kubernetes_says_they_name() {
        let some = |text: &str| Some(text.to_owned());
        let status = Some(Subresource::Status);
        for (path, expected) in [
            ("/api/v1/namespaces", ("namespaces", None, None, None)),
            ("/api/v1/namespaces/a", ("namespaces", None, some("a"), None)),
            ("/api/v1/namespaces/a/status", ("namespaces", None, some("a"), status)),
            ("/api/v1/namespaces/a/events", ("events", some("a"), None, None)),
            ("/api/v1/events", ("events", None, None, None)),
            ("/apis/hub.hanse.dev/v1alpha1/clusters/eu/status", ("clusters", None, some("eu"), status)),
            (
                "/apis/core.oam.dev/v1beta1/namespaces/a%2Db/applications/x",
                ("applications", some("a-b"), some("x"), None),
            ),
        ] {
            assert_eq!(resource(path), Some((expected.0.to_owned(), expected.1, expected.2, expected.3)), "{path}");
        }
        for path in [
            "/",
            "/api/v2/namespaces",
            "/api/v1/pods",
            "/api/v1/namespaces/a/namespaces",
            "/apis/core.oam.dev/v1beta1/applications/x",
            "/apis/core.oam.dev/v1beta1/namespaces/a/applications/x/scale",
            "/apis/hub.hanse.dev/v1alpha1/namespaces/a/clusters",
            "/api/v1/namespaces/%zz",
            "/api/v1/namespaces/%f",
        ] {
            assert_eq!(resource(path), None, "{path}");
        }
    }
}
