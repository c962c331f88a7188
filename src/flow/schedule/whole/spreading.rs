//! Spreading: a Duplicated component in some of its targets, as spread constraints say.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        copies::{self, Copy},
        divided::{count, lacks_label, spread_out},
        fleet::Domains,
    },
    Group, Id, Placing, Solver, Standing, Tier,
};
use crate::model::{application::SpreadConstraint, placement::Why};

/// Which of the clusters that have it or could take it get it.
#[derive(Default)]
pub struct Spreading {
    pub targets: BTreeSet<Id>,
    /// The policy's group of clusters that the targets are in.
    pub first: Option<u16>,
    /// Those that get none because of a constraint.
    pub left_out: BTreeMap<Id, Why>,
}

impl<'a> Solver<'a> {
    /// Of ordered groups of clusters the first counts in which the constraints can be kept. Where they can be kept in none,
    /// what runs stays and nothing comes.
    pub(super) fn spread_copies(
        &mut self,
        group: &Group<'a>,
        constraints: &[SpreadConstraint],
        placing: &Placing,
        (here, fitting): (&BTreeSet<Id>, &[Id]),
    ) -> Spreading {
        let domains: Vec<_> = constraints.iter().map(|constraint| self.domains(constraint)).collect();
        let mut spreading = Spreading::default();
        let unlabelled = |id: Id| {
            let lacks = |(constraint, of): (&SpreadConstraint, &std::sync::Arc<Domains>)| {
                let none = constraint.by != "cluster" && of.of.get(id as usize).is_none_or(|of| *of == Domains::NONE);
                none.then(|| lacks_label(constraint))
            };
            constraints.iter().zip(&domains).find_map(lacks).filter(|_| *placing.of(id) == Standing::Open)
        };
        let mut candidates: Vec<(Id, bool)> = Vec::new();
        let stays = |id: &Id| matches!(placing.of(*id), Standing::Open | Standing::Keeps(_));
        let known = here.iter().copied().filter(stays).map(|id| (id, true));
        for (id, has) in known.chain(fitting.iter().map(|&id| (id, false))) {
            match unlabelled(id) {
                Some(why) => drop(spreading.left_out.insert(id, why)),
                None => candidates.push((id, has)),
            }
        }
        candidates.sort_unstable();
        let tier_of = |id: Id| placing.standings.tier(id);
        let tiers: BTreeSet<u16> = candidates.iter().map(|&(id, _)| tier_of(id).group).collect();
        let first = candidates.iter().filter(|(_, has)| *has).map(|&(id, _)| tier_of(id).group).min();
        for tier in tiers.into_iter().filter(|&tier| first.is_none_or(|first| tier >= first)) {
            let of: Vec<(Id, bool)> =
                candidates.iter().copied().filter(|&(id, has)| has || tier_of(id).group == tier).collect();
            let ranks: BTreeSet<Tier> = of.iter().map(|&(id, _)| tier_of(id)).collect();
            let ranks: BTreeMap<Tier, usize> = ranks.into_iter().zip(0..).collect();
            let copy = |&(id, has): &(Id, bool)| Copy {
                stays: has,
                pinned: has && matches!(placing.of(id), Standing::Keeps(_)),
                rank: ranks[&tier_of(id)],
            };
            let ids: Vec<Id> = of.iter().map(|&(id, _)| id).collect();
            let counts: Vec<_> = constraints.iter().zip(&domains).map(|(asked, of)| count(asked, of, &ids)).collect();
            let Some(chosen) = copies::choose(&of.iter().map(copy).collect::<Vec<_>>(), &counts) else { continue };
            spreading.targets = ids.iter().zip(&chosen).filter(|(_, chosen)| **chosen).map(|(&id, _)| id).collect();
            spreading.first = Some(tier);
            break;
        }
        let refused = spreading.first.is_none() && !(candidates.is_empty() && spreading.left_out.is_empty());
        if refused {
            spreading.targets = here.iter().copied().filter(stays).collect();
            let said = format!(
                "no choice of clusters keeps the spread; it runs in {}, and comes to no other until one does",
                spreading.targets.len()
            );
            group.components.iter().for_each(|component| self.lack(component, said.clone()));
        }
        for (id, _) in candidates {
            let in_turn = spreading.first.is_none_or(|first| tier_of(id).group <= first);
            if in_turn && !spreading.targets.contains(&id) {
                let detail = if refused { "nothing new is placed until it can be kept" } else { "others were chosen" };
                spreading.left_out.insert(id, spread_out(constraints, detail));
            }
        }
        spreading.left_out.retain(|id, _| !spreading.targets.contains(id));
        spreading
    }
}
