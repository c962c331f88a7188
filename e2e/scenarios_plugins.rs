//! Placement plug-ins: the real hub, and a process of its own that is asked where Applications go.

use std::path::{Path, PathBuf};
use std::process::Command;

use hanse::wire::placement_proto::{
    JudgeReply, JudgeRequest, Judgement,
    judgement::Verdict,
    placement_plugin_server::{PlacementPlugin, PlacementPluginServer},
};
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

use crate::applications::{replicas, web};
use crate::control_plane::fleet;
use crate::federation::{Federation, HANSE, SOON};
use crate::process::Process;
use crate::{run, wait};

/// The plug-in of `deploy/examples`, built as whoever reads it would build it.
#[track_caller]
fn example() -> PathBuf {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--example", "placement-plugin"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let directory = Path::new(HANSE).parent().expect("a directory");
    if directory.ends_with("release") {
        command.arg("--release");
    }
    assert!(command.status().expect("run cargo").success(), "the example is built");
    directory.join("examples/placement-plugin")
}

#[track_caller]
fn start(program: &Path, socket: &Path) -> Process {
    let mut command = Command::new(program);
    command.arg(socket);
    let process = Process::spawn(command, &run::current().new_directory("plugin").join("plugin.log"));
    wait::until("the plug-in to listen", SOON, || if socket.exists() { Ok(()) } else { Err("no socket yet") });
    process
}

fn profile(failure_policy: &str) -> Value {
    json!({
        "apiVersion": "hub.hanse.dev/v1alpha1", "kind": "PlacementProfile", "metadata": {"name": "green"},
        "spec": {"plugin": {"socket": "carbon", "failurePolicy": failure_policy, "timeoutMilliseconds": 1000}},
    })
}

fn green() -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": "Divided", "profile": "green"}}])
}

/// Answers what no plug-in may.
struct Liar;

#[tonic::async_trait]
impl PlacementPlugin for Liar {
    async fn judge(&self, request: Request<JudgeRequest>) -> Result<Response<JudgeReply>, Status> {
        let clusters = request.into_inner().clusters.into_iter();
        let judge = |uid| Judgement { uid, verdict: Some(Verdict::Score(f64::NAN)) };
        Ok(Response::new(JudgeReply { judgements: clusters.map(|cluster| judge(cluster.uid)).collect() }))
    }
}

#[test]
fn a_plugin_filters_and_scores_and_its_loss_and_its_lies_are_told() {
    let members = fleet(2);
    let federation = Federation::start();
    let (clean, dirty) = (members[0], members[1]);
    let _agents = [federation.join(clean, "clean"), federation.join(dirty, "dirty")];
    federation.make_namespace("plugins");
    for (cluster, carbon) in [("clean", 30), ("dirty", 700)] {
        let patch = json!({"spec": {"properties": {"carbon": carbon}}}).to_string();
        federation.kubectl().args(["patch", "cluster", cluster, "--type=merge", "--patch", &patch]).ok();
    }
    let shares = |name: &str| [replicas(clean, "plugins", name), replicas(dirty, "plugins", name)];
    let apply = |name: &str, count: u32| federation.apply(&web("plugins", name, count, "10m", green()));

    // There is a profile, and no plug-in yet.
    federation.apply(&profile("Keep"));
    apply("scored", 2);
    federation.wait_until_status_says("plugins", "scored", &["PluginFailed", "cannot be reached"]);
    assert_eq!(shares("scored"), [0, 0]);
    let socket = federation.data().join("plugins/carbon.sock");
    let mut plugin = start(&example(), &socket);
    federation.wait_until_running("plugins", "scored");
    assert_eq!(shares("scored"), [2, 0], "by its scores");

    let close = r#"{"spec":{"properties":{"closed":"for repairs"}}}"#;
    federation.kubectl().args(["patch", "cluster", "clean", "--type=merge", "--patch", close]).ok();
    apply("filtered", 2);
    let running = federation.wait_until_running("plugins", "filtered");
    assert_eq!(shares("filtered"), [0, 2], "by its refusal");
    assert!(running["status"].to_string().contains("closed: for repairs (a plug-in of the platform)"), "{running:#}");
    assert_eq!(shares("scored"), [2, 0], "what runs stays");

    // It is gone: all stays, then the profile says to go on without it.
    plugin.kill();
    apply("scored", 3);
    federation.wait_until_status_says("plugins", "scored", &["PluginFailed", "cannot be reached", "Unplaced"]);
    assert_eq!(shares("scored"), [2, 0]);
    federation.apply(&profile("Ignore"));
    federation.wait_until_running("plugins", "scored");
    assert_eq!(shares("scored").iter().sum::<u64>(), 3);

    // One that lies is no better.
    std::fs::remove_file(&socket).expect("the socket of a dead process");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let lying = {
        let _inside = runtime.enter();
        tokio_stream::wrappers::UnixListenerStream::new(tokio::net::UnixListener::bind(&socket).expect("a socket"))
    };
    let service = PlacementPluginServer::new(Liar);
    runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(lying));
    federation.wait_until_status_says("plugins", "scored", &["PluginFailed", "NaN, not between -100 and 100"]);
    federation.kubectl().namespace("plugins").args(["delete", "application", "scored", "filtered"]).ok();
}
