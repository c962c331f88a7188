//! Questions about placement: PlacementReview and DrillReview, answered by the leader.
//!
//! Owns: who may learn what of an answer, and how long one is waited for. Must never: tell of an Application that the caller
//! may not get, or of an older state than this replica has shown.

use std::time::Instant;

use serde_json::{Value, json};

use super::{
    Api,
    path::Target,
    read, serve,
    status::{Refusal, Result},
    write,
};
use crate::{
    flow::schedule::drill::Drill,
    hub::{
        auth::{Attributes, Decision, Subject, authorize},
        desk::Unanswered,
        keys, limits,
    },
    kinds::{
        APPLICATION, CLUSTER, Kind, Review,
        strict::{self, Finding},
    },
    model::{ObjectName, application::ClusterSet},
    wire::{Asked, Question},
};

/// The status of a review, and what is said beside it.
pub struct Told {
    pub status: Value,
    pub warnings: Vec<Finding>,
}

pub async fn answer(api: &Api, subject: &Subject, target: &Target, review: Review, spec: &mut Value) -> Result<Told> {
    let mut warnings = Vec::new();
    let asked = match review {
        Review::Drill => {
            serve::permit(subject, &attributes(&CLUSTER, "list", &ObjectName::default()))?;
            drill(spec)?
        }
        _ => {
            let named = spec["name"].as_str().or(spec["application"]["metadata"]["name"].as_str());
            let name = ObjectName::new(target.namespace(), named.unwrap_or_default());
            serve::permit(subject, &attributes(&APPLICATION, "get", &name))?;
            match spec["application"].is_object() {
                true => plan(api, &name, &mut spec["application"], &mut warnings).await?,
                false => about(api, name, spec["rebalance"] == true).await?,
            }
        }
    };
    let status = ask(api, asked).await?;
    let status = if review == Review::Drill { visible(subject, status)? } else { status };
    Ok(Told { status, warnings })
}

async fn about(api: &Api, name: ObjectName, rebalance: bool) -> Result<Asked> {
    let key = keys::key(&APPLICATION, &name.namespace, &name.name);
    match api.store.get(&key).await? {
        Some(_) if rebalance => Ok(Asked::Rebalance(name)),
        Some(_) => Ok(Asked::Explain(name)),
        None => Err(Refusal::not_found(&APPLICATION, &name.name)),
    }
}

/// The Application as a write of it would be admitted.
async fn plan(api: &Api, name: &ObjectName, application: &mut Value, warnings: &mut Vec<Finding>) -> Result<Asked> {
    let kind = &*APPLICATION;
    let expected = (json!(kind.gvk.api_version()), json!(kind.gvk.kind));
    if (&application["apiVersion"], &application["kind"]) != (&expected.0, &expected.1) {
        return Err(Refusal::bad_request(format!("spec.application must be a {}", kind.gvk)));
    }
    let own = application["metadata"]["namespace"].as_str().unwrap_or_default();
    if !own.is_empty() && own != name.namespace {
        return Err(Refusal::bad_request(
            "the namespace of spec.application does not match the namespace sent on the request",
        ));
    }
    warnings.extend(strict::unknown_fields(&kind.schema, application, limits::FAULTS_MAX));
    kind.schema.normalise(application);
    application["metadata"]["namespace"] = json!(name.namespace);
    let key = keys::key(kind, &name.namespace, &name.name);
    let old = api.store.get(&key).await?.map(|entry| read::decode(&entry)).transpose()?;
    if let Some(held) = old.as_ref().map(|old| &old["metadata"]["finalizers"]).filter(|held| held.is_array()) {
        application["metadata"]["finalizers"] = held.clone();
    }
    write::check(api, kind, application, old.as_ref())?;
    let application = serde_json::from_value(application.clone());
    let application = application.map_err(|error| Refusal::bad_request(format!("spec.application: {error}")))?;
    Ok(Asked::Plan(Box::new(application)))
}

fn drill(spec: &Value) -> Result<Asked> {
    let lose: Result<Vec<ClusterSet>, _> = serde_json::from_value(spec["lose"].clone());
    let lose = lose.map_err(|error| Refusal::bad_request(format!("spec.lose: {error}")))?;
    Ok(Asked::Drill(lose))
}

/// Waits, for a while, until the leader has seen what this replica has, and has time.
async fn ask(api: &Api, asked: Asked) -> Result<Value> {
    let Some(questions) = &api.questions else {
        return Err(Refusal::unavailable("nobody here decides where anything runs"));
    };
    let question = Question { least: api.store.revision().await?, asked };
    let begin = Instant::now();
    loop {
        let why = match questions.ask(question.clone()).await {
            Ok(answer) => return Ok(answer),
            Err(why) => why,
        };
        let may_pass = matches!(why, Unanswered::Behind | Unanswered::Busy);
        if may_pass && begin.elapsed() < limits::CATCH_UP_TIMEOUT {
            tokio::time::sleep(limits::CATCH_UP_POLL).await;
            continue;
        }
        return Err(match why {
            Unanswered::Busy => Refusal::too_many(),
            Unanswered::Refused(why) => Refusal::bad_request(why),
            Unanswered::Behind | Unanswered::Unavailable(_) => Refusal::unavailable(why.to_string()),
        });
    }
}

/// What the caller may know of a drill: the sums are of what it is shown.
fn visible(subject: &Subject, status: Value) -> Result<Value> {
    let internal = |error: serde_json::Error| Refusal::internal(format!("a drill's answer: {error}"));
    let mut drill: Drill = serde_json::from_value(status).map_err(internal)?;
    drill.applications.retain(|application| {
        let name = ObjectName::new(&application.namespace, &application.name);
        authorize(subject, &attributes(&APPLICATION, "get", &name)) == Decision::Allow
    });
    drill.add_up();
    serde_json::to_value(drill).map_err(internal)
}

fn attributes(kind: &Kind, verb: &str, name: &ObjectName) -> Attributes {
    Attributes {
        verb: verb.to_owned(),
        group: kind.gvk.group.clone(),
        resource: kind.plural.clone(),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        ..Attributes::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::schedule::drill::Affected, hub::auth::ADMIN_GROUP};

    #[test]
    fn a_drill_tells_of_no_application_that_the_caller_may_not_get() {
        let affected = |name: &str| Affected { namespace: "shop".into(), name: name.into(), ..Affected::default() };
        let drill = Drill { applications: vec![affected("web"), affected("db")], ..Drill::default() };
        let told = |groups: &[&str]| {
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            let subject = Subject { user: "ann".into(), groups };
            visible(&subject, serde_json::to_value(&drill).expect("JSON")).expect("an answer")
        };
        let shown = told(&[ADMIN_GROUP]);
        assert_eq!((&shown["applications"][1]["name"], &shown["total"]["applications"]), (&json!("db"), &json!(2)));
        let hidden = told(&["strangers"]);
        assert_eq!((&hidden["applications"], &hidden["total"]["applications"]), (&json!([]), &json!(0)));
    }
}
