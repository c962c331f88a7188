//! Questions to placement plug-ins, and what may be taken for an answer.

use std::collections::BTreeSet;

use super::placement_proto as proto;
use crate::model::{
    Resources, Uid,
    plugin::{ClusterFacts, Judgement, Judgements, Question},
    profile::SCORE_MAX,
};

/// Clusters in one request.
pub const CLUSTERS_MAX: usize = 500;
/// One reply, encoded.
pub const REPLY_BYTES_MAX: usize = 1 << 20;
/// Characters of a reason.
const WORDS_MAX: usize = 200;

/// Requests that together ask the question.
pub fn requests(question: &Question) -> impl Iterator<Item = proto::JudgeRequest> + '_ {
    let parts = question.parts.iter().map(|part| proto::Part {
        component: part.component.clone(),
        replicas: part.replicas,
        requests: amounts(&part.requests),
    });
    let parts: Vec<proto::Part> = parts.collect();
    question.clusters.chunks(CLUSTERS_MAX).map(move |clusters| proto::JudgeRequest {
        namespace: question.application.namespace.clone(),
        application: question.application.name.clone(),
        parts: parts.clone(),
        clusters: clusters.iter().map(cluster).collect(),
    })
}

fn cluster(facts: &ClusterFacts) -> proto::Cluster {
    proto::Cluster {
        uid: facts.uid.to_string(),
        name: facts.name.clone(),
        labels: facts.labels.clone().into_iter().collect(),
        properties: facts.properties.clone().into_iter().collect(),
        free: amounts(&facts.free),
        allocatable: amounts(&facts.allocatable),
        runs: facts.runs,
    }
}

fn amounts(resources: &Resources) -> std::collections::HashMap<String, i64> {
    resources.0.iter().map(|(name, amount)| (name.to_string(), *amount)).collect()
}

/// What a reply says of the clusters of its request. Half an answer is none: the error says what is wrong with it.
pub fn judgements(request: &proto::JudgeRequest, reply: proto::JudgeReply) -> Result<Judgements, String> {
    let asked: BTreeSet<&str> = request.clusters.iter().map(|cluster| cluster.uid.as_str()).collect();
    let mut judgements = Judgements::new();
    for proto::Judgement { uid, verdict } in reply.judgements {
        let name = request.clusters.iter().find(|cluster| cluster.uid == uid).map(|cluster| cluster.name.as_str());
        let Some(name) = name else {
            let shown: String = uid.chars().take(64).collect();
            return Err(format!("it judges a cluster that it was not asked of: uid {shown:?}"));
        };
        let judgement = match verdict {
            None => return Err(format!("it says nothing of {name}")),
            Some(proto::judgement::Verdict::Refused(words)) => match words.chars().count() {
                1..=WORDS_MAX => Judgement::Refused(words),
                0 => return Err(format!("it refuses {name} without a reason")),
                count => return Err(format!("its reason for {name} has {count} characters; at most {WORDS_MAX}")),
            },
            // Not a number is in no range.
            Some(proto::judgement::Verdict::Score(score))
                if !(-(SCORE_MAX as f64)..=SCORE_MAX as f64).contains(&score) =>
            {
                return Err(format!("its score of {name} is {score}, not between -{SCORE_MAX} and {SCORE_MAX}"));
            }
            Some(proto::judgement::Verdict::Score(score)) => Judgement::Score(score.round() as i64),
        };
        if judgements.insert(Uid(uid), judgement).is_some() {
            return Err(format!("it judges {name} twice"));
        }
    }
    match asked.len() - judgements.len() {
        0 => Ok(judgements),
        missing => Err(format!("it leaves out {missing} of {} clusters", asked.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::judgement::Verdict;

    fn asked() -> proto::JudgeRequest {
        let cluster = |name: &str| proto::Cluster { uid: name.into(), name: name.into(), ..Default::default() };
        proto::JudgeRequest { clusters: vec![cluster("eu"), cluster("us")], ..Default::default() }
    }

    fn said(verdicts: &[(&str, Option<Verdict>)]) -> Result<Judgements, String> {
        let judgement = |(uid, verdict): &(&str, Option<Verdict>)| proto::Judgement {
            uid: (*uid).into(),
            verdict: verdict.clone(),
        };
        judgements(&asked(), proto::JudgeReply { judgements: verdicts.iter().map(judgement).collect() })
    }

    #[test]
    fn a_sound_answer_is_one_judgement_for_each_cluster() {
        let answer = said(&[("us", Some(Verdict::Score(-99.6))), ("eu", Some(Verdict::Refused("full".into())))]);
        let expected = [("eu".into(), Judgement::Refused("full".into())), ("us".into(), Judgement::Score(-100))];
        assert_eq!(answer, Ok(expected.into()));
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        let score = |score| Some(Verdict::Score(score));
        let refused = |words: &str| Some(Verdict::Refused(words.into()));
        let long = "x".repeat(201);
        for (verdicts, told) in [
            (vec![("eu", score(1.0))], "it leaves out 1 of 2 clusters"),
            (vec![], "it leaves out 2 of 2 clusters"),
            (vec![("eu", score(1.0)), ("mars", score(1.0))], "a cluster that it was not asked of: uid \"mars\""),
            (vec![("eu", score(1.0)), ("eu", score(1.0))], "it judges eu twice"),
            (vec![("eu", score(f64::NAN)), ("us", score(1.0))], "its score of eu is NaN"),
            (vec![("eu", score(f64::INFINITY)), ("us", score(1.0))], "its score of eu is inf"),
            (vec![("eu", score(1.0)), ("us", score(100.1))], "its score of us is 100.1, not between -100 and 100"),
            (vec![("eu", None), ("us", score(1.0))], "it says nothing of eu"),
            (vec![("eu", refused("")), ("us", score(1.0))], "it refuses eu without a reason"),
            (vec![("eu", refused(&long)), ("us", score(1.0))], "has 201 characters; at most 200"),
        ] {
            let error = said(&verdicts).expect_err(told);
            assert!(error.contains(told), "{error}");
        }
    }
}
