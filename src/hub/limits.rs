//! Every limit of the hub. What exceeds one is refused in words, never cut short silently.

use std::time::Duration;

use crate::wire::limits::SILENCE_MS_MAX;

/// One object as it is stored; the store takes no more in one transaction.
pub const OBJECT_BYTES_MAX: usize = 1 << 20;
/// One request body.
pub const BODY_BYTES_MAX: usize = 3 << 20;
/// One gRPC message; larger blobs travel in chunks.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// How deeply arrays and objects of a request body may be nested.
pub const DEPTH_MAX: usize = 128;
/// Operations of one JSON patch.
pub const PATCH_OPERATIONS_MAX: usize = 10_000;
/// Faults named one by one in an answer; the rest is counted.
pub const FAULTS_MAX: usize = 100;
/// How often a patch is tried again on fresher state before the client is told to.
pub const PATCH_ATTEMPTS_MAX: usize = 16;
/// How often another random name is drawn for a `generateName` that is taken.
pub const NAME_ATTEMPTS_MAX: usize = 8;

pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// A whole body must have arrived by then.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A request other than a watch is answered by then.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long requests under way may take to finish once the hub is told to stop.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Silence of this length makes a cluster Unknown. It is the silence after which a stream counts as dead, and longer than an
/// agent needs to be back: the last beat may be 5 s old when its machine loses power; the new process has to wait 11 s
/// for the old one's silence before it may act; and an agent whose network failed gives its stream up after 15 s.
/// Shorter, and every such mishap would be written into the status of the cluster and of all that runs there, twice.
pub const CLUSTER_GRACE: Duration = Duration::from_millis(SILENCE_MS_MAX);

pub const CONNECTIONS_MAX: usize = 8192;
pub const STREAMS_PER_CONNECTION_MAX: u32 = 256;

/// Requests under way at once, by lane: overload of one does not starve the other. More are answered 429.
pub const PEOPLE_REQUESTS_MAX: usize = 400;
/// Anonymous requests: health, joining.
pub const ANONYMOUS_REQUESTS_MAX: usize = 50;
pub const WATCHES_MAX: usize = 4096;
/// Explanations, plans and drills that the leader works on at once, beside deciding.
pub const INQUIRIES_MAX: usize = 2;
/// Seconds a refused client is told to wait.
pub const RETRY_AFTER_SECONDS: u64 = 1;

/// How often a quiet watch that asked for bookmarks gets one.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);
/// How long a request may wait for this replica to have seen what its client has seen at another.
pub const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);
pub const CATCH_UP_POLL: Duration = Duration::from_millis(20);
/// Watches without `timeoutSeconds` end after this.
pub const WATCH_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// One audit file; the one before is kept.
pub const AUDIT_BYTES_MAX: u64 = 64 << 20;

/// One message between replicas: an append may carry an entry of the largest command beside others.
pub const PEER_MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Messages that wait for a replica are sent together up to this size.
pub const PEER_BATCH_BYTES: usize = 1 << 20;
/// What may wait for one replica; beyond it the oldest go, and consensus sends them again.
pub const PEER_QUEUE_BYTES_MAX: usize = 32 << 20;
pub const PEER_QUEUE_MESSAGES_MAX: usize = 4096;
/// One encoded command: a transaction with its compares.
pub const COMMAND_BYTES_MAX: usize = 2 << 20;
/// What replicas call small: what a read is known by, what a snapshot is.
pub const PEER_CONTEXT_BYTES_MAX: usize = 4 << 10;
pub const PEER_ENTRIES_MAX: usize = 100_000;
/// Replicas in one group. More than 5 only slow each other down.
pub const MEMBERS_MAX: usize = 16;
/// From dialling a replica to the end of the handshake.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub const PEER_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
pub const PEER_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// One call from replica to replica.
pub const PEER_CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls under way on one connection: each write that is forwarded is one.
pub const PEER_STREAMS_MAX: u32 = 8192;
