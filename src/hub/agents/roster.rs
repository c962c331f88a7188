//! The clusters that may connect: a sync index over the stored Cluster objects, by uid.
//!
//! Owns: what a session must know of its cluster to act or to end. Must never: let a cluster act that is gone, not
//! accepted, frozen, or holds another key; what is not in the index may do nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    hub::feed::Feed,
    model::{Cluster, Uid, protocol::Refuse},
    store::{Entry, Revision, object},
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
    /// Each with the store revision it is from.
    members: BTreeMap<Uid, (Revision, Arc<Member>)>,
    /// Nothing is known before the first reset, which is not the same as nobody (rule 15).
    synced: bool,
}

impl Roster {
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    pub fn get(&self, cluster: &Uid) -> Option<(Revision, Arc<Member>)> {
        self.members.get(cluster).cloned()
    }

    pub fn named_by_system_uid(&self, system_uid: &str) -> Vec<String> {
        let is_it = |member: &&Arc<Member>| member.system_uid == system_uid;
        self.members.values().map(|(_, member)| member).filter(is_it).map(|member| member.name.clone()).collect()
    }

    /// Whose membership changed: a write that touches nothing a session cares about is no change.
    pub fn apply(&mut self, feed: &Feed) -> Vec<Uid> {
        match feed {
            Feed::Reset { entries, .. } => {
                self.synced = true;
                let gone: Vec<Uid> = self.members.keys().cloned().collect();
                let fresh: BTreeSet<Uid> = entries.iter().filter_map(read).map(|member| member.uid).collect();
                let mut changed: Vec<Uid> = gone.into_iter().filter(|uid| !fresh.contains(uid)).collect();
                changed.iter().for_each(|uid| drop(self.members.remove(uid)));
                changed.extend(entries.iter().filter_map(|entry| self.put(entry)));
                changed
            }
            Feed::Changed { changes, .. } => {
                let mut changed = Vec::new();
                for change in changes.iter() {
                    let current = change.current.as_ref().and_then(read).map(|member| member.uid);
                    // A name may pass from one uid to another in one step.
                    let previous = change.previous.as_ref().and_then(read).map(|member| member.uid);
                    if let Some(previous) = previous.filter(|previous| current.as_ref() != Some(previous)) {
                        self.members.remove(&previous);
                        changed.push(previous);
                    }
                    changed.extend(change.current.as_ref().and_then(|entry| self.put(entry)));
                }
                changed
            }
            Feed::Progress(_) => Vec::new(),
        }
    }

    fn put(&mut self, entry: &Entry) -> Option<Uid> {
        let member = Arc::new(read(entry)?);
        let uid = member.uid.clone();
        let before = self.members.insert(uid.clone(), (entry.modified, member.clone()));
        before.is_none_or(|(_, before)| before != member).then_some(uid)
    }
}

/// An entry that cannot be read is nobody: it admits no one.
pub fn read(entry: &Entry) -> Option<Member> {
    object::view::<Cluster>(&entry.value).ok().as_ref().map(Member::of)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{Change, Key};

    fn entry(name: &str, uid: &str, accepted: bool, modified: Revision) -> Entry {
        let cluster = json!({
            "metadata": {"name": name, "uid": uid},
            "spec": {"accepted": accepted},
            "status": {"sketch": null, "facts": {"region": modified.to_string()}},
        });
        Entry { key: Key::new(name), value: object::encode(&cluster), created: 1, modified }
    }

    fn changed(current: Option<Entry>, previous: Option<Entry>) -> Feed {
        let key = current.as_ref().or(previous.as_ref()).expect("one of them").key.clone();
        Feed::Changed { revision: 9, changes: [Change { key, current, previous }].into() }
    }

    fn roster() -> Roster {
        let mut roster = Roster::default();
        assert!(!roster.is_synced());
        let entries = [entry("eu", "u1", true, 1), entry("us", "u2", true, 1)];
        assert_eq!(roster.apply(&Feed::Reset { entries: entries.into(), revision: 1 }), [Uid::from("u1"), "u2".into()]);
        assert!(roster.is_synced());
        roster
    }

    #[test]
    fn only_what_a_session_cares_about_is_a_change() {
        let mut roster = roster();
        let heartbeat = changed(Some(entry("eu", "u1", true, 2)), Some(entry("eu", "u1", true, 1)));
        assert_eq!(roster.apply(&heartbeat), []);
        assert_eq!(
            roster.get(&"u1".into()).map(|(revision, _)| revision),
            Some(2),
            "it is known to be newer all the same"
        );
        let revoked = changed(Some(entry("eu", "u1", false, 3)), Some(entry("eu", "u1", true, 2)));
        assert_eq!(roster.apply(&revoked), [Uid::from("u1")]);
    }

    #[test]
    fn a_name_that_passes_to_another_uid_leaves_the_first_nothing() {
        let mut roster = roster();
        let replaced = changed(Some(entry("eu", "u3", true, 2)), Some(entry("eu", "u1", true, 1)));
        assert_eq!(roster.apply(&replaced), [Uid::from("u1"), "u3".into()]);
        assert!(roster.get(&"u1".into()).is_none() && roster.get(&"u3".into()).is_some());
    }

    #[test]
    fn whoever_is_gone_after_a_gap_is_told_so() {
        let mut roster = roster();
        let feed = Feed::Reset { entries: [entry("us", "u2", true, 1)].into(), revision: 5 };
        assert_eq!(roster.apply(&feed), [Uid::from("u1")]);
        assert_eq!(roster.apply(&changed(None, Some(entry("us", "u2", true, 1)))), [Uid::from("u2")]);
        assert!(roster.get(&"u2".into()).is_none());
    }

    #[test]
    fn an_object_that_cannot_be_read_admits_nobody() {
        let mut roster = roster();
        let broken = Entry { value: bytes::Bytes::from_static(b"1{"), ..entry("eu", "u1", true, 2) };
        roster.apply(&changed(Some(broken), Some(entry("eu", "u1", true, 1))));
        assert!(roster.get(&"u1".into()).is_none());
    }
}
