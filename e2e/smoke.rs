//! The ground that all scenarios stand on: members are real clusters and do what clusters do.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::control_plane::{Member, Part, fleet};
use crate::network::Namespace;
use crate::wait;

const SOON: Duration = Duration::from_secs(60);

/// A Deployment whose pods ask for a tenth of a CPU each.
fn deployment(name: &str, replicas: u32) -> String {
    let container = json!({ "name": "main", "image": "none", "resources": { "requests": { "cpu": "100m" } } });
    let labels = json!({ "app": name });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
        },
    })
    .to_string()
}

#[track_caller]
fn wait_until_running(member: &Member, namespace: &str, count: usize) {
    let what = format!("{count} running pods in {namespace} of {}", member.name);
    wait::until(&what, SOON, || {
        let running = ["get", "pods", "--field-selector=status.phase=Running", "--output=name"];
        let found = member.kubectl().namespace(namespace).args(running).ok().lines().count();
        if found == count { Ok(()) } else { Err(found) }
    });
}

#[test]
fn members_run_what_is_applied() {
    let start = Instant::now();
    let members = fleet(2);
    eprintln!("two members up after {:?}", start.elapsed());
    for member in members {
        let start = Instant::now();
        member.kubectl().args(["create", "namespace", "smoke"]).ok();
        member.kubectl().namespace("smoke").args(["apply", "-f", "-"]).stdin(deployment("web", 20)).ok();
        wait_until_running(member, "smoke", 20);
        eprintln!("20 pods running on {} after {:?}", member.name, start.elapsed());
    }
}

#[test]
fn members_share_an_etcd_and_nothing_in_it() {
    let members = fleet(2);
    members[0].kubectl().args(["create", "namespace", "only-here"]).ok();
    let refusal = members[1].kubectl().args(["get", "namespace", "only-here"]).fails();
    assert!(refusal.contains("NotFound"), "{refusal}");
}

#[test]
fn a_member_enforces_rbac() {
    let kubectl = || fleet(1)[0].kubectl();
    kubectl().args(["create", "namespace", "rbac"]).ok();
    kubectl().namespace("rbac").args(["create", "serviceaccount", "executor"]).ok();
    let as_executor = ["--as=system:serviceaccount:rbac:executor", "create", "configmap", "mine"];

    let refusal = kubectl().namespace("rbac").args(as_executor).fails();
    assert!(refusal.contains("forbidden"), "{refusal}");

    let binding = ["create", "rolebinding", "executor", "--clusterrole=edit", "--serviceaccount=rbac:executor"];
    kubectl().namespace("rbac").args(binding).ok();
    // The server authorizes from a cache that follows the writes.
    wait::until("the binding to count", SOON, || {
        let call = kubectl().namespace("rbac").args(as_executor).call();
        if call.status.success() { Ok(()) } else { Err(call) }
    });
    kubectl().namespace("default").args(as_executor).fails();
}

#[test]
fn a_member_outlives_its_parts() {
    let mut member = Member::create("fragile");
    let ready = ["get", "--raw", "/readyz", "--request-timeout=2s"];
    let node = member.add_nodes(1, "4", "8Gi", &[("zone", "a")]).remove(0);

    member.stop();
    member.kubectl().args(ready).fails();
    member.start();
    let kept = member.kubectl().args(["get", "node", &node]).json();
    assert_eq!(kept["metadata"]["labels"]["zone"], "a");
    assert_eq!(kept["status"]["allocatable"]["cpu"], "4");

    member.kill(Part::ApiServer);
    member.kubectl().args(ready).fails();
    member.start();
    member.kubectl().args(ready).ok();

    member.pause(Part::ApiServer);
    member.kubectl().args(ready).fails();
    member.resume(Part::ApiServer);
    member.kubectl().args(ready).ok();
}

#[test]
fn a_member_in_a_network_namespace_calls_out_and_cannot_be_called() {
    let member = Member::create_within(Namespace::create(), "behind-nat");
    let namespace = member.namespace.as_ref().unwrap();
    let hub = TcpListener::bind((namespace.host, 0)).unwrap();
    let port = hub.local_addr().unwrap().port();
    // bash connects by itself, so no other program need be there.
    let call_out = || {
        let connect = format!("exec 3<>/dev/tcp/{}/{port}", namespace.host);
        let mut command = member.command(Path::new("timeout"));
        command.args(["1", "bash", "-c", &connect]).output().unwrap().status.success()
    };

    member.kubectl().args(["get", "--raw", "/readyz"]).ok();
    assert_eq!(namespace.open_ports(), Vec::<u16>::new());
    let server: SocketAddr =
        format!("{}:{}", namespace.address, member.server.rsplit(':').next().unwrap()).parse().unwrap();
    TcpStream::connect_timeout(&server, Duration::from_secs(1)).expect_err("nobody listens there");

    assert!(call_out());
    namespace.cut();
    assert!(!call_out());
    namespace.restore();
    wait::until("the link to work again", SOON, || if call_out() { Ok(()) } else { Err("no connection") });
}
