//! What lies between the replicas of a hub: each is reached through a door, which can be shut for one of the others.
//!
//! A shut door lets nothing through and tells nobody: bytes stay where they are until it opens again, as packets that are sent
//! again and again. What comes through is told apart by the process at the other end of the connection.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How soon a door notices that it was shut or opened.
const LOOK: Duration = Duration::from_millis(5);

/// The doors of a group, by the place of each replica in it.
#[derive(Clone)]
pub struct Doors(Arc<State>);

struct State {
    /// Nothing passes from the one to the other.
    shut: Mutex<BTreeSet<(usize, usize)>>,
    /// The process of each replica; 0 where none runs.
    processes: Vec<AtomicU32>,
}

impl Doors {
    pub fn new(replicas: usize) -> Doors {
        let processes = (0..replicas).map(|_| AtomicU32::new(0)).collect();
        Doors(Arc::new(State { shut: Mutex::default(), processes }))
    }

    /// From now on this process is the replica's.
    pub fn know(&self, replica: usize, process: u32) {
        self.0.processes[replica].store(process, Ordering::SeqCst);
    }

    /// Nothing passes from any of the first to any of the second.
    pub fn shut(&self, from: &[usize], to: &[usize]) {
        let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
        self.0.shut.lock().expect("nobody panicked").extend(pairs);
    }

    pub fn open_all(&self) {
        self.0.shut.lock().expect("nobody panicked").clear();
    }

    fn is_shut(&self, from: usize, to: usize) -> bool {
        self.0.shut.lock().expect("nobody panicked").contains(&(from, to))
    }

    /// A door to what listens on `inside`, for the replica `to`. Returns the port outside.
    pub fn make(&self, to: usize, inside: u16) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, crate::network::free_port())).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let doors = self.clone();
        thread::spawn(move || {
            for outer in listener.incoming().flatten() {
                let doors = doors.clone();
                thread::spawn(move || doors.pass(to, port, outer, inside));
            }
        });
        port
    }

    fn pass(&self, to: usize, port: u16, outer: TcpStream, inside: u16) {
        // Whoever is gone before it could be recognised needs no door.
        let Some(from) = outer.peer_addr().ok().and_then(|peer| self.who(peer.port(), port)) else { return };
        while self.is_shut(from, to) || self.is_shut(to, from) {
            thread::sleep(LOOK);
        }
        let Ok(inner) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, inside))) else { return };
        let (Ok(outer_too), Ok(inner_too)) = (outer.try_clone(), inner.try_clone()) else { return };
        let doors = self.clone();
        let back = thread::spawn(move || doors.copy(inner_too, outer_too, to, from));
        self.copy(outer, inner, from, to);
        let _ = back.join();
    }

    fn copy(&self, mut source: TcpStream, mut target: TcpStream, from: usize, to: usize) {
        let _ = source.set_read_timeout(Some(Duration::from_millis(100)));
        let _ = target.set_nodelay(true);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(_) => break,
            };
            while self.is_shut(from, to) {
                thread::sleep(LOOK);
            }
            if target.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = source.shutdown(Shutdown::Both);
        let _ = target.shutdown(Shutdown::Both);
    }

    /// Whose connection it is that comes from this port.
    fn who(&self, port: u16, door: u16) -> Option<usize> {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let (local, remote) = (format!(":{port:04X}"), format!(":{door:04X}"));
        let inode = table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_it = fields.get(1)?.ends_with(&local) && fields.get(2)?.ends_with(&remote);
            is_it.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
        })?;
        let holds = |process: u32| {
            let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
            files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|link| link.to_string_lossy() == inode))
        };
        (0..self.0.processes.len()).find(|at| holds(self.0.processes[*at].load(Ordering::SeqCst)))
    }
}
