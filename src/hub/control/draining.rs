//! Draining: what is told of a cluster that a person has drained, and when it is told anew.
//!
//! The drain itself is the Cluster's `spec.drain`, and what leaves is decided like everything else; nothing here decides.

use super::Controller;
use crate::model::{Cluster, Placement, Uid, condition::Truth};

/// Between two tellings of how far a drain is.
pub const TELL_MS: u64 = 1_000;
/// Applications named in one sentence.
const NAMED_MAX: usize = 5;

impl Controller {
    fn is_deciding(&self, application: &Uid) -> bool {
        self.due.get(application).is_some_and(|due| due.decide) || self.lanes.contains_key(application)
    }

    /// Whether what is told of a drain may be another thing without anything being written.
    pub(super) fn is_drain_open(&self, view: &Cluster) -> bool {
        let tenants = self.index.tenants.get(&view.metadata.uid);
        view.spec.drain
            && tenants.is_some_and(|tenants| tenants.iter().any(|application| self.is_deciding(application)))
    }

    /// How far the drain of a cluster is; absent where it is not drained.
    pub(super) fn drained(&self, view: &Cluster) -> Option<(Truth, &'static str, String)> {
        if !view.spec.drain {
            return None;
        }
        let uid = &view.metadata.uid;
        let (mut moving, mut removing, mut stuck) = (Vec::new(), 0, Vec::new());
        for application in self.index.tenants.get(uid).into_iter().flatten() {
            let Some(placement) = self.placement(application) else { continue };
            let Some(row) = placement.rows.iter().find(|row| row.cluster == *uid) else { continue };
            match why_stuck(&placement, uid, row.components.keys()) {
                _ if row.components.is_empty() => removing += 1,
                _ if self.is_deciding(application) => moving.push(placement.application.to_string()),
                Some(why) => stuck.push(format!("{}: {why}", placement.application)),
                None => moving.push(placement.application.to_string()),
            }
        }
        let left = moving.len() + removing + stuck.len();
        if left == 0 {
            return Some((Truth::True, "NothingLeft", "nothing of the hub runs there".into()));
        }
        let mut words = vec![format!("{left} applications are left")];
        if !moving.is_empty() {
            words.push(format!("{} are moving, new before old ({})", moving.len(), named(&moving)));
        }
        if removing > 0 {
            words.push(format!("{removing} are being removed"));
        }
        if !stuck.is_empty() {
            words.push(format!("{} fit nowhere else ({})", stuck.len(), named(&stuck)));
        }
        let reason = if moving.is_empty() && removing == 0 { "FitsNowhereElse" } else { "Moving" };
        Some((Truth::False, reason, words.join("; ")))
    }
}

/// Why something stays though its cluster is drained: of the first component that has no move from there.
fn why_stuck<'a>(
    placement: &Placement,
    cluster: &Uid,
    mut components: impl Iterator<Item = &'a String>,
) -> Option<String> {
    let leaves = |name: &str| placement.moves.iter().any(|known| known.component == name && known.from == *cluster);
    let stays = components.find(|name| !leaves(name))?;
    let what = placement.unplaced.get(stays).map_or("its placement keeps it there", String::as_str);
    Some(format!("{stays}: {what}"))
}

fn named(names: &[String]) -> String {
    match names.len() {
        0..=NAMED_MAX => names.join(", "),
        more => format!("{}, and {} more", names[..NAMED_MAX].join(", "), more - NAMED_MAX),
    }
}
