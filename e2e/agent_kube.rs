//! The agent's port to its member, on real API servers: what it writes, what it may not, and what it is told. All of it
//! with the rights in `deploy/` and no others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use futures::StreamExt;
use hanse::agent::check;
use hanse::agent::cluster::kube::KubeCluster;
use hanse::agent::cluster::{Capacity, Cluster, Deletion, Live, OWNER_LABEL, Rejection};
use hanse::agent::deploy;
use hanse::agent::lease::Lease;
use hanse::agent::ledger::secrets::SecretsLedger;
use hanse::agent::ledger::{Entry, Ledger, Session, Write};
use hanse::agent::secrets::Secrets;
use hanse::flow::{diff, observe};
use hanse::model::report::Health;
use hanse::model::{Digest, GroupVersionKind, ObjectName, ObjectRef, Uid, Work};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::control_plane::{Member, fleet};
use crate::wait;

const SOON: Duration = Duration::from_secs(60);

/// A shared member with the agent's roles in it, seen as the agent's ServiceAccount sees it.
struct Ground {
    member: &'static Member,
    runtime: Runtime,
    agent: KubeCluster,
}

fn ground() -> Ground {
    let member = fleet(1)[0];
    let manifests = deploy::member_manifests("https://hub.invalid", "none", "", deploy::IMAGE);
    let rights: Vec<&str> = manifests.split("\n---\n").filter(|part| !part.contains("kind: Deployment")).collect();
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    member.kubectl().args(apply).stdin(rights.join("\n---\n")).ok();
    let token = member.kubectl().namespace("hanse-system").args(["create", "token", "hanse-agent"]).ok();
    let runtime = Runtime::new().expect("a runtime");
    let agent = runtime.block_on(async {
        let read = kube::config::Kubeconfig::read_from(&member.kubeconfig).expect("a kubeconfig");
        let admin = kube::Config::from_custom_kubeconfig(read, &Default::default()).await.expect("a config");
        let mut own = kube::Config::new(admin.cluster_url);
        own.root_cert = admin.root_cert;
        own.auth_info.token = Some(token.trim().to_owned().into());
        KubeCluster::new(kube::Client::try_from(own).expect("a client"))
    });
    Ground { member, runtime, agent }
}

impl Ground {
    fn namespace(&self, name: &str) {
        self.runtime.block_on(self.agent.ensure_namespace(name)).expect("a namespace");
        // The authorizer learns of the binding a moment later.
        let probe = object(name, "v1", "ConfigMap", "probe", json!({}));
        wait::until("the executor to have its rights", SOON, || {
            self.apply(name, &probe).map(drop).map_err(|rejection| rejection.to_string())
        });
    }

    fn apply(&self, namespace: &str, object: &Value) -> Result<Value, Rejection> {
        self.runtime.block_on(self.agent.apply(namespace, object))
    }

    fn get(&self, object: &ObjectRef) -> Option<Value> {
        self.runtime.block_on(self.agent.get(object)).expect("an answer")
    }

    fn delete(&self, namespace: &str, object: &ObjectRef, uid: &Uid) -> Result<Deletion, Rejection> {
        self.runtime.block_on(self.agent.delete(namespace, object, uid))
    }
}

fn object(namespace: &str, api_version: &str, kind: &str, name: &str, fields: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": {OWNER_LABEL: "app-1"}}});
    for (field, value) in fields.as_object().expect("fields") {
        object[field] = value.clone();
    }
    object
}

fn web(namespace: &str, replicas: i64) -> Value {
    let labels = json!({"app": "web"});
    let resources = json!({"requests": {"cpu": "0.1", "memory": "65536Ki"}});
    let container = json!({"name": "web", "image": "none", "ports": [{"containerPort": 80}], "resources": resources});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": labels}, "template": template});
    object(namespace, "apps/v1", "Deployment", "web", json!({"spec": spec}))
}

fn reference(object: &Value) -> ObjectRef {
    ObjectRef::of(object).expect("an object")
}

fn uid(object: &Value) -> Uid {
    Uid::from(object["metadata"]["uid"].as_str().expect("a uid"))
}

fn reason<T: std::fmt::Debug>(answer: Result<T, Rejection>) -> String {
    answer.expect_err("a rejection").reason
}

#[test]
fn the_manifests_are_what_an_api_server_takes_and_the_check_says_yes_to_their_rights() {
    let ground = ground();
    let manifests = deploy::member_manifests("https://hub.invalid", "none", "eu", deploy::IMAGE);
    let dry = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
    ground.member.kubectl().args(dry).stdin(manifests).ok();
    let findings = ground.runtime.block_on(check::member(&ground.agent));
    let table = check::table(&findings);
    assert!(findings.iter().all(check::Finding::is_good), "{table}");
    assert!(table.contains("Kubernetes v1."), "{table}");
}

#[test]
fn what_the_member_defaults_and_others_add_is_no_drift_and_a_change_of_ours_is() {
    let (ground, namespace) = (ground(), "port-drift");
    ground.namespace(namespace);
    let desired = web(namespace, 1);
    let stored = ground.apply(namespace, &desired).expect("applied");
    let projected = diff::projection(&desired, &stored);
    let requests = &stored["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"];
    assert_eq!(requests, &json!({"cpu": "100m", "memory": "64Mi"}), "the member writes quantities its own way");
    let again = ground.apply(namespace, &desired).expect("applied");
    assert_eq!(again["metadata"]["generation"], stored["metadata"]["generation"], "the same again changes nothing");

    let people = || ground.member.kubectl().namespace(namespace);
    people().args(["annotate", "deployment", "web", "theirs=1"]).ok();
    people().args(["set", "env", "deployment/web", "THEIRS=1"]).ok();
    let live = ground.get(&reference(&desired)).expect("is there");
    assert_eq!(diff::projection(&desired, &live), projected);
    people().args(["scale", "deployment", "web", "--replicas=3"]).ok();
    let live = ground.get(&reference(&desired)).expect("is there");
    assert_ne!(diff::projection(&desired, &live), projected);

    let repaired = ground.apply(namespace, &desired).expect("applied");
    assert_eq!(diff::projection(&desired, &repaired), projected);
    assert_eq!(repaired["metadata"]["annotations"]["theirs"], "1", "a foreign field is left alone");
    assert_eq!(repaired["spec"]["template"]["spec"]["containers"][0]["env"][0]["name"], "THEIRS");
}

#[test]
fn an_application_stays_in_its_namespace() {
    let (ground, namespace) = (ground(), "port-inside");
    ground.namespace(namespace);
    let system = object("kube-system", "v1", "ConfigMap", "intruder", json!({"data": {"a": "b"}}));
    assert_eq!(reason(ground.apply(namespace, &system)), "Forbidden");
    for protected in ["kube-system", "kube-anything", "hanse-system", ""] {
        let answer = ground.runtime.block_on(ground.agent.ensure_namespace(protected));
        assert_eq!(reason(answer), "ProtectedNamespace", "{protected:?}");
    }
    let role = object(namespace, "rbac.authorization.k8s.io/v1", "ClusterRole", "port-inside", json!({"rules": []}));
    let rejection = ground.apply(namespace, &role).expect_err("cluster-scoped");
    assert_eq!(rejection.reason, "Forbidden");
    assert!(rejection.message.contains("cannot patch resource \"clusterroles\""), "{rejection}");
    let subject = json!([{"kind": "ServiceAccount", "name": "hanse-executor", "namespace": namespace}]);
    let admin = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"});
    let binding = json!({"roleRef": admin, "subjects": subject});
    let climb = object(namespace, "rbac.authorization.k8s.io/v1", "RoleBinding", "climb", binding);
    assert_eq!(reason(ground.apply(namespace, &climb)), "Forbidden");
}

#[test]
fn a_cluster_scoped_object_that_the_member_grants_is_written_without_a_namespace() {
    let (ground, namespace) = (ground(), "port-granted");
    ground.namespace(namespace);
    let executor = format!("--serviceaccount={namespace}:hanse-executor");
    let grant = ["create", "clusterrole", "port-grant", "--verb=get,create,patch", "--resource=priorityclasses"];
    ground.member.kubectl().args(grant).ok();
    let bind = ["create", "clusterrolebinding", "port-grant", "--clusterrole=port-grant", &executor];
    ground.member.kubectl().args(bind).ok();
    let class = object(namespace, "scheduling.k8s.io/v1", "PriorityClass", "port-granted", json!({"value": 7}));
    let stored = wait::until("the grant to be known", SOON, || {
        ground.apply(namespace, &class).map_err(|rejection| rejection.to_string())
    });
    assert_eq!(stored["metadata"].get("namespace"), None);
}

#[test]
fn a_no_comes_in_the_members_words() {
    let (ground, namespace) = (ground(), "port-words");
    ground.namespace(namespace);
    let unknown = object(namespace, "example.com/v1", "Thing", "x", json!({}));
    assert_eq!(reason(ground.apply(namespace, &unknown)), "KindUnknown");
    let invalid = object(namespace, "v1", "Service", "web", json!({"spec": {"ports": [{"port": 70000}]}}));
    let rejection = ground.apply(namespace, &invalid).expect_err("a port out of range");
    assert_eq!(rejection.reason, "Invalid");
    assert!(rejection.message.contains("must be between 1 and 65535"), "{rejection}");

    let quota = json!({"spec": {"hard": {"pods": "0"}}});
    let quota =
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": quota["spec"]});
    ground.member.kubectl().namespace(namespace).args(["apply", "-f", "-"]).stdin(quota).ok();
    let desired = web(namespace, 1);
    wait::until("the quota to be met", SOON, || {
        let live = ground.apply(namespace, &desired).expect("a Deployment is no pod");
        let observed = observe::observe(&live);
        let told = observed.health == Health::Unhealthy && observed.message.contains("exceeded quota: none");
        if told { Ok(()) } else { Err(format!("{observed:?}")) }
    });
    let nobody = Runtime::new().expect("a runtime").block_on(async {
        let mut config = kube::Config::new("https://127.0.0.1:1".parse().expect("a url"));
        config.accept_invalid_certs = true;
        KubeCluster::new(kube::Client::try_from(config).expect("a client")).facts().await
    });
    assert_eq!(reason(nobody), "Unreachable");
}

#[test]
fn a_deletion_meets_only_the_object_it_names() {
    let (ground, namespace) = (ground(), "port-delete");
    ground.namespace(namespace);
    let config = object(namespace, "v1", "ConfigMap", "web", json!({"data": {"a": "b"}}));
    let stored = ground.apply(namespace, &config).expect("applied");
    let name = reference(&config);
    let another = Uid::from("00000000-0000-0000-0000-000000000000");
    assert_eq!(ground.delete(namespace, &name, &another), Ok(Deletion::Gone), "the name is another object's now");
    assert!(ground.get(&name).is_some());
    let patch = r#"{"metadata":{"finalizers":["example.com/wait"]}}"#;
    let people = || ground.member.kubectl().namespace(namespace);
    people().args(["patch", "configmap", "web", "--type=merge", "-p", patch]).ok();
    assert_eq!(ground.delete(namespace, &name, &uid(&stored)), Ok(Deletion::Pending));
    assert!(ground.get(&name).is_some());
    people().args(["patch", "configmap", "web", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]).ok();
    assert_eq!(ground.get(&name), None);
    assert_eq!(ground.delete(namespace, &name, &uid(&stored)), Ok(Deletion::Gone));
}

#[test]
fn a_namespace_is_made_once_and_tells_of_its_pause() {
    let (ground, namespace) = (ground(), "port-paused");
    ground.namespace(namespace);
    let version = || {
        let versions = "jsonpath={.items[*].metadata.resourceVersion}";
        let role = ["get", "rolebinding,serviceaccount", "hanse-executor", "-o", versions];
        ground.member.kubectl().namespace(namespace).args(role).ok()
    };
    let before = version();
    let facts = ground.runtime.block_on(ground.agent.ensure_namespace(namespace)).expect("a namespace");
    assert_eq!((facts.paused_until, version()), (None, before));
    let pause = "hanse.dev/paused-until=2030-01-01T00:00:00Z";
    ground.member.kubectl().args(["annotate", "namespace", namespace, pause]).ok();
    let facts = ground.runtime.block_on(ground.agent.ensure_namespace(namespace)).expect("a namespace");
    assert_eq!(facts.paused_until.as_deref(), Some("2030-01-01T00:00:00Z"));
}

#[test]
fn watches_begin_with_all_there_is_and_tell_every_change() {
    let (ground, namespace) = (ground(), "port-watch");
    ground.namespace(namespace);
    let desired = web(namespace, 2);
    let stored = ground.apply(namespace, &desired).expect("applied");
    let gvk = GroupVersionKind::new("apps", "v1", "Deployment");
    ground.runtime.block_on(async {
        let ours = |live: &Value| reference(live) == reference(&desired);
        let mut news = ground.agent.watch(&gvk);
        let Some(Live::Reset(all)) = news.next().await else { panic!("a watch begins with a reset") };
        let first = all.iter().find(|live| ours(live)).expect("ours is listed");
        assert_eq!((uid(first), first["metadata"].get("managedFields")), (uid(&stored), None));
        assert_eq!((&first["kind"], &first["apiVersion"]), (&json!("Deployment"), &json!("apps/v1")));
        let healthy = async {
            while let Some(live) = news.next().await {
                if let Live::Applied(live) = live
                    && ours(&live)
                    && observe::observe(&live).health == Health::Healthy
                {
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, healthy).await.expect("two pods are ready");
        ground.agent.delete(namespace, &reference(&desired), &uid(&stored)).await.expect("deleted");
        let gone = async { while news.next().await != Some(Live::Deleted(reference(&desired))) {} };
        tokio::time::timeout(SOON, gone).await.expect("the deletion is told");
    });
}

#[test]
fn capacity_counts_nodes_and_pods_with_their_workload_and_trouble() {
    let (ground, namespace) = (ground(), "port-capacity");
    ground.namespace(namespace);
    let mut desired = web(namespace, 1);
    desired["spec"]["template"]["spec"]["nodeSelector"] = json!({"nowhere": "true"});
    ground.apply(namespace, &desired).expect("applied");
    let workload =
        ObjectRef { gvk: GroupVersionKind::new("apps", "v1", "Deployment"), name: ObjectName::new(namespace, "web") };
    let (nodes, trouble) = ground.runtime.block_on(async {
        let mut news = ground.agent.watch_capacity();
        let (mut nodes, mut trouble) = (0, None);
        let both = async {
            while nodes == 0 || trouble.is_none() {
                let pods = match news.next().await.expect("it goes on") {
                    Capacity::NodesReset(all) => {
                        nodes =
                            all.iter().filter(|node| node.schedulable && node.allocatable.get("cpu") == 8000).count();
                        continue;
                    }
                    Capacity::PodsReset(all) => all,
                    Capacity::Pod(pod) => vec![pod],
                    _ => continue,
                };
                let ours = pods.into_iter().find(|pod| pod.workload.as_ref() == Some(&workload));
                if let Some(told) = ours.and_then(|pod| pod.trouble) {
                    trouble = Some(told);
                }
            }
        };
        tokio::time::timeout(SOON, both).await.expect("nodes and a pod in trouble");
        (nodes, trouble)
    });
    assert_eq!(nodes, 3);
    let trouble = trouble.expect("a trouble");
    assert!(trouble.starts_with("FailedScheduling: 0/3 nodes are available"), "{trouble}");
    let facts = ground.runtime.block_on(ground.agent.facts()).expect("facts");
    assert!(facts.kubernetes_version.starts_with("v1.") && !facts.system_uid.is_empty(), "{facts:?}");
}

fn entry(generation: u64, application: &'static [u8]) -> Write {
    let work = Work {
        application: ObjectName::new("shop", "web"),
        application_uid: "port-ledger".into(),
        cluster: "eu".into(),
        generation,
        revision: "web-v1".into(),
        application_blob: Digest::of(application),
        manifests: vec![],
        removals: vec![],
        features: vec![],
        trace: String::new(),
    };
    let entry = Entry { work: Arc::new(work), made: vec![], removed: vec![], held: false };
    Write::Entry { entry: Arc::new(entry), blobs: vec![(Digest::of(application), Bytes::from_static(application))] }
}

#[test]
fn a_ledger_in_secrets_is_there_for_the_next_process_and_keeps_no_more_than_it_lists() {
    static LARGE: [u8; 1 << 20] = [7; 1 << 20];
    let ground = ground();
    let secrets = ground.runtime.block_on(async { Secrets::new(ground.agent.client().clone(), "hanse-system") });
    let open = || {
        let mut ledger = SecretsLedger::new(secrets.clone());
        let loaded = ledger.load().expect("loads");
        (ledger, loaded)
    };
    let (mut ledger, _) = open();
    let session = Session { epoch: 3, ..Session::default() };
    ledger.write(&[Write::Session(session.clone()), entry(1, &LARGE)]).expect("writes");
    let (mut ledger, loaded) = open();
    assert_eq!((loaded.session, loaded.entries.len(), loaded.broken), (session, 1, vec![]));
    ledger.write(&[entry(2, b"small")]).expect("writes");
    let blobs = ["get", "secrets", "-l", "hanse.dev/agent-state=blob", "-o", "name"];
    let blobs = || ground.member.kubectl().namespace("hanse-system").args(blobs).ok().lines().count();
    assert_eq!(blobs(), 1, "the two pieces of the large one are swept");
    let (mut ledger, loaded) = open();
    assert_eq!(loaded.entries[0].work.generation, 2);
    ledger.write(&[Write::Forget("port-ledger".into())]).expect("writes");
    assert_eq!((blobs(), open().1.entries.len()), (0, 0));
}

#[test]
fn one_replica_holds_the_lease_and_the_next_takes_it_when_it_is_given_up() {
    let ground = ground();
    let lease = |holder| Lease::new(ground.agent.client().clone(), "hanse-system", holder);
    ground.runtime.block_on(async {
        let (first, second, stop) = (lease("first"), lease("second"), Default::default());
        assert!(first.acquire(&stop).await);
        let early = tokio::time::timeout(Duration::from_secs(7), second.acquire(&stop)).await;
        assert!(early.is_err(), "the second waits");
        first.release().await;
        let taken = tokio::time::timeout(Duration::from_secs(10), second.acquire(&stop)).await;
        assert_eq!(taken, Ok(true));
    });
}
