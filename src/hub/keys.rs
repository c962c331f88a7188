//! Where the objects of a kind are in the store.

use crate::{
    kinds::Kind,
    store::{self, Key},
};

/// The key of one object; the namespace of cluster-scoped objects is empty.
pub fn key(kind: &Kind, namespace: &str, name: &str) -> Key {
    Key::object(&kind.gvk.group, &kind.plural, namespace, name)
}

/// The prefix of all keys of a kind, or of those in one namespace.
pub fn prefix(kind: &Kind, namespace: Option<&str>) -> String {
    store::prefix(&kind.gvk.group, &kind.plural, namespace)
}
