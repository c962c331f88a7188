//! A full cluster makes room for what is more important, and no pod waits for it meanwhile.

use serde_json::json;

use crate::applications::{divided, wait_for_pods, web};
use crate::control_plane::Member;
use crate::federation::Federation;

const NAMESPACE: &str = "important";

#[test]
fn what_is_more_important_gets_room_and_what_made_it_comes_back() {
    let member = Member::create("full");
    member.add_nodes(1, "2", "16Gi", &[]);
    let federation = Federation::start();
    let _agent = federation.join(&member, "full");
    federation.make_namespace(NAMESPACE);
    federation.kubectl().args(["create", "priorityclass", "high", "--value=1000"]).ok();
    federation.apply(&web(NAMESPACE, "batch", 8, "200m", divided()));
    federation.wait_until_running(NAMESPACE, "batch");
    wait_for_pods(&member, NAMESPACE, 8);

    let important = json!([{"name": "spread", "type": "placement",
        "properties": {"mode": "Divided", "priorityClassName": "high"}}]);
    let shop = web(NAMESPACE, "shop", 4, "200m", important);
    let file = federation.data().join("shop.json");
    std::fs::write(&file, shop.to_string()).expect("writes");
    let plan = federation.hanse(&["plan", "-f", &file.to_string_lossy()]);
    let told = "to make room in full: batch of important/batch 8 → 6";
    assert!(plan.stdout.contains(told), "{}{}", plan.stdout, plan.stderr);

    federation.apply(&shop);
    federation.wait_until_running(NAMESPACE, "shop");
    let batch = federation.wait_for_application(NAMESPACE, "batch", "it says for whom it made room", |batch| {
        let mut conditions = batch["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|condition| condition["type"] == "Preempted" && condition["status"] == "True")
    });
    let row = &batch["status"]["placement"]["rows"][0];
    assert_eq!(row["reason"], "6 of 8, down from 8: makes room for important/shop (priority 1000 over 0)");
    wait_for_pods(&member, NAMESPACE, 10);
    let pods =
        member.kubectl().namespace(NAMESPACE).args(["get", "events", "--field-selector=reason=FailedScheduling"]);
    assert_eq!(pods.json()["items"], json!([]), "no pod ever waited for a node");

    federation.kubectl().namespace(NAMESPACE).args(["delete", "application", "shop"]).ok();
    federation.wait_until_running(NAMESPACE, "batch");
    wait_for_pods(&member, NAMESPACE, 8);
}
