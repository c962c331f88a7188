use std::process::ExitCode;

/// Hub and agents allocate much that is small and short-lived on many threads: glibc's allocator costs them a quarter more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hanse::cli::main()
}
