//! Questions to the leader about what it would decide, from whichever replica a client asks.
//!
//! Must never: answer from anything but the leader's own rooms; where nobody leads, that is the answer.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;
use tonic::{Code, Status};

use super::{Doors, Reception, service};
use crate::{
    store::raft::{Leadership, ReplicaId},
    wire::Question,
};

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    #[error("the leader has not seen what was written last")]
    Behind,
    #[error("too much is asked at once")]
    Busy,
    #[error("nobody can answer: {0}")]
    Unavailable(String),
    #[error("{0}")]
    Refused(String),
}

/// The way to whoever leads; cheap to clone.
#[derive(Clone)]
pub struct Questions {
    pub replica: ReplicaId,
    pub leadership: watch::Receiver<Leadership>,
    /// Of this replica, for when it leads.
    pub reception: Reception,
    /// Absent where there is one replica.
    pub doors: Option<Arc<dyn Doors>>,
}

impl Questions {
    pub async fn ask(&self, question: Question) -> Result<Value, Unanswered> {
        let leader = self.leadership.borrow().leader;
        let leader = leader.ok_or_else(|| Unanswered::Unavailable("no replica leads".into()))?;
        if leader == self.replica {
            return self.reception.ask(question).await;
        }
        let nowhere = || Unanswered::Unavailable(format!("there is no way to replica {leader}"));
        let channel = self.doors.as_ref().ok_or_else(nowhere)?.channel(leader).await;
        service::ask(channel.map_err(Unanswered::Unavailable)?, &question).await
    }
}

impl From<Unanswered> for Status {
    fn from(value: Unanswered) -> Self {
        match value {
            Unanswered::Behind => Self::failed_precondition(value.to_string()),
            Unanswered::Busy => Self::resource_exhausted(value.to_string()),
            Unanswered::Unavailable(why) => Self::unavailable(why),
            Unanswered::Refused(why) => Self::invalid_argument(why),
        }
    }
}

impl From<Status> for Unanswered {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::FailedPrecondition => Self::Behind,
            Code::ResourceExhausted => Self::Busy,
            Code::InvalidArgument => Self::Refused(status.message().to_owned()),
            _ => Self::Unavailable(status.message().to_owned()),
        }
    }
}
