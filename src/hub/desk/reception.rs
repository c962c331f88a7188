//! Where replicas' streams come in: open while this replica leads, and closed, all at once, when it does no more.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Unanswered, leader::Line};
use crate::{
    store::raft::ReplicaId,
    wire::{FromDesk, Question, ToDesk},
};

/// Messages of all replicas that may wait for control; beyond, the streams are read more slowly.
const WORDS_MAX: usize = 1024;
/// Messages that may wait for one replica. One that lets more wait is cut off, and hears all again on its next stream.
const TELLS_MAX: usize = 1024;

/// What happens on the lines, each with the time it was received, and what is asked beside them.
#[derive(Debug)]
pub enum Word {
    Opened { line: Line, tell: mpsc::Sender<FromDesk> },
    Said { line: Line, at: Instant, said: Box<ToDesk> },
    Closed { line: Line },
    Asked { question: Box<Question>, answer: oneshot::Sender<Result<Value, Unanswered>> },
}

/// A shared handle; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Reception(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    open: Mutex<Option<mpsc::Sender<Word>>>,
    lines: AtomicU64,
}

/// Reception is closed when this is dropped.
#[derive(Debug)]
pub struct Opened {
    reception: Reception,
    pub words: mpsc::Receiver<Word>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        *self.reception.0.open.lock() = None;
    }
}

impl Reception {
    /// By the replica that begins to lead.
    pub fn open(&self) -> Opened {
        let (sender, words) = mpsc::channel(WORDS_MAX);
        *self.0.open.lock() = Some(sender);
        Opened { reception: self.clone(), words }
    }

    /// What this replica, which leads, would decide.
    pub async fn ask(&self, question: Question) -> Result<Value, Unanswered> {
        let elsewhere = || Unanswered::Unavailable("this replica does not lead".into());
        let words = self.0.open.lock().clone().ok_or_else(elsewhere)?;
        let (answer, answered) = oneshot::channel();
        words.send(Word::Asked { question: Box::new(question), answer }).await.map_err(|_| elsewhere())?;
        answered.await.unwrap_or_else(|_| Err(elsewhere()))
    }

    /// Takes in the stream of a replica; `None` where this one does not lead. What is told ends when the stream does, or
    /// the lead.
    pub async fn admit(
        &self,
        replica: ReplicaId,
        mut said: impl Stream<Item = ToDesk> + Send + Unpin + 'static,
    ) -> Option<mpsc::Receiver<FromDesk>> {
        let words = self.0.open.lock().clone()?;
        let line = Line { replica, line: self.0.lines.fetch_add(1, Ordering::Relaxed) };
        let (tell, told) = mpsc::channel(TELLS_MAX);
        let hung_up = tell.clone();
        words.send(Word::Opened { line, tell }).await.ok()?;
        tokio::spawn(async move {
            loop {
                let said = tokio::select! {
                    said = said.next() => said,
                    () = hung_up.closed() => None,
                    () = words.closed() => return,
                };
                let word = match said {
                    Some(said) => Word::Said { line, at: Instant::now(), said: Box::new(said) },
                    None => Word::Closed { line },
                };
                let over = matches!(word, Word::Closed { .. });
                if words.send(word).await.is_err() || over {
                    return;
                }
            }
        });
        Some(told)
    }
}
