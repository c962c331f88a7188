//! Asking before it happens: explain, plan, drill, and decisions as others follow them.

use serde_json::{Value, json};

use crate::applications::{divided, replicas, wait_for_pods, web, within};
use crate::federation::{Federation, SOON};
use crate::run;
use crate::scenarios_placement::sized;
use crate::wait;

/// What a command of ours prints as JSON; it says by its exit code whether all is placed.
#[track_caller]
fn asked(federation: &Federation, arguments: &[&str], placed: bool) -> Value {
    let call = federation.hanse(&[arguments, &["--output=json"]].concat());
    assert_eq!(call.status.code(), Some(i32::from(!placed)), "{call}");
    serde_json::from_str(&call.stdout).unwrap_or_else(|error| panic!("{error} in {call}"))
}

/// Name, replicas before and after of each cluster with a part.
fn clusters(component: &Value) -> Value {
    let clusters = component["clusters"].as_array().expect("clusters").iter();
    clusters.map(|chosen| json!([chosen["cluster"], chosen["from"], chosen["replicas"]])).collect()
}

#[test]
fn people_learn_where_and_why_before_and_after() {
    let members = sized();
    let members = &members[..2];
    let federation = Federation::start();
    let _agents: Vec<_> = members.iter().map(|member| federation.join(member, &member.name)).collect();
    federation.make_namespace("why");
    let shares = |name: &str| members.iter().map(|member| replicas(member, "why", name)).collect::<Vec<_>>();
    let directory = run::current().new_directory("why");
    let file = |name: &str, application: &Value| {
        let path = directory.join(format!("{name}.json"));
        std::fs::write(&path, application.to_string()).expect("a file");
        path.display().to_string()
    };

    // Before anything is there: room for 8 and 16.
    let twelve = web("why", "shop", 12, "500m", divided());
    let told = asked(&federation, &["plan", "--filename", &file("twelve", &twelve)], true);
    assert_eq!(clusters(&told["components"][0]), json!([["eu", null, 4], ["us", null, 8]]));
    assert!(federation.kubectl().namespace("why").args(["get", "application", "shop"]).fails().contains("not found"));

    federation.apply(&twelve);
    federation.wait_until_running("why", "shop");
    assert_eq!(shares("shop"), [4, 8], "as planned");
    let told = wait::until("nothing to be left to decide", SOON, || {
        let told = asked(&federation, &["explain", "shop", "--namespace=why"], true);
        if told["settled"] == true { Ok(told) } else { Err(told) }
    });
    assert_eq!(clusters(&told["components"][0]), json!([["eu", 4, 4], ["us", 8, 8]]));
    assert!(told["revision"].as_u64() > Some(0));

    // Too much is said so before it is applied, with what would help.
    let told =
        asked(&federation, &["plan", "--filename", &file("many", &web("why", "shop", 30, "500m", divided()))], false);
    let hints: Vec<&str> =
        told["hints"].as_array().expect("hints").iter().filter_map(|it| it["message"].as_str()).collect();
    assert!(hints.iter().any(|hint| hint.starts_with("asking for 2") && hint.contains("instead of 30")), "{hints:?}");
    assert!(hints.iter().any(|hint| hint.contains("more in eu (")), "{hints:?}");
    assert_eq!(shares("shop"), [4, 8]);

    // What is pinned to one cluster is lost with it, what is divided moves.
    federation.apply(&web("why", "pinned", 1, "500m", within(&["eu"])));
    federation.wait_until_running("why", "pinned");
    let told = asked(&federation, &["drill", "--lose", "eu"], false);
    let named = |name: &str| {
        let applications = told["applications"].as_array().expect("applications").iter();
        applications.into_iter().find(|it| it["name"] == name).expect(name)["components"][0].clone()
    };
    assert_eq!(named("pinned")["unplaced"], 1, "{told:#}");
    assert_eq!(
        named("shop")["changes"],
        json!([{"cluster": "eu", "from": 4, "to": 0}, {"cluster": "us", "from": 8, "to": 12}])
    );
    assert_eq!(shares("shop"), [4, 8], "it was a drill");

    // As everybody asks the API, and as others follow it.
    let review = json!({
        "apiVersion": "hub.hanse.dev/v1alpha1", "kind": "PlacementReview",
        "metadata": {"namespace": "why"}, "spec": {"name": "nobody"},
    });
    let refused = federation.kubectl().args(["create", "-f", "-"]).stdin(&review).fails();
    assert!(refused.contains("\"nobody\" not found"), "{refused}");
    let selector = "--selector=multicluster.x-k8s.io/placement-key=shop";
    let decisions =
        federation.kubectl().namespace("why").args(["get", "placementdecisions", selector, "-o", "json"]).json();
    let published = &decisions["items"][0];
    let name = |place: usize| published["decisions"][place]["clusterProfileRef"]["name"].clone();
    assert_eq!((name(0), name(1), name(2)), (json!("eu"), json!("us"), Value::Null), "{decisions:#}");
    let changed =
        federation.kubectl().namespace("why").args(["delete", "placementdecision", "shop-decision-0"]).fails();
    assert!(changed.contains("derived from placements"), "{changed}");

    for name in ["shop", "pinned"] {
        federation.kubectl().namespace("why").args(["delete", "application", name]).ok();
    }
    for member in members {
        wait_for_pods(member, "why", 0);
    }
}
