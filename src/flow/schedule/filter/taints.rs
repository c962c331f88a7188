//! The clusters' taints, and what the policy tolerates of them.

use super::{Filter, Verdict, View};
use crate::{
    flow::schedule::{fleet::Candidate, standing::Standing},
    model::{
        application::ClusterToleration,
        cluster::{ClusterTaint, TaintEffect},
        placement::Why,
    },
};

#[derive(Debug)]
pub struct Taints<'p> {
    pub tolerations: &'p [ClusterToleration],
}

/// How long a taint is tolerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tolerance {
    Never,
    Seconds(u32),
    Always,
}

impl Taints<'_> {
    /// Whether a `PreferNoSchedule` taint speaks against it.
    pub fn avoids(&self, cluster: &Candidate) -> bool {
        let is_avoided = |taint: &ClusterTaint| {
            taint.effect == TaintEffect::PreferNoSchedule && self.tolerance(taint) == Tolerance::Never
        };
        cluster.taints.iter().any(is_avoided)
    }

    fn tolerance(&self, taint: &ClusterTaint) -> Tolerance {
        let matching = self.tolerations.iter().filter(|toleration| tolerates(toleration, taint));
        // The longest counts, as for pods any one that matches does.
        matching
            .map(|toleration| toleration.toleration_seconds.map_or(Tolerance::Always, Tolerance::Seconds))
            .max()
            .unwrap_or(Tolerance::Never)
    }
}

impl Filter for Taints<'_> {
    fn words(&self) -> &'static [&'static str] {
        &["Tainted"]
    }

    fn judge(&self, view: &View<'_>) -> Verdict {
        let mut verdict = Verdict::OPEN;
        for taint in view.cluster.taints.iter().filter(|taint| taint.effect != TaintEffect::PreferNoSchedule) {
            let why = || Why::Tainted { taint: taint.to_string() };
            match (taint.effect, self.tolerance(taint)) {
                (_, Tolerance::Always) => {}
                (TaintEffect::NoExecute, Tolerance::Seconds(seconds)) => {
                    // Nobody knows how long one without a time has been there.
                    let Some(added) = taint.time_added else { continue };
                    let end = added.plus_seconds(seconds.into());
                    if end <= view.now {
                        return Standing::Leaves(why()).into();
                    }
                    verdict.until = verdict.until.into_iter().chain([end]).min();
                }
                (TaintEffect::NoExecute, Tolerance::Never) => return Standing::Leaves(why()).into(),
                _ if verdict.standing == Standing::Open => verdict.standing = Standing::Keeps(why()),
                _ => {}
            }
        }
        verdict
    }

    fn reads_time(&self) -> bool {
        self.tolerations.iter().any(|toleration| toleration.toleration_seconds.is_some())
    }
}

fn tolerates(toleration: &ClusterToleration, taint: &ClusterTaint) -> bool {
    let exists = toleration.operator == "Exists";
    let effect = match toleration.effect.as_str() {
        "" => true,
        "NoSchedule" => taint.effect == TaintEffect::NoSchedule,
        "PreferNoSchedule" => taint.effect == TaintEffect::PreferNoSchedule,
        _ => taint.effect == TaintEffect::NoExecute,
    };
    let key = toleration.key == taint.key || (toleration.key.is_empty() && exists);
    effect && key && (exists || toleration.value == taint.value)
}
