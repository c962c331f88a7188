//! What the consensus library tells, in the log of the process.

use std::fmt::Write as _;

/// A logger for the library that hands on to `tracing`.
pub(super) fn logger() -> slog::Logger {
    slog::Logger::root(ToTracing, slog::o!())
}

struct ToTracing;

impl slog::Drain for ToTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, _values: &slog::OwnedKVList) -> Result<(), slog::Never> {
        let message = record.msg();
        // Its "info" is every vote and every message out of turn: what it means is told by `Effect::Lead`.
        match record.level() {
            slog::Level::Critical | slog::Level::Error => tracing::error!(target: "raft", "{message}{}", pairs(record)),
            slog::Level::Warning => tracing::debug!(target: "raft", "{message}{}", pairs(record)),
            slog::Level::Info | slog::Level::Debug | slog::Level::Trace => tracing::trace!(target: "raft", "{message}"),
        }
        Ok(())
    }
}

fn pairs(record: &slog::Record<'_>) -> String {
    struct Pairs(String);
    impl slog::Serializer for Pairs {
        fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
            let _infallible = write!(self.0, " {key}={value}");
            Ok(())
        }
    }
    let mut pairs = Pairs(String::new());
    let _infallible = slog::KV::serialize(&record.kv(), record, &mut pairs);
    pairs.0
}
