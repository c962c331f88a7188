//! Placement plug-ins: processes beside the hub that are asked over unix sockets.
//!
//! Owns: the connections, one for each socket, and that an answer comes within the time that the profile gives. Must never:
//! connect to anything but a socket in the hub's own directory, whose owner alone may put one there; or wait for longer
//! than it was told.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    flow::schedule::Ask,
    model::plugin::Judgements,
    wire::{
        placement_proto::placement_plugin_client::PlacementPluginClient,
        plugin::{REPLY_BYTES_MAX, judgements, requests},
    },
};

#[derive(Debug)]
pub struct Plugins {
    /// Where the sockets are.
    directory: Option<PathBuf>,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Plugins {
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, channels: Mutex::default() }
    }

    /// The error is for people, and the same each time for the same cause.
    pub async fn ask(&self, ask: &Ask) -> Result<Judgements, String> {
        let patience = Duration::from_millis(ask.plugin.timeout_milliseconds.into());
        let answered = tokio::time::timeout(patience, self.judge(ask)).await;
        answered.unwrap_or_else(|_| Err(too_late(ask)))
    }

    async fn judge(&self, ask: &Ask) -> Result<Judgements, String> {
        let mut client =
            PlacementPluginClient::new(self.channel(&ask.plugin.socket)?).max_decoding_message_size(REPLY_BYTES_MAX);
        let mut all = Judgements::new();
        for request in requests(&ask.question) {
            let reply = client.judge(request.clone()).await.map_err(|status| match status.code() {
                tonic::Code::Unavailable => "it cannot be reached".to_owned(),
                code => {
                    let words: String = status.message().chars().take(200).collect();
                    format!("it fails with {code:?}: {words}")
                }
            })?;
            all.extend(judgements(&request, reply.into_inner())?);
        }
        Ok(all)
    }

    /// Connected when it is first used, and again after it broke.
    fn channel(&self, socket: &str) -> Result<Channel, String> {
        let directory = self.directory.as_ref().ok_or("this hub has no directory for plug-ins")?;
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(socket) {
            return Ok(channel.clone());
        }
        let path = directory.join(format!("{socket}.sock"));
        let connect = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        // Nobody reads the address: the connector knows the way.
        let channel = Endpoint::from_static("http://plugin").connect_with_connector_lazy(connect);
        channels.insert(socket.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// What is said of a plug-in that took longer than it may.
pub fn too_late(ask: &Ask) -> String {
    format!("no answer within {} ms", ask.plugin.timeout_milliseconds)
}
