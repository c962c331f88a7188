//! Growth: what one more replica lacks in a room, and the room as it would be with more nodes. For telling people what to
//! change; nothing is placed by it.

use std::sync::Arc;

use super::{Room, Slot, bounds, whole};
use crate::model::{Demand, Resources};

impl Room {
    /// What the node that comes nearest lacks for one replica of `demand` more than fit; nothing where it lacks no amount, or
    /// where no node admits it.
    pub fn shortfall(&self, demand: &Demand) -> Resources {
        let demand = &*self.granted(demand);
        let chosen = bounds::Chosen::of(&self.frame, demand);
        let lacks = |left: &dyn Fn(&str, i64) -> i64| {
            let lacking = whole(demand).map(|(name, asked)| (name.to_owned(), asked - left(name, asked).max(0)));
            Resources(lacking.filter(|(_, lack)| *lack > 0).collect())
        };
        let fits = self.for_demand(demand);
        if u64::from(fits) < self.on_nodes(demand) {
            // Its nodes have more, but what is decided and not seen there yet may need it.
            let lacking = lacks(&|name, asked| self.free(name).saturating_sub(asked.saturating_mul(fits.into())));
            if !lacking.is_empty() {
                return lacking;
            }
        }
        let ask = self.ask(demand);
        let after_all_that_fit = |index: usize| {
            let fits = i64::try_from(self.per_node(index, &ask)).unwrap_or(i64::MAX);
            let free = |name: &str| self.column(name).map_or(0, |column| self.row(index)[column].max(0));
            lacks(&|name, asked| free(name).saturating_sub(asked.saturating_mul(fits)))
        };
        // The part of what it asks for that is missing: amounts of different resources compare by nothing else.
        let distance = |lacks: &Resources| {
            let parts =
                whole(demand).map(|(name, asked)| i128::from(lacks.get(name)) * 1_000_000 / i128::from(asked.max(1)));
            parts.max().unwrap_or(0)
        };
        let nodes = (0..self.shapes.len())
            .filter(|&index| self.shapes[index].count > 0 && chosen.admits(self.shapes[index].kind));
        nodes.map(after_all_that_fit).min_by_key(|lacks| (distance(lacks), lacks.clone())).unwrap_or_default()
    }

    /// With one more node for each of so many replicas, of a kind that admits them; `None` where no node does.
    pub fn grown(&self, demand: &Demand, replicas: u32) -> Option<Self> {
        let granted = self.granted(demand).into_owned();
        let chosen = bounds::Chosen::of(&self.frame, &granted);
        let kind = (0..self.frame.kinds.len() as u32).find(|&kind| chosen.admits(kind))?;
        let mut room = self.clone();
        let mut free = vec![0; room.frame.resources.len()];
        for (name, amount) in whole(&granted) {
            free[room.column(name)?] = amount;
        }
        room.shapes.push(Slot { count: replicas, kind });
        room.free.extend(free);
        for index in 0..room.floating.len() {
            let of: Arc<Demand> = room.floating[index].demand.clone();
            room.floating[index].fits = room.on_nodes(&of);
        }
        Some(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Sketch,
        quantity::{CPU, MEMORY, PODS},
        sketch::Shape,
    };

    fn room(shapes: &[(u32, i64, i64)]) -> Room {
        let shape = |&(count, cpu, memory): &(u32, i64, i64)| Shape {
            count,
            free: Resources::of([(CPU, cpu), (MEMORY, memory), (PODS, 10)]),
            ..Shape::default()
        };
        Room::of(&Sketch { shapes: shapes.iter().map(shape).collect(), ..Sketch::default() })
    }

    fn demand(cpu: i64, memory: i64) -> Demand {
        Demand { requests: Resources::of([(CPU, cpu), (MEMORY, memory)]), ..Demand::default() }
    }

    #[test]
    fn the_node_that_comes_nearest_says_what_is_lacking() {
        for (shapes, asked, lacks) in [
            (&[(1, 300, 900), (2, 100, 1000)][..], (500, 500), Resources::of([(CPU, 200)])),
            (&[(1, 0, 4000), (1, 400, 10)], (500, 20), Resources::of([(CPU, 100), (MEMORY, 10)])),
            (&[(1, 700, 700)], (500, 500), Resources::of([(CPU, 300), (MEMORY, 300)])),
            (&[], (500, 500), Resources::default()),
        ] {
            assert_eq!(room(shapes).shortfall(&demand(asked.0, asked.1)), lacks, "{shapes:?}");
        }
        let mut taken = room(&[(1, 800, 1000)]);
        taken.take(&demand(500, 0), 1);
        assert_eq!(taken.shortfall(&demand(500, 0)), Resources::of([(CPU, 200)]), "what is decided is not free");
    }

    #[test]
    fn a_grown_room_has_room_for_so_many_more() {
        let demand = demand(500, 100);
        let mut room = room(&[(1, 1200, 1000)]);
        room.take(&demand, 1);
        for more in [0, 1, 7] {
            let grown = room.grown(&demand, more).expect("a kind of node");
            assert_eq!(grown.for_demand(&demand), room.for_demand(&demand) + more);
        }
        let ssd = Demand { node_selector: [("disk".to_owned(), "ssd".to_owned())].into(), ..demand };
        assert!(room.grown(&ssd, 1).is_none(), "no node of it would take that");
    }
}
