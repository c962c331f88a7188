//! Whether the cluster takes part at all. Nobody can switch this off.

use super::{Filter, Verdict, View};
use crate::{flow::schedule::standing::Standing, model::placement::Why};

#[derive(Debug)]
pub struct Membership;

impl Filter for Membership {
    fn words(&self) -> &'static [&'static str] {
        &["Deleting", "NotAccepted", "Silent", "Cordoned"]
    }

    fn judge(&self, view: &View<'_>) -> Verdict {
        let cluster = view.cluster;
        let why = match () {
            () if cluster.deleting => return Standing::Gone(Why::Deleting).into(),
            () if !cluster.accepted => Why::NotAccepted,
            () if cluster.silent => Why::Silent,
            () if cluster.cordoned => Why::Cordoned,
            () => return Verdict::OPEN,
        };
        Standing::Keeps(why).into()
    }
}
