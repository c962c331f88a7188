//! The bytes of a stored object.
//!
//! Owns: the format (`1`, then compact JSON) and the only place where a resource version meets an object. Stored bytes
//! never hold one: it is the revision of the entry, put in when the object is sent. `metadata` is written first, so that
//! this takes no parsing and no copy of the rest: whoever sends an object shares its bytes. Must never: interpret more of
//! an object than that, or drop a field it does not know.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, value::RawValue};

use super::{Entry, Revision};

const FORMAT: u8 = b'1';
const METADATA: &str = "metadata";
const STATUS: &str = "status";
const RESOURCE_VERSION: &str = "resourceVersion";
/// How the JSON of every object with metadata begins.
const OPENING: &[u8] = br#"{"metadata":{"#;

#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("a stored object has no format byte")]
    Empty,
    #[error("a stored object has format {0:?}, which this binary does not know")]
    Format(char),
    #[error("a stored object is not the JSON expected")]
    Json(#[source] serde_json::Error),
}

/// The value to store: metadata first, the other fields sorted, no resource version.
pub fn encode(object: &Value) -> Bytes {
    let mut out = vec![FORMAT];
    match object {
        Value::Object(fields) => write_object(&mut out, fields),
        // Not an object of the API, but whatever it is, it comes back as it is.
        other => write_json(&mut out, other),
    }
    out.into()
}

fn write_object(out: &mut Vec<u8>, fields: &Map<String, Value>) {
    out.push(b'{');
    let opening = out.len();
    let mut field = |key: &str, write: &dyn Fn(&mut Vec<u8>)| {
        if out.len() > opening {
            out.push(b',');
        }
        write_json(out, key);
        out.push(b':');
        write(out);
    };
    match fields.get(METADATA) {
        Some(Value::Object(metadata)) if metadata.contains_key(RESOURCE_VERSION) => {
            let mut metadata = metadata.clone();
            metadata.remove(RESOURCE_VERSION);
            field(METADATA, &|out| write_json(out, &metadata));
        }
        Some(metadata) => field(METADATA, &|out| write_json(out, metadata)),
        None => {}
    }
    for (key, value) in fields.iter().filter(|(key, _)| key.as_str() != METADATA) {
        field(key, &|out| write_json(out, value));
    }
    out.push(b'}');
}

fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Keys are strings and `Vec` takes every write: neither way of failing exists here.
    serde_json::to_writer(out, value).expect("serialise a JSON value into memory");
}

/// The stored JSON: shares the bytes of the value.
pub fn json(value: &Bytes) -> Result<Bytes, Invalid> {
    match value.first() {
        Some(&FORMAT) => Ok(value.slice(1..)),
        Some(&other) => Err(Invalid::Format(other as char)),
        None => Err(Invalid::Empty),
    }
}

/// Without a resource version, as it was encoded.
pub fn decode(value: &Bytes) -> Result<Value, Invalid> {
    view(value)
}

/// As the API shows it: with the resource version of its entry.
pub fn decode_entry(entry: &Entry) -> Result<Value, Invalid> {
    let mut object = decode(&entry.value)?;
    set_resource_version(&mut object, entry.modified);
    Ok(object)
}

/// A typed view of an object. Read only: writing it back would lose what the type does not know.
pub fn view<T: DeserializeOwned>(value: &Bytes) -> Result<T, Invalid> {
    serde_json::from_slice(&json(value)?).map_err(Invalid::Json)
}

/// Whether two objects are the same but for their status, judged by their bytes and not taken apart: a no may be wrong
/// where one was encoded otherwise, a yes never is.
pub fn same_but_status(one: &Bytes, other: &Bytes) -> bool {
    fn without_status(json: &[u8]) -> Option<BTreeMap<&str, &RawValue>> {
        let mut fields: BTreeMap<&str, &RawValue> = serde_json::from_slice(json).ok()?;
        fields.remove(STATUS);
        Some(fields)
    }
    let (Ok(one), Ok(other)) = (json(one), json(other)) else { return false };
    let (Some(one), Some(other)) = (without_status(&one), without_status(&other)) else { return false };
    one.len() == other.len()
        && one.iter().zip(&other).all(|((key, value), (other, known))| key == other && value.get() == known.get())
}

/// The JSON with its resource version, in pieces to be sent one after the other. The long ones share the stored bytes.
pub fn pieces(value: &Bytes, revision: Revision) -> Result<[Bytes; 3], Invalid> {
    let json = json(value)?;
    let Some(rest) = json.strip_prefix(OPENING) else {
        return whole(value, revision).map(|whole| [whole, Bytes::new(), Bytes::new()]);
    };
    let comma = if rest.starts_with(b"}") { "" } else { "," };
    let version = format!(r#""{RESOURCE_VERSION}":"{revision}"{comma}"#);
    Ok([json.slice(..OPENING.len()), version.into(), json.slice(OPENING.len()..)])
}

/// Like [`pieces`], in one.
pub fn with_resource_version(value: &Bytes, revision: Revision) -> Result<Bytes, Invalid> {
    let pieces = pieces(value, revision)?;
    Ok(if pieces[1].is_empty() { pieces[0].clone() } else { pieces.concat().into() })
}

/// The slow way, for the rare object that was stored without metadata.
fn whole(value: &Bytes, revision: Revision) -> Result<Bytes, Invalid> {
    let mut object = decode(value)?;
    set_resource_version(&mut object, revision);
    Ok(object.to_string().into())
}

/// What is not an object has no metadata and stays as it is.
pub fn set_resource_version(object: &mut Value, revision: Revision) {
    if let Some(metadata) = metadata_mut(object) {
        metadata.insert(RESOURCE_VERSION.into(), Value::String(revision.to_string()));
    }
}

/// The metadata to patch; made where it is missing or not an object. `None` where `object` is no object.
pub fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object_mut(object.as_object_mut()?, METADATA)
}

/// The annotations to patch, made like [`metadata_mut`].
pub fn annotations_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object_mut(metadata_mut(object)?, "annotations")
}

/// The labels to patch, made like [`metadata_mut`].
pub fn labels_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object_mut(metadata_mut(object)?, "labels")
}

fn object_mut<'a>(parent: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    let child = parent.entry(field).or_insert(Value::Null);
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child.as_object_mut()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            r#"[a-z"\\{}:,é]{0,8}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,4}|metadata|resourceVersion", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn without_resource_version(object: &Value) -> Value {
        let mut object = object.clone();
        if let Some(Value::Object(metadata)) = object.get_mut(METADATA) {
            metadata.remove(RESOURCE_VERSION);
        }
        object
    }

    proptest! {
        #[test]
        fn only_the_resource_version_is_lost(object in json_value()) {
            prop_assert_eq!(decode(&encode(&object)).unwrap(), without_resource_version(&object));
        }

        #[test]
        fn splicing_equals_parsing_and_setting(object in json_value(), revision in any::<u64>()) {
            let mut expected = without_resource_version(&object);
            set_resource_version(&mut expected, revision);
            let sent = with_resource_version(&encode(&object), revision).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), expected);
        }

        #[test]
        fn same_but_status_is_exact(one in json_value(), other in json_value(), status in json_value()) {
            let without = |object: &Value| {
                let mut object = without_resource_version(object);
                object.as_object_mut().map(|fields| fields.remove(STATUS));
                object
            };
            let expected = one.is_object() && other.is_object() && without(&one) == without(&other);
            prop_assert_eq!(same_but_status(&encode(&one), &encode(&other)), expected);
            let mut told = one.clone();
            told.as_object_mut().map(|fields| fields.insert(STATUS.to_owned(), status));
            prop_assert_eq!(same_but_status(&encode(&one), &encode(&told)), one.is_object());
        }

        #[test]
        fn garbage_is_an_error(bytes in any::<Vec<u8>>()) {
            let _either = decode(&bytes.clone().into());
            let _either = with_resource_version(&bytes.into(), 1);
        }
    }

    #[test]
    fn stored_form_is_stable() {
        let object = json!({"kind": "K", "apiVersion": "v1", "metadata": {"name": "n", "resourceVersion": "3"}});
        assert_eq!(encode(&object), r#"1{"metadata":{"name":"n"},"apiVersion":"v1","kind":"K"}"#);
    }

    #[test]
    fn the_rest_of_an_object_is_not_copied() {
        let stored = encode(&json!({"metadata": {"name": "n"}, "spec": {"a": 1}}));
        let pieces = pieces(&stored, 7).unwrap();
        assert_eq!(pieces.concat(), br#"{"metadata":{"resourceVersion":"7","name":"n"},"spec":{"a":1}}"#);
        assert!(stored.as_ptr_range().contains(&pieces[2].as_ptr()));
    }

    #[test]
    fn empty_and_missing_metadata_get_a_resource_version() {
        for object in [json!({"metadata": {}}), json!({"metadata": null}), json!({})] {
            let sent = with_resource_version(&encode(&object), 7).unwrap();
            assert_eq!(sent, r#"{"metadata":{"resourceVersion":"7"}}"#, "{object}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let error = decode(&Bytes::from_static(b"2{}")).expect_err("format 2");
        assert_eq!(error.to_string(), "a stored object has format '2', which this binary does not know");
    }
}
