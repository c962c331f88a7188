//! The brake (rule 14): removals that nobody named one by one wait for a person when they are many at once.
//!
//! Counts, per cluster, the Applications that lose a component there although nobody changed them: a label was taken
//! off, a selector matches no more. More than ten works and a tenth of the cluster within ten minutes are held, all of
//! them, until the Cluster carries the digest of exactly that set. Deleting an Application by name, changing it, or
//! draining a cluster is its own confirmation.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    kinds::cluster::CONFIRM_ANNOTATION,
    model::{Digest, Uid},
};

const WORKS_MAX: usize = 10;
const SHARE_OF_CLUSTER: usize = 10;
const WINDOW_MS: u64 = 10 * 60 * 1000;

#[derive(Debug, Default)]
pub struct Brake {
    /// Cluster → Applications whose removals wait.
    held: BTreeMap<Uid, BTreeSet<Uid>>,
    /// Cluster → Application → when it was let go for being one of few, or by a person.
    recent: BTreeMap<Uid, BTreeMap<Uid, Passed>>,
}

#[derive(Debug, Clone)]
struct Passed {
    at_ms: u64,
    /// Who agreed; absent where it was one of few.
    by: Option<String>,
}

/// A person's word on a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Confirmation<'a> {
    /// Of the set that is agreed to.
    pub digest: &'a str,
    pub author: &'a str,
}

impl Brake {
    /// Judges what `losing` are about to lose in `cluster`, of `works` that it has. Afterwards [`Brake::holds`] says which
    /// of them wait.
    pub fn judge(
        &mut self,
        now_ms: u64,
        cluster: &Uid,
        losing: &BTreeSet<Uid>,
        works: usize,
        confirmed: Option<Confirmation<'_>>,
    ) {
        let recent = self.recent.entry(cluster.clone()).or_default();
        recent.retain(|_, passed| now_ms.saturating_sub(passed.at_ms) < WINDOW_MS);
        let before = self.held.remove(cluster).unwrap_or_default();
        let agreed = |application: &&Uid| recent.get(*application).is_some_and(|passed| passed.by.is_some());
        let waiting: BTreeSet<Uid> = before.union(losing).filter(|application| !agreed(application)).cloned().collect();
        let count = recent.keys().chain(&waiting).collect::<BTreeSet<_>>().len();
        let by = confirmed.filter(|word| word.digest == digest(&waiting)).map(|word| word.author.to_owned());
        if count > WORKS_MAX && count * SHARE_OF_CLUSTER > works && by.is_none() && !waiting.is_empty() {
            self.held.insert(cluster.clone(), waiting);
        } else {
            let passed = Passed { at_ms: now_ms, by };
            recent.extend(waiting.into_iter().map(|application| (application, passed.clone())));
        }
    }

    /// Who agreed that the Application may lose something in the cluster, where somebody did.
    pub fn agreed(&self, cluster: &Uid, application: &Uid) -> Option<&str> {
        self.recent.get(cluster)?.get(application)?.by.as_deref()
    }

    pub fn holds(&self, cluster: &Uid, application: &Uid) -> bool {
        self.held.get(cluster).is_some_and(|held| held.contains(application))
    }

    /// An Application no longer loses anything in this cluster, so it waits for nothing there.
    pub fn release(&mut self, cluster: &Uid, application: &Uid) {
        if let Some(held) = self.held.get_mut(cluster) {
            held.remove(application);
            if held.is_empty() {
                self.held.remove(cluster);
            }
        }
    }

    pub fn clusters_of(&self, application: &Uid) -> BTreeSet<Uid> {
        let holds = |(cluster, held): (&Uid, &BTreeSet<Uid>)| held.contains(application).then(|| cluster.clone());
        self.held.iter().filter_map(holds).collect()
    }

    pub fn held(&self, cluster: &Uid) -> Option<&BTreeSet<Uid>> {
        self.held.get(cluster)
    }

    /// What a cluster's held removals are, and how to agree to them.
    pub fn words(&self, cluster: &Uid, name: &str, works: usize) -> Option<String> {
        let held = self.held.get(cluster)?;
        Some(format!(
            "{} of {works} works would be removed and nobody named them one by one; to agree to exactly these: kubectl \
             annotate --overwrite cluster {name} {CONFIRM_ANNOTATION}={}",
            held.len(),
            digest(held)
        ))
    }
}

/// Names a set of Applications; another set has another name.
fn digest(applications: &BTreeSet<Uid>) -> String {
    let text: String = applications.iter().map(|application| format!("{application}\n")).collect();
    Digest::of(text.as_bytes()).to_string()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applications(range: std::ops::Range<usize>) -> BTreeSet<Uid> {
        range.map(|n| Uid(format!("app-{n:03}"))).collect()
    }

    fn held(brake: &Brake) -> usize {
        brake.held(&"eu".into()).map_or(0, BTreeSet::len)
    }

    #[test]
    fn ten_works_or_a_tenth_of_the_cluster_may_go() {
        let mut brake = Brake::default();
        brake.judge(0, &"eu".into(), &applications(0..10), 20, None);
        assert_eq!(held(&brake), 0);
        let mut brake = Brake::default();
        brake.judge(0, &"eu".into(), &applications(0..20), 200, None);
        assert_eq!(held(&brake), 0);
        brake.judge(1, &"eu".into(), &applications(20..21), 200, None);
        assert_eq!(held(&brake), 1, "the one that makes it too many within ten minutes");
        let mut brake = Brake::default();
        brake.judge(0, &"eu".into(), &applications(0..11), 20, None);
        assert_eq!(held(&brake), 11);
    }

    #[test]
    fn only_that_very_set_is_confirmed() {
        let mut brake = Brake::default();
        let eu = Uid::from("eu");
        brake.judge(0, &eu, &applications(0..12), 20, None);
        let agreed = digest(brake.held(&eu).expect("held"));
        let word = |digest| Some(Confirmation { digest, author: "ann" });
        brake.judge(1, &eu, &applications(0..13), 20, word(&agreed));
        assert_eq!((held(&brake), brake.agreed(&eu, &"app-004".into())), (13, None), "one more came");
        let agreed = digest(brake.held(&eu).expect("held"));
        brake.judge(2, &eu, &applications(0..13), 20, word(&agreed));
        assert_eq!((held(&brake), brake.agreed(&eu, &"app-004".into())), (0, Some("ann")));
        brake.judge(3, &eu, &applications(4..5), 20, word(&agreed));
        assert_eq!(held(&brake), 0, "each of them may go one by one");
    }

    #[test]
    fn the_window_passes() {
        let mut brake = Brake::default();
        brake.judge(0, &"eu".into(), &applications(0..10), 50, None);
        brake.judge(WINDOW_MS, &"eu".into(), &applications(10..20), 50, None);
        assert_eq!(held(&brake), 0);
        brake.judge(WINDOW_MS + 1, &"eu".into(), &applications(20..21), 50, None);
        assert_eq!(held(&brake), 1);
    }
}
