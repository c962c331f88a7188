//! Compiles `proto/` with protox, so that no `protoc` has to be installed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "hanse/v1/agents.proto",
        "hanse/v1/desk.proto",
        "hanse/v1/joining.proto",
        "hanse/peers/v1/peers.proto",
        "hanse/placement/v1/plugin.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").emit_rerun_if_changed(false).compile_fds(descriptors)?;
    // What `hanse bench` compares with is only ever called.
    let descriptors = protox::compile(["etcd/rpc.proto"], ["proto"])?;
    let etcd = tonic_prost_build::configure().build_server(false).bytes(".");
    etcd.emit_rerun_if_changed(false).compile_fds(descriptors)?;
    Ok(())
}
