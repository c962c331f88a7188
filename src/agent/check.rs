//! `hanse agent check`: whether an agent could work here, before it joins.
//!
//! Owns: the questions, and what to do about each no. Must never: change anything on either side.

use http::Request;
use serde_json::{Value, json};
use tower::{Service, ServiceExt};

use super::{
    cluster::{
        Cluster,
        kube::{EXECUTOR_ROLE, KubeCluster},
    },
    dial::{self, Trust},
};
use crate::model::Timestamp;

/// Clocks further apart than this break certificates sooner or later.
const SKEW_SECONDS_MAX: i64 = 60;

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    pub answer: Answer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// In order, with what was found.
    Yes(String),
    /// What is wrong, and what to do.
    No { why: String, remedy: String },
}

impl Finding {
    pub fn is_good(&self) -> bool {
        matches!(self.answer, Answer::Yes(_))
    }
}

fn yes(what: &str, found: impl Into<String>) -> Finding {
    Finding { what: what.to_owned(), answer: Answer::Yes(found.into()) }
}

fn no(what: &str, why: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { what: what.to_owned(), answer: Answer::No { why: why.into(), remedy: remedy.into() } }
}

/// A right that the agent needs in the member.
struct Right {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    name: &'static str,
}

const fn right(verb: &'static str, group: &'static str, resource: &'static str, name: &'static str) -> Right {
    Right { verb, group, resource, name }
}

/// As in `deploy/member.yaml`.
const RIGHTS: [Right; 13] = [
    right("list", "", "nodes", ""),
    right("watch", "", "nodes", ""),
    right("list", "", "pods", ""),
    right("watch", "", "pods", ""),
    right("get", "", "namespaces", ""),
    right("create", "", "namespaces", ""),
    right("patch", "", "namespaces", ""),
    right("patch", "", "serviceaccounts", ""),
    right("patch", "rbac.authorization.k8s.io", "rolebindings", ""),
    right("bind", "rbac.authorization.k8s.io", "clusterroles", EXECUTOR_ROLE),
    right("impersonate", "", "serviceaccounts", super::cluster::EXECUTOR),
    right("list", "apps", "deployments", ""),
    right("watch", "apps", "deployments", ""),
];

const APPLY_MANIFESTS: &str = "apply the manifests that `hanse token create -o yaml` prints";

/// The member: reachable, new enough to be told, with every right that is needed.
pub async fn member(cluster: &KubeCluster) -> Vec<Finding> {
    let facts = match cluster.facts().await {
        Ok(facts) => facts,
        Err(rejection) => {
            let remedy = "check --kubeconfig and --context, and that the API server can be reached from here";
            return vec![no("member API", rejection.to_string(), remedy)];
        }
    };
    let mut findings = vec![yes("member API", format!("Kubernetes {}", facts.kubernetes_version))];
    for right in &RIGHTS {
        let what = format!("may {} {}", right.verb, [right.resource, right.name].join(" ").trim());
        findings.push(match is_allowed(cluster, right).await {
            Ok(true) => yes(&what, ""),
            Ok(false) => no(&what, "the member's RBAC says no", APPLY_MANIFESTS),
            Err(why) => no(&what, why, APPLY_MANIFESTS),
        });
    }
    let path = format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{EXECUTOR_ROLE}");
    let what = format!("ClusterRole {EXECUTOR_ROLE}");
    findings.push(match request(cluster, Request::get(path), Vec::new()).await {
        Ok(_) => yes(&what, "is there"),
        Err(why) => no(&what, why, "apply deploy/executor.yaml; with enough rights the agent makes it at its start"),
    });
    findings
}

async fn is_allowed(cluster: &KubeCluster, right: &Right) -> Result<bool, String> {
    let attributes = json!({"verb": right.verb, "group": right.group, "resource": right.resource, "name": right.name});
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes}});
    let post = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header(http::header::CONTENT_TYPE, "application/json");
    let answer = request(cluster, post, review.to_string().into_bytes()).await?;
    Ok(answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false))
}

async fn request(cluster: &KubeCluster, builder: http::request::Builder, body: Vec<u8>) -> Result<Value, String> {
    let request = builder.body(body).map_err(|error| error.to_string())?;
    cluster.client().request(request).await.map_err(|error| match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    })
}

/// The hub: reachable, known by `trust`, with a clock that agrees with ours.
pub async fn hub(url: &str, trust: &Trust, now: Timestamp) -> Vec<Finding> {
    let what = format!("hub {url}");
    let mut channel = match dial::dial(url, trust, None).await {
        Ok(channel) => channel,
        Err(error) => {
            let remedy = "check --hub, that nothing blocks outgoing TLS to it, and that the token is of this hub";
            return vec![no(&what, dial::chain(&error), remedy)];
        }
    };
    let mut findings = vec![yes(&what, "reached, and its certificate is the one expected")];
    let request = Request::get("/livez").body(tonic::body::Body::empty());
    let Ok(request) = request else { return findings };
    let date = match channel.ready().await {
        Ok(ready) => ready.call(request).await.ok().and_then(|answer| date_of(answer.headers())),
        Err(_) => None,
    };
    findings.extend(date.map(|hub| clock(now, hub)));
    findings
}

fn date_of(headers: &http::HeaderMap) -> Option<Timestamp> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(Timestamp(date.timestamp()))
}

fn clock(here: Timestamp, hub: Timestamp) -> Finding {
    let ahead = here.seconds() - hub.seconds();
    if ahead.abs() <= SKEW_SECONDS_MAX {
        return yes("clock", format!("within {SKEW_SECONDS_MAX} s of the hub's"));
    }
    let side = if ahead > 0 { "ahead of" } else { "behind" };
    no("clock", format!("{} s {side} the hub's", ahead.abs()), "set this machine's clock, for example with NTP")
}

/// For people: a line for each finding, and under each no what to do.
pub fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { what, answer } in findings {
        match answer {
            Answer::Yes(found) => text.push_str(format!("✓ {what:width$}  {found}").trim_end()),
            Answer::No { why, remedy } => text.push_str(&format!("✗ {what:width$}  {why}\n  → {remedy}")),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_a_minute_apart_are_told_with_their_side() {
        let at = Timestamp::from_seconds;
        assert!(clock(at(1000), at(1060)).is_good());
        let Answer::No { why, .. } = clock(at(90_000), at(0)).answer else { panic!("a day off is a no") };
        assert_eq!(why, "90000 s ahead of the hub's");
        let Answer::No { why, .. } = clock(at(0), at(61)).answer else { panic!("a minute off is a no") };
        assert_eq!(why, "61 s behind the hub's");
    }

    #[test]
    fn every_no_says_what_to_do() {
        let findings =
            [yes("member API", "Kubernetes v1.36.3"), yes("may list nodes", ""), no("clock", "off", "set it")];
        assert_eq!(
            table(&findings),
            "✓ member API      Kubernetes v1.36.3\n✓ may list nodes\n✗ clock           off\n  → set it\n"
        );
    }

    #[test]
    fn the_date_header_is_the_hubs_clock() {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::DATE, http::HeaderValue::from_static("Thu, 01 Jan 1970 00:01:40 GMT"));
        assert_eq!(date_of(&headers), Some(Timestamp::from_seconds(100)));
        assert_eq!(date_of(&http::HeaderMap::new()), None);
    }
}
