//! The decisions of joining and renewing: what is stored and what was asked, in; what to do, out.
//!
//! Owns: every no, with its words. Must never: read a clock or the store, or compare an identity in part.

use tonic::Code;

use crate::{
    hub::agents::roster::Member,
    kinds::schema::check_label,
    model::{Cluster, Digest, Timestamp, cluster::CertificateStatus, token::JoinToken},
    wire::JoinCall,
};

/// Clocks that differ by more cannot work with certificates of hours.
const SKEW_SECONDS_MAX: i64 = 600;
/// An expired certificate may renew for as long.
pub const RENEWAL_SECONDS_MAX: i64 = 90 * 86_400;

/// A no: `code` for machines, `reason` for the audit log, `message` for whoever reads it on either side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: Code,
    pub reason: &'static str,
    pub message: String,
}

fn no<T>(code: Code, reason: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, reason, message: message.into() })
}

/// What a join call leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the Cluster, and with it the token used, in one transaction.
    Create { name: String, accepted: bool },
    /// Bind the token to this key and order the Cluster of that name forgotten, in one transaction.
    Replace { name: String },
    /// Nothing to be done but to wait.
    Wait { name: String, message: String },
    /// Sign a certificate for the Cluster that stands.
    Sign { name: String },
}

/// Of [`JoinCall`]s everything but the secret is known to be well-formed; nothing of it is known to be true.
pub struct Facts<'a> {
    pub call: &'a JoinCall,
    /// SHA-256 of the public key that signed the request, hex.
    pub key: &'a str,
    pub token: Option<&'a JoinToken>,
    /// The stored Cluster of the name asked for ([`wanted_name`]).
    pub existing: Option<&'a Cluster>,
    /// Name of another Cluster with the same `kube-system` uid.
    pub twin: Option<&'a str>,
    pub hub_time: Timestamp,
}

/// Proof of the token: until it is given, no answer tells whether anything exists.
pub fn check_token<'a>(call: &JoinCall, token: Option<&'a JoinToken>) -> Result<&'a JoinToken, Refusal> {
    let token = proved(&call.secret, token)?;
    if token.spec.replica {
        let message = "this token is for a replica of the hub, not for a cluster: `hanse hub --join` takes it";
        return no(Code::PermissionDenied, "TokenForReplica", message);
    }
    Ok(token)
}

/// The token, if this is its secret.
pub fn proved<'a>(secret: &[u8], token: Option<&'a JoinToken>) -> Result<&'a JoinToken, Refusal> {
    let given = Digest::of(secret);
    let token = token.filter(|token| token.metadata.deletion_timestamp.is_none());
    let stored = token.and_then(|token| token.spec.secret_digest).unwrap_or(Digest([0; 32]));
    match token {
        Some(token) if same(&given, &stored) => Ok(token),
        _ => no(
            Code::Unauthenticated,
            "TokenUnknown",
            "the hub knows no such join token, or its secret is another: `hanse token create` makes a new one",
        ),
    }
}

/// In time that does not depend on where two digests differ.
fn same(a: &Digest, b: &Digest) -> bool {
    a.0.iter().zip(&b.0).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// The name that the Cluster is to have.
pub fn wanted_name(call: &JoinCall, token: &JoinToken) -> Result<String, Refusal> {
    let (asked, given) = (&call.cluster, &token.spec.cluster);
    if !asked.is_empty() && !given.is_empty() && asked != given {
        let message = format!("this token is for a cluster named {given}, not {asked}");
        return no(Code::PermissionDenied, "TokenForAnotherName", message);
    }
    let name = if given.is_empty() { asked } else { given };
    if name.is_empty() {
        let message = "the token leaves the cluster's name to the agent, and it gave none: start it with --name NAME";
        return no(Code::InvalidArgument, "NameMissing", message);
    }
    if let Err(why) = check_label(name) {
        return no(Code::InvalidArgument, "NameInvalid", format!("{name:?} is no name for a cluster: it {why}"));
    }
    Ok(name.clone())
}

/// What to do about a call whose token is proved.
pub fn join(facts: &Facts) -> Result<Step, Refusal> {
    let token = check_token(facts.call, facts.token)?;
    check_clock(facts.call.agent_time, facts.hub_time)?;
    let name = wanted_name(facts.call, token)?;
    match &token.status.used_by {
        None => first_use(facts, token, name),
        Some(used) if used.key_fingerprint != facts.key => {
            let at = used.at.map(|at| format!(" at {at}")).unwrap_or_default();
            let message = format!(
                "token {} was used{at}, for cluster {}: a token is good for one agent; `hanse token create` makes another",
                token.metadata.name, used.cluster
            );
            no(Code::PermissionDenied, "TokenUsed", message)
        }
        Some(used) if used.cluster != name => {
            let message = format!("token {} was used for cluster {}, not {name}", token.metadata.name, used.cluster);
            no(Code::PermissionDenied, "TokenUsed", message)
        }
        Some(used) => match (facts.existing, &used.cluster_uid) {
            (Some(cluster), Some(uid)) if cluster.metadata.uid == *uid => standing(facts, cluster, name),
            // What it replaces has gone: now its own can be made.
            (None, None) => Ok(Step::Create { name, accepted: token.spec.auto_approve }),
            (Some(_), None) => Ok(forgetting(name)),
            (_, Some(_)) => {
                let message = format!(
                    "cluster {name} that joined with this token was deleted or replaced since; a new token is needed to join again"
                );
                no(Code::PermissionDenied, "ClusterGone", message)
            }
        },
    }
}

fn first_use(facts: &Facts, token: &JoinToken, name: String) -> Result<Step, Refusal> {
    if let Some(end) = token.spec.expires_at.filter(|end| *end <= facts.hub_time) {
        let message = format!(
            "token {} expired at {end}; the hub's clock says {}: `hanse token create` makes a new one",
            token.metadata.name, facts.hub_time
        );
        return no(Code::FailedPrecondition, "TokenExpired", message);
    }
    if let Some(twin) = facts.twin.filter(|twin| *twin != name) {
        let message = format!(
            "this cluster (kube-system uid {}) is joined already, as {twin}: one cluster has one name; forget {twin} first",
            facts.call.system_uid
        );
        return no(Code::AlreadyExists, "AlreadyJoined", message);
    }
    match facts.existing {
        None => Ok(Step::Create { name, accepted: token.spec.auto_approve }),
        Some(_) if token.spec.replace => Ok(Step::Replace { name }),
        Some(cluster) => {
            let since = cluster.metadata.creation_timestamp.map(|at| format!(" since {at}")).unwrap_or_default();
            let message = format!(
                "a cluster named {name} exists{since}: choose another name, or, if this is that cluster rebuilt, use a token \
                 made with `hanse token create {name} --replace`"
            );
            no(Code::AlreadyExists, "NameExists", message)
        }
    }
}

/// The Cluster that this token made is there.
fn standing(facts: &Facts, cluster: &Cluster, name: String) -> Result<Step, Refusal> {
    if cluster.metadata.deletion_timestamp.is_some() {
        return no(Code::FailedPrecondition, "ClusterDeleting", format!("cluster {name} is being deleted"));
    }
    match (&cluster.status.certificate, cluster.spec.accepted) {
        (None, false) => Ok(Step::Wait {
            message: format!(
                "cluster {name} waits for an admin to accept it: hanse cluster accept {name} (its key is {}…)",
                facts.key.get(..16).unwrap_or(facts.key)
            ),
            name,
        }),
        (Some(_), false) => {
            no(Code::PermissionDenied, "Revoked", format!("the hub does not accept cluster {name} any more"))
        }
        (None, true) => Ok(Step::Sign { name }),
        // The answer may have got lost; nothing was done with the certificate since that renewing would show.
        (Some(certificate), true) if certificate.key_fingerprint == facts.key => Ok(Step::Sign { name }),
        (Some(_), true) => {
            let message = format!("cluster {name} has joined with this token and renewed its certificate since");
            no(Code::PermissionDenied, "TokenUsed", message)
        }
    }
}

fn forgetting(name: String) -> Step {
    Step::Wait { message: format!("the hub forgets the cluster that was named {name} before"), name }
}

/// The words that both sides read when their clocks disagree.
fn check_clock(agent: Timestamp, hub: Timestamp) -> Result<(), Refusal> {
    let skew = agent.seconds().saturating_sub(hub.seconds());
    if skew.abs() <= SKEW_SECONDS_MAX {
        return Ok(());
    }
    let direction = if skew > 0 { "ahead of" } else { "behind" };
    let message = format!(
        "the agent's clock ({agent}) is {} {direction} the hub's ({hub}): set whichever is wrong right, and join again",
        duration(skew.abs())
    );
    no(Code::FailedPrecondition, "ClockSkew", message)
}

fn duration(seconds: i64) -> String {
    match (seconds / 86_400, seconds / 3_600, seconds / 60) {
        (days, ..) if days >= 2 => format!("{days} days"),
        (_, hours, _) if hours >= 2 => format!("{hours} hours"),
        (.., minutes) => format!("{minutes} minutes"),
    }
}

/// An agent that proved, with the key of a certificate of ours, that it wants the next one.
pub struct Renewal<'a> {
    /// Of the old certificate's key, hex.
    pub old_key: &'a str,
    pub not_after: Timestamp,
    /// Of the key to be certified, hex.
    pub new_key: &'a str,
    /// The cluster that the old certificate names, as stored; `None` where there is none of that uid.
    pub cluster: Option<&'a Cluster>,
    pub hub_time: Timestamp,
}

/// Which key goes on as the previous one. The old key holds until the new one is used, because the answer to a renewal
/// may get lost; from then on it is void, so whoever kept a copy has nothing.
pub fn renew(renewal: &Renewal) -> Result<Option<String>, Refusal> {
    let Some(cluster) = renewal.cluster else {
        let message =
            "the hub knows no such cluster (any more): it was deleted or replaced; join again with a new token";
        return no(Code::PermissionDenied, "Revoked", message);
    };
    let member = Member::of(cluster);
    if let Err(refuse) = member.admits(renewal.old_key) {
        let reason = match refuse.reason.as_str() {
            "NotAccepted" => "NotAccepted",
            "IdentityFrozen" => "IdentityFrozen",
            _ => "Revoked",
        };
        return no(Code::PermissionDenied, reason, refuse.message);
    }
    let over = renewal.hub_time.seconds().saturating_sub(renewal.not_after.seconds());
    if over > RENEWAL_SECONDS_MAX {
        let message = format!(
            "the certificate ended at {}, more than 90 days before the hub's clock ({}): join again with a new token made with \
             --replace",
            renewal.not_after, renewal.hub_time
        );
        return no(Code::FailedPrecondition, "TooLate", message);
    }
    Ok((renewal.old_key != renewal.new_key).then(|| renewal.old_key.to_owned()))
}

/// What is stored of a certificate.
pub fn certificate(key: String, previous: Option<String>, serial: String, not_after: Timestamp) -> CertificateStatus {
    CertificateStatus { key_fingerprint: key, previous_key_fingerprint: previous, serial, not_after: Some(not_after) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{Uid, cluster::JoinRequest, token::UsedBy};

    const NOW: i64 = 1_000_000;

    fn call() -> JoinCall {
        JoinCall {
            token: "t".into(),
            secret: Bytes::from_static(b"secret"),
            csr: Bytes::new(),
            cluster: String::new(),
            system_uid: "system".into(),
            agent_version: String::new(),
            agent_time: Timestamp::from_seconds(NOW),
        }
    }

    fn token() -> JoinToken {
        let mut token = JoinToken::default();
        token.metadata.name = "t".into();
        token.spec.secret_digest = Some(Digest::of(b"secret"));
        token.spec.cluster = "eu".into();
        token.spec.expires_at = Some(Timestamp::from_seconds(NOW + 60));
        token
    }

    fn used(uid: Option<&str>, key: &str) -> JoinToken {
        let mut token = token();
        let cluster_uid = uid.map(Uid::from);
        token.status.used_by =
            Some(UsedBy { cluster: "eu".into(), cluster_uid, key_fingerprint: key.into(), ..UsedBy::default() });
        token
    }

    fn cluster(uid: &str, accepted: bool, key: Option<&str>) -> Cluster {
        let mut cluster = Cluster::default();
        cluster.metadata.name = "eu".into();
        cluster.metadata.uid = uid.into();
        cluster.spec.accepted = accepted;
        cluster.status.join = Some(JoinRequest { system_uid: "system".into(), ..JoinRequest::default() });
        cluster.status.certificate =
            key.map(|key| certificate(key.into(), None, "1".into(), Timestamp::from_seconds(NOW)));
        cluster
    }

    fn decide(call: &JoinCall, token: &JoinToken, existing: Option<&Cluster>) -> Result<Step, &'static str> {
        let facts = Facts {
            call,
            key: "key",
            token: Some(token),
            existing,
            twin: None,
            hub_time: Timestamp::from_seconds(NOW),
        };
        join(&facts).map_err(|refusal| refusal.reason)
    }

    fn create(accepted: bool) -> Result<Step, &'static str> {
        Ok(Step::Create { name: "eu".into(), accepted })
    }

    #[test]
    fn a_fresh_token_makes_a_cluster_accepted_only_if_it_says_so() {
        assert_eq!(decide(&call(), &token(), None), create(false));
        let mut approving = token();
        approving.spec.auto_approve = true;
        assert_eq!(decide(&call(), &approving, None), create(true));
    }

    #[test]
    fn an_unknown_token_and_a_wrong_secret_are_told_alike() {
        let wrong = JoinCall { secret: Bytes::from_static(b"secrets"), ..call() };
        let unknown = check_token(&call(), None).expect_err("unknown");
        assert_eq!(check_token(&wrong, Some(&token())).expect_err("wrong"), unknown);
        let mut blank = token();
        blank.spec.secret_digest = None;
        assert_eq!(check_token(&call(), Some(&blank)).expect_err("blank"), unknown);
    }

    #[test]
    fn a_token_for_a_replica_makes_no_cluster() {
        let mut for_replica = token();
        for_replica.spec.replica = true;
        assert_eq!(decide(&call(), &for_replica, None), Err("TokenForReplica"));
    }

    #[test]
    fn an_expired_token_starts_nothing_but_its_holder_still_fetches_the_answer() {
        let expire = |mut token: JoinToken| {
            token.spec.expires_at = Some(Timestamp::from_seconds(NOW));
            token
        };
        assert_eq!(decide(&call(), &expire(token()), None), Err("TokenExpired"));
        let begun = expire(used(Some("u1"), "key"));
        assert_eq!(decide(&call(), &begun, Some(&cluster("u1", true, None))), Ok(Step::Sign { name: "eu".into() }));
    }

    #[test]
    fn a_used_token_is_its_first_keys_only() {
        let joined = cluster("u1", true, Some("other"));
        assert_eq!(decide(&call(), &used(Some("u1"), "other"), Some(&joined)), Err("TokenUsed"));
        assert_eq!(decide(&call(), &used(None, "other"), None), Err("TokenUsed"));
    }

    #[test]
    fn a_spent_token_makes_no_second_cluster_after_the_first_was_deleted_or_replaced() {
        assert_eq!(decide(&call(), &used(Some("u1"), "key"), None), Err("ClusterGone"));
        assert_eq!(decide(&call(), &used(Some("u1"), "key"), Some(&cluster("u2", true, None))), Err("ClusterGone"));
    }

    #[test]
    fn a_name_that_exists_needs_another_name_or_a_replacing_token() {
        let existing = cluster("u0", true, Some("old"));
        assert_eq!(decide(&call(), &token(), Some(&existing)), Err("NameExists"));
        let mut replacing = token();
        replacing.spec.replace = true;
        assert_eq!(decide(&call(), &replacing, Some(&existing)), Ok(Step::Replace { name: "eu".into() }));
        replacing.status = used(None, "key").status;
        assert!(matches!(decide(&call(), &replacing, Some(&existing)), Ok(Step::Wait { .. })));
        assert_eq!(decide(&call(), &replacing, None), create(false));
    }

    #[test]
    fn a_token_for_one_name_joins_no_other_not_even_one_that_begins_with_it() {
        for other in ["eu2", "e", "us"] {
            let call = JoinCall { cluster: other.into(), ..call() };
            assert_eq!(decide(&call, &token(), None), Err("TokenForAnotherName"), "{other}");
        }
        let mut open = token();
        open.spec.cluster = String::new();
        assert_eq!(decide(&call(), &open, None), Err("NameMissing"));
        let bad = JoinCall { cluster: "../eu".into(), ..call() };
        assert_eq!(decide(&bad, &open, None), Err("NameInvalid"));
    }

    #[test]
    fn one_cluster_does_not_join_under_two_names() {
        let (call, token) = (call(), token());
        let hub_time = Timestamp::from_seconds(NOW);
        let facts = Facts { call: &call, key: "key", token: Some(&token), existing: None, twin: Some("us"), hub_time };
        assert_eq!(join(&facts).expect_err("twin").reason, "AlreadyJoined");
    }

    #[test]
    fn waiting_acceptance_and_revocation_are_three_answers() {
        let token = used(Some("u1"), "key");
        assert!(matches!(decide(&call(), &token, Some(&cluster("u1", false, None))), Ok(Step::Wait { .. })));
        assert_eq!(decide(&call(), &token, Some(&cluster("u1", true, None))), Ok(Step::Sign { name: "eu".into() }));
        assert_eq!(
            decide(&call(), &token, Some(&cluster("u1", true, Some("key")))),
            Ok(Step::Sign { name: "eu".into() })
        );
        assert_eq!(decide(&call(), &token, Some(&cluster("u1", false, Some("key")))), Err("Revoked"));
        assert_eq!(decide(&call(), &token, Some(&cluster("u1", true, Some("renewed")))), Err("TokenUsed"));
    }

    #[test]
    fn a_clock_a_day_off_is_named_with_both_times() {
        for (offset, word) in [(86_400, "ahead of"), (-86_400, "behind")] {
            let error =
                check_clock(Timestamp::from_seconds(NOW + offset), Timestamp::from_seconds(NOW)).expect_err("skew");
            assert!(error.message.contains(word) && error.message.contains("24 hours"), "{error}");
            assert!(error.message.contains(&Timestamp::from_seconds(NOW).to_string()), "{error}");
        }
        assert_eq!(check_clock(Timestamp::from_seconds(NOW + 600), Timestamp::from_seconds(NOW)), Ok(()));
    }

    fn renewal<'a>(cluster: Option<&'a Cluster>, old_key: &'a str) -> Renewal<'a> {
        let (not_after, hub_time) = (Timestamp::from_seconds(NOW), Timestamp::from_seconds(NOW));
        Renewal { old_key, not_after, new_key: "new", cluster, hub_time }
    }

    #[test]
    fn a_renewal_keeps_the_old_key_until_the_new_one_is_used_and_no_longer() {
        let mut cluster = cluster("u1", true, Some("old"));
        assert_eq!(renew(&renewal(Some(&cluster), "old")), Ok(Some("old".into())));
        cluster.status.certificate =
            Some(certificate("new".into(), Some("old".into()), "2".into(), Timestamp::from_seconds(NOW)));
        assert_eq!(renew(&renewal(Some(&cluster), "old")), Ok(Some("old".into())), "the answer was lost");
        cluster.status.certificate = Some(certificate("new".into(), None, "2".into(), Timestamp::from_seconds(NOW)));
        assert_eq!(renew(&renewal(Some(&cluster), "old")).expect_err("a replay").reason, "Revoked");
    }

    #[test]
    fn an_expired_certificate_renews_for_ninety_days() {
        let cluster = cluster("u1", true, Some("old"));
        let at =
            |seconds| Renewal { hub_time: Timestamp::from_seconds(NOW + seconds), ..renewal(Some(&cluster), "old") };
        assert!(renew(&at(RENEWAL_SECONDS_MAX)).is_ok());
        assert_eq!(renew(&at(RENEWAL_SECONDS_MAX + 1)).expect_err("late").reason, "TooLate");
    }

    #[test]
    fn who_is_revoked_frozen_or_gone_does_not_renew() {
        assert_eq!(renew(&renewal(None, "old")).expect_err("gone").reason, "Revoked");
        let revoked = cluster("u1", false, Some("old"));
        assert_eq!(renew(&renewal(Some(&revoked), "old")).expect_err("revoked").reason, "NotAccepted");
        let mut frozen = cluster("u1", true, Some("old"));
        frozen.metadata.annotations.insert(crate::hub::agents::roster::FROZEN.into(), "now".into());
        assert_eq!(renew(&renewal(Some(&frozen), "old")).expect_err("frozen").reason, "IdentityFrozen");
        let other = cluster("u1", true, Some("another"));
        assert_eq!(renew(&renewal(Some(&other), "old")).expect_err("other key").reason, "Revoked");
        let never = cluster("u1", true, None);
        assert_eq!(renew(&renewal(Some(&never), "")).expect_err("no key").reason, "Revoked");
    }
}
