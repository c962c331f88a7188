//! Moments at which a test may have the process die.

/// Dies here where the environment asks for it (`FAILPOINTS=NAME=return`, in builds for tests only): at once, without
/// closing or flushing anything. Compiled to nothing otherwise.
pub(super) fn point(name: &str) {
    fail::fail_point!(name, |_| std::process::abort());
    let _not_compiled_in = name;
}
