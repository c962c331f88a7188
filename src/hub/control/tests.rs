//! The controller against the store's own state machine and agents of a few lines.

mod binding;
mod drain;
mod inquiries;
mod neighbours;
mod preempting;
mod priorities;
mod profiles;
mod proportion;
mod rebalancing;
mod reserved;
mod rules;
mod spreading;
mod stories;
mod world;
