use serde_json::{Value, json};

use super::*;
use crate::{agent::cluster::OWNER_LABEL, model::Timestamp};

fn at(ms: u64) -> Now {
    Now { wall: Timestamp::from_millis(1_700_000_000_000 + ms as i64), monotonic_ms: ms }
}

fn member(nodes: usize) -> Member {
    let config = Config { pod_jitter_ms: 0, ..Config::uniform("eu", "eu", nodes, 4000, 8 << 30) };
    let mut member = Member::new(config, at(0));
    member.ensure_namespace(at(0), "shop").expect("namespace");
    member
}

fn deployment(replicas: usize, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop", "labels": {OWNER_LABEL: "app-1"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": image, "resources": {"requests": {"cpu": "1"}}}]}}}})
}

fn web() -> ObjectRef {
    ObjectRef::of(&deployment(0, "x")).expect("ref")
}

fn run(member: &mut Member) {
    for _ in 0..1000 {
        let Some(due) = member.due() else { return };
        member.step(at(due));
    }
    panic!("the member never comes to rest");
}

#[test]
fn a_deployment_becomes_ready_and_then_nothing_is_due() {
    let mut member = member(2);
    let object = member.apply(at(0), "shop", &deployment(3, "nginx:1")).expect("applied");
    assert_eq!(object["status"]["unavailableReplicas"], 3);
    run(&mut member);
    let object = member.get(&web()).expect("there");
    assert_eq!(object["status"]["readyReplicas"], 3);
    assert_eq!(object["status"]["observedGeneration"], 1);
    assert_eq!(object["status"]["conditions"][1]["reason"], "NewReplicaSetAvailable");
    assert_eq!(member.pods().filter(|pod| pod.ready && pod.workload == Some(web())).count(), 3);
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let mut member = member(2);
    let first = member.apply(at(0), "shop", &deployment(3, "nginx:1")).expect("applied");
    let revision = member.revision();
    let second = member.apply(at(5), "shop", &deployment(3, "nginx:1")).expect("applied");
    assert_eq!(first, second);
    assert_eq!(member.revision(), revision);
    assert_eq!(member.counts().changes, 4, "namespace, service account, binding, deployment");
}

#[test]
fn an_update_never_falls_below_what_must_be_available() {
    let mut member = member(4);
    member.apply(at(0), "shop", &deployment(8, "nginx:1")).expect("applied");
    run(&mut member);
    member.apply(at(1000), "shop", &deployment(8, "nginx:2")).expect("applied");
    while let Some(due) = member.due() {
        let pods = member.pods().collect::<Vec<_>>();
        assert!(pods.iter().filter(|pod| pod.ready).count() >= 6, "at most a quarter is away");
        assert!(pods.len() <= 10, "at most a quarter more");
        member.step(at(due));
    }
    let object = member.get(&web()).expect("there");
    assert_eq!(object["metadata"]["generation"], 2);
    assert_eq!(
        (object["status"]["updatedReplicas"].as_i64(), object["status"]["replicas"].as_i64()),
        (Some(8), Some(8))
    );
}

#[test]
fn pods_that_find_no_room_wait_and_start_when_there_is_some() {
    let mut member = member(1);
    member.apply(at(0), "shop", &deployment(6, "nginx:1")).expect("applied");
    run(&mut member);
    let trouble = member.pods().filter_map(|pod| pod.trouble).collect::<Vec<_>>();
    assert_eq!(trouble.len(), 2);
    assert_eq!(
        trouble[0],
        "FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No \
         preemption victims found for incoming pod."
    );
    let more = NodeFacts { name: "more".into(), ..member.nodes().next().expect("a node").clone() };
    member.put_node(at(9000), more);
    run(&mut member);
    assert_eq!(member.pods().filter(|pod| pod.ready).count(), 6);
    assert_eq!(member.oversubscribed().count(), 0);
}

#[test]
fn pods_of_a_lost_node_are_made_again() {
    let mut member = member(3);
    member.apply(at(0), "shop", &deployment(6, "nginx:1")).expect("applied");
    run(&mut member);
    member.remove_node(at(5000), "eu-node-1");
    run(&mut member);
    assert_eq!(member.pods().filter(|pod| pod.ready && pod.node != "eu-node-1").count(), 6);
}

#[test]
fn an_image_that_cannot_be_pulled_says_so() {
    let mut member = member(1);
    member.apply(at(0), "shop", &deployment(1, "shop/broken:1")).expect("applied");
    run(&mut member);
    let pod = member.pods().next().expect("a pod");
    assert_eq!(pod.trouble.as_deref(), Some("ImagePullBackOff: Back-off pulling image \"shop/broken:1\""));
    assert!(!pod.ready);
}

#[test]
fn a_quota_stops_pods_in_the_words_of_kubernetes_and_lets_them_through_when_raised() {
    let mut member = member(2);
    let quota = |pods: &str| {
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team", "namespace": "shop"},
            "spec": {"hard": {"pods": pods, "requests.cpu": "8"}}})
    };
    member.apply_as(at(0), "kubectl", &quota("2")).expect("quota");
    member.apply(at(0), "shop", &deployment(3, "nginx:1")).expect("applied");
    run(&mut member);
    let object = member.get(&web()).expect("there");
    let failure = &object["status"]["conditions"][2];
    assert_eq!(failure["reason"], "FailedCreate");
    let message = failure["message"].as_str().expect("text");
    assert!(message.ends_with("exceeded quota: team, requested: pods=1, used: pods=2, limited: pods=2"), "{message}");
    member.apply_as(at(2000), "kubectl", &quota("5")).expect("quota");
    run(&mut member);
    assert_eq!(member.get(&web()).expect("there")["status"]["readyReplicas"], 3);
}

#[test]
fn the_executor_ends_at_its_namespace() {
    let mut member = member(1);
    let mut elsewhere = deployment(1, "nginx:1");
    elsewhere["metadata"]["namespace"] = json!("kube-system");
    let rejection = member.apply(at(0), "shop", &elsewhere).expect_err("refused");
    assert_eq!(rejection.reason, "Forbidden");
    assert_eq!(
        rejection.message,
        "deployments.apps \"web\" is forbidden: User \"system:serviceaccount:shop:hanse-executor\" cannot patch resource \
         \"deployments\" in API group \"apps\" in the namespace \"kube-system\""
    );
    let global = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}});
    let rejection = member.apply(at(0), "shop", &global).expect_err("refused");
    assert!(rejection.message.ends_with("at the cluster scope"), "{rejection}");
    let rights =
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "x"}});
    assert_eq!(member.apply(at(0), "shop", &rights).expect_err("refused").reason, "Forbidden");
    let unknown = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "x"}});
    assert_eq!(member.apply(at(0), "shop", &unknown).expect_err("refused").reason, "KindUnknown");
    assert_eq!(member.ensure_namespace(at(0), "kube-system").expect_err("refused").reason, "ProtectedNamespace");
}

#[test]
fn deleting_needs_the_uid_and_waits_for_finalizers() {
    let mut member = member(1);
    member.apply(at(0), "shop", &deployment(1, "nginx:1")).expect("applied");
    let uid = member.uid(&web()).expect("uid").clone();
    assert_eq!(member.delete(at(1), "shop", &web(), &Uid::from("another")), Ok(Deletion::Gone));
    assert!(member.get(&web()).is_some(), "another uid is another object");
    member.edit(at(2), &web(), "kubectl", |object| object["metadata"]["finalizers"] = json!(["example.com/hold"]));
    assert_eq!(member.delete(at(3), "shop", &web(), &uid), Ok(Deletion::Pending));
    assert!(member.get(&web()).expect("there")["metadata"]["deletionTimestamp"].is_string());
    member.take_changes();
    member.edit(at(4), &web(), "kubectl", |object| object["metadata"]["finalizers"] = json!([]));
    assert!(member.get(&web()).is_none());
    assert!(member.take_changes().contains(&Change::ObjectGone(web())));
    assert_eq!(member.pods().count(), 0);
}

#[test]
fn a_foreign_field_survives_our_next_apply_and_a_changed_one_of_ours_does_not() {
    let mut member = member(2);
    member.apply(at(0), "shop", &deployment(3, "nginx:1")).expect("applied");
    member.edit(at(1), &web(), "kubectl", |object| {
        object["metadata"]["annotations"] = json!({"team": "a"});
        object["spec"]["replicas"] = json!(1);
    });
    let object = member.apply(at(2), "shop", &deployment(3, "nginx:1")).expect("applied");
    assert_eq!(object["metadata"]["annotations"]["team"], "a");
    assert_eq!(object["spec"]["replicas"], 3);
}

#[test]
fn an_object_that_loses_the_label_is_gone_for_the_watch() {
    let mut member = member(1);
    member.apply(at(0), "shop", &deployment(1, "nginx:1")).expect("applied");
    member.take_changes();
    member.edit(at(1), &web(), "kubectl", |object| object["metadata"]["labels"] = json!({}));
    assert!(member.take_changes().contains(&Change::ObjectGone(web())));
    assert_eq!(member.owned(&web().gvk), Vec::<Value>::new());
}

#[test]
fn other_workloads_run_as_their_controllers_run_them() {
    let mut member = member(3);
    let with = |kind: &str, api: &str, extra: Value| {
        let mut object = deployment(3, "nginx:1");
        object["kind"] = kind.into();
        object["apiVersion"] = api.into();
        for (key, value) in extra.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        object
    };
    let stateful = with("StatefulSet", "apps/v1", json!({"serviceName": "web"}));
    member.apply(at(0), "shop", &stateful).expect("applied");
    assert_eq!(member.pods().count(), 1, "one after the other");
    run(&mut member);
    let names = member.pods().map(|pod| pod.name).collect::<Vec<_>>();
    assert_eq!(names, ["web-0", "web-1", "web-2"]);
    member.apply(at(9000), "shop", &with("DaemonSet", "apps/v1", json!({}))).expect("applied");
    run(&mut member);
    let daemon = ObjectRef { gvk: GroupVersionKind::new("apps", "v1", "DaemonSet"), ..web() };
    assert_eq!(member.get(&daemon).expect("there")["status"]["numberReady"], 3);
    member.apply(at(20_000), "shop", &with("Job", "batch/v1", json!({"completions": 2}))).expect("applied");
    run(&mut member);
    let job = ObjectRef { gvk: GroupVersionKind::new("batch", "v1", "Job"), ..web() };
    let status = member.get(&job).expect("there")["status"].clone();
    assert_eq!(status["succeeded"], 2);
    assert_eq!(status["conditions"][1]["type"], "Complete");
}

#[test]
fn two_runs_give_the_same_uids_names_and_versions() {
    let story = || {
        let mut member = member(2);
        member.apply(at(0), "shop", &deployment(5, "nginx:1")).expect("applied");
        run(&mut member);
        let pods = member.pods().collect::<Vec<_>>();
        (member.get(&web()), pods, member.take_changes())
    };
    assert_eq!(story(), story());
}
