//! One key-value client for either system: unary gRPC over TLS, the same on both sides but for the messages.

use std::{io, sync::Arc};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use self::etcd::{PutRequest, RangeRequest, kv_client::KvClient};
use crate::{
    hub::peers::proto::{CommitRequest, ReadRequest, commit_reply::Answer, peers_client::PeersClient},
    store::{Key, Operation, Transaction, command::Command},
};

/// Generated code.
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}

#[derive(Clone)]
pub enum Client {
    Hanse(PeersClient<Channel>),
    Etcd(KvClient<Channel>),
}

/// What is known of a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    Yes,
    /// It was not done, and will not be.
    No(String),
    /// The answer was lost, or says so.
    Unknown(String),
}

impl Client {
    pub async fn put(&mut self, key: &str, value: Bytes) -> Written {
        match self {
            Self::Hanse(client) => {
                let operations = vec![Operation::Put(Key::new(key), value)];
                let command = Command::Commit(Transaction { compares: vec![], operations }).encode().into();
                match client.commit(CommitRequest { command }).await.map(|reply| reply.into_inner().answer) {
                    Ok(Some(Answer::Committed(_))) => Written::Yes,
                    Ok(Some(Answer::Refusal(refusal))) => Written::No(format!("{refusal:?}")),
                    Ok(other) => Written::Unknown(format!("{other:?}")),
                    Err(status) => Written::Unknown(status.to_string()),
                }
            }
            Self::Etcd(client) => {
                let request = PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value };
                match client.put(request).await {
                    Ok(_) => Written::Yes,
                    Err(status) => Written::Unknown(status.to_string()),
                }
            }
        }
    }

    /// Linearizable.
    pub async fn read(&mut self, key: &str) -> anyhow::Result<Option<Bytes>> {
        match self {
            Self::Hanse(client) => {
                let reply = client.read(ReadRequest { key: key.to_owned() }).await?.into_inner();
                match reply.refusal {
                    Some(refusal) => Err(anyhow!("refused: {refusal:?}")),
                    None => Ok(reply.row.map(|row| row.value)),
                }
            }
            Self::Etcd(client) => {
                let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()) };
                let reply = client.range(request).await?.into_inner();
                Ok(reply.kvs.into_iter().next().map(|row| row.value))
            }
        }
    }
}

/// One connection. `name` is what TLS is told that the other side is called.
pub async fn connect(address: &str, name: &str, mut config: ClientConfig) -> anyhow::Result<Channel> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let mut stream = Some(TokioIo::new(stream));
    let take = tower::service_fn(move |_: http::Uri| {
        std::future::ready(stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset)))
    });
    // TLS is done already; tonic is told of plain HTTP on top of it.
    Ok(Endpoint::from_static("http://store.bench").connect_with_connector(take).await?)
}
