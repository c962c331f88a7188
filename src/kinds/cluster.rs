//! `hub.hanse.dev/v1alpha1`: Cluster and the Work view.

use serde_json::{Value, json};

use super::{
    Backing, Column, ColumnType, Hooks, Kind, NameRule, Origin, Scope, Status, Verb, age,
    application::condition,
    metadata, name,
    schema::{Format, Schema},
    text_at,
};
use crate::model::GroupVersionKind;

pub const GROUP: &str = "hub.hanse.dev";
pub const VERSION: &str = "v1alpha1";
/// Held by a Cluster until what its deletion policy says is done.
pub const CLUSTER_FINALIZER: &str = "hanse.dev/cluster";

/// On a Cluster that is deleted: its own uid there says that nobody need wait for it any more.
pub const FORGET_ANNOTATION: &str = "hanse.dev/forget";
/// Who said so; written by the hub alone.
pub const FORGET_AUTHOR_ANNOTATION: &str = "hanse.dev/forget-author";

/// On a Cluster: the digest of the removals that a person agrees to (rule 14).
pub const CONFIRM_ANNOTATION: &str = "hanse.dev/confirm-removals";
/// Who agreed: the author of those removals; written by the hub alone.
pub const CONFIRM_AUTHOR_ANNOTATION: &str = "hanse.dev/confirm-author";

/// Who had the cluster drained, and by which request; written by the hub alone.
pub const DRAIN_AUTHOR_ANNOTATION: &str = "hanse.dev/drain-author";
pub const DRAIN_TRACE_ANNOTATION: &str = "hanse.dev/drain-trace";

pub fn cluster() -> Kind {
    Kind {
        gvk: GroupVersionKind::new(GROUP, VERSION, "Cluster"),
        plural: "clusters".into(),
        singular: "cluster".into(),
        short_names: vec!["cl".into()],
        categories: vec!["hanse".into()],
        scope: Scope::Cluster,
        backing: Backing::Store,
        verbs: vec![Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch],
        refusals: vec![
            (
                Verb::Create,
                "a cluster comes into being by joining: `hanse token create` prints the command for its agent",
            ),
            (Verb::DeleteCollection, "clusters are deleted one by one, by name"),
        ],
        status: Status::HubOnly,
        schema: metadata::root([("spec", cluster_spec()), ("status", cluster_status())])
            .describe("A Kubernetes cluster that joined. Its labels are the hub's: placement selects by them."),
        columns: cluster_columns(),
        selectable: vec!["spec.accepted".into(), "spec.unschedulable".into()],
        name: NameRule::Label,
        hub_finalizer: Some(CLUSTER_FINALIZER),
        holds_objects: false,
        keeps_namespace: false,
        collection_deletion_max: None,
        hooks: Hooks { prepare, ..Hooks::default() },
    }
}

/// Notes when taints were set, and whose word an annotation is by which a person decides something. Whatever the client
/// sent there.
fn prepare(new: &mut Value, old: Option<&Value>, origin: &Origin) {
    date_taints(new, old, origin);
    sign_drain(new, old, origin);
    let Some(annotations) = new.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    let old = old.map(|old| &old["metadata"]["annotations"]);
    let before = |key: &str| old.and_then(|old| old.get(key)).cloned();
    let words = [(FORGET_ANNOTATION, FORGET_AUTHOR_ANNOTATION), (CONFIRM_ANNOTATION, CONFIRM_AUTHOR_ANNOTATION)];
    for (word, author) in words {
        let noted = match annotations.get(word) {
            None => None,
            same if same == before(word).as_ref() => before(author),
            Some(_) => Some(json!(origin.user)),
        };
        match noted {
            Some(noted) => drop(annotations.insert(author.into(), noted)),
            None => drop(annotations.remove(author)),
        }
    }
}

/// The removals of a drain are signed by who asked for it.
fn sign_drain(new: &mut Value, old: Option<&Value>, origin: &Origin) {
    let drains = |cluster: &Value| cluster["spec"]["drain"] == true;
    let words = [(DRAIN_AUTHOR_ANNOTATION, &origin.user), (DRAIN_TRACE_ANNOTATION, &origin.trace)];
    let signed = drains(new).then(|| {
        let before = old.filter(|old| drains(old)).map(|old| &old["metadata"]["annotations"]);
        words.map(|(key, said)| before.map_or_else(|| json!(said), |before| before[key].clone()))
    });
    let Some(metadata) = new["metadata"].as_object_mut() else { return };
    match signed {
        None => {
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                words.iter().for_each(|(key, _)| drop(annotations.remove(*key)));
            }
        }
        Some(values) => {
            let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
            for ((key, _), value) in words.iter().zip(values) {
                annotations[*key] = value;
            }
        }
    }
}

/// A taint that was there before keeps its time, unless the client says another; a new one gets the time of the request.
fn date_taints(new: &mut Value, old: Option<&Value>, origin: &Origin) {
    let identity = |taint: &Value| (taint["key"].clone(), taint["effect"].clone());
    let before = old.and_then(|old| old["spec"]["taints"].as_array()).map(Vec::as_slice).unwrap_or_default();
    let taints = new.pointer_mut("/spec/taints").and_then(Value::as_array_mut);
    for taint in taints.into_iter().flatten().filter(|taint| taint.is_object() && taint["timeAdded"].is_null()) {
        let known = before.iter().find(|known| identity(known) == identity(taint));
        let added = known.map(|known| known["timeAdded"].clone()).filter(|time| !time.is_null());
        if let Some(added) = added.or_else(|| origin.at.map(|at| json!(at.to_string()))) {
            taint["timeAdded"] = added;
        }
    }
}

/// A work of one Application in one cluster, as the hub would send it. Derived from placements, never stored.
pub fn work() -> Kind {
    Kind {
        gvk: GroupVersionKind::new(GROUP, VERSION, "Work"),
        plural: "works".into(),
        singular: "work".into(),
        short_names: vec![],
        categories: vec!["hanse".into()],
        scope: Scope::Namespaced,
        backing: Backing::View,
        verbs: Verb::READ.into(),
        refusals: [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete, Verb::DeleteCollection]
            .map(|verb| (verb, "works are a view of what was decided; change the Application or its policies"))
            .into(),
        status: Status::None,
        schema: metadata::root([
            ("spec", Schema::free_form().describe("Manifests and removals, with the generation they are from.")),
            ("status", Schema::free_form().describe("The newest report of the cluster's agent.")),
        ])
        .describe("What one Application orders in one cluster. A read-only view; named APPLICATION.CLUSTER."),
        columns: vec![
            name(),
            text_column("Application", 0, "The Application.", |work| text_at(work, "/spec/application/name")),
            text_column("Cluster", 0, "Where.", |work| match text_at(work, "/spec/clusterName") {
                Value::Null => text_at(work, "/spec/cluster"),
                name => name,
            }),
            text_column("Generation", 0, "Counts the changes of this work.", |work| text_at(work, "/spec/generation")),
            text_column("Revision", 0, "The revision that it is of.", |work| text_at(work, "/spec/revision")),
            Column {
                type_: ColumnType::Integer,
                ..text_column("Manifests", 0, "Objects to run.", |w| count(w, "manifests"))
            },
            Column {
                type_: ColumnType::Integer,
                ..text_column("Removals", 0, "Objects to remove.", |w| count(w, "removals"))
            },
            text_column("State", 0, "Applied, Pending, or Refused with the reason.", state_of_work),
            age(),
        ],
        selectable: vec!["spec.cluster".into(), "spec.clusterName".into(), "spec.application.name".into()],
        name: NameRule::Subdomain,
        hub_finalizer: None,
        holds_objects: false,
        keeps_namespace: false,
        collection_deletion_max: None,
        hooks: Hooks::default(),
    }
}

/// A report of an older generation says nothing of this one.
fn state_of_work(work: &Value) -> Value {
    let (spec, report) = (&work["spec"], &work["status"]);
    match report["refused"]["reason"].as_str() {
        _ if report["generation"] != spec["generation"] => "Pending".into(),
        Some(reason) => format!("Refused: {reason}").into(),
        None if report["applied"] == true => "Applied".into(),
        None => "Pending".into(),
    }
}

fn count(work: &Value, list: &str) -> Value {
    json!(work["spec"][list].as_array().map_or(0, Vec::len))
}

fn cluster_spec() -> Schema {
    Schema::object([
        (
            "accepted",
            Schema::boolean().describe("The hub's yes to the join request. Setting it back to false cuts the agent off at once."),
        ),
        ("unschedulable", Schema::boolean().describe("Cordoned: keeps what it runs, gets nothing new.")),
        (
            "drain",
            Schema::boolean().describe(
                "Drained: gets nothing new, and what can run elsewhere leaves as soon as its replacement is healthy. Setting \
                 it back to false ends that: what has not left stays.",
            ),
        ),
        (
            "taints",
            Schema::array(cluster_taint()).list_keys(["key", "effect"]).describe(
                "Keep away the Applications whose placement policy does not tolerate them.",
            ),
        ),
        (
            "properties",
            Schema::map(Schema::int_or_string()).describe(
                "What the platform knows of the cluster (cost, latency, …), by which placement policies prefer and choose.",
            ),
        ),
        (
            "deletionPolicy",
            Schema::string().choices(["Orphan", "Drain"]).describe(
                "What deleting the Cluster does to what runs there: Orphan (unless told otherwise) leaves it running, Drain removes it first.",
            ),
        ),
    ])
}

fn cluster_taint() -> Schema {
    Schema::object([
        ("key", Schema::string().format(Format::LabelKey).describe("As a label's key.")),
        ("value", Schema::string().format(Format::LabelValue)),
        (
            "effect",
            Schema::string().choices(["NoSchedule", "PreferNoSchedule", "NoExecute"]).describe(
                "NoSchedule: gets nothing new. PreferNoSchedule: only where others have no room. NoExecute: what runs \
                 there moves, too.",
            ),
        ),
        ("timeAdded", Schema::time().describe("Noted by the hub; tolerations that end are counted from it.")),
    ])
    .required(["key", "effect"])
}

fn cluster_status() -> Schema {
    let amounts = || Schema::map(Schema::integer());
    let taint = Schema::object([("key", Schema::string()), ("value", Schema::string()), ("effect", Schema::string())]);
    let shape = Schema::object([
        ("count", Schema::integer()),
        ("free", amounts()),
        ("labels", Schema::map(Schema::string())),
        ("taints", Schema::array(taint)),
        ("mixed", Schema::boolean().describe("Some of these nodes may have labels that are not told.")),
    ]);
    let rules = Schema::object([
        ("quota", amounts().describe("What ResourceQuotas leave.")),
        ("defaults", amounts().describe("What LimitRanges give a container that says nothing.")),
        ("claims", Schema::map(Schema::array(Schema::string())).describe("Zones of claims whose volume is bound.")),
    ]);
    let text = Schema::string;
    Schema::object([
        ("conditions", Schema::array(condition()).list_keys(["type"])),
        (
            "facts",
            Schema::object([
                ("kubernetesVersion", text()),
                ("agentVersion", text()),
                ("region", text()),
                ("zone", text()),
                ("systemUid", text().describe("UID of the member's kube-system namespace.")),
            ])
            .describe("As the agent reports them; never used to match selectors."),
        ),
        (
            "join",
            Schema::object([
                ("token", text()),
                ("keyFingerprint", text()),
                ("systemUid", text()),
                ("requestedAt", Schema::time().nullable()),
            ])
            .describe("The join request that waits for, or was granted, acceptance."),
        ),
        (
            "certificate",
            Schema::object([
                ("keyFingerprint", text()),
                ("previousKeyFingerprint", text()),
                ("serial", text()),
                ("notAfter", Schema::time().nullable()),
            ]),
        ),
        (
            "sketch",
            Schema::object([
                ("sequence", Schema::integer()),
                ("nodes", Schema::integer()),
                ("shapes", Schema::array(shape)),
                ("allocatable", amounts()),
                ("free", amounts()),
                ("labels", Schema::array(text()).describe("Node labels that the shapes tell of.")),
                ("namespaces", Schema::map(rules)),
                ("fault", text().describe("Why nothing of it is believed.")),
            ])
            .describe("Free capacity by shape of node; cpu in thousandths of a core, memory in bytes."),
        ),
        ("lastBeat", Schema::time()),
    ])
    .open()
}

fn cluster_columns() -> Vec<Column> {
    vec![
        name(),
        text_column(
            "Status",
            0,
            "Ready, NotReady, Unknown or Pending; whether it is cordoned or drained.",
            |cluster| state(cluster).into(),
        ),
        text_column("Version", 0, "Of the member's API server.", |cluster| {
            text_at(cluster, "/status/facts/kubernetesVersion")
        }),
        text_column("Region", 0, "By the hub's label, else as the nodes say.", |cluster| place(cluster, "region")),
        text_column("Zone", 0, "By the hub's label, else as the nodes say.", |cluster| place(cluster, "zone")),
        Column {
            type_: ColumnType::Integer,
            ..text_column("Nodes", 0, "Nodes that exist.", |cluster| cluster["status"]["sketch"]["nodes"].clone())
        },
        text_column("Free CPU", 0, "Cores that no pod has asked for.", |cluster| {
            free(cluster, "cpu").map_or(Value::Null, |milli| cores(milli).into())
        }),
        text_column("Free Memory", 0, "Memory that no pod has asked for.", |cluster| {
            free(cluster, "memory").map_or(Value::Null, |bytes| memory(bytes).into())
        }),
        Column {
            type_: ColumnType::Date,
            ..text_column("Last Beat", 0, "Time since its agent's last sign of life.", |cluster| {
                text_at(cluster, "/status/lastBeat")
            })
        },
        age(),
        text_column("Agent", 1, "Version of its agent.", |cluster| text_at(cluster, "/status/facts/agentVersion")),
        text_column("Certificate Until", 1, "End of its agent's certificate.", |cluster| {
            text_at(cluster, "/status/certificate/notAfter")
        }),
        text_column("Message", 1, "Why it is not ready.", |cluster| match condition_of(cluster, "Ready") {
            Some(ready) if ready["status"] != "True" => ready["message"].clone(),
            _ => Value::Null,
        }),
    ]
}

pub(super) fn text_column(
    name: &'static str,
    priority: i32,
    description: &'static str,
    cell: fn(&Value) -> Value,
) -> Column {
    Column { name, type_: ColumnType::String, description, priority, cell }
}

fn condition_of<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)
}

fn state(cluster: &Value) -> String {
    let ready = condition_of(cluster, "Ready").and_then(|condition| condition["status"].as_str());
    let state = match (cluster["spec"]["accepted"] == true, ready) {
        (false, _) => "Pending",
        (true, Some("True")) => "Ready",
        (true, Some("False")) => "NotReady",
        (true, _) => "Unknown",
    };
    let cordoned = if cluster["spec"]["unschedulable"] == true { ",SchedulingDisabled" } else { "" };
    let drained = match (cluster["spec"]["drain"] == true, condition_of(cluster, "Drained")) {
        (false, _) => "",
        (true, Some(drained)) if drained["status"] == "True" => ",Drained",
        (true, _) => ",Draining",
    };
    let leaving = if cluster["metadata"]["deletionTimestamp"].is_string() { ",Deleting" } else { "" };
    format!("{state}{cordoned}{drained}{leaving}")
}

fn place(cluster: &Value, what: &str) -> Value {
    match text_at(cluster, &format!("/metadata/labels/topology.kubernetes.io~1{what}")) {
        Value::Null => text_at(cluster, &format!("/status/facts/{what}")),
        label => label,
    }
}

fn free(cluster: &Value, resource: &str) -> Option<i64> {
    cluster["status"]["sketch"]["free"][resource].as_i64()
}

fn cores(milli: i64) -> String {
    let text = format!("{:.1}", milli as f64 / 1000.0);
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn memory(bytes: i64) -> String {
    for (unit, size) in [("Ti", 1i64 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20)] {
        if bytes >= size {
            return format!("{:.1}{unit}", bytes as f64 / size as f64);
        }
    }
    format!("{}Ki", bytes / 1024)
}

/// Of clusters' and tokens' digests alike.
pub(super) fn digest() -> Schema {
    Schema::string().format(Format::Sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_says_in_one_word_how_it_is() {
        let cluster = |accepted: bool, ready: &str, cordoned: bool| {
            json!({"spec": {"accepted": accepted, "unschedulable": cordoned},
                   "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        assert_eq!(state(&json!({})), "Pending");
        assert_eq!(state(&cluster(true, "True", false)), "Ready");
        assert_eq!(state(&cluster(true, "Unknown", true)), "Unknown,SchedulingDisabled");
        assert_eq!(state(&cluster(true, "False", false)), "NotReady");
    }

    #[test]
    fn a_drain_is_signed_by_who_asked_for_it() {
        let cluster = |drain: bool, annotations: Value| json!({"spec": {"drain": drain}, "metadata": {"annotations": annotations}});
        let written = |user: &str, old: &Value, mut new: Value| {
            let origin = Origin { user: user.into(), trace: "t".into(), ..Origin::default() };
            prepare(&mut new, Some(old), &origin);
            new
        };
        let signed = |user: &str| cluster(true, json!({DRAIN_AUTHOR_ANNOTATION: user, DRAIN_TRACE_ANNOTATION: "t"}));
        let none = cluster(false, json!({}));
        assert_eq!(written("ann", &none, cluster(true, json!({DRAIN_AUTHOR_ANNOTATION: "mallory"}))), signed("ann"));
        assert_eq!(written("bob", &signed("ann"), cluster(true, json!({}))), signed("ann"), "it is still ann's word");
        assert_eq!(written("bob", &signed("ann"), cluster(false, json!({DRAIN_AUTHOR_ANNOTATION: "ann"}))), none);
        let mut bare = json!({"spec": {"drain": true}, "metadata": {}});
        prepare(&mut bare, Some(&none), &Origin { user: "ann".into(), trace: "t".into(), ..Origin::default() });
        assert_eq!(bare, signed("ann"));
        let state = |reason: Value| {
            state(&json!({"spec": {"accepted": true, "drain": true}, "status": {"conditions": reason}}))
        };
        assert_eq!(state(json!([])), "Unknown,Draining");
        assert_eq!(state(json!([{"type": "Drained", "status": "True"}])), "Unknown,Drained");
    }

    #[test]
    fn whose_word_it_is_that_decides_something_is_the_hubs_to_note() {
        holds_of(FORGET_ANNOTATION, FORGET_AUTHOR_ANNOTATION);
        holds_of(CONFIRM_ANNOTATION, CONFIRM_AUTHOR_ANNOTATION);
    }

    fn holds_of(word: &str, author: &str) {
        let cluster = |annotations: Value| json!({"metadata": {"annotations": annotations}});
        let written = |user: &str, old: &Value, annotations: Value| {
            let mut new = cluster(annotations);
            prepare(&mut new, Some(old), &Origin { user: user.into(), ..Origin::default() });
            new
        };
        let none = cluster(json!({}));
        let said = json!({word: "uid"});
        let forged = json!({word: "uid", author: "mallory"});
        let noted = |user: &str| cluster(json!({word: "uid", author: user}));
        assert_eq!(written("ann", &none, said.clone()), noted("ann"));
        assert_eq!(written("ann", &none, forged.clone()), noted("ann"));
        for annotations in [said, forged] {
            assert_eq!(written("bob", &noted("ann"), annotations), noted("ann"), "it is still ann's word");
        }
        assert_eq!(written("bob", &none, json!({author: "mallory"})), none);
        assert_eq!(written("bob", &noted("ann"), json!({author: "ann"})), none);
    }

    #[test]
    fn a_work_is_applied_only_in_its_own_generation() {
        let work = |generation: u64, more: Value| {
            let mut report = json!({"generation": generation, "applied": true});
            json_patch::merge(&mut report, &more);
            state_of_work(&json!({"spec": {"generation": 3}, "status": report}))
        };
        assert_eq!(state_of_work(&json!({"spec": {"generation": 3}, "status": {}})), "Pending");
        assert_eq!((work(2, json!({})), work(3, json!({}))), ("Pending".into(), "Applied".into()));
        assert_eq!(work(3, json!({"refused": {"reason": "TooOld"}})), "Refused: TooOld");
    }

    #[test]
    fn amounts_are_short() {
        let amounts = [cores(3900), cores(4000), memory(17_179_869_184), memory(5 << 20), memory(2048)];
        assert_eq!(amounts, ["3.9", "4", "16.0Gi", "5.0Mi", "2Ki"]);
    }

    #[test]
    fn a_taint_is_dated_when_it_is_set() {
        let at = |seconds| Origin { at: Some(crate::model::Timestamp::from_seconds(seconds)), ..Origin::default() };
        let taint = |key: &str| json!({"key": key, "effect": "NoExecute"});
        let mut first = json!({"spec": {"taints": [taint("a")]}});
        prepare(&mut first, None, &at(10));
        assert_eq!(first["spec"]["taints"][0]["timeAdded"], "1970-01-01T00:00:10Z");
        let mut second = json!({"spec": {"taints": [taint("b"), taint("a")]}});
        prepare(&mut second, Some(&first), &at(20));
        let times = |object: &Value| {
            object["spec"]["taints"]
                .as_array()
                .unwrap()
                .iter()
                .map(|taint| taint["timeAdded"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(times(&second), ["1970-01-01T00:00:20Z", "1970-01-01T00:00:10Z"], "one that stays keeps its time");
    }
}
