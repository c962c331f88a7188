//! The network between replicas, to be cut: every replica is reached through a proxy of its own, which knows by the dialling
//! process whom a connection is of.
//!
//! A cut says nothing to either side, as a network does not: bytes no longer pass. What was cut ends when it heals, for
//! what was lost in between cannot be made good.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use anyhow::Context;
use parking_lot::Mutex;
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::hub::free_port;

const PIECE: usize = 64 << 10;

/// Who is cut off, and which process is whose.
pub struct Net {
    cut: watch::Sender<Option<usize>>,
    processes: Mutex<BTreeMap<usize, u32>>,
}

impl Net {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { cut: watch::Sender::new(None), processes: Mutex::default() })
    }

    pub fn name(&self, replica: usize, pid: u32) {
        self.processes.lock().insert(replica, pid);
    }

    /// From now on nothing reaches this replica, and nothing comes from it.
    pub fn cut(&self, replica: usize) {
        self.cut.send_replace(Some(replica));
    }

    pub fn heal(&self) {
        self.cut.send_replace(None);
    }

    /// The replica whose process has the socket bound to this address.
    fn dialler(&self, address: SocketAddr) -> Option<usize> {
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        let socket = format!("socket:[{}]", inode(&table, address.port())?);
        let processes = self.processes.lock().clone();
        processes.into_iter().find(|(_, pid)| has_open(*pid, &socket)).map(|(replica, _)| replica)
    }
}

/// Of the socket at this local port, which is dialling or connected; a line of proc(5) has the inode in its tenth field.
fn inode(table: &str, port: u16) -> Option<&str> {
    let wanted = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1)?.ends_with(&wanted) && fields.get(3)? != &"0A").then(|| fields.get(9).copied())?
    })
}

fn has_open(pid: u32, socket: &str) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket))
}

/// The way to one replica.
pub struct Proxy;

impl Proxy {
    /// Opens the way to the replica at `to`, for as long as this process lives, and says where it begins.
    pub async fn open(net: Arc<Net>, replica: usize, to: String) -> anyhow::Result<String> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let listener = TcpListener::bind(&address).await.with_context(|| format!("cannot listen on {address}"))?;
        tokio::spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                let dialler = net.dialler(from);
                let cut = net.cut.subscribe();
                tokio::spawn(pass(stream, to.clone(), [Some(replica), dialler], cut));
            }
        });
        Ok(address)
    }
}

/// Passes bytes both ways until an end closes, or a cut that touched this connection has healed.
async fn pass(mut from: TcpStream, to: String, ends: [Option<usize>; 2], mut cut: watch::Receiver<Option<usize>>) {
    let touched = |cut: &Option<usize>| cut.is_some() && ends.contains(cut);
    let Ok(mut to) = TcpStream::connect(&to).await else { return };
    // Without it small messages would wait for one another.
    let _best_effort = (from.set_nodelay(true), to.set_nodelay(true));
    tokio::select! {
        biased;
        _ = cut.wait_for(touched) => {}
        _ = copy_bidirectional_with_sizes(&mut from, &mut to, PIECE, PIECE) => return,
    }
    // Both ends stay open, and hear nothing.
    let _ended = cut.wait_for(Option::is_none).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn nothing_passes_a_cut_and_what_was_cut_ends_when_it_heals() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let to = server.local_addr().expect("its address").to_string();
        let net = Net::new();
        // The dialling process is this one.
        net.name(0, std::process::id());
        let address = Proxy::open(net.clone(), 1, to).await.expect("a proxy");
        let mut client = TcpStream::connect(&address).await.expect("a connection");
        let (mut accepted, _) = server.accept().await.expect("the other end");
        let mut byte = [0];
        client.write_all(&[1]).await.expect("written");
        accepted.read_exact(&mut byte).await.expect("it passes");

        net.cut(0);
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.write_all(&[2]).await.expect("a cut says nothing");
        let heard = tokio::time::timeout(Duration::from_millis(100), accepted.read(&mut byte)).await;
        assert!(heard.is_err(), "{heard:?}");

        net.heal();
        let ended = tokio::time::timeout(Duration::from_secs(5), accepted.read(&mut byte)).await.expect("it ends");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }

    #[test]
    fn a_socket_is_found_by_the_port_that_it_dialled_from() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
               0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1\n\
               1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 22 1\n";
        assert_eq!(inode(table, 0x1f91), Some("22"));
        assert_eq!(inode(table, 0x1f90), None, "that one listens");
    }
}
