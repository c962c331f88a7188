//! Who people are, what they may do, and the record of what they did.
//!
//! Owns: authentication by certificate or bearer token, the one authorisation function, the audit log. Must never: take
//! an identity from anything but the verified peer or a token's digest, and never from an object or a header that a
//! client writes as it likes.

mod audit;
mod authorize;
mod tokens;

use http::{HeaderMap, header};

pub use self::{
    audit::{Audit, Record},
    authorize::{Attributes, Decision, REPLICAS_PATH, authorize},
    tokens::Tokens,
};
use super::listen::Peer;

pub const ANONYMOUS: &str = "system:anonymous";
pub const AUTHENTICATED_GROUP: &str = "system:authenticated";
pub const UNAUTHENTICATED_GROUP: &str = "system:unauthenticated";
/// May do everything; the admin kubeconfig's group.
pub const ADMIN_GROUP: &str = "system:masters";
/// May read everything.
pub const VIEWER_GROUP: &str = "hanse:viewers";

/// Who a request is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub user: String,
    pub groups: Vec<String>,
}

/// Why somebody is nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    #[error("the client certificate of {user:?} expired at {at}")]
    Expired { user: String, at: crate::model::Timestamp },
    #[error("an agent's certificate is worth nothing on the Kubernetes API")]
    Agent,
    #[error("the bearer token is not known to the hub")]
    Token,
    #[error("the hub takes client certificates and bearer tokens, nothing else in Authorization")]
    Scheme,
}

impl Subject {
    pub fn anonymous() -> Self {
        Self { user: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED_GROUP.into()] }
    }

    pub fn is_anonymous(&self) -> bool {
        self.user == ANONYMOUS
    }

    fn authenticated(user: &str, groups: &[String]) -> Self {
        // Groups that only the hub itself may give are not taken from outside, nor is a second identity.
        let mut groups: Vec<_> = groups.iter().filter(|group| *group != UNAUTHENTICATED_GROUP).cloned().collect();
        groups.push(AUTHENTICATED_GROUP.into());
        Self { user: user.into(), groups }
    }
}

/// A certificate counts before a token.
pub fn authenticate(peer: &Peer, headers: &HeaderMap, tokens: &Tokens) -> Result<Subject, Unauthenticated> {
    match peer {
        Peer::Person(person) => match person.expired {
            Some(at) => Err(Unauthenticated::Expired { user: person.user.clone(), at }),
            None => Ok(Subject::authenticated(&person.user, &person.groups)),
        },
        Peer::Agent(_) => Err(Unauthenticated::Agent),
        Peer::Anonymous => match headers.get(header::AUTHORIZATION) {
            None => Ok(Subject::anonymous()),
            Some(value) => {
                let bearer = value.to_str().ok().and_then(|text| text.split_once(' '));
                let (scheme, secret) = bearer.ok_or(Unauthenticated::Scheme)?;
                if !scheme.eq_ignore_ascii_case("bearer") {
                    return Err(Unauthenticated::Scheme);
                }
                let (user, groups) = tokens.find(secret.trim()).ok_or(Unauthenticated::Token)?;
                Ok(Subject::authenticated(user, groups))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hub::listen::{AgentPeer, Person},
        model::{Digest, Timestamp, Uid},
    };

    fn person(expired: Option<Timestamp>) -> Peer {
        Peer::Person(Person { user: "ann".into(), groups: vec!["dev".into()], expired })
    }

    fn bearer(text: &str) -> HeaderMap {
        [(header::AUTHORIZATION, text.parse().expect("header"))].into_iter().collect()
    }

    #[test]
    fn identity_comes_from_the_certificate_or_the_token_alone() {
        let tokens = Tokens::parse(&format!("{},bob,ops|dev\n", Digest::of(b"secret"))).expect("tokens");
        let subject = |user: &str, groups: &[&str]| {
            Ok(Subject { user: user.into(), groups: groups.iter().map(|group| (*group).to_owned()).collect() })
        };
        let none = HeaderMap::new();
        assert_eq!(authenticate(&person(None), &none, &tokens), subject("ann", &["dev", AUTHENTICATED_GROUP]));
        assert_eq!(
            authenticate(&Peer::Anonymous, &bearer("Bearer secret"), &tokens),
            subject("bob", &["ops", "dev", AUTHENTICATED_GROUP])
        );
        assert_eq!(authenticate(&Peer::Anonymous, &none, &tokens), Ok(Subject::anonymous()));
    }

    #[test]
    fn what_proves_nothing_is_refused_in_words() {
        let tokens = Tokens::default();
        let at = Timestamp::from_seconds(0);
        let agent =
            AgentPeer { cluster: Uid::from("c"), key_fingerprint: String::new(), serial: String::new(), expired: None };
        let none = HeaderMap::new();
        for (peer, headers, expected) in [
            (person(Some(at)), &none, Unauthenticated::Expired { user: "ann".into(), at }),
            (Peer::Agent(agent), &none, Unauthenticated::Agent),
            (Peer::Anonymous, &bearer("Bearer wrong"), Unauthenticated::Token),
            (Peer::Anonymous, &bearer("Basic YTpi"), Unauthenticated::Scheme),
            (Peer::Anonymous, &bearer("nonsense"), Unauthenticated::Scheme),
        ] {
            assert_eq!(authenticate(&peer, headers, &tokens), Err(expected));
        }
    }
}
