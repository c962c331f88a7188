//! Cut: many rooms of one kind of node become few, each with the least that any node of it has.
//!
//! Groups are divided one after another where that gains most, as colours of a picture are reduced by median cut (Heckbert
//! 1982). What a cut gains is told by yardsticks, pods of the proportions that people ask for: a node with little
//! memory loses nothing when its cores are rounded down. A group is never larger than what all of it has.

use crate::model::{
    Resources,
    quantity::{CPU, MEMORY, PODS},
    sketch::NodeKind,
};

const GIB: i64 = 1 << 30;

/// A pod that people may ask for, and how much what is lost for its like counts.
struct Yardstick {
    cpu: i64,
    memory: i64,
    /// Nodes may run out of slots for it before all else.
    slot: bool,
    weight: f64,
}

/// Large ones by their memory for each core, then small ones. Where cores, memory and slots are used up independently of
/// each other, which is the worst there is, these weights lose as much for small pods as for large ones, whatever they
/// ask for: found by raising those that lost more than the others, on seeded fleets.
const YARDSTICKS: [Yardstick; 11] = [
    Yardstick::large(1000, GIB / 2, 0.5),
    Yardstick::large(1000, GIB, 0.5),
    Yardstick::large(1000, 2 * GIB, 1.0),
    Yardstick::large(1000, 4 * GIB, 2.0),
    Yardstick::large(1000, 8 * GIB, 0.5),
    Yardstick::large(1000, 0, 0.5),
    Yardstick::large(0, GIB, 0.5),
    Yardstick::small(50, GIB / 16, 4.0),
    Yardstick::small(100, GIB, 1.0),
    Yardstick::small(300, 0, 2.0),
    Yardstick::small(0, 3 * GIB, 3.0),
];

/// Of pods that ask for a further resource, each.
const FURTHER: f64 = 2.0;

/// Rooms in rows of one column for each resource.
struct Table {
    names: Vec<String>,
    amounts: Vec<i64>,
    counts: Vec<u32>,
    /// What a pod of some proportion asks for, by column, and what one of all such pods counts.
    yardsticks: Vec<(Vec<(usize, f64)>, f64)>,
}

/// Rows that become one.
struct Group {
    kind: usize,
    rows: Vec<usize>,
    best: Option<Cut>,
}

/// Those with less than `amount` in `column`, and the rest.
#[derive(Clone, Copy)]
struct Cut {
    column: usize,
    amount: i64,
    gain: f64,
}

/// The kinds with at most `groups_max` rooms together. There must not be more kinds than that.
pub fn grouped(
    kinds: Vec<(NodeKind, Vec<(Resources, u32)>)>,
    groups_max: usize,
) -> Vec<(NodeKind, Vec<(Resources, u32)>)> {
    let table = Table::of(kinds.iter().flat_map(|(_, rooms)| rooms));
    let mut first = 0;
    let mut groups = Vec::new();
    for (kind, (_, rooms)) in kinds.iter().enumerate() {
        groups.push(Group::new(&table, kind, (first..first + rooms.len()).collect()));
        first += rooms.len();
    }
    while groups.len() < groups_max {
        let gain = |group: &Group| group.best.map_or(0.0, |cut| cut.gain);
        let first_best =
            (0..groups.len()).rev().max_by(|&one, &other| gain(&groups[one]).total_cmp(&gain(&groups[other])));
        let Some((index, cut)) = first_best.and_then(|index| Some((index, groups[index].best?))) else { break };
        let Group { kind, rows, .. } = groups.swap_remove(index);
        let below = |row: &usize| table.row(*row)[cut.column] < cut.amount;
        let (below, above) = rows.into_iter().partition(below);
        groups.push(Group::new(&table, kind, below));
        groups.push(Group::new(&table, kind, above));
    }
    let mut grouped: Vec<_> = kinds.into_iter().map(|(kind, _)| (kind, Vec::new())).collect();
    for group in &groups {
        grouped[group.kind].1.push(table.least(&group.rows));
    }
    grouped.iter_mut().for_each(|(_, rooms)| rooms.sort());
    grouped
}

impl Yardstick {
    const fn large(cpu: i64, memory: i64, weight: f64) -> Self {
        Self { cpu, memory, slot: false, weight }
    }

    const fn small(cpu: i64, memory: i64, weight: f64) -> Self {
        Self { cpu, memory, slot: true, weight }
    }
}

impl Table {
    fn of<'a>(rooms: impl Iterator<Item = &'a (Resources, u32)> + Clone) -> Self {
        let mut names: Vec<String> = rooms.clone().flat_map(|(free, _)| free.0.keys().cloned()).collect();
        names.sort();
        names.dedup();
        let mut table = Self { names, amounts: Vec::new(), counts: Vec::new(), yardsticks: Vec::new() };
        for (free, count) in rooms {
            table.amounts.extend(table.names.iter().map(|name| free.get(name)));
            table.counts.push(*count);
        }
        for (asked, weight) in table.proportions() {
            let on = |row: usize| fits(table.row(row), &asked) * f64::from(table.counts[row]);
            let all: f64 = (0..table.counts.len()).map(on).sum();
            if all > 0.0 {
                table.yardsticks.push((asked, weight / all));
            }
        }
        table
    }

    /// The yardsticks with their weights, and for each further resource pods of that alone and beside a share of the
    /// machine.
    fn proportions(&self) -> Vec<(Vec<(usize, f64)>, f64)> {
        let column = |name: &str| self.names.iter().position(|known| known == name);
        let ask = |amounts: &[(&str, i64)]| -> Vec<(usize, f64)> {
            let asked = amounts.iter().filter(|(_, amount)| *amount > 0);
            asked.filter_map(|&(name, amount)| Some((column(name)?, amount as f64))).collect()
        };
        let own = |of: &Yardstick| (ask(&[(CPU, of.cpu), (MEMORY, of.memory), (PODS, i64::from(of.slot))]), of.weight);
        let mut proportions: Vec<_> = YARDSTICKS.iter().map(own).collect();
        for name in self.names.iter().filter(|name| ![CPU, MEMORY, PODS].contains(&name.as_str())) {
            proportions.push((ask(&[(name, 1)]), FURTHER));
            proportions.push((ask(&[(name, 1), (CPU, 4000), (MEMORY, 32 * GIB)]), FURTHER));
        }
        proportions.retain(|(asked, _)| !asked.is_empty());
        proportions
    }

    fn row(&self, row: usize) -> &[i64] {
        &self.amounts[row * self.names.len()..(row + 1) * self.names.len()]
    }

    /// What the yardsticks make of `nodes` nodes with this much each.
    fn worth(&self, least: &[i64], nodes: f64) -> f64 {
        self.yardsticks.iter().map(|(asked, part)| fits(least, asked) * nodes * part).sum()
    }

    fn least(&self, rows: &[usize]) -> (Resources, u32) {
        let mut least = vec![i64::MAX; self.names.len()];
        rows.iter().for_each(|&row| lower(&mut least, self.row(row)));
        let amounts = self.names.iter().cloned().zip(least).filter(|&(_, amount)| amount > 0);
        (Resources(amounts.collect()), rows.iter().map(|&row| self.counts[row]).sum())
    }
}

impl Group {
    fn new(table: &Table, kind: usize, mut rows: Vec<usize>) -> Self {
        let mut best: Option<Cut> = None;
        for column in 0..table.names.len() {
            rows.sort_unstable_by_key(|&row| (table.row(row)[column], row));
            let cut = Cut::best(table, &rows, column);
            best = match (best, cut) {
                (Some(known), Some(cut)) if cut.gain <= known.gain => Some(known),
                (known, cut) => cut.or(known),
            };
        }
        Self { kind, rows, best }
    }
}

impl Cut {
    /// `rows` are in order of what they have in `column`.
    fn best(table: &Table, rows: &[usize], column: usize) -> Option<Self> {
        let amount = |at: usize| table.row(rows[at])[column];
        if rows.len() < 2 || amount(0) == amount(rows.len() - 1) {
            return None;
        }
        let width = table.names.len();
        // The least of this row and all after it, row by row.
        let mut above = vec![i64::MAX; width * (rows.len() + 1)];
        for at in (0..rows.len()).rev() {
            let (here, after) = above[at * width..].split_at_mut(width);
            here.copy_from_slice(&after[..width]);
            lower(here, table.row(rows[at]));
        }
        let all: f64 = rows.iter().map(|&row| f64::from(table.counts[row])).sum();
        let whole = table.worth(&above[..width], all);
        let (mut below, mut nodes) = (vec![i64::MAX; width], 0.0);
        let mut best: Option<Self> = None;
        for at in 1..rows.len() {
            lower(&mut below, table.row(rows[at - 1]));
            nodes += f64::from(table.counts[rows[at - 1]]);
            if amount(at) == amount(at - 1) {
                continue;
            }
            let rest = table.worth(&above[at * width..(at + 1) * width], all - nodes);
            let gain = table.worth(&below, nodes) + rest - whole;
            if gain > best.map_or(0.0, |best| best.gain) {
                best = Some(Self { column, amount: amount(at), gain });
            }
        }
        best
    }
}

/// How often a yardstick fits, parts of it included.
fn fits(amounts: &[i64], asked: &[(usize, f64)]) -> f64 {
    asked.iter().map(|&(column, amount)| amounts[column] as f64 / amount).fold(f64::INFINITY, f64::min)
}

fn lower(least: &mut [i64], amounts: &[i64]) {
    least.iter_mut().zip(amounts).for_each(|(least, amount)| *least = (*least).min(*amount));
}
