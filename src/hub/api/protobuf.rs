//! Protobuf bodies, as far as they are read: a Namespace, which `kubectl create namespace` sends in no other form.
//!
//! A body is four magic bytes, then the message `Unknown`, which holds the object's own message (apimachinery
//! `runtime/serializer/protobuf`). Everything else is refused in words.

use prost::Message;
use serde_json::{Value, json};

use super::status::{Refusal, Result};
use crate::kinds::{self, Kind};

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

pub fn refusal() -> Refusal {
    Refusal::unsupported_media_type(
        "the hub reads no protobuf but for namespaces: send JSON or YAML (with kubectl, use `create -f` or `apply -f` \
         instead of the shortcuts that make an object from flags)",
    )
}

pub fn decode(kind: &Kind, bytes: &[u8]) -> Result<Value> {
    if kind.gvk != kinds::NAMESPACE.gvk {
        return Err(refusal());
    }
    let malformed =
        |error: &dyn std::fmt::Display| Refusal::bad_request(format!("the body is not valid protobuf: {error}"));
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| malformed(&"it does not begin with k8s\\0"))?;
    let unknown = Unknown::decode(rest).map_err(|error| malformed(&error))?;
    let namespace = Namespace::decode(unknown.raw.as_slice()).map_err(|error| malformed(&error))?;
    let (type_meta, metadata) = (unknown.type_meta.unwrap_or_default(), namespace.metadata.unwrap_or_default());
    Ok(json!({
        "apiVersion": type_meta.api_version, "kind": type_meta.kind,
        "metadata": {
            "name": metadata.name, "generateName": metadata.generate_name,
            "resourceVersion": metadata.resource_version, "labels": metadata.labels,
            "annotations": metadata.annotations, "finalizers": metadata.finalizers,
        },
    }))
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
