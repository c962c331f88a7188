//! The objects that joining writes, as JSON: patched, never rewritten from a typed view, so that fields of a newer
//! replica survive.

use serde_json::{Value, json};

use crate::{
    kinds::{
        self, Origin,
        cluster::{FORGET_ANNOTATION, FORGET_AUTHOR_ANNOTATION},
        metadata::mark_deleted,
    },
    model::{Timestamp, Uid, cluster::CertificateStatus, token::JoinToken},
    store::object,
    wire::JoinCall,
};

/// A Cluster as it is when it first asks. Its labels are the token's, which are the hub's; nothing the agent says
/// becomes one (rule 10).
pub fn cluster(
    name: &str,
    uid: &Uid,
    accepted: bool,
    call: &JoinCall,
    key: &str,
    token: &JoinToken,
    now: Timestamp,
) -> Value {
    let kind = &*kinds::CLUSTER;
    json!({
        "apiVersion": kind.gvk.api_version(),
        "kind": kind.gvk.kind,
        "metadata": {
            "name": name,
            "uid": uid,
            "generation": 1,
            "creationTimestamp": now,
            "labels": token.spec.labels,
            "finalizers": [kinds::CLUSTER_FINALIZER],
        },
        "spec": {"accepted": accepted},
        "status": {
            "facts": {"agentVersion": call.agent_version, "systemUid": call.system_uid},
            "join": {
                "token": token.metadata.name,
                "keyFingerprint": key,
                "systemUid": call.system_uid,
                "requestedAt": now,
            },
        },
    })
}

/// Binds a token to the first key that uses it, and to the one Cluster it makes.
pub fn use_token(token: &mut Value, cluster: &str, cluster_uid: Option<&Uid>, key: &str, now: Timestamp) {
    let mut used = json!({"cluster": cluster, "keyFingerprint": key, "at": now});
    if let Some(uid) = cluster_uid {
        used["clusterUid"] = json!(uid);
    }
    status(token).insert("usedBy".into(), used);
}

/// Binds a token to the first joiner that uses it, and to the one replica it makes.
pub fn use_token_for_replica(token: &mut Value, replica: u64, key: &str, now: Timestamp) {
    status(token).insert("usedBy".into(), json!({"replica": replica, "keyFingerprint": key, "at": now}));
}

/// Orders a Cluster away at once: what runs there stays, nobody waits for its agent.
pub fn forget(cluster: &mut Value, uid: &Uid, now: Timestamp, origin: &Origin) {
    if let Some(annotations) = object::annotations_mut(cluster) {
        annotations.insert(FORGET_ANNOTATION.into(), json!(uid));
        annotations.insert(FORGET_AUTHOR_ANNOTATION.into(), json!(origin.user));
    }
    if cluster["metadata"]["deletionTimestamp"].is_null() {
        mark_deleted(cluster, now, origin);
    }
}

pub fn certify(cluster: &mut Value, certificate: &CertificateStatus) {
    status(cluster).insert("certificate".into(), json!(certificate));
}

fn status(object: &mut Value) -> &mut serde_json::Map<String, Value> {
    let status = &mut object["status"];
    if !status.is_object() {
        *status = json!({});
    }
    status.as_object_mut().expect("an object: made one above")
}
