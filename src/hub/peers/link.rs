//! The way to one other replica: a bounded queue of messages, a connection for them, and another for calls, so that a
//! large snapshot does not hold up a heartbeat.
//!
//! Owns: connecting, and connecting again soon enough that a leader's loss is healed within half a second. Must never:
//! wait where consensus calls, or say that a call was not made of which something has left.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};

use super::{
    Local, Report, calls, convert,
    dial::{self, dial},
    limits,
    proto::{self, peers_client::PeersClient},
    tls::Tls,
};
use crate::store::{
    Entry, Key, Outcome, Revision,
    raft::{Chunk, Message, Refusal, ReplicaId, SnapshotId},
};

const RETRY_MS_MIN: u64 = 20;
/// With the jitter, 200 ms.
const RETRY_MS_MAX: u64 = 150;
const JITTER_MS: u64 = 50;

pub struct Link {
    pub id: ReplicaId,
    pub address: String,
    /// Where the other one can reach this replica.
    here: String,
    pub stop: CancellationToken,
    tls: Arc<Tls>,
    queue: Arc<Queue>,
    calls: tokio::sync::Mutex<Calls>,
}

/// The connection for calls. Those that wait for it while it cannot be made share the answer.
#[derive(Default)]
struct Calls {
    channel: Option<Channel>,
    failed: Option<(Instant, String)>,
}

impl Link {
    pub fn new(id: ReplicaId, address: String, here: String, tls: Arc<Tls>, stop: CancellationToken) -> Self {
        Self { id, address, here, stop, tls, queue: Arc::default(), calls: tokio::sync::Mutex::default() }
    }

    pub fn send(&self, message: Message) {
        if let Some(message) = convert::encode(message) {
            self.queue.push(message);
        }
    }

    /// Keeps the stream of messages up until the link is stopped.
    pub async fn run(self: Arc<Self>, local: Option<Weak<dyn Local>>) {
        let (mut said, mut retry_ms) = (String::new(), RETRY_MS_MIN);
        while !self.stop.is_cancelled() {
            let began = Instant::now();
            let why = tokio::select! {
                why = self.stream(&mut said) => why,
                () = self.stop.cancelled() => return,
            };
            if why != said {
                tracing::warn!(replica = self.id, address = self.address, why, "no connection to a replica");
                said = why;
            }
            self.queue.clear();
            if let Some(local) = local.as_ref().and_then(Weak::upgrade) {
                local.unreachable(self.id);
            }
            // A connection that held for a while was good: the next one is tried at once.
            retry_ms = if began.elapsed() > Duration::from_secs(1) { RETRY_MS_MIN } else { retry_ms * 2 };
            retry_ms = retry_ms.min(RETRY_MS_MAX);
            tokio::time::sleep(Duration::from_millis(retry_ms + jitter_ms())).await;
        }
    }

    /// One connection, from dialling to its end, and why it ended.
    async fn stream(&self, said: &mut String) -> String {
        let mut client = match self.connect().await {
            Ok(channel) => PeersClient::new(channel),
            Err(why) => return why,
        };
        let queue = self.queue.clone();
        let first = Arc::new(Notify::new());
        let sent = first.clone();
        let hello = proto::Batch { address: self.here.clone(), messages: vec![] };
        let batches = futures::stream::unfold(queue, move |queue| {
            let sent = sent.clone();
            async move {
                let batch = queue.next().await;
                sent.notify_one();
                Some((batch, queue))
            }
        });
        let batches = futures::stream::once(std::future::ready(hello)).chain(batches);
        let mut ended = std::pin::pin!(client.messages(batches));
        // The other side judges our certificate after the handshake: only what it does then tells whether it is good.
        let stands = async {
            first.notified().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        tokio::select! {
            ended = &mut ended => return why(ended.map(drop)),
            () = stands => {}
        }
        if !said.is_empty() {
            tracing::info!(replica = self.id, address = self.address, "connected to a replica again");
            said.clear();
        }
        why(ended.await.map(drop))
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Result<Channel, String> {
        let config = self.tls.client(self.id).map_err(|error| error.to_string())?;
        dial(&self.address, config).await
    }

    async fn client(&self) -> Result<PeersClient<Channel>, Refusal> {
        let asked = Instant::now();
        let unreachable = |why: &str| Refusal::Unreachable { to: self.id, why: why.to_owned() };
        let mut calls = self.calls.lock().await;
        let channel = match (&calls.channel, &calls.failed) {
            (Some(channel), _) => channel.clone(),
            (None, Some((at, why))) if *at >= asked => return Err(unreachable(why)),
            (None, _) => match self.connect().await {
                Ok(channel) => calls.channel.insert(channel).clone(),
                Err(why) => {
                    let refusal = unreachable(&why);
                    calls.failed = Some((Instant::now(), why));
                    return Err(refusal);
                }
            },
        };
        Ok(PeersClient::new(channel)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX))
    }

    /// A call, from dialling to its answer. The inner error says what became of it after something may have left.
    async fn call<R>(
        &self,
        call: impl AsyncFnOnce(PeersClient<Channel>) -> Result<tonic::Response<R>, Status>,
    ) -> Result<Result<R, Status>, Refusal> {
        let client = self.client().await?;
        let answer = tokio::time::timeout(limits::PEER_CALL_TIMEOUT, call(client)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        if let Err(status) = &answer {
            let unsent = dial::is_unsent(status);
            if unsent || dial::is_disconnect(status) {
                self.calls.lock().await.channel = None;
            }
            if unsent {
                return Err(Refusal::Unreachable { to: self.id, why: dial::words(status) });
            }
        }
        Ok(answer.map(tonic::Response::into_inner))
    }

    /// Has the other replica commit a command, and waits no longer than until `over`.
    pub async fn commit(&self, command: Bytes, over: impl Future<Output = ()>) -> Result<Outcome, Refusal> {
        let request = proto::CommitRequest { command };
        let left = AtomicBool::new(false);
        let call = self.call(async |mut client| {
            left.store(true, Ordering::Relaxed);
            client.commit(request).await
        });
        let answer = tokio::select! {
            answer = call => answer?,
            () = over => Err(Status::aborted("another replica leads by now")),
        };
        match answer {
            Ok(reply) => calls::decode_commit(reply),
            Err(status) if left.into_inner() => {
                tracing::debug!(replica = self.id, %status, "the answer to a command was lost");
                Ok(Outcome::Unknown)
            }
            Err(status) => Err(Refusal::Unreachable { to: self.id, why: status.message().to_owned() }),
        }
    }

    /// A linearizable read.
    pub async fn read(&self, key: &Key) -> Result<(Option<Entry>, Revision), Refusal> {
        let request = proto::ReadRequest { key: key.as_str().to_owned() };
        let reply = self.call(async |mut client| client.read(request).await).await?.map_err(self.failed())?;
        if let Some(refusal) = reply.refusal {
            return Err(calls::decode_refusal(refusal).unwrap_or_else(self.failed()));
        }
        let row = reply.row.map(calls::decode_row).transpose().map_err(self.failed())?;
        Ok((row, reply.revision))
    }

    pub async fn fetch(&self, snapshot: &SnapshotId, after: Option<&Key>) -> Result<Chunk, Refusal> {
        let request = proto::FetchRequest {
            snapshot: Some(calls::encode_snapshot_id(snapshot)),
            after: after.map(|key| key.as_str().to_owned()),
        };
        let reply = self.call(async |mut client| client.fetch(request).await).await?.map_err(self.failed())?;
        calls::decode_fetch(reply).map_err(self.failed())?
    }

    pub async fn status(&self) -> Result<Report, Refusal> {
        let request = proto::StatusRequest {};
        let reply = self.call(async |mut client| client.status(request).await).await?.map_err(self.failed())?;
        let report = calls::decode_report(reply).map_err(self.failed())?;
        match report.status.id == self.id {
            true => Ok(report),
            false => Err(Refusal::Unreachable { to: self.id, why: "another replica answered".into() }),
        }
    }

    /// For calls that change nothing: whatever became of them, they can be made again.
    fn failed<E: std::error::Error + 'static>(&self) -> impl Fn(E) -> Refusal + use<'_, E> {
        |error| Refusal::Unreachable { to: self.id, why: dial::words(&error) }
    }
}

fn why(ended: Result<(), Status>) -> String {
    match ended {
        Ok(()) => "it closed the connection".into(),
        Err(status) if dial::is_disconnect(&status) || status.message().is_empty() => dial::words(&status),
        Err(status) => status.message().to_owned(),
    }
}

fn jitter_ms() -> u64 {
    u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * JITTER_MS / 255
}

/// Messages that wait to be sent: full, it forgets the oldest.
#[derive(Default)]
struct Queue {
    waiting: Mutex<(VecDeque<(usize, proto::Message)>, usize)>,
    filled: Notify,
}

impl Queue {
    fn push(&self, message: proto::Message) {
        let size = message.encoded_len();
        // The other side would refuse it and the connection with it.
        if size + limits::PEER_CONTEXT_BYTES_MAX > limits::PEER_MESSAGE_BYTES_MAX {
            return tracing::error!(size, "a message is larger than replicas take: it is not sent");
        }
        let mut waiting = self.waiting.lock();
        let (messages, bytes) = &mut *waiting;
        messages.push_back((size, message));
        *bytes += size;
        while *bytes > limits::PEER_QUEUE_BYTES_MAX || messages.len() > limits::PEER_QUEUE_MESSAGES_MAX {
            *bytes -= messages.pop_front().map_or(0, |(size, _)| size);
        }
        drop(waiting);
        self.filled.notify_one();
    }

    fn clear(&self) {
        *self.waiting.lock() = (VecDeque::new(), 0);
    }

    /// All that waits, up to the size of a batch; at least one message.
    async fn next(&self) -> proto::Batch {
        loop {
            let filled = self.filled.notified();
            if let Some(batch) = self.take() {
                return batch;
            }
            filled.await;
        }
    }

    fn take(&self) -> Option<proto::Batch> {
        let mut waiting = self.waiting.lock();
        let (queue, bytes) = &mut *waiting;
        let (mut messages, mut taken) = (Vec::new(), 0);
        while let Some((size, _)) = queue.front()
            && (messages.is_empty() || taken + size <= limits::PEER_BATCH_BYTES)
            && let Some((size, message)) = queue.pop_front()
        {
            taken += size;
            messages.push(message);
        }
        *bytes -= taken;
        (!messages.is_empty()).then(|| proto::Batch { messages, ..proto::Batch::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(from: u64, bytes: usize) -> proto::Message {
        let raft = proto::Raft { context: vec![0; bytes].into(), ..proto::Raft::default() };
        proto::Message { from, to: 1, body: Some(proto::message::Body::Raft(raft)) }
    }

    fn senders(batch: Option<proto::Batch>) -> Vec<u64> {
        batch.map(|batch| batch.messages.iter().map(|message| message.from).collect()).unwrap_or_default()
    }

    #[test]
    fn a_full_queue_forgets_the_oldest() {
        let queue = Queue::default();
        (0..limits::PEER_QUEUE_MESSAGES_MAX as u64 + 3).for_each(|from| queue.push(message(from, 0)));
        assert_eq!(senders(queue.take()).first(), Some(&3));
        let large = limits::PEER_QUEUE_BYTES_MAX / 4;
        (0..6).for_each(|from| queue.push(message(from, large)));
        assert!(queue.take().is_none(), "each is larger than replicas take");
        let large = limits::PEER_QUEUE_BYTES_MAX / 5;
        (0..6).for_each(|from| queue.push(message(from, large)));
        let all: Vec<u64> = std::iter::from_fn(|| queue.take()).flat_map(|batch| senders(Some(batch))).collect();
        assert_eq!(all, [2, 3, 4, 5]);
        assert_eq!(queue.waiting.lock().1, 0);
    }

    #[test]
    fn a_batch_is_what_waits_up_to_its_size() {
        let queue = Queue::default();
        for (from, bytes) in [(1, 10), (2, 10), (3, limits::PEER_BATCH_BYTES), (4, 10)] {
            queue.push(message(from, bytes));
        }
        assert_eq!(senders(queue.take()), [1, 2]);
        assert_eq!(senders(queue.take()), [3], "larger than a batch, but not than a message");
        assert_eq!(senders(queue.take()), [4]);
        assert!(queue.take().is_none());
    }
}
