//! Every limit of the wire, in one place. Both sides hold them: the hub against a hostile agent, the agent against a
//! hub that is broken, and each against its own mistakes.

/// One message of the stream, encoded. Blobs are chunked to stay far below.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// One chunk of a blob: small, so that works and acks are not held up behind a large one.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;
/// A blob: one object as the API takes it.
pub const BLOB_BYTES_MAX: u64 = 1 << 20;
/// One message of joining, which anybody may send.
pub const JOIN_BYTES_MAX: usize = 64 << 10;

/// A certificate, signing request or signature.
pub const DER_BYTES_MAX: usize = 8 << 10;

pub const LEDGER_LINES_MAX: usize = 20_000;
pub const FETCH_MAX: usize = 10_000;
pub const MANIFESTS_MAX: usize = 5_000;
pub const REMOVALS_MAX: usize = 10_000;
pub const PATCHES_MAX: usize = 1_000;
pub const COMPONENTS_MAX: usize = 1_000;
pub const FEATURES_MAX: usize = 64;
pub const RESOURCES_MAX: usize = 64;
pub const LABELS_MAX: usize = 256;
pub const TAINTS_MAX: usize = 64;
pub const AUTHORITIES_MAX: usize = 16;
/// Addresses of a hub: its replicas, and a name or two in front of them.
pub const URLS_MAX: usize = 16;
/// Agents' streams of one replica.
pub const SESSIONS_MAX: usize = 100_000;
/// Signs of life in one message between replicas.
pub const BEATS_MAX: usize = 20_000;

/// What the leader answers a replica, and the largest thing there is: a reason for each of ten thousand clusters and each
/// component.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Kubernetes' bound on names.
pub const NAME_BYTES_MAX: usize = 253;
/// Uids, features, reasons, versions and the like.
pub const WORD_BYTES_MAX: usize = 253;
/// What people read.
pub const MESSAGE_TEXT_BYTES_MAX: usize = 4 << 10;
/// A JSON pointer, or a label's value with room to spare.
pub const TEXT_BYTES_MAX: usize = 4 << 10;
/// The value of one patch.
pub const PATCH_BYTES_MAX: usize = 256 << 10;

pub const NODES_MAX: u32 = 100_000;
/// Beyond any machine, and far from where sums over a fleet overflow.
pub const AMOUNT_MAX: i64 = 1 << 53;

/// Beats, one in this many milliseconds.
pub const BEAT_INTERVAL_MS: u64 = 5_000;
/// From connecting to the agent's Hello.
pub const HELLO_MS_MAX: u64 = 10_000;
/// Without any message for as long, a stream is dead.
pub const SILENCE_MS_MAX: u64 = 6 * BEAT_INTERVAL_MS;
