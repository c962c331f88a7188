//! Protobuf bodies, as far as they are read: a Namespace, a PriorityClass and the reviews, which `kubectl create namespace`,
//! `kubectl create priorityclass` and `kubectl auth` send in no other form.
//!
//! A body is four magic bytes, then the message `Unknown`, which holds the object's own message (apimachinery
//! `runtime/serializer/protobuf`). Everything else is refused in words.

use prost::{DecodeError, Message};
use serde_json::{Value, json};

use super::status::{Refusal, Result};
use crate::kinds::{self, Backing, Kind, Review};

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct Namespace {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
}

#[derive(Clone, PartialEq, Message)]
struct PriorityClass {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(int32, tag = "2")]
    value: i32,
    #[prost(bool, tag = "3")]
    global_default: bool,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(string, tag = "5")]
    preemption_policy: String,
}

/// What a client says of a new object; the rest is the server's to say.
#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    generate_name: String,
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: std::collections::BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: std::collections::BTreeMap<String, String>,
    #[prost(string, repeated, tag = "14")]
    finalizers: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct AccessReview {
    #[prost(message, optional, tag = "2")]
    spec: Option<AccessReviewSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct AccessReviewSpec {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceAttributes>,
    #[prost(message, optional, tag = "2")]
    path: Option<PathAttributes>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceAttributes {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    verb: String,
    #[prost(string, tag = "3")]
    group: String,
    #[prost(string, tag = "4")]
    version: String,
    #[prost(string, tag = "5")]
    resource: String,
    #[prost(string, tag = "6")]
    subresource: String,
    #[prost(string, tag = "7")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct PathAttributes {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(string, tag = "2")]
    verb: String,
}

#[derive(Clone, PartialEq, Message)]
struct RulesReview {
    #[prost(message, optional, tag = "2")]
    spec: Option<RulesReviewSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct RulesReviewSpec {
    #[prost(string, tag = "1")]
    namespace: String,
}

pub fn refusal() -> Refusal {
    Refusal::unsupported_media_type(
        "the hub reads no protobuf but for namespaces, priority classes and reviews: send JSON or YAML (with kubectl, use `create -f` or \
         `apply -f` instead of the shortcuts that make an object from flags)",
    )
}

pub fn decode(kind: &Kind, bytes: &[u8]) -> Result<Value> {
    let read = match kind.backing {
        Backing::Review(Review::Subject) => |_: &[u8]| Ok(json!({})),
        Backing::Review(Review::Access) => access_review,
        Backing::Review(Review::Rules) => rules_review,
        Backing::Store if kind.gvk == kinds::NAMESPACE.gvk => namespace,
        Backing::Store if kind.gvk == kinds::PRIORITY_CLASS.gvk => priority_class,
        Backing::Store | Backing::View | Backing::Review(Review::Placement | Review::Drill) => return Err(refusal()),
    };
    let malformed =
        |error: &dyn std::fmt::Display| Refusal::bad_request(format!("the body is not valid protobuf: {error}"));
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| malformed(&"it does not begin with k8s\\0"))?;
    let unknown = Unknown::decode(rest).map_err(|error| malformed(&error))?;
    let mut object = read(&unknown.raw).map_err(|error| malformed(&error))?;
    let type_meta = unknown.type_meta.unwrap_or_default();
    object["apiVersion"] = type_meta.api_version.into();
    object["kind"] = type_meta.kind.into();
    Ok(object)
}

fn namespace(raw: &[u8]) -> std::result::Result<Value, DecodeError> {
    Ok(json!({"metadata": metadata(Namespace::decode(raw)?.metadata)}))
}

fn priority_class(raw: &[u8]) -> std::result::Result<Value, DecodeError> {
    let class = PriorityClass::decode(raw)?;
    let mut object =
        json!({"metadata": metadata(class.metadata), "value": class.value, "description": class.description});
    // As in JSON, where what is not said is left out.
    if class.global_default {
        object["globalDefault"] = true.into();
    }
    if !class.preemption_policy.is_empty() {
        object["preemptionPolicy"] = class.preemption_policy.into();
    }
    Ok(object)
}

fn metadata(said: Option<ObjectMeta>) -> Value {
    let said = said.unwrap_or_default();
    json!({
        "name": said.name, "generateName": said.generate_name,
        "resourceVersion": said.resource_version, "labels": said.labels,
        "annotations": said.annotations, "finalizers": said.finalizers,
    })
}

fn access_review(raw: &[u8]) -> std::result::Result<Value, DecodeError> {
    let spec = AccessReview::decode(raw)?.spec.unwrap_or_default();
    let mut review = json!({"spec": {}});
    if let Some(asked) = spec.resource {
        review["spec"]["resourceAttributes"] = json!({
            "namespace": asked.namespace, "verb": asked.verb, "group": asked.group, "version": asked.version,
            "resource": asked.resource, "subresource": asked.subresource, "name": asked.name,
        });
    }
    if let Some(asked) = spec.path {
        review["spec"]["nonResourceAttributes"] = json!({"path": asked.path, "verb": asked.verb});
    }
    Ok(review)
}

fn rules_review(raw: &[u8]) -> std::result::Result<Value, DecodeError> {
    let spec = RulesReview::decode(raw)?.spec.unwrap_or_default();
    Ok(json!({"spec": {"namespace": spec.namespace}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(kind: &str) -> Vec<u8> {
        let metadata =
            ObjectMeta { name: "shop".into(), labels: [("a".into(), "b".into())].into(), ..Default::default() };
        let unknown = Unknown {
            type_meta: Some(TypeMeta { api_version: "v1".into(), kind: kind.into() }),
            raw: Namespace { metadata: Some(metadata) }.encode_to_vec(),
        };
        [MAGIC, &unknown.encode_to_vec()].concat()
    }

    #[test]
    fn a_namespace_is_read_and_nothing_else() {
        let value = decode(&kinds::NAMESPACE, &body("Namespace")).expect("a namespace");
        assert_eq!((&value["kind"], &value["metadata"]["name"]), (&json!("Namespace"), &json!("shop")));
        assert_eq!(value["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(decode(&kinds::EVENT, &body("Event")).expect_err("an event"), refusal());
    }

    #[test]
    fn a_review_is_read_with_all_that_it_asks() {
        let asked = ResourceAttributes { verb: "get".into(), resource: "applications".into(), ..Default::default() };
        let review = AccessReview { spec: Some(AccessReviewSpec { resource: Some(asked), path: None }) };
        let type_meta =
            TypeMeta { api_version: "authorization.k8s.io/v1".into(), kind: "SelfSubjectAccessReview".into() };
        let unknown = Unknown { type_meta: Some(type_meta), raw: review.encode_to_vec() };
        let bytes = [MAGIC, &unknown.encode_to_vec()].concat();
        let value = decode(&kinds::SELF_SUBJECT_ACCESS_REVIEW, &bytes).expect("a review");
        let of = &value["spec"]["resourceAttributes"];
        assert_eq!((&of["verb"], &of["resource"], &of["name"]), (&json!("get"), &json!("applications"), &json!("")));
        assert_eq!(
            (&value["kind"], &value["spec"]["nonResourceAttributes"]),
            (&json!("SelfSubjectAccessReview"), &json!(null))
        );
    }

    #[test]
    fn garbage_is_refused_in_words() {
        let whole = body("Namespace");
        for bytes in
            [&b""[..], b"k8s", b"{}", &whole[..whole.len() - 3], b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            let refusal = decode(&kinds::NAMESPACE, bytes).expect_err("garbage");
            assert!(refusal.message.starts_with("the body is not valid protobuf: "), "{}", refusal.message);
        }
    }
}
