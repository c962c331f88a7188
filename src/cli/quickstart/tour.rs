//! The tour: what hanse does, step by step, each checked by itself.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::{
    screen::Picture,
    stage::{POLL, STEP_MAX, Stage},
};
use crate::{
    agent::cluster::OWNER_LABEL,
    kinds,
    model::{GroupVersionKind, ObjectName, ObjectRef},
};

/// Long enough for an agent that would rewrite something to have done it.
const SILENCE: Duration = Duration::from_secs(2);

/// Runs every step; stops at the first that fails.
pub async fn run(stage: &mut Stage, attach: &[String]) -> bool {
    let started = Instant::now();
    let url = stage.urls.join(", ");
    stage.screen.note(&format!(
        "three replicas of a hub at {url}; the member clusters are simulated, everything else is as in production"
    ));
    macro_rules! steps {
        ($($title:literal => $step:expr;)*) => {$(
            let begun = Instant::now();
            let outcome: anyhow::Result<String> = $step.await;
            let (detail, passed) = match outcome {
                Ok(detail) => (detail, true),
                Err(error) => (format!("{error:#}"), false),
            };
            stage.screen.step($title, &detail, begun.elapsed(), passed);
            if !passed {
                return false;
            }
        )*};
    }
    steps! {
        "members join by token" => join(stage, attach);
        "the examples run" => apply(stage);
        "replicas are divided by free capacity" => divided(stage);
        "drift is repaired" => drift(stage);
        "scaling up adds where there is room" => scale(stage, 18);
        "a silent cluster is Unknown, nothing else" => silence(stage);
        "the leader is killed, and the others go on" => kill_leader(stage);
        "a restart of the hub rewrites nothing" => restart(stage);
        "deleting leaves nothing behind" => delete(stage);
    }
    stage.screen.note(&format!("done in {:.1} s", started.elapsed().as_secs_f64()));
    true
}

async fn join(stage: &mut Stage, attach: &[String]) -> anyhow::Result<String> {
    stage.join(attach).await?;
    let count = stage.members.len();
    let names = stage.members.iter().take(5).map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
    Ok(if count > 5 { format!("{names} and {} more", count - 5) } else { names })
}

async fn apply(stage: &Stage) -> anyhow::Result<String> {
    let applied = stage.apply_examples().await?;
    stage
        .until("every Application runs", |picture| {
            let names = picture.lines.iter().map(|line| &line.application).collect::<std::collections::BTreeSet<_>>();
            names.len() == applied.len() && picture.is_running()
        })
        .await?;
    Ok(applied.join(", "))
}

/// The sum is the Application's own number, in the hub's words and in the members.
async fn divided(stage: &Stage) -> anyhow::Result<String> {
    let picture = stage.until("9 replicas of shop are ready", |picture| picture.total("shop", "web") == (9, 9)).await?;
    let line = picture.lines.iter().find(|line| line.application == "shop").context("shop is not there")?;
    let simulated = stage.members.iter().filter(|member| member.simulated.is_some());
    let told = simulated.filter_map(|member| line.cells.get(&member.name)).map(|(_, desired)| desired).sum::<u64>();
    let deployed = deployed(stage, "web");
    ensure!(deployed == told, "the members hold {deployed} replicas of web where the hub says {told}");
    Ok(line.sum.clone())
}

/// Somebody changes a Deployment in a member; it is put back.
async fn drift(stage: &Stage) -> anyhow::Result<String> {
    let object = deployment("web");
    let holder = stage.members.iter().find_map(|member| {
        let cluster = member.simulated.clone()?;
        let before = cluster.read(|member| member.get(&object))?["spec"]["replicas"].as_u64()?;
        (before > 0).then(|| (member.name.clone(), cluster, before))
    });
    let (name, cluster, before) = holder.context("no simulated member holds shop's web")?;
    cluster.change(|member, now| member.edit(now, &object, "kubectl", |object| object["spec"]["replicas"] = json!(0)));
    let replicas = || cluster.read(|member| member.get(&object)).and_then(|object| object["spec"]["replicas"].as_u64());
    poll("the replicas are put back", || async { Ok(replicas() == Some(before)) }).await?;
    Ok(format!("web in {name} was scaled to 0 by hand and is {before} again"))
}

async fn scale(stage: &Stage, replicas: u64) -> anyhow::Result<String> {
    let application = stage.api.get(&kinds::APPLICATION, "default", "shop").await?.context("shop is not there")?;
    let mut components = application["spec"]["components"].clone();
    *components.pointer_mut("/0/traits/0/properties/replicas").context("shop's web has no scaler")? = json!(replicas);
    let patch = json!({"spec": {"components": components}});
    stage.api.patch(&kinds::APPLICATION, "default", "shop", &patch).await?;
    let ready = |picture: &Picture| picture.total("shop", "web") == (replicas, replicas) && picture.is_running();
    let picture = stage.until("all replicas are ready", ready).await?;
    let line = picture.lines.iter().find(|line| line.application == "shop").context("shop is not there")?;
    Ok(line.sum.clone())
}

/// An agent stops; its cluster runs on, and is welcome again.
async fn silence(stage: &mut Stage) -> anyhow::Result<String> {
    let last = stage.members.iter().rposition(|member| member.simulated.is_some()).context("no simulated member")?;
    let (name, urls) = (stage.members[last].name.clone(), stage.urls.clone());
    let (before, (_, deletes)) = (deployed(stage, "web"), stage.member_writes());
    stage.members[last].stop().await;
    stage.until("it is Unknown", |picture| picture.ready(&name) == Some("Unknown")).await?;
    stage.members[last].start(&urls)?;
    stage.until("it is Ready again", |picture| picture.ready(&name) == Some("True")).await?;
    stage.until("everything runs again", Picture::is_running).await?;
    ensure!(deployed(stage, "web") == before, "replicas changed while {name} was silent");
    ensure!(stage.member_writes().1 == deletes, "something was deleted while {name} was silent");
    Ok(format!("{name} was away; nothing was moved or removed"))
}

/// Its process is gone without a word. What it had acknowledged is there, writes go on, and no member is touched.
async fn kill_leader(stage: &mut Stage) -> anyhow::Result<String> {
    let before = stage.member_writes();
    let killed = stage.replicas.kill_leader().await?;
    let begun = Instant::now();
    // An object that concerns no member.
    let note = json!({"metadata": {"annotations": {"tour": "written without it"}}});
    stage.api.patch(&kinds::NAMESPACE, "", "default", &note).await?;
    let written = begun.elapsed();
    poll("another replica leads", || async {
        Ok(stage.replicas.leader().await?.is_some_and(|leader| leader != killed))
    })
    .await?;
    let leader = stage.replicas.leader().await?.unwrap_or_default();
    let count = stage.members.len();
    stage
        .until("every agent has found another replica", |picture| picture.available() == count && picture.is_running())
        .await?;
    stage.replicas.start_all().await?;
    ensure!(stage.member_writes() == before, "members were written to");
    Ok(format!("replica {killed} was; {leader} leads, a write was done {} ms later", written.as_millis()))
}

async fn restart(stage: &mut Stage) -> anyhow::Result<String> {
    let before = stage.member_writes();
    let revisions = revisions(stage).await?;
    stage.replicas.stop_all().await;
    stage.replicas.start_all().await?;
    let count = stage.members.len();
    stage.until("everything is back", |picture| picture.available() == count && picture.is_running()).await?;
    tokio::time::sleep(SILENCE).await;
    let after = stage.member_writes();
    ensure!(after == before, "members were written to: {before:?} changes and deletes before, {after:?} after");
    ensure!(self::revisions(stage).await? == revisions, "Applications were written to");
    Ok("no write in a member, no write to an Application".into())
}

async fn delete(stage: &Stage) -> anyhow::Result<String> {
    for application in stage.api.list(&kinds::APPLICATION).await? {
        let text = |field: &str| application["metadata"][field].as_str().unwrap_or_default().to_owned();
        stage.api.delete(&kinds::APPLICATION, &text("namespace"), &text("name")).await?;
    }
    stage.until("no Application is left", |picture| picture.lines.is_empty()).await?;
    let left =
        stage.members.iter().filter_map(|member| member.simulated.as_ref()).map(|cluster| {
            cluster.read(|member| member.objects().filter(|object| member.owner(object).is_some()).count())
        });
    let left = left.sum::<usize>();
    ensure!(left == 0, "{left} objects with the label {OWNER_LABEL} were left behind");
    Ok("every object is gone from every member".into())
}

/// Names and versions of all Applications.
async fn revisions(stage: &Stage) -> anyhow::Result<Vec<Value>> {
    let applications = stage.api.list(&kinds::APPLICATION).await?;
    Ok(applications.iter().map(|application| application["metadata"]["resourceVersion"].clone()).collect())
}

/// Replicas of a Deployment over all simulated members, as the members have them.
fn deployed(stage: &Stage, name: &str) -> u64 {
    let object = deployment(name);
    let clusters = stage.members.iter().filter_map(|member| member.simulated.as_ref());
    let found = clusters.filter_map(|cluster| cluster.read(|member| member.get(&object)));
    found.filter_map(|object| object["spec"]["replicas"].as_u64()).sum()
}

fn deployment(name: &str) -> ObjectRef {
    ObjectRef { gvk: GroupVersionKind::new("apps", "v1", "Deployment"), name: ObjectName::new("default", name) }
}

async fn poll<F: Future<Output = anyhow::Result<bool>>>(what: &str, is_so: impl Fn() -> F) -> anyhow::Result<()> {
    let deadline = Instant::now() + STEP_MAX;
    while !is_so().await? {
        if Instant::now() > deadline {
            bail!("not within {} s: {what}", STEP_MAX.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
