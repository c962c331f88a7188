//! JSON merge patch (RFC 7396) and JSON patch (RFC 6902).

use serde_json::Value;

use super::{
    body::{self, Encoding},
    status::{Refusal, Result},
};
use crate::{
    hub::limits,
    kinds::{
        Kind,
        strict::{Decoded, Finding},
    },
};

pub enum Patch {
    Merge(Value),
    Json(json_patch::Patch),
}

impl Patch {
    /// Of a body, by its media type; with the duplicate keys found in it.
    pub fn of(kind: &Kind, media_type: &str, bytes: &[u8]) -> Result<(Self, Vec<Finding>)> {
        let decode = |bytes| body::decode(bytes, Encoding::Json);
        match media_type {
            "application/merge-patch+json" => {
                let Decoded { value, duplicates } = decode(bytes)?;
                if !value.is_object() {
                    return Err(Refusal::bad_request("a merge patch must be an object"));
                }
                Ok((Self::Merge(value), duplicates))
            }
            "application/json-patch+json" => {
                let Decoded { value, duplicates } = decode(bytes)?;
                let operations = value.as_array().map_or(0, Vec::len);
                if operations > limits::PATCH_OPERATIONS_MAX {
                    let most = limits::PATCH_OPERATIONS_MAX;
                    return Err(Refusal::too_large(format!(
                        "the patch has {operations} operations, at most {most} are allowed"
                    )));
                }
                let patch = serde_json::from_value(value);
                let patch =
                    patch.map_err(|error| Refusal::bad_request(format!("the JSON patch is not valid: {error}")))?;
                Ok((Self::Json(patch), duplicates))
            }
            "application/apply-patch+yaml" => Err(Refusal::unsupported_media_type(
                "the hub does not serve server-side apply yet: use `kubectl apply` without --server-side",
            )),
            // What it says without lists and directives is what a merge patch says; kubectl sends no other kind of patch
            // for the kinds it was compiled with.
            "application/strategic-merge-patch+json" if kind.gvk.group.is_empty() => {
                let Decoded { value, duplicates } = decode(bytes)?;
                match value.is_object() && is_plain(&value) {
                    true => Ok((Self::Merge(value), duplicates)),
                    false => Err(Refusal::unsupported_media_type(format!(
                        "the hub serves strategic merge patches of {} only where they hold neither lists nor directives: \
                         use --type=merge or --type=json",
                        kind.resource()
                    ))),
                }
            }
            "application/strategic-merge-patch+json" => Err(Refusal::unsupported_media_type(format!(
                "the hub does not serve strategic merge patches of {}: use --type=merge or --type=json",
                kind.resource()
            ))),
            other => Err(Refusal::unsupported_media_type(format!(
                "the patch type {other:?} is not supported: send application/merge-patch+json or application/json-patch+json"
            ))),
        }
    }

    pub fn apply(&self, kind: &Kind, name: &str, old: &Value) -> Result<Value> {
        let mut new = old.clone();
        match self {
            Self::Merge(patch) => json_patch::merge(&mut new, patch),
            Self::Json(patch) => json_patch::patch(&mut new, patch).map_err(|error| {
                let fault = crate::model::FieldError::new(
                    "patch",
                    crate::model::object::FieldErrorKind::Invalid,
                    format!("it cannot be applied: {error}"),
                );
                Refusal::invalid(kind, name, &[fault])
            })?,
        }
        // What a patch leaves must still be an object with metadata: everything after relies on it.
        if !new.is_object() || !new["metadata"].is_object() {
            return Err(Refusal::bad_request("the patch leaves no object with metadata"));
        }
        Ok(new)
    }
}

fn is_plain(patch: &Value) -> bool {
    match patch {
        Value::Array(_) => false,
        Value::Object(fields) => fields.iter().all(|(name, value)| !name.starts_with('$') && is_plain(value)),
        _ => true,
    }
}
