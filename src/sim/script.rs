//! Scenario scripts: few verbs, one per line, and facts asserted by name. They live in `testdata/`.
//!
//! ```text
//! hub                                       cluster NAME [region=R] [nodes=3x4000m/8Gi] [label=KEY=VALUE]…
//! put app NAME <<yaml … yaml                delete app NAME | delete cluster NAME [drain]
//! wait | run SECONDSs                       partition NAME [up|down] | heal [NAME]
//! crash hub | restart hub                   crash agent NAME | restart agent NAME | rejoin NAME
//! power-cut agent NAME                      (nobody tells the hub; `restart agent` boots it again)
//! backup                                    restore incarnation | restore files   (by the book, or by copying)
//! cordon NAME | uncordon NAME               label NAME KEY=VALUE
//! drain NAME | undrain NAME
//! confirm NAME                              (agrees to the removals that the cluster says are held)
//! foreign NAME <<yaml … yaml                edit NAME KIND/NAME POINTER JSON | remove NAME KIND/NAME
//! mark                                      (assert writes counts from here)
//! assert placement APP eu=12 us=10          assert objects CLUSTER KIND/NAME…   (exactly these are ours)
//! assert ready CLUSTER N                    assert field CLUSTER KIND/NAME POINTER JSON
//! assert status APP TEXT                    assert cluster NAME TEXT
//! assert writes N                           assert gone app NAME
//! status
//! ```
//!
//! After every script the world must be at rest and silent, unless its last line is `end unsettled`.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

use super::{
    member::Config,
    world::{At, Settings, World},
};
use crate::{
    kinds::{self, cluster::CONFIRM_ANNOTATION},
    model::{
        GroupVersionKind, ObjectName, ObjectRef, Resources,
        cluster::REGION_LABEL,
        quantity::{CPU, MEMORY, Quantity},
    },
};

/// Lines of the trace that a failure shows.
const LINES_MAX: usize = 40;

struct Runner {
    world: Option<World>,
    /// Writes of hub and members at the last `mark`.
    marked: u64,
}

/// Runs a script; where it fails, what was expected and what is there.
pub fn run(text: &str) -> Result<(), String> {
    let mut runner = Runner { world: None, marked: 0 };
    let mut lines = text.lines().enumerate();
    let mut settled = true;
    while let Some((number, line)) = lines.next() {
        let line = line.split_once(" #").map_or(line, |(line, _)| line).trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (words, document) = match line.split_once("<<") {
            None => (line, String::new()),
            Some((words, end)) => {
                let body = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != end.trim());
                (words, body.fold(String::new(), |text, line| text + line + "\n"))
            }
        };
        let words = words.split_whitespace().collect::<Vec<_>>();
        if words == ["end", "unsettled"] {
            settled = false;
            continue;
        }
        let result = runner.line(&words, &document);
        let broken = runner.world.as_ref().map(|world| world.check.violations.clone()).unwrap_or_default();
        let result = match broken.first() {
            Some(violation) => Err(format!("a rule is broken: {violation}")),
            None => result,
        };
        result.map_err(|why| format!("line {}: {line}\n  {why}\n{}", number + 1, runner.status()))?;
    }
    if settled && let Some(world) = &mut runner.world {
        world.check_at_rest();
        world.check_silence(90_000);
        if let Some(violation) = world.check.violations.first().cloned() {
            return Err(format!("at the end, a rule is broken: {violation}\n{}", runner.status()));
        }
    }
    Ok(())
}

impl Runner {
    fn line(&mut self, words: &[&str], document: &str) -> Result<(), String> {
        if words == ["hub"] {
            self.world = Some(World::new(Settings { verbose: true, ..Settings::quiet(1) }));
            return Ok(());
        }
        let marked = self.marked;
        let world = self.world.as_mut().ok_or("a script begins with `hub`")?;
        let site = |world: &World, name: &str| world.site(name).ok_or(format!("there is no cluster {name}"));
        match words {
            ["cluster", name, options @ ..] => join(world, name, options)?,
            ["put", "app", name] => {
                let application = yaml(document)?;
                if application["metadata"]["name"] != *name {
                    return Err(format!("the document is about {}", application["metadata"]["name"]));
                }
                world.put_application(&application)?;
            }
            ["delete", "app", name] => {
                let found = world.delete_object(&kinds::APPLICATION, "default", name);
                found.then_some(()).ok_or("there is no such Application")?;
            }
            ["delete", "cluster", name, drain @ ..] => {
                let policy = if drain == ["drain"] { "Drain" } else { "Orphan" };
                world.edit_object(&kinds::CLUSTER, "", name, |object| object["spec"]["deletionPolicy"] = policy.into());
                let found = world.delete_object(&kinds::CLUSTER, "", name);
                found.then_some(()).ok_or("there is no such Cluster")?;
            }
            ["wait"] => wait(world)?,
            ["run", time] => {
                let seconds = time.strip_suffix('s').and_then(|time| time.parse::<u64>().ok());
                world.run_for(seconds.ok_or("write the time as 30s")? * 1000);
            }
            ["partition", name, direction @ ..] => {
                let at = site(world, name)?;
                world.set_cut(at, direction != ["down"], direction != ["up"]);
            }
            ["heal", names @ ..] => {
                for at in 0..world.sites().len() {
                    if names.is_empty() || names.contains(&world.sites()[at].name.as_str()) {
                        world.set_cut(at, false, false);
                    }
                }
            }
            ["crash", "hub"] => world.crash_hub(false),
            ["restart", "hub"] => {
                world.crash_hub(false);
                world.start_hub();
            }
            ["backup"] => world.back_up(),
            ["restore", how @ ("incarnation" | "files")] => {
                world.restore(*how == "incarnation").then_some(()).ok_or("there is no backup")?;
            }
            ["crash", "agent", name] => {
                let at = site(world, name)?;
                world.crash_agent(at, false);
            }
            ["power-cut", "agent", name] => {
                let at = site(world, name)?;
                world.crash_agent(at, true);
            }
            ["restart", "agent", name] => {
                let at = site(world, name)?;
                world.crash_agent(at, false);
                world.start_agent(at);
            }
            ["rejoin", name] => {
                let at = site(world, name)?;
                world.join_again(at, &[(REGION_LABEL, name)]);
            }
            [word @ ("cordon" | "uncordon"), name] => {
                let cordon = *word == "cordon";
                world.edit_object(&kinds::CLUSTER, "", name, |o| o["spec"]["unschedulable"] = cordon.into());
            }
            [word @ ("drain" | "undrain"), name] => {
                let drain = *word == "drain";
                world.edit_object(&kinds::CLUSTER, "", name, |o| o["spec"]["drain"] = drain.into());
            }
            ["label", name, label] => {
                let (key, value) = label.split_once('=').ok_or("write the label as KEY=VALUE")?;
                world.edit_object(&kinds::CLUSTER, "", name, |o| o["metadata"]["labels"][key] = value.into());
            }
            ["confirm", name] => {
                let cluster = world.object(&kinds::CLUSTER, "", name).ok_or("there is no such cluster")?;
                let mut conditions = cluster["status"]["conditions"].as_array().into_iter().flatten();
                let held = conditions.find(|condition| condition["type"] == "RemovalsHeld");
                let words = held.and_then(|held| held["message"].as_str()).ok_or("nothing is held there")?;
                let digest = words.rsplit('=').next().unwrap_or_default();
                world.edit_object(&kinds::CLUSTER, "", name, |o| {
                    o["metadata"]["annotations"][CONFIRM_ANNOTATION] = digest.into();
                });
            }
            ["foreign", name] => {
                let (at, object) = (site(world, name)?, yaml(document)?);
                world
                    .in_member(at, |member, now| member.apply_as(now, "kubectl", &object))
                    .map_err(|r| r.to_string())?;
            }
            ["edit", name, object, pointer, value] => {
                let (at, object, value) = (site(world, name)?, reference(object)?, json(value)?);
                let edit = |o: &mut Value| {
                    crate::model::pointer::set(o, pointer, value);
                };
                let found = world.in_member(at, |member, now| member.edit(now, &object, "kubectl", edit));
                found.then_some(()).ok_or("there is no such object")?;
            }
            ["remove", name, object] => {
                let (at, object) = (site(world, name)?, reference(object)?);
                world.in_member(at, |member, now| member.remove(now, &object));
            }
            ["mark"] => self.marked = writes(world),
            ["assert", fact @ ..] => assert_fact(world, marked, fact)?,
            ["status"] => println!("{}", self.status()),
            _ => return Err("no such verb".into()),
        }
        Ok(())
    }

    /// The world in a few lines: what a person asks for first when an assertion fails.
    fn status(&self) -> String {
        let Some(world) = &self.world else { return "there is no hub".into() };
        let mut text = format!("after {} ms, {} writes of hub and members:\n", world.now_ms(), writes(world));
        for cluster in world.objects(&kinds::CLUSTER) {
            let conditions = conditions(&cluster);
            let _ = writeln!(text, "  cluster {} {conditions}", cluster["metadata"]["name"]);
        }
        for application in world.objects(&kinds::APPLICATION) {
            let name = application["metadata"]["name"].as_str().unwrap_or_default();
            let placement = placement(world, name);
            let _ = writeln!(text, "  app {name} {placement:?} {}", application["status"]);
        }
        for site in world.sites() {
            let ours = site.member.objects().filter(|object| site.member.owner(object).is_some());
            let ours = ours.map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "  in {}: {ours}", site.name);
        }
        // Beats say nothing here.
        let told = |line: &&String| !line.ends_with("beat") && !line.ends_with("ack");
        let lines = world.trace.lines.iter().filter(told).cloned().collect::<Vec<_>>();
        let _ = writeln!(text, "last events:\n{}", lines[lines.len().saturating_sub(LINES_MAX)..].join("\n"));
        text
    }
}

fn join(world: &mut World, name: &str, options: &[&str]) -> Result<(), String> {
    let (mut region, mut nodes, mut labels) = (name, "3x4000m/8Gi", Vec::new());
    for option in options {
        match option.split_once('=') {
            Some(("region", value)) => region = value,
            Some(("nodes", value)) => nodes = value,
            Some(("label", label)) => labels.push(label.split_once('=').ok_or("write label=KEY=VALUE")?),
            _ => return Err(format!("no such option: {option}")),
        }
    }
    let (count, size) = nodes.split_once('x').ok_or("write nodes=3x4000m/8Gi")?;
    let (cpu, memory) = size.split_once('/').ok_or("write nodes=3x4000m/8Gi")?;
    let amount = |name: &str, text: &str| {
        text.parse::<Quantity>().map(|quantity| Resources::amount_down(name, quantity)).map_err(|e| e.to_string())
    };
    let count = count.parse().map_err(|_| "write nodes=3x4000m/8Gi")?;
    let config = Config::uniform(name, region, count, amount(CPU, cpu)?, amount(MEMORY, memory)?);
    labels.push((REGION_LABEL, region));
    world.join(name, config, &labels);
    Ok(())
}

/// Until nobody has written for ten seconds.
fn wait(world: &mut World) -> Result<(), String> {
    let mut before = writes(world);
    for quiet in 0..60 {
        world.run_for(10_000);
        let now = writes(world);
        if now == before && quiet > 0 {
            return Ok(());
        }
        before = now;
    }
    Err("it does not come to rest within ten minutes".into())
}

fn assert_fact(world: &World, marked: u64, fact: &[&str]) -> Result<(), String> {
    let member = |name: &str| {
        let at: At = world.site(name).ok_or(format!("there is no cluster {name}"))?;
        Ok::<_, String>(&world.sites()[at].member)
    };
    match fact {
        ["placement", application, expected @ ..] => {
            let split = |pair: &&str| {
                let (name, count) = pair.split_once('=')?;
                Some((name.to_owned(), count.parse::<u32>().ok()?))
            };
            let expected = expected.iter().map(split).collect::<Option<BTreeMap<_, _>>>().ok_or("write eu=12 us=10")?;
            equal(&expected, &placement(world, application))
        }
        ["objects", cluster, expected @ ..] => {
            let member = member(cluster)?;
            let ours = member.objects().filter(|object| member.owner(object).is_some());
            let ours = ours.map(|object| format!("{}/{}", object.gvk.kind, object.name.name));
            let mut expected = expected.iter().map(ToString::to_string).collect::<Vec<_>>();
            expected.sort();
            let mut found = ours.collect::<Vec<_>>();
            found.sort();
            equal(&expected, &found)
        }
        ["ready", cluster, count] => {
            equal(&count.to_string(), &member(cluster)?.pods().filter(|pod| pod.ready).count().to_string())
        }
        ["field", cluster, object, pointer, value] => {
            let found = member(cluster)?.get(&reference(object)?).unwrap_or_default();
            equal(&json(value)?, found.pointer(pointer).unwrap_or(&Value::Null))
        }
        ["status", application, text @ ..] => {
            let application = world.object(&kinds::APPLICATION, "default", application).unwrap_or_default();
            contains(&application["status"].to_string(), &text.join(" "))
        }
        ["cluster", name, text @ ..] => {
            let cluster = world.object(&kinds::CLUSTER, "", name).unwrap_or_default();
            contains(&conditions(&cluster), &text.join(" "))
        }
        ["writes", count] => equal(&count.to_string(), &(writes(world) - marked).to_string()),
        ["gone", "app", name] => {
            let there = world.object(&kinds::APPLICATION, "default", name);
            there.map_or(Ok(()), |object| Err(format!("it is there: {}", object["metadata"])))
        }
        _ => Err("no such fact".into()),
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(expected: &T, found: &T) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("expected {expected:?}\n  found    {found:?}")) }
}

fn contains(text: &str, part: &str) -> Result<(), String> {
    if text.contains(part) { Ok(()) } else { Err(format!("expected {part:?}\n  in {text}")) }
}

/// Decided replicas by cluster name.
fn placement(world: &World, application: &str) -> BTreeMap<String, u32> {
    let decided = world.check.placement(application);
    let names = world.sites().iter().filter_map(|site| Some((site.name.clone(), *decided.get(&site.cluster)?)));
    names.collect()
}

/// Everything that the hub or an agent wrote so far.
fn writes(world: &World) -> u64 {
    let members = world.sites().iter().map(|site| site.member.counts()).map(|counts| counts.applies + counts.deletes);
    world.check.hub_writes + members.sum::<u64>()
}

/// `Ready=Unknown/Silent Accepted=True/…`.
fn conditions(object: &Value) -> String {
    let list = object["status"]["conditions"].as_array().into_iter().flatten();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let each = list.map(|c| format!("{}={}/{}", word(&c["type"]), word(&c["status"]), word(&c["reason"])));
    each.collect::<Vec<_>>().join(" ")
}

/// `Deployment/web` in the namespace `default`.
fn reference(text: &str) -> Result<ObjectRef, String> {
    let (kind, name) = text.split_once('/').ok_or("write the object as KIND/NAME")?;
    let group = match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" => "apps",
        _ => "",
    };
    Ok(ObjectRef { gvk: GroupVersionKind::new(group, "v1", kind), name: ObjectName::new("default", name) })
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{text} is not JSON: {error}"))
}

fn yaml(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| format!("not YAML: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! scripts {
        ($($name:ident)*) => {$(
            #[test]
            fn $name() {
                if let Err(why) = run(include_str!(concat!("../../testdata/", stringify!($name), ".txt"))) {
                    panic!("testdata/{}.txt {why}", stringify!($name));
                }
            }
        )*};
    }

    scripts! {
        divided_by_free_capacity
        a_new_cluster_is_used
        there_and_back_again
        silence_removes_nothing
        scale_up_and_down
        delete_leaves_nothing
        the_member_refuses
        foreign_objects_stay
        drift_is_repaired
        a_restart_writes_nothing
        an_agent_back_within_the_grace_is_no_news
        a_restored_backup_removes_nothing
        a_store_that_went_back_is_found_out
        a_drain_is_handed_over
        a_drained_cluster_is_emptied
        mass_removal_is_held
    }

    #[test]
    fn a_false_fact_fails_with_what_is_there() {
        let why = run("hub\ncluster eu\nassert ready eu 5\nend unsettled\n").expect_err("no pods are there");
        assert!(why.starts_with("line 3: assert ready eu 5\n  expected \"5\"\n  found    \"0\""), "{why}");
        assert!(run("cluster eu").expect_err("no hub").contains("begins with `hub`"));
        assert!(run("hub\nfly").expect_err("unknown").contains("no such verb"));
    }
}
