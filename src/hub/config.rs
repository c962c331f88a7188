//! What a hub is started with, and what follows from it.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use super::peers::joining::{Invitation, is_address};
use crate::store::raft::{Reads, Timing};

pub const LISTEN: &str = "127.0.0.1:6460";
pub const PEER_LISTEN: &str = "127.0.0.1:6461";

#[derive(Debug, Clone)]
pub struct Config {
    /// Everything the hub keeps: `store/`, `pki/`, `plugins/`, `replica.json`, `admin.kubeconfig`, `tokens.csv`, `audit.log`.
    pub dir: PathBuf,
    /// `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// What clients and agents are told to connect to; the listening address where absent.
    pub advertise: Option<String>,
    /// More names and addresses for the server certificate.
    pub tls_sans: Vec<String>,
    /// `HOST:PORT` for the other replicas; port 0 takes a free one.
    pub peer_listen: String,
    /// `HOST:PORT` at which the other replicas reach this one; the listening address where absent.
    pub peer_advertise: Option<String>,
    /// At first start: the hub that this replica joins.
    pub join: Option<Invitation>,
    /// How often a leader is heard; the same on all replicas.
    pub heartbeat: Duration,
    /// How this replica knows, while it leads, that what it reads is the newest.
    pub reads: Reads,
    /// Of agents' certificates. Hours, not days: renewal costs one call.
    pub agent_certificate_lifetime: Duration,
    /// Silence of this length makes a cluster Unknown.
    pub grace: Duration,
    pub storage: Storage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Under `dir/store`; every answered write survives a crash.
    Durable,
    /// Gone with the process.
    Memory,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a URL that clients could connect to (expected https://HOST[:PORT])")]
pub struct InvalidUrl(pub String);

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no address that other replicas could connect to (expected HOST:PORT)")]
pub struct InvalidPeerAddress(pub String);

impl Config {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            listen: LISTEN.into(),
            advertise: None,
            tls_sans: vec![],
            peer_listen: PEER_LISTEN.into(),
            peer_advertise: None,
            join: None,
            heartbeat: Timing::HEARTBEAT,
            reads: Reads::default(),
            agent_certificate_lifetime: Duration::from_secs(8 * 3600),
            grace: super::limits::CLUSTER_GRACE,
            storage: Storage::Durable,
        }
    }

    /// The URL of this hub, once its port is known.
    pub fn url(&self, address: SocketAddr) -> Result<String, InvalidUrl> {
        match &self.advertise {
            Some(url) if url.starts_with("https://") && !host_of(url).is_empty() => {
                Ok(url.trim_end_matches('/').to_owned())
            }
            Some(url) => Err(InvalidUrl(url.clone())),
            // Listening everywhere is no address to connect to.
            None if address.ip().is_unspecified() => Ok(format!("https://127.0.0.1:{}", address.port())),
            None => Ok(format!("https://{address}")),
        }
    }

    /// Where the other replicas are told to connect to, once the port is known.
    pub fn peer_address(&self, address: SocketAddr) -> Result<String, InvalidPeerAddress> {
        match &self.peer_advertise {
            Some(given) if is_address(given) => Ok(given.clone()),
            Some(given) => Err(InvalidPeerAddress(given.clone())),
            // Listening everywhere is no address to connect to; alone on a machine this one is good enough.
            None if address.ip().is_unspecified() => Ok(format!("127.0.0.1:{}", address.port())),
            None => Ok(address.to_string()),
        }
    }

    /// Names and addresses that the server certificate is valid for, each once.
    pub fn server_names(&self, address: SocketAddr, url: &str) -> Vec<String> {
        let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        names.extend(self.tls_sans.iter().cloned());
        names.insert(host_of(url).to_owned());
        let listen = self.listen.rsplit_once(':').map_or(self.listen.as_str(), |(host, _)| host);
        names.insert(listen.trim_matches(['[', ']']).to_owned());
        if !address.ip().is_unspecified() {
            names.insert(address.ip().to_string());
        }
        names.into_iter().filter(|name| !name.is_empty() && name != "0.0.0.0" && name != "::").collect()
    }
}

/// Without scheme, port, path and the brackets of an IPv6 address.
fn host_of(url: &str) -> &str {
    let rest = url.strip_prefix("https://").unwrap_or(url);
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str, advertise: Option<&str>) -> Config {
        Config { listen: listen.into(), advertise: advertise.map(str::to_owned), ..Config::new("dir") }
    }

    #[test]
    fn the_url_is_one_that_clients_can_connect_to() {
        let everywhere: SocketAddr = "0.0.0.0:7000".parse().expect("address");
        assert_eq!(config("0.0.0.0:7000", None).url(everywhere).expect("url"), "https://127.0.0.1:7000");
        let advertised = config("0.0.0.0:7000", Some("https://hub.example:443/"));
        assert_eq!(advertised.url(everywhere).expect("url"), "https://hub.example:443");
        for wrong in ["http://hub", "hub:7000", "https://"] {
            assert!(config(LISTEN, Some(wrong)).url(everywhere).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_peer_address_is_one_that_replicas_can_connect_to() {
        let everywhere: SocketAddr = "0.0.0.0:7001".parse().expect("address");
        let config =
            |advertise: Option<&str>| Config { peer_advertise: advertise.map(str::to_owned), ..Config::new("dir") };
        assert_eq!(config(None).peer_address(everywhere).expect("address"), "127.0.0.1:7001");
        assert_eq!(config(Some("hub-1:6461")).peer_address(everywhere).expect("address"), "hub-1:6461");
        for wrong in ["hub-1", "hub-1:0", ":6461", "https://hub-1:6461", "hub 1:6461"] {
            assert!(config(Some(wrong)).peer_address(everywhere).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_certificate_names_every_way_in() {
        let address: SocketAddr = "0.0.0.0:7000".parse().expect("address");
        let config = Config { tls_sans: vec!["hub.internal".into()], ..config("0.0.0.0:7000", None) };
        assert_eq!(
            config.server_names(address, "https://[2001:db8::1]:7000"),
            ["127.0.0.1", "2001:db8::1", "::1", "hub.internal", "localhost"]
        );
    }
}
