//! The small shapes that several messages share.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::{Invalid, limits, proto};
use crate::model::{Digest, GroupVersionKind, ObjectName, ObjectRef, Resources, Timestamp, Uid};

/// A list of at most `limit` items, each converted.
pub fn list<A, B>(
    field: &'static str,
    limit: usize,
    items: Vec<A>,
    convert: impl FnMut(A) -> Result<B, Invalid>,
) -> Result<Vec<B>, Invalid> {
    bounded(field, limit, items.len())?;
    items.into_iter().map(convert).collect()
}

pub fn bounded(field: &'static str, limit: usize, found: usize) -> Result<(), Invalid> {
    if found > limit { Err(Invalid::TooMany { field, found, limit }) } else { Ok(()) }
}

pub fn text(field: &'static str, limit: usize, text: String) -> Result<String, Invalid> {
    bounded(field, limit, text.len())?;
    Ok(text)
}

pub fn word(field: &'static str, word: String) -> Result<String, Invalid> {
    text(field, limits::WORD_BYTES_MAX, word)
}

pub fn message(field: &'static str, message: String) -> Result<String, Invalid> {
    text(field, limits::MESSAGE_TEXT_BYTES_MAX, message)
}

pub fn features(features: Vec<String>) -> Result<Vec<String>, Invalid> {
    list("features", limits::FEATURES_MAX, features, |feature| word("feature", feature))
}

/// Addresses of a hub, which the receiver parses before it dials them.
pub fn urls(urls: Vec<String>) -> Result<Vec<String>, Invalid> {
    list("urls", limits::URLS_MAX, urls, |url| text("url", limits::TEXT_BYTES_MAX, url))
}

pub fn uid(field: &'static str, uid: String) -> Result<Uid, Invalid> {
    optional_uid(field, uid)?.ok_or(Invalid::Missing(field))
}

pub fn optional_uid(field: &'static str, uid: String) -> Result<Option<Uid>, Invalid> {
    let uid = word(field, uid)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !uid.bytes().all(plain) {
        return Err(Invalid::Malformed { field, expected: "a uid" });
    }
    Ok((!uid.is_empty()).then_some(Uid(uid)))
}

pub fn digest(field: &'static str, bytes: &Bytes) -> Result<Digest, Invalid> {
    let bytes = bytes[..].try_into().map_err(|_| Invalid::Malformed { field, expected: "a digest of 32 bytes" })?;
    Ok(Digest(bytes))
}

pub fn digest_bytes(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(&digest.0)
}

pub fn time(field: &'static str, millis: i64) -> Result<Timestamp, Invalid> {
    let time = Timestamp::from_millis(millis);
    let expected = "a time in milliseconds since 1970";
    if time.millis() == millis { Ok(time) } else { Err(Invalid::Malformed { field, expected }) }
}

pub fn object_name(name: Option<proto::ObjectName>, field: &'static str) -> Result<ObjectName, Invalid> {
    let name = name.ok_or(Invalid::Missing(field))?;
    named(name.namespace, name.name)
}

fn named(namespace: String, name: String) -> Result<ObjectName, Invalid> {
    if name.is_empty() {
        return Err(Invalid::Missing("object name"));
    }
    Ok(ObjectName {
        namespace: text("namespace", limits::NAME_BYTES_MAX, namespace)?,
        name: text("object name", limits::NAME_BYTES_MAX, name)?,
    })
}

impl From<&ObjectName> for proto::ObjectName {
    fn from(name: &ObjectName) -> Self {
        Self { namespace: name.namespace.clone(), name: name.name.clone() }
    }
}

pub fn object_ref(object: Option<proto::ObjectRef>) -> Result<ObjectRef, Invalid> {
    let object = object.ok_or(Invalid::Missing("object"))?;
    if object.version.is_empty() || object.kind.is_empty() {
        return Err(Invalid::Missing("object version or kind"));
    }
    Ok(ObjectRef {
        gvk: GroupVersionKind {
            group: word("group", object.group)?,
            version: word("version", object.version)?,
            kind: word("kind", object.kind)?,
        },
        name: named(object.namespace, object.name)?,
    })
}

impl From<&ObjectRef> for proto::ObjectRef {
    fn from(object: &ObjectRef) -> Self {
        Self {
            group: object.gvk.group.clone(),
            version: object.gvk.version.clone(),
            kind: object.gvk.kind.clone(),
            namespace: object.name.namespace.clone(),
            name: object.name.name.clone(),
        }
    }
}

pub fn resources(amounts: HashMap<String, i64>) -> Result<Resources, Invalid> {
    bounded("resources", limits::RESOURCES_MAX, amounts.len())?;
    let amount = |(name, amount): (String, i64)| {
        if amount.unsigned_abs() > limits::AMOUNT_MAX.unsigned_abs() {
            let (min, max) = (-i128::from(limits::AMOUNT_MAX), limits::AMOUNT_MAX.into());
            return Err(Invalid::OutOfRange { field: "amount", value: amount.into(), min, max });
        }
        Ok((word("resource name", name)?, amount))
    };
    Ok(Resources(amounts.into_iter().map(amount).collect::<Result<_, _>>()?))
}

pub fn labels(labels: HashMap<String, String>) -> Result<BTreeMap<String, String>, Invalid> {
    bounded("labels", limits::LABELS_MAX, labels.len())?;
    let label = |(key, value)| {
        Ok((text("label", limits::TEXT_BYTES_MAX, key)?, text("label value", limits::TEXT_BYTES_MAX, value)?))
    };
    labels.into_iter().map(label).collect()
}
