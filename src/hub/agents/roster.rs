//! The clusters that may connect: a sync index over the stored Cluster objects, by uid.
//!
//! Owns: what a session must know of its cluster to act or to end. Must never: let a cluster act that is gone, not
//! accepted, frozen, or holds another key; what is not in the index may do nothing.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    hub::feed::Feed,
    model::{Cluster, Uid, protocol::Refuse},
    store::Entry,
};

/// Annotation on a Cluster: two holders of its identity were alive at once. Its value says when and who; a person
/// removes it to let the next agent in.
pub const FROZEN: &str = "hanse.dev/identity-frozen";

/// One cluster, as far as its sessions go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    pub uid: Uid,
    pub name: String,
    pub accepted: bool,
    pub frozen: Option<String>,
    /// SHA-256 of the public key of the certificate that was signed last, hex; empty before the first.
    pub key: String,
    /// The key before it, until the new one was used.
    pub previous_key: Option<String>,
    /// UID of the member's `kube-system` namespace as it was when it joined.
    pub system_uid: String,
}

impl Member {
    pub fn of(cluster: &Cluster) -> Self {
        let certificate = cluster.status.certificate.clone().unwrap_or_default();
        Self {
            uid: cluster.metadata.uid.clone(),
            name: cluster.metadata.name.clone(),
            accepted: cluster.spec.accepted,
            frozen: cluster.metadata.annotations.get(FROZEN).cloned(),
            key: certificate.key_fingerprint,
            previous_key: certificate.previous_key_fingerprint,
            system_uid: cluster.status.join.as_ref().map(|join| join.system_uid.clone()).unwrap_or_default(),
        }
    }

    /// Whether a holder of this key may act for the cluster now; if not, why, in the words both sides read.
    pub fn admits(&self, key: &str) -> Result<(), Refuse> {
        let refuse = |reason: &str, message: String, retry| Err(Refuse { reason: reason.into(), message, retry });
        let name = &self.name;
        if !self.accepted {
            let message = format!("the hub does not accept cluster {name}: an admin has to set spec.accepted");
            return refuse("NotAccepted", message, true);
        }
        if let Some(frozen) = &self.frozen {
            let message = format!(
                "two agents used the identity of cluster {name} at once ({frozen}); nothing is changed until a person stops \
                 one of them and removes the annotation {FROZEN} of the Cluster"
            );
            return refuse("IdentityFrozen", message, true);
        }
        if key.is_empty() || (key != self.key && self.previous_key.as_deref() != Some(key)) {
            let message = format!(
                "the hub has issued cluster {name} a certificate for another key since: this one is void; join again"
            );
            return refuse("Revoked", message, false);
        }
        Ok(())
    }
}

/// A cluster that the roster does not have.
pub fn unknown(cluster: &Uid) -> Refuse {
    let message =
        format!("the hub knows no cluster {cluster} (any more): it was deleted or replaced; what runs stays as it is");
    Refuse { reason: "Revoked".into(), message, retry: false }
}

#[derive(Debug, Default)]
pub struct Roster {
    members: BTreeMap<Uid, Arc<Member>>,
    /// Nothing is known before the first reset, which is not the same as nobody (rule 15).
    synced: bool,
}

impl Roster {
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    pub fn get(&self, cluster: &Uid) -> Option<Arc<Member>> {
        self.members.get(cluster).cloned()
    }

    /// Whose membership changed.
    pub fn apply(&mut self, feed: &Feed) -> Vec<Uid> {
        match feed {
            Feed::Reset { entries, .. } => {
                self.synced = true;
                let fresh =
                    entries.iter().filter_map(read).map(|member| (member.uid.clone(), Arc::new(member))).collect();
                let before = std::mem::replace(&mut self.members, fresh);
                let all = before.keys().chain(self.members.keys());
                let mut changed: Vec<Uid> =
                    all.filter(|uid| before.get(*uid) != self.members.get(*uid)).cloned().collect();
                changed.sort();
                changed.dedup();
                changed
            }
            Feed::Changed { changes, .. } => {
                let mut changed = Vec::new();
                for change in changes.iter() {
                    let current = change.current.as_ref().and_then(read);
                    let previous = change.previous.as_ref().and_then(read);
                    // A name may pass from one uid to another in one step (`--replace`).
                    if let Some(previous) = previous.filter(|p| current.as_ref().is_none_or(|c| c.uid != p.uid)) {
                        self.members.remove(&previous.uid);
                        changed.push(previous.uid);
                    }
                    if let Some(current) = current {
                        let uid = current.uid.clone();
                        let current = Arc::new(current);
                        if self.members.insert(uid.clone(), current.clone()).as_ref() != Some(&current) {
                            changed.push(uid);
                        }
                    }
                }
                changed
            }
            Feed::Progress(_) => Vec::new(),
        }
    }
}

/// An entry that cannot be read is nobody: it admits no one.
fn read(entry: &Entry) -> Option<Member> {
    let json = entry.value.get(1..)?;
    serde_json::from_slice::<Cluster>(json).ok().as_ref().map(Member::of)
}
