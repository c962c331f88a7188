//! Decisions as tables: what `explain`, `plan` and `drill` print for people.

use std::process::ExitCode;

use comfy_table::{Table, presets};

use crate::flow::schedule::{
    Hint,
    account::{Account, Chosen, Leaving, Refused},
    drill::{Affected, Drill},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Json,
    Table,
}

/// 1 where something is not placed.
pub fn code(placed: bool) -> ExitCode {
    if placed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One line for every cluster that was asked, yes or no.
pub fn account(told: &Account) -> String {
    let mut table = lines(["COMPONENT", "CLUSTER", "REPLICAS", "WHY"]);
    let mut notes = Vec::new();
    for component in &told.components {
        for chosen in &component.clusters {
            table.add_row([&component.name, &chosen.cluster, &share(chosen), &chosen.reason]);
        }
        for refused in &component.refusals {
            table.add_row([&component.name, &refused.cluster, &loss(refused), &why_not(refused)]);
        }
        let moves = match component.moves {
            0 => String::new(),
            moves => format!(", {moves} move"),
        };
        let sum = component.sum.as_ref();
        notes.extend(sum.map(|sum| format!("{}: {sum} ({}{moves})", component.name, component.mode)));
    }
    notes.extend(told.unplaced.iter().map(|(component, what)| format!("{component}: not placed: {what}")));
    notes.extend(told.victims.iter().map(leaving));
    notes.extend(told.hints.iter().map(hint));
    notes.extend(told.revision.map(|revision| match told.settled {
        true => format!("as of revision {revision}; nothing would change"),
        false => format!("as of revision {revision}"),
    }));
    format!("{table}\n\n{}", notes.join("\n"))
}

fn share(chosen: &Chosen) -> String {
    let count = |replicas: Option<u32>| replicas.map_or_else(|| "all".to_owned(), |count| count.to_string());
    match (chosen.is_new, chosen.from == chosen.replicas) {
        (true, _) | (false, true) => count(chosen.replicas),
        (false, false) => format!("{} → {}", count(chosen.from), count(chosen.replicas)),
    }
}

fn loss(refused: &Refused) -> String {
    match (refused.leaves, refused.from) {
        (false, _) => "-".to_owned(),
        (true, Some(from)) => format!("{from} → -"),
        (true, None) => "all → -".to_owned(),
    }
}

fn why_not(refused: &Refused) -> String {
    match refused.lacks.as_str() {
        "" => format!("{}: {}", refused.reason, refused.message),
        lacks => format!("{}: {}; {lacks} is lacking for one more", refused.reason, refused.message),
    }
}

fn leaving(known: &Leaving) -> String {
    let Leaving { namespace, application, component, cluster, from, to } = known;
    let count = from.map(|_| format!(" {}", share_of(*from, *to))).unwrap_or_default();
    format!("to make room in {cluster}: {component} of {namespace}/{application}{count}")
}

fn hint(hint: &Hint) -> String {
    format!("hint: {}", hint.message)
}

/// A line for every component that a rebalance would move.
pub fn rebalances(told: &[Account]) -> String {
    let mut table = lines(["NAMESPACE", "APPLICATION", "COMPONENT", "MOVES", "CHANGES"]);
    let (mut replicas, mut stay) = (0, 0);
    for account in told {
        stay += usize::from(account.settled);
        for component in account.components.iter().filter(|component| component.moves > 0) {
            replicas += component.moves;
            let changed = component.clusters.iter().filter(|chosen| chosen.from != chosen.replicas);
            let risen = changed.map(|chosen| format!("{}: {}", chosen.cluster, share_of(chosen.from, chosen.replicas)));
            let left = component.refusals.iter().filter(|refused| refused.leaves);
            let left = left.map(|refused| format!("{}: {}", refused.cluster, share_of(refused.from, Some(0))));
            let changes = risen.chain(left).collect::<Vec<_>>().join(", ");
            let moves = component.moves.to_string();
            table.add_row([&account.namespace, &account.application, &component.name, &moves, &changes]);
        }
    }
    let told = format!(
        "{replicas} replicas of {} applications would move, {stay} stay as they are",
        told.len().saturating_sub(stay)
    );
    if replicas == 0 { told } else { format!("{table}\n\n{told}") }
}

fn share_of(from: Option<u32>, to: Option<u32>) -> String {
    format!("{} → {}", from.unwrap_or(0), to.unwrap_or(0))
}

/// A line for every component that has a part in what is lost.
pub fn drill(told: &Drill) -> String {
    let mut table = lines(["NAMESPACE", "APPLICATION", "COMPONENT", "LOST", "NOT PLACED", "CHANGES", "WHY"]);
    let mut notes = Vec::new();
    for application in &told.applications {
        let Affected { namespace, name, components, hints } = application;
        for component in components {
            let moves = component.changes.iter().map(|to| format!("{}: {} → {}", to.cluster, to.from, to.to));
            let (lost, unplaced) = (component.lost.to_string(), component.unplaced.to_string());
            let changes = moves.collect::<Vec<_>>().join(", ");
            table.add_row([namespace, name, &component.name, &lost, &unplaced, &changes, &component.message]);
        }
        notes.extend(hints.iter().map(|it| format!("{namespace}/{name}: {}", hint(it))));
    }
    let total = &told.total;
    notes.push(format!(
        "lost: {}: {} of {} replicas of {} applications would run elsewhere, {} nowhere; {} healthy ones would move; {} \
         applications would lack something, {} would be down",
        told.lost.join(", "),
        total.replaced,
        total.lost,
        total.applications,
        total.unplaced,
        total.moved,
        total.short,
        total.down
    ));
    notes.extend(told.revision.map(|revision| format!("as of revision {revision}")));
    format!("{table}\n\n{}", notes.join("\n"))
}

fn lines<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}
