//! Explain: the reasons of those that get nothing, kept in a few numbers until somebody reads them.
//!
//! Ten thousand clusters need no ten thousand sentences where most share one: a [`No`] holds for one component what was
//! decided from, and says why of any cluster when it is asked, as long as the fleet is as it was decided on.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Placing, Room,
    fleet::{Domains, Fleet, Id},
    standing::Standing,
};
use crate::model::{Demand, placement::Why, revision::RenderedComponent};

/// Why clusters without a share of one component have none.
#[derive(Debug, Clone)]
pub struct No {
    pub component: String,
    placing: Placing,
    /// Clusters that were looked at one by one.
    pub explicit: BTreeMap<Id, Why>,
    pub shortage: Option<Shortage>,
    /// All that a cluster would have to take at once.
    pub whole: Vec<(String, Demand, u32)>,
    /// Clusters without one of these labels are told so.
    pub unlabelled: Vec<(Arc<Domains>, Why)>,
    /// Clusters without a weight are told so.
    pub unweighted: bool,
    /// Open clusters with room.
    otherwise: Why,
}

/// A cluster with room for fewer than `enough` has too little.
#[derive(Debug, Clone)]
pub struct Shortage {
    pub demand: Demand,
    pub capacities: Arc<Vec<u32>>,
    pub wanted: u32,
    pub enough: u32,
}

impl No {
    pub fn new(component: &RenderedComponent, placing: &Placing) -> Self {
        Self {
            component: component.name.clone(),
            placing: placing.clone(),
            explicit: BTreeMap::new(),
            shortage: None,
            whole: Vec::new(),
            unlabelled: Vec::new(),
            unweighted: false,
            otherwise: Why::NotNamed,
        }
    }

    pub fn without_room(self, shortage: Shortage) -> Self {
        Self { shortage: Some(shortage), ..self }
    }

    pub fn otherwise(self, otherwise: Why) -> Self {
        Self { otherwise, ..self }
    }

    /// Whether it says no by what the user chose, not by what the cluster lacks.
    pub fn is_by_choice(&self, id: Id) -> bool {
        match self.placing.of(id) {
            Standing::Keeps(why) | Standing::Leaves(why) | Standing::Gone(why) => is_by_choice(why),
            Standing::Open => false,
        }
    }

    pub fn why(&self, id: Id, fleet: &Fleet) -> Why {
        if let Some(why) = self.explicit.get(&id) {
            return why.clone();
        }
        match self.placing.of(id) {
            Standing::Keeps(why) | Standing::Leaves(why) | Standing::Gone(why) => return why.clone(),
            Standing::Open => {}
        }
        if self.unweighted && self.placing.standings.weight(id) == 0 {
            return Why::NoWeight;
        }
        for (domains, why) in &self.unlabelled {
            if domains.of[id as usize] == Domains::NONE {
                return why.clone();
            }
        }
        let nothing = Room::default();
        let room = fleet.at(id).room.as_ref().unwrap_or(&nothing);
        if let Some((faulty, why)) = self.misfit(room) {
            return match faulty == self.component {
                true => why,
                false => Why::Together { component: faulty.to_owned() },
            };
        }
        if let Some(shortage) = &self.shortage {
            let (room_for, min) = (shortage.capacities[id as usize], self.placing.standings.limit(id).min);
            if room_for < shortage.enough {
                let scarce = room.scarce(&shortage.demand);
                return Why::NoRoom { room: room_for, wanted: shortage.wanted, scarce };
            }
            if room_for < min {
                return Why::BelowMinimum { room: room_for, min };
            }
        }
        self.otherwise.clone()
    }

    /// The first component of a whole that does not fit a room.
    fn misfit(&self, room: &Room) -> Option<(&str, Why)> {
        misfit(self.whole.iter().map(|(name, demand, wanted)| (name.as_str(), demand, *wanted)), room).err()
    }
}

/// Whether a reason is what the user chose, not what the cluster lacks.
pub fn is_by_choice(why: &Why) -> bool {
    matches!(why, Why::NotNamed | Why::SelectorMismatch { .. } | Why::ExpressionFalse { .. } | Why::NoGroup)
}

/// What is left of a room after all of `whole`, or the first that does not fit.
pub fn misfit<'w>(
    whole: impl Iterator<Item = (&'w str, &'w Demand, u32)>,
    room: &Room,
) -> Result<Room, (&'w str, Why)> {
    let mut room = room.clone();
    for (name, demand, wanted) in whole {
        let free = room.for_demand(demand);
        if free < wanted {
            return Err((name, Why::NoRoom { room: free, wanted, scarce: room.scarce(demand) }));
        }
        room.take(demand, wanted);
    }
    Ok(room)
}
