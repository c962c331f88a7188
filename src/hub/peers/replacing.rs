//! How a replica that cannot trust its disk comes back: under a new number, with nothing but its keys and address.
//!
//! Owns: the exchange on both sides. Consensus counted on what the old number had acknowledged, so that number goes; what the
//! new one needs to know it gets by snapshot. Must never: replace a replica but for itself (the certificate says which one
//! asks), or give two numbers for one: whoever lost the answer gets it again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::bail;
use tonic::{Code, Status};

use super::{
    dial::{dial, words},
    limits,
    members::{self, Belonging, Member},
    proto::{self, peers_client::PeersClient},
    tls::Tls,
};
use crate::{
    hub::keys,
    kinds::{Origin, REPLICA, metadata::mark_deleted},
    model::{Timestamp, Uid},
    store::{Compare, Entry, List, Operation, Outcome, Store, Transaction, object, raft::ReplicaId},
};

/// On a Replica: the number of the one whose place it took.
const REPLACES: &str = "hub.hanse.dev/replaces";
const ATTEMPTS_MAX: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);

/// The side that is asked; any replica is. `old` is the number of the one that asks.
pub async fn replace(store: &dyn Store, hub: &Uid, old: ReplicaId) -> Result<proto::JoinReply, Status> {
    for _ in 0..ATTEMPTS_MAX {
        let prefix = keys::prefix(&REPLICA, Some(""));
        let page = store.list(List { prefix, after: None, limit: 0, at: None }).await.map_err(unavailable)?;
        let members: Vec<Member> = page.entries.iter().filter_map(Member::read).collect();
        if let Some(known) = page.entries.iter().find(|entry| replaces(entry) == Some(old)).and_then(Member::read) {
            return Ok(reply(store, hub, known.id, members));
        }
        let key = keys::key(&REPLICA, "", &old.to_string());
        let gone = || Status::permission_denied(format!("replica {old} was removed: a new token is needed to join"));
        let entry = page.entries.iter().find(|entry| entry.key == key).ok_or_else(gone)?;
        let member = Member::read(entry).ok_or_else(gone)?;
        let group = members::read_group(store).await.map_err(unavailable)?;
        let (group_entry, group) = group.ok_or_else(|| Status::unavailable("the hub is just being founded"))?;

        let (id, now) = (group.next, Timestamp(jiff::Timestamp::now()));
        let successor = Member { id, ..member };
        let mut made = successor.object(&uuid::Uuid::new_v4().to_string(), now);
        if let Some(annotations) = object::annotations_mut(&mut made) {
            annotations.insert(REPLACES.into(), old.to_string().into());
        }
        let mut left = object::decode(&entry.value).map_err(unavailable)?;
        if left["metadata"]["deletionTimestamp"].is_null() {
            let trace = uuid::Uuid::new_v4().simple().to_string();
            mark_deleted(&mut left, now, &Origin { user: format!("hanse:replica:{old}"), trace, at: Some(now) });
        }
        let successor_key = keys::key(&REPLICA, "", &id.to_string());
        let unchanged = |entry: &Entry| Compare::Modified(entry.key.clone(), entry.modified);
        let transaction = Transaction {
            compares: vec![unchanged(entry), unchanged(&group_entry), Compare::Absent(successor_key.clone())],
            operations: vec![
                Operation::Put(key, object::encode(&left)),
                Operation::Put(group_entry.key.clone(), members::Group { next: id + 1, ..group }.encode()),
                Operation::Put(successor_key, object::encode(&made)),
            ],
        };
        if let Outcome::Committed(_) = store.commit(transaction).await.map_err(unavailable)? {
            tracing::warn!(old, new = id, "a replica does not trust its disk: a new one takes its place");
            return Ok(reply(store, hub, id, members.into_iter().chain([successor]).collect()));
        }
    }
    Err(Status::unavailable("the group keeps changing; try again"))
}

fn replaces(entry: &Entry) -> Option<ReplicaId> {
    let object = object::decode(&entry.value).ok()?;
    object["metadata"]["annotations"][REPLACES].as_str()?.parse().ok()
}

fn reply(store: &dyn Store, hub: &Uid, id: ReplicaId, members: Vec<Member>) -> proto::JoinReply {
    let address = |member: Member| proto::Address { replica: member.id, peer_address: member.peer_address };
    proto::JoinReply {
        replica: id,
        hub: hub.0.clone(),
        incarnation: store.incarnation().0.clone(),
        members: members.into_iter().map(address).collect(),
        // It has them.
        secrets: Vec::new(),
    }
}

fn unavailable(error: impl std::error::Error) -> Status {
    tracing::warn!(%error, "a replica cannot be replaced now");
    Status::unavailable("the hub cannot do that now; try again")
}

/// The side that asks, as the replica that it was until now: what it is from then on.
pub async fn ask(tls: &Arc<Tls>, known: &Belonging) -> anyhow::Result<Belonging> {
    let others: Vec<_> = known.members.iter().filter(|(id, _)| **id != known.replica).collect();
    let began = std::time::Instant::now();
    for (id, address) in others.iter().cycle() {
        let why = match ask_one(tls, **id, address).await {
            Ok(reply) => return belonging(known, reply),
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) => {
                bail!("the other replicas refuse: {}", status.message())
            }
            Err(status) => status.message().to_owned(),
        };
        if began.elapsed() > PATIENCE {
            bail!("no other replica gives it a new number: {why}");
        }
        tokio::time::sleep(RETRY).await;
    }
    bail!("it has no other replica to take its place from")
}

async fn ask_one(tls: &Arc<Tls>, id: ReplicaId, address: &str) -> Result<proto::JoinReply, Status> {
    let config = tls.client(id).map_err(|error| Status::unavailable(error.to_string()))?;
    let channel = dial(address, config).await.map_err(Status::unavailable)?;
    let mut client = PeersClient::new(channel).max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
    let call = client.replace(proto::ReplaceRequest {});
    match tokio::time::timeout(limits::PEER_CALL_TIMEOUT, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) if status.message().is_empty() => Err(Status::unavailable(words(&status))),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::unavailable("no answer in time")),
    }
}

fn belonging(known: &Belonging, reply: proto::JoinReply) -> anyhow::Result<Belonging> {
    let members: BTreeMap<ReplicaId, String> =
        reply.members.into_iter().map(|member| (member.replica, member.peer_address)).collect();
    if reply.replica <= known.replica || !members.contains_key(&reply.replica) || reply.hub != known.hub.0 {
        bail!("the answer of the other replicas makes no sense");
    }
    Ok(Belonging {
        replica: reply.replica,
        hub: known.hub.clone(),
        incarnation: Uid(reply.incarnation),
        opened: false,
        members,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Digest,
        store::{Key, memory},
    };

    async fn store() -> Arc<dyn Store> {
        let store = memory::open();
        let group = members::Group { incarnation: store.incarnation().clone(), next: 4 };
        store.commit(Transaction::put(Key::new(members::GROUP), group.encode())).await.expect("committed");
        for id in 1..=3 {
            let member = Member {
                id,
                peer_address: format!("h{id}:1"),
                url: format!("https://h{id}:2"),
                peer_authority: Digest::of(b"ca"),
            };
            let value = object::encode(&member.object("uid", Timestamp::from_seconds(1)));
            let put = Transaction::put(keys::key(&REPLICA, "", &id.to_string()), value);
            store.commit(put).await.expect("committed");
        }
        store
    }

    #[tokio::test]
    async fn a_replica_gets_one_new_number_however_often_it_asks() {
        let store = store().await;
        for _ in 0..2 {
            let reply = replace(&*store, &Uid::from("hub"), 2).await.expect("replaced");
            assert_eq!(reply.replica, 4);
            let at = |id| reply.members.iter().find(|member| member.replica == id).map(|member| &*member.peer_address);
            assert_eq!((at(4), at(1)), (Some("h2:1"), Some("h1:1")));
            assert!(reply.secrets.is_empty());
        }
        let (_, group) = members::read_group(&*store).await.expect("read").expect("a group");
        assert_eq!(group.next, 5);
        let old = store.get(&keys::key(&REPLICA, "", "2")).await.expect("read").expect("until the group is without it");
        let old = object::decode(&old.value).expect("an object");
        assert!(old["metadata"]["deletionTimestamp"].is_string(), "{old}");
        assert_eq!(old["metadata"]["annotations"]["hanse.dev/deletion-author"], "hanse:replica:2", "{old}");
    }

    #[tokio::test]
    async fn one_that_was_removed_is_not_replaced() {
        let refused = replace(&*store().await, &Uid::from("hub"), 9).await.expect_err("refused");
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
}
