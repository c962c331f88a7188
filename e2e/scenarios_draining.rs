//! A real cluster is taken out of service while its Applications run.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::applications::{divided, wait_for_pods, web};
use crate::control_plane::{Member, fleet};
use crate::federation::Federation;

const NAMESPACE: &str = "handed-over";

/// Pods of the Deployment that serve, as its controller says.
fn available(member: &Member) -> u64 {
    let path = "--output=jsonpath={.status.availableReplicas}";
    let call =
        member.kubectl().namespace(NAMESPACE).args(["get", "deployment", "web", "--ignore-not-found", path]).ok();
    call.trim().parse().unwrap_or(0)
}

/// How few ran at any moment of this.
fn while_counting<T: Send>(members: &[&Member], change: impl FnOnce() -> T) -> (u64, T) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut least = u64::MAX;
            while !done.load(Ordering::Relaxed) {
                // The old place first: what goes there between the two looks has come to the other already.
                let old = available(members[0]);
                least = least.min(old + available(members[1]));
                thread::sleep(Duration::from_millis(50));
            }
            least
        });
        let changed = change();
        done.store(true, Ordering::Relaxed);
        (watch.join().expect("the watch"), changed)
    })
}

#[test]
fn a_drained_cluster_is_left_new_before_old_and_a_drain_is_undone_half_way() {
    let members = fleet(2);
    let federation = Federation::start();
    let _agents = [federation.join(members[0], "eu"), federation.join(members[1], "us")];
    let hanse = |arguments: &[&str]| {
        let call = federation.hanse(arguments);
        assert!(call.status.success(), "{}{}", call.stdout, call.stderr);
        call.stdout
    };
    federation.make_namespace(NAMESPACE);
    federation.apply(&web(NAMESPACE, "web", 4, "50m", divided()));
    federation.wait_until_running(NAMESPACE, "web");
    let before = [available(members[0]), available(members[1])];
    assert_eq!(before.iter().sum::<u64>(), 4);
    assert!(before[0] > 0 && before[1] > 0, "{before:?}");

    // Nothing comes of the replacements, so nothing goes.
    let pause = |until: &str| {
        members[1].kubectl().namespace(NAMESPACE).args(["annotate", "--overwrite", "deployment", "web", until]).ok();
    };
    pause("hanse.dev/paused-until=2099-01-01T00:00:00Z");
    hanse(&["drain", "eu", "--no-wait"]);
    federation.wait_for_cluster("eu", "Ready,Draining");
    let moving = federation.wait_for_application(NAMESPACE, "web", "what moves", |web| {
        web["status"]["placement"]["moves"].as_array().is_some_and(|moves| !moves.is_empty())
    });
    assert_eq!(moving["status"]["placement"]["moves"][0]["from"], "eu");
    thread::sleep(Duration::from_secs(3));
    assert_eq!([available(members[0]), available(members[1])], before);
    hanse(&["undrain", "eu"]);
    federation.wait_for_application(NAMESPACE, "web", "nothing moves any more", |web| {
        web["status"]["placement"]["moves"].is_null()
    });
    pause("hanse.dev/paused-until-");
    federation.wait_until_running(NAMESPACE, "web");
    assert_eq!([available(members[0]), available(members[1])], before, "as if nothing had been asked");

    let (least, told) = while_counting(&members, || hanse(&["drain", "eu"]));
    assert!(told.contains("nothing of the hub runs there"), "{told}");
    assert!(least >= 4, "{least} of 4 ran at some moment");
    federation.wait_for_cluster("eu", "Ready,Drained");
    wait_for_pods(members[0], NAMESPACE, 0);
    wait_for_pods(members[1], NAMESPACE, 4);
}

#[test]
fn a_cluster_that_came_later_gets_its_part_by_a_rebalance() {
    const APART: &str = "rebalanced";
    let members = fleet(2);
    let federation = Federation::start();
    let _first = federation.join(members[0], "eu");
    let hanse = |arguments: &[&str]| {
        let call = federation.hanse(arguments);
        assert!(call.status.success(), "{}{}", call.stdout, call.stderr);
        call.stdout
    };
    federation.make_namespace(APART);
    federation.apply(&web(APART, "web", 6, "50m", divided()));
    federation.wait_until_running(APART, "web");
    let _second = federation.join(members[1], "us");
    federation.wait_for_cluster("us", "Ready");
    wait_for_pods(members[0], APART, 6);

    let looked = hanse(&["rebalance", "-n", APART, "--dry-run"]);
    assert!(looked.contains("web") && looked.contains("us: 0 → "), "{looked}");
    wait_for_pods(members[0], APART, 6);
    let told = hanse(&["rebalance", "-n", APART, "web"]);
    assert!(told.contains("web: 6 = 6: asked for") && told.ends_with(": done\n"), "{told}");
    let web = federation.wait_until_running(APART, "web");
    let sum = web["status"]["placement"]["sum"].as_str().unwrap_or_default().to_owned();
    assert!(told.contains(&format!("{sum}: done")) && sum.contains(" + "), "{sum}: {told}");
    let again = hanse(&["rebalance", "-n", APART]);
    assert!(again.contains("nothing gains more than it costs"), "{again}");
}
