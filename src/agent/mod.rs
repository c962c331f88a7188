//! The agent: acts in one member cluster, on its own slice only.
//!
//! [`run`] is the shell: it carries out what [`core::Core`] asks for on the ports [`cluster::Cluster`],
//! [`ledger::Ledger`] and [`Link`], and decides nothing itself.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model::protocol::{ToAgent, ToHub};

pub mod capacity;
pub mod check;
pub mod cluster;
pub mod core;
pub mod deploy;
pub mod dial;
pub mod identity;
pub mod join;
pub mod lease;
pub mod ledger;
pub mod link;
pub mod secrets;
mod shell;

/// The agent's end of the connection to the hub: a task that connects, authenticates, renews its certificate and
/// connects again, with pauses that grow. It ends when this end is dropped.
#[derive(Debug)]
pub struct Link {
    pub events: mpsc::Receiver<LinkEvent>,
}

#[derive(Debug)]
pub enum LinkEvent {
    /// A stream stands. Messages for it go into this sender; the first will be the `Hello`. Dropping the sender gives
    /// the stream up.
    Opened(mpsc::Sender<ToHub>),
    /// Also the first, [`ToAgent::Welcome`] or [`ToAgent::Refuse`].
    Message(ToAgent),
    /// The stream is gone, in words; another attempt follows by itself.
    Closed(String),
}

/// Runs until `stop`, with or without a hub at the other end of `link`.
pub async fn run(
    config: core::Config,
    cluster: Arc<dyn cluster::Cluster>,
    ledger: Box<dyn ledger::Ledger>,
    link: Link,
    stop: CancellationToken,
) -> Result<(), ledger::Error> {
    shell::run(config, cluster, ledger, link, stop).await
}
