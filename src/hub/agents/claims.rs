//! Who of several streams of one identity acts.
//!
//! Owns: the one acting session of each cluster. An agent that connects again replaces its own older stream; two
//! processes that are alive with one identity (a cloned cluster, a copied directory) freeze it, and a person decides.
//! Must never: evict anything, or take an agent that was restarted for a clone: a restarted one's old stream is silent.

use std::collections::BTreeMap;

use crate::{model::Uid, wire::limits::BEAT_INTERVAL_MS};

/// Names one stream of the fleet: a session of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    pub replica: u64,
    /// Never given out twice by its replica.
    pub session: u64,
}

/// How long a holder that is challenged has to say anything before it counts as dead: two beats and a little.
const CONTEST_MS: u64 = 2 * BEAT_INTERVAL_MS + 1_000;
/// What a holder says this soon after the challenge may have been on its way while the holder died.
const IN_FLIGHT_MS: u64 = BEAT_INTERVAL_MS / 2;

/// A stream that wants to act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub seat: Seat,
    /// Random per agent process.
    pub instance: String,
    pub epoch: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Admitted(Seat),
    /// Another stream of the same identity acts instead.
    Superseded(Seat),
    /// Both are alive: both are closed, and the identity is frozen.
    Frozen {
        holder: Seat,
        challenger: Seat,
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
        let seat = claim.seat;
        let Some(contest) = self.clusters.get_mut(cluster) else {
            self.clusters.insert(cluster.clone(), Contest { holder: claim, challenger: None });
            return vec![Verdict::Admitted(seat)];
        };
        let standing = contest.challenger.as_ref().map(|(challenger, _)| challenger.seat);
        match seat {
            // Asked again, because the answer was lost with the way to the replica.
            seat if seat == contest.holder.seat => return vec![Verdict::Admitted(seat)],
            seat if Some(seat) == standing => return Vec::new(),
            _ => {}
        }
        if contest.holder.instance == claim.instance {
            if claim.epoch <= contest.holder.epoch {
                return vec![Verdict::Superseded(seat)];
            }
            let previous = std::mem::replace(&mut contest.holder, claim);
            return vec![Verdict::Superseded(previous.seat), Verdict::Admitted(seat)];
        }
        match &mut contest.challenger {
            // The challenger itself connected again; its time goes on.
            Some((challenger, _)) if challenger.instance == claim.instance && claim.epoch > challenger.epoch => {
                let previous = std::mem::replace(challenger, claim);
                vec![Verdict::Superseded(previous.seat)]
            }
            Some(_) => vec![Verdict::Superseded(seat)],
            None => {
                contest.challenger = Some((claim, now_ms));
                Vec::new()
            }
        }
    }

    /// Whether the stream acts for the cluster.
    pub fn holds(&self, cluster: &Uid, seat: Seat) -> bool {
        self.clusters.get(cluster).is_some_and(|contest| contest.holder.seat == seat)
    }

    /// The stream said something.
    pub fn heard(&mut self, now_ms: u64, cluster: &Uid, seat: Seat) -> Vec<Verdict> {
        let Some(contest) = self.clusters.get(cluster).filter(|contest| contest.holder.seat == seat) else {
            return Vec::new();
        };
        match &contest.challenger {
            Some((challenger, since)) if now_ms >= since + IN_FLIGHT_MS => {
                let verdict = Verdict::Frozen { holder: seat, challenger: challenger.seat };
                self.clusters.remove(cluster);
                vec![verdict]
            }
            _ => Vec::new(),
        }
    }

    /// The stream is gone.
    pub fn closed(&mut self, cluster: &Uid, seat: Seat) -> Vec<Verdict> {
        let Some(contest) = self.clusters.get_mut(cluster) else { return Vec::new() };
        if contest.holder.seat == seat {
            match contest.challenger.take() {
                Some((challenger, _)) => {
                    contest.holder = challenger;
                    return vec![Verdict::Admitted(contest.holder.seat)];
                }
                None => drop(self.clusters.remove(cluster)),
            }
        } else {
            contest.challenger.take_if(|(challenger, _)| challenger.seat == seat);
        }
        Vec::new()
    }

    /// Ends contests whose holder stayed silent.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for contest in self.clusters.values_mut() {
            if let Some((challenger, _)) = contest.challenger.take_if(|(_, since)| now_ms >= *since + CONTEST_MS) {
                let previous = std::mem::replace(&mut contest.holder, challenger);
                verdicts.push(Verdict::Superseded(previous.seat));
                verdicts.push(Verdict::Admitted(contest.holder.seat));
            }
        }
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(session: u64) -> Seat {
        Seat { replica: 1, session }
    }

    fn claim(session: u64, instance: &str, epoch: u64) -> Claim {
        Claim { seat: seat(session), instance: instance.into(), epoch }
    }

    fn held() -> (Claims, Uid) {
        let (mut claims, cluster) = (Claims::default(), Uid::from("eu"));
        assert_eq!(claims.claim(0, &cluster, claim(1, "a", 7)), [Verdict::Admitted(seat(1))]);
        (claims, cluster)
    }

    #[test]
    fn an_agent_that_connects_again_replaces_its_older_stream_and_no_newer_one() {
        let (mut claims, cluster) = held();
        assert_eq!(
            claims.claim(1, &cluster, claim(2, "a", 8)),
            [Verdict::Superseded(seat(1)), Verdict::Admitted(seat(2))]
        );
        assert_eq!(claims.claim(2, &cluster, claim(3, "a", 8)), [Verdict::Superseded(seat(3))]);
        assert_eq!(claims.closed(&cluster, seat(1)), [], "the replaced stream's end ends nothing");
        assert_eq!(
            claims.claim(3, &cluster, claim(4, "a", 9)),
            [Verdict::Superseded(seat(2)), Verdict::Admitted(seat(4))]
        );
    }

    #[test]
    fn a_restarted_agent_is_let_in_once_its_old_stream_ends_or_stays_silent() {
        let (mut claims, cluster) = held();
        assert_eq!(claims.claim(0, &cluster, claim(2, "b", 8)), []);
        assert_eq!(claims.heard(IN_FLIGHT_MS - 1, &cluster, seat(1)), [], "that was on its way when the holder died");
        assert_eq!(claims.closed(&cluster, seat(1)), [Verdict::Admitted(seat(2))]);

        let (mut claims, cluster) = held();
        claims.claim(0, &cluster, claim(2, "b", 8));
        assert_eq!(claims.tick(CONTEST_MS - 1), []);
        assert_eq!(claims.tick(CONTEST_MS), [Verdict::Superseded(seat(1)), Verdict::Admitted(seat(2))]);
    }

    #[test]
    fn two_living_holders_of_one_identity_are_both_frozen() {
        let (mut claims, cluster) = held();
        claims.claim(0, &cluster, claim(2, "b", 8));
        assert_eq!(claims.heard(1, &cluster, seat(2)), [], "the challenger's own words prove nothing");
        assert_eq!(
            claims.heard(IN_FLIGHT_MS, &cluster, seat(1)),
            [Verdict::Frozen { holder: seat(1), challenger: seat(2) }]
        );
    }

    #[test]
    fn clusters_do_not_contest_each_other() {
        let (mut claims, _) = held();
        assert_eq!(claims.claim(0, &Uid::from("eu-2"), claim(2, "b", 1)), [Verdict::Admitted(seat(2))]);
    }

    #[test]
    fn a_third_holder_waits_outside_and_a_challenger_that_leaves_is_forgotten() {
        let (mut claims, cluster) = held();
        claims.claim(0, &cluster, claim(2, "b", 8));
        assert_eq!(claims.claim(0, &cluster, claim(3, "c", 9)), [Verdict::Superseded(seat(3))]);
        claims.closed(&cluster, seat(2));
        assert_eq!(claims.heard(CONTEST_MS, &cluster, seat(1)), []);
        assert_eq!(claims.tick(2 * CONTEST_MS), []);
    }

    #[test]
    fn holders_at_two_replicas_are_two_though_their_sessions_have_one_number() {
        let (mut claims, cluster) = held();
        let elsewhere = Seat { replica: 2, session: 1 };
        let clone = Claim { seat: elsewhere, instance: "b".into(), epoch: 7 };
        assert_eq!(claims.claim(0, &cluster, clone), []);
        assert!(claims.holds(&cluster, seat(1)) && !claims.holds(&cluster, elsewhere));
        let frozen = Verdict::Frozen { holder: seat(1), challenger: elsewhere };
        assert_eq!(claims.heard(IN_FLIGHT_MS, &cluster, seat(1)), [frozen]);
    }

    #[test]
    fn a_claim_that_is_told_again_changes_nothing() {
        let (mut claims, cluster) = held();
        assert_eq!(claims.claim(1, &cluster, claim(1, "a", 7)), [Verdict::Admitted(seat(1))]);
        claims.claim(2, &cluster, claim(2, "b", 8));
        assert_eq!(claims.claim(3, &cluster, claim(2, "b", 8)), [], "it waits as before");
        assert_eq!(claims.tick(2 + CONTEST_MS), [Verdict::Superseded(seat(1)), Verdict::Admitted(seat(2))]);
    }
}
