//! Bugs planted on purpose: what the checks are worth is shown by what they find.
//!
//! Each changes what the shell around a core does, as a faulty shell, disk or client would.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// The ballot is written but not synced.
    BallotUnsynced,
    /// Whom it voted for is forgotten over a restart.
    BallotForgotten,
    /// What follows a ballot leaves before the ballot is on disk.
    VoteBeforeBallot,
    /// The log is said to be durable before it is synced.
    AppendBeforeSync,
    /// A sync is taken to cover what was written after it began.
    SyncCountsLater,
    /// The last entry of the log is dropped when the disk is opened.
    TailDropped,
    /// What the log held after the entries that replace its end stays.
    TruncationIgnored,
    /// The checkpoint is durable before the rows that belong to it.
    CheckpointApart,
    /// The checkpoint says one entry less than is in its rows, which is then applied again.
    CheckpointOneBehind,
    /// An installed snapshot leaves the old log in place.
    InstallKeepsLog,
    /// The first row of a snapshot does not reach the disk.
    InstallLacksRow,
    /// Changes of members in the log are forgotten over a restart.
    MembersForgotten,
    /// A replica that lost its disk comes back under its old id.
    OldIdReused,
    /// A forwarded write is proposed twice.
    ForwardedTwice,
    /// A forwarded write whose answer is late is sent again.
    ForwardedAgain,
    /// A write whose answer was lost counts as done.
    UnknownIsCommitted,
    /// A write whose answer was lost counts as not done.
    UnknownIsRefused,
    /// A conflict is answered as a success.
    ConflictIsCommitted,
    /// Two answers of one batch are mixed up.
    AnswersSwapped,
    /// A replica reads what it has, without asking the group.
    StaleRead,
    /// The state is looked at before the group has answered.
    ReadEarly,
    /// Reads trust a lease though clocks drift.
    LeaseUnderDrift,
    /// A watch that moves to another replica goes on where that one is.
    WatchSkips,
    /// A watch that moves gets its last transaction again.
    WatchRepeats,
    /// A watch that comes after compaction goes on without a word.
    CompactionUntold,
    /// The last row of a snapshot is never sent.
    SnapshotLacksRow,
    /// Hashes of the state are not compared.
    HashesIgnored,
}

impl Plant {
    /// Each with the number of seeds within which it must be found.
    pub const ALL: [(Self, u64); 27] = [
        (Self::BallotUnsynced, 500),
        (Self::BallotForgotten, 2_000),
        (Self::VoteBeforeBallot, 500),
        (Self::AppendBeforeSync, 500),
        (Self::SyncCountsLater, 500),
        (Self::TailDropped, 500),
        (Self::TruncationIgnored, 10_000),
        (Self::CheckpointApart, 500),
        (Self::CheckpointOneBehind, 500),
        (Self::InstallKeepsLog, 500),
        (Self::InstallLacksRow, 500),
        (Self::MembersForgotten, 500),
        (Self::OldIdReused, 500),
        (Self::ForwardedTwice, 500),
        (Self::ForwardedAgain, 500),
        (Self::UnknownIsCommitted, 500),
        (Self::UnknownIsRefused, 500),
        (Self::ConflictIsCommitted, 500),
        (Self::AnswersSwapped, 500),
        (Self::StaleRead, 500),
        (Self::ReadEarly, 500),
        (Self::LeaseUnderDrift, 10_000),
        (Self::WatchSkips, 500),
        (Self::WatchRepeats, 500),
        (Self::CompactionUntold, 500),
        (Self::SnapshotLacksRow, 500),
        (Self::HashesIgnored, 500),
    ];
}
