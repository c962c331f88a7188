//! Resume tokens: how an agent proves to a hub that its store went back in time.

use ring::hmac;

use crate::model::{Uid, protocol::ResumeToken};

/// Makes and checks the tokens of one cluster. The key lives outside the store: a restored store must not bring another.
#[derive(Clone)]
pub struct Stamp {
    key: hmac::Key,
    /// What the MAC covers besides the revision; no part can run into the next, for none holds a zero byte.
    scope: String,
}

impl std::fmt::Debug for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stamp").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Stamp {
    pub fn new(key: &[u8], hub: &Uid, incarnation: &Uid, cluster: &Uid) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), scope: format!("{hub}\0{incarnation}\0{cluster}\0") }
    }

    pub fn token(&self, revision: u64) -> ResumeToken {
        ResumeToken { revision, mac: hmac::sign(&self.key, &self.bytes(revision)).as_ref().to_vec() }
    }

    pub fn is_ours(&self, token: &ResumeToken) -> bool {
        hmac::verify(&self.key, &self.bytes(token.revision), &token.mac).is_ok()
    }

    fn bytes(&self, revision: u64) -> Vec<u8> {
        [self.scope.as_bytes(), &revision.to_be_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_hub_incarnation_cluster_and_revision_only() {
        let stamp = |hub: &str, incarnation: &str, cluster: &str| {
            Stamp::new(b"key", &hub.into(), &incarnation.into(), &cluster.into())
        };
        let ours = stamp("hub", "one", "eu");
        let token = ours.token(7);
        assert!(ours.is_ours(&token));
        assert!(!ours.is_ours(&ResumeToken { revision: 8, ..token.clone() }));
        for other in [stamp("hut", "one", "eu"), stamp("hub", "two", "eu"), stamp("hub", "one", "eu2")] {
            assert!(!other.is_ours(&token));
        }
        assert!(!Stamp::new(b"other", &"hub".into(), &"one".into(), &"eu".into()).is_ours(&token));
    }
}
