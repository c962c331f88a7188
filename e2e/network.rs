//! What tests take of the machine's network: ports, and namespaces for what must be elsewhere.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::run;

/// Below the ports that the kernel hands out to outgoing connections: else one of those could take a
/// port between the choice and its use, or while its server is stopped and about to come back.
const PORT_MIN: u32 = 20_000;
const PORTS: u32 = 10_000;

/// A port of 127.0.0.1 that nobody listens on, and that this run has not given out before.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Runs side by side begin in different places.
    let offset = std::process::id().wrapping_mul(97);
    for _ in 0..PORTS {
        let number = offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let port = u16::try_from(PORT_MIN + number).expect("the range of ports fits");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {PORTS} from {PORT_MIN} is free");
}

/// A network namespace with one link to the host and a loopback of its own.
///
/// Processes in it reach the host at `host`. In the other direction there is only `address`: what
/// listens on the namespace's loopback cannot be reached from outside, as behind a NAT.
pub struct Namespace {
    pub name: String,
    pub host: Ipv4Addr,
    pub address: Ipv4Addr,
    /// The host's end of the link.
    link: String,
}

impl Namespace {
    /// Needs root, and panics in so many words without it.
    #[track_caller]
    pub fn create() -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (host, address) = addresses(number);
        let id = std::process::id();
        // The kernel allows 15 characters for a link.
        let link = format!("e2e{id}-{number}");
        let name = format!("hanse-{link}");

        run::current().record_namespace(&name);
        ip(&["netns", "add", &name]);
        // From here on dropping the value cleans up, should one of the next steps fail.
        let namespace = Namespace { name, host, address, link };
        let Namespace { name, link, .. } = &namespace;
        ip(&["link", "add", link, "type", "veth", "peer", "name", "uplink", "netns", name]);
        ip(&["address", "add", &format!("{host}/30"), "dev", link]);
        ip(&["link", "set", link, "up"]);
        ip(&["-n", name, "address", "add", &format!("{address}/30"), "dev", "uplink"]);
        ip(&["-n", name, "link", "set", "uplink", "up"]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        namespace
    }

    /// A command that runs `program` inside.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Cuts the link. Packets vanish, in both directions; nobody is told.
    pub fn cut(&self) {
        ip(&["link", "set", &self.link, "down"]);
    }

    pub fn restore(&self) {
        ip(&["link", "set", &self.link, "up"]);
    }

    /// Ports inside that can be connected to from outside.
    pub fn open_ports(&self) -> Vec<u16> {
        let output = self
            .command(Path::new("cat"))
            .args(["/proc/net/tcp", "/proc/net/tcp6"])
            .output()
            .expect("read the namespace's sockets");
        String::from_utf8_lossy(&output.stdout).lines().filter_map(open_port).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The link goes with it.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
        run::current().forget_namespace(&self.name);
    }
}

/// The host's end and the namespace's, from the block that RFC 2544 reserves for tests of devices:
/// nothing real is there. A number per run keeps runs side by side apart.
fn addresses(number: u32) -> (Ipv4Addr, Ipv4Addr) {
    let block = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    let link = std::process::id().wrapping_mul(16).wrapping_add(number) % (1 << 15);
    let network = block + link * 4;
    (Ipv4Addr::from(network + 1), Ipv4Addr::from(network + 2))
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("run ip, of iproute2");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "ip {}: {}\nnetwork namespaces need root (or CAP_NET_ADMIN and CAP_SYS_ADMIN)",
        arguments.join(" "),
        stderr.trim(),
    );
}

/// The port of a line of /proc/net/tcp, if it is a listener on more than loopback.
fn open_port(line: &str) -> Option<u16> {
    /// `TCP_LISTEN` in the kernel's numbers.
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    // Addresses stand there as words in the machine's byte order, last byte first on little-endian ones.
    let loopback = address.ends_with("7F") && address.len() == 8 || address.ends_with("01000000");
    if state != LISTEN || loopback {
        return None;
    }
    u16::from_str_radix(port, 16).ok()
}
