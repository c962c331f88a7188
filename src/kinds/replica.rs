//! `hub.hanse.dev/v1alpha1 Replica`: one process of the hub. What it is doing lives in memory and is shown, never stored.

use serde_json::Value;

use super::{
    Backing, Column, ColumnType, Hooks, Kind, NameRule, Scope, Status, Verb, age,
    cluster::{GROUP, VERSION, digest, text_column},
    metadata, name,
    schema::Schema,
    text_at,
};
use crate::model::GroupVersionKind;

/// Held by a Replica until the group of replicas is without it.
pub const REPLICA_FINALIZER: &str = "hanse.dev/replica";

pub fn replica() -> Kind {
    let written = "replicas are written by the hub: `hanse hub invite` and `hanse hub --join` make one";
    Kind {
        gvk: GroupVersionKind::new(GROUP, VERSION, "Replica"),
        plural: "replicas".into(),
        singular: "replica".into(),
        short_names: vec![],
        categories: vec!["hanse".into()],
        scope: Scope::Cluster,
        backing: Backing::Store,
        verbs: vec![Verb::Delete, Verb::Get, Verb::List, Verb::Watch],
        refusals: vec![
            (Verb::Create, written),
            (Verb::Update, written),
            (Verb::Patch, written),
            (Verb::DeleteCollection, "replicas are removed one by one, by name"),
        ],
        status: Status::HubOnly,
        schema: metadata::root([("spec", spec()), ("status", status())]).describe(
            "A process of the hub, named by its number, which is never given out twice. Deleting it removes it from the \
             group: its writes and its vote count no more.",
        ),
        columns: vec![
            name(),
            text_column("Role", 0, "Leader, Follower, Learner, Candidate, or Unreachable.", |replica| {
                text_at(replica, "/status/role")
            }),
            Column {
                type_: ColumnType::Integer,
                ..text_column("Lag", 0, "Log entries that it is behind the leader.", |replica| {
                    replica["status"]["lag"].clone()
                })
            },
            Column {
                type_: ColumnType::Integer,
                ..text_column("Applied", 0, "The last log entry in its state.", |replica| {
                    replica["status"]["applied"].clone()
                })
            },
            text_column("Hash", 0, "Of its state after a log entry: equal on all replicas.", hash),
            text_column("Disk", 0, "What its directory takes.", disk),
            text_column("Message", 0, "Why it is not well.", |replica| text_at(replica, "/status/message")),
            age(),
            text_column("Peer Address", 1, "Where the other replicas reach it.", |replica| {
                text_at(replica, "/spec/peerAddress")
            }),
            text_column("URL", 1, "Where clients and agents reach it.", |replica| text_at(replica, "/spec/url")),
            Column {
                type_: ColumnType::Integer,
                ..text_column("Snapshot", 1, "The last log entry in its newest snapshot.", |replica| {
                    replica["status"]["snapshot"].clone()
                })
            },
            text_column("Version", 1, "Of its binary.", |replica| text_at(replica, "/status/version")),
        ],
        selectable: vec![],
        name: NameRule::Label,
        hub_finalizer: Some(REPLICA_FINALIZER),
        holds_objects: false,
        keeps_namespace: false,
        collection_deletion_max: None,
        hooks: Hooks::default(),
    }
}

/// `INDEX:HASH`, cut short: enough to see that two differ.
fn hash(replica: &Value) -> Value {
    let hash = &replica["status"]["hash"];
    match (hash["index"].as_u64(), hash["value"].as_str()) {
        (Some(index), Some(value)) => format!("{index}:{}", value.get(..12).unwrap_or(value)).into(),
        _ => Value::Null,
    }
}

fn disk(replica: &Value) -> Value {
    match replica["status"]["diskBytes"].as_u64() {
        Some(bytes) => format!("{:.1}Mi", bytes as f64 / f64::from(1 << 20)).into(),
        None => Value::Null,
    }
}

fn spec() -> Schema {
    Schema::object([
        ("peerAddress", Schema::string().describe("Where the other replicas reach it: HOST:PORT.")),
        ("url", Schema::string().describe("Where clients and agents reach it.")),
        (
            "peerAuthority",
            digest().describe("SHA-256 of the public key of the authority for replicas, hex: invitations carry it."),
        ),
    ])
}

fn status() -> Schema {
    let index = |what| Schema::integer().describe(what);
    Schema::object([
        ("role", Schema::string()),
        ("leader", index("The replica that it takes for the leader.")),
        ("term", Schema::integer()),
        ("lag", index("Log entries that it is behind the leader.")),
        ("committed", index("The last log entry that it knows to be committed.")),
        ("applied", index("The last log entry in its state.")),
        ("revision", index("Of its state.")),
        ("hash", Schema::object([("index", Schema::integer()), ("value", Schema::string())])),
        ("snapshot", index("The last log entry in its newest snapshot.")),
        ("diskBytes", Schema::integer()),
        ("version", Schema::string()),
        ("message", Schema::string().describe("Why it is not well.")),
    ])
    .open()
}
