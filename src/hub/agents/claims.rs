//! Who of several streams of one identity acts.
//!
//! Owns: the one acting session of each cluster. An agent that connects again replaces its own older stream; two
//! processes that are alive with one identity (a cloned cluster, a copied directory) freeze it, and a person decides.
//! Must never: evict anything, or take an agent that was restarted for a clone: a restarted one's old stream is silent.

use std::collections::BTreeMap;

use crate::{model::Uid, wire::limits::BEAT_INTERVAL_MS};

/// Names one stream within this process.
pub type SessionId = u64;

/// How long a holder that is challenged has to say anything before it counts as dead: two beats and a little.
const CONTEST_MS: u64 = 2 * BEAT_INTERVAL_MS + 1_000;
/// What a holder says this soon after the challenge may have been on its way while the holder died.
const IN_FLIGHT_MS: u64 = BEAT_INTERVAL_MS / 2;

/// A stream that wants to act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub session: SessionId,
    /// Random per agent process.
    pub instance: String,
    pub epoch: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Admitted(SessionId),
    /// Another stream of the same identity acts instead.
    Superseded(SessionId),
    /// Both are alive: both are closed, and the identity is frozen.
    Frozen {
        holder: SessionId,
        challenger: SessionId,
    },
}

#[derive(Debug, Default)]
pub struct Claims {
    clusters: BTreeMap<Uid, Contest>,
}

#[derive(Debug)]
struct Contest {
    holder: Claim,
    challenger: Option<(Claim, u64)>,
}

impl Claims {
    /// A stream asks to act for `cluster`. No verdict on it means that it has to wait for one.
    pub fn claim(&mut self, now_ms: u64, cluster: &Uid, claim: Claim) -> Vec<Verdict> {
        let session = claim.session;
        let Some(contest) = self.clusters.get_mut(cluster) else {
            self.clusters.insert(cluster.clone(), Contest { holder: claim, challenger: None });
            return vec![Verdict::Admitted(session)];
        };
        if contest.holder.instance == claim.instance {
            if claim.epoch <= contest.holder.epoch {
                return vec![Verdict::Superseded(session)];
            }
            let previous = std::mem::replace(&mut contest.holder, claim);
            return vec![Verdict::Superseded(previous.session), Verdict::Admitted(session)];
        }
        match &mut contest.challenger {
            // The challenger itself connected again; its time goes on.
            Some((challenger, _)) if challenger.instance == claim.instance && claim.epoch > challenger.epoch => {
                let previous = std::mem::replace(challenger, claim);
                vec![Verdict::Superseded(previous.session)]
            }
            Some(_) => vec![Verdict::Superseded(session)],
            None => {
                contest.challenger = Some((claim, now_ms));
                Vec::new()
            }
        }
    }

    /// The stream said something.
    pub fn heard(&mut self, now_ms: u64, cluster: &Uid, session: SessionId) -> Vec<Verdict> {
        let Some(contest) = self.clusters.get(cluster).filter(|contest| contest.holder.session == session) else {
            return Vec::new();
        };
        match &contest.challenger {
            Some((challenger, since)) if now_ms >= since + IN_FLIGHT_MS => {
                let verdict = Verdict::Frozen { holder: session, challenger: challenger.session };
                self.clusters.remove(cluster);
                vec![verdict]
            }
            _ => Vec::new(),
        }
    }

    /// The stream is gone.
    pub fn closed(&mut self, cluster: &Uid, session: SessionId) -> Vec<Verdict> {
        let Some(contest) = self.clusters.get_mut(cluster) else { return Vec::new() };
        if contest.holder.session == session {
            match contest.challenger.take() {
                Some((challenger, _)) => {
                    contest.holder = challenger;
                    return vec![Verdict::Admitted(contest.holder.session)];
                }
                None => drop(self.clusters.remove(cluster)),
            }
        } else {
            contest.challenger.take_if(|(challenger, _)| challenger.session == session);
        }
        Vec::new()
    }

    /// Ends contests whose holder stayed silent.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for contest in self.clusters.values_mut() {
            if let Some((challenger, _)) = contest.challenger.take_if(|(_, since)| now_ms >= *since + CONTEST_MS) {
                let previous = std::mem::replace(&mut contest.holder, challenger);
                verdicts.push(Verdict::Superseded(previous.session));
                verdicts.push(Verdict::Admitted(contest.holder.session));
            }
        }
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(session: SessionId, instance: &str, epoch: u64) -> Claim {
        Claim { session, instance: instance.into(), epoch }
    }

    fn held() -> (Claims, Uid) {
        let (mut claims, cluster) = (Claims::default(), Uid::from("eu"));
        assert_eq!(claims.claim(0, &cluster, claim(1, "a", 7)), [Verdict::Admitted(1)]);
        (claims, cluster)
    }

    #[test]
    fn an_agent_that_connects_again_replaces_its_older_stream_and_no_newer_one() {
        let (mut claims, cluster) = held();
        assert_eq!(claims.claim(1, &cluster, claim(2, "a", 8)), [Verdict::Superseded(1), Verdict::Admitted(2)]);
        assert_eq!(claims.claim(2, &cluster, claim(3, "a", 8)), [Verdict::Superseded(3)]);
        assert_eq!(claims.closed(&cluster, 1), [], "the replaced stream's end ends nothing");
        assert_eq!(claims.claim(3, &cluster, claim(4, "a", 9)), [Verdict::Superseded(2), Verdict::Admitted(4)]);
    }

    #[test]
    fn a_restarted_agent_is_let_in_once_its_old_stream_ends_or_stays_silent() {
        let (mut claims, cluster) = held();
        assert_eq!(claims.claim(0, &cluster, claim(2, "b", 8)), []);
        assert_eq!(claims.heard(IN_FLIGHT_MS - 1, &cluster, 1), [], "that was on its way when the holder died");
        assert_eq!(claims.closed(&cluster, 1), [Verdict::Admitted(2)]);

        let (mut claims, cluster) = held();
        claims.claim(0, &cluster, claim(2, "b", 8));
        assert_eq!(claims.tick(CONTEST_MS - 1), []);
        assert_eq!(claims.tick(CONTEST_MS), [Verdict::Superseded(1), Verdict::Admitted(2)]);
    }

    #[test]
    fn two_living_holders_of_one_identity_are_both_frozen() {
        let (mut claims, cluster) = held();
        claims.claim(0, &cluster, claim(2, "b", 8));
        assert_eq!(claims.heard(1, &cluster, 2), [], "the challenger's own words prove nothing");
        assert_eq!(claims.heard(IN_FLIGHT_MS, &cluster, 1), [Verdict::Frozen { holder: 1, challenger: 2 }]);
    }

    #[test]
    fn clusters_do_not_contest_each_other() {
        let (mut claims, _) = held();
        assert_eq!(claims.claim(0, &Uid::from("eu-2"), claim(2, "b", 1)), [Verdict::Admitted(2)]);
    }

    #[test]
    fn a_third_holder_waits_outside_and_a_challenger_that_leaves_is_forgotten() {
        let (mut claims, cluster) = held();
        claims.claim(0, &cluster, claim(2, "b", 8));
        assert_eq!(claims.claim(0, &cluster, claim(3, "c", 9)), [Verdict::Superseded(3)]);
        claims.closed(&cluster, 2);
        assert_eq!(claims.heard(CONTEST_MS, &cluster, 1), []);
        assert_eq!(claims.tick(2 * CONTEST_MS), []);
    }
}
