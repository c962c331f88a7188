//! A placement plug-in: places where the least carbon is burnt, and nowhere that its owner has closed.
//!
//! `placement-plugin HUB_DIRECTORY/plugins/carbon.sock`, and a PlacementProfile whose plugin has `socket: carbon`. Clusters
//! say `carbon` (grams a kilowatt-hour) and `closed` among their properties. In another language the same is made from
//! `proto/hanse/placement/v1/plugin.proto` alone.

use std::{error::Error, path::PathBuf};

use hanse::wire::placement_proto::{
    Cluster, JudgeReply, JudgeRequest, Judgement,
    judgement::Verdict,
    placement_plugin_server::{PlacementPlugin, PlacementPluginServer},
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// Grams a kilowatt-hour that are worth nothing; none at all is worth 100.
const DIRTIEST: f64 = 1000.0;

struct Carbon;

#[tonic::async_trait]
impl PlacementPlugin for Carbon {
    async fn judge(&self, request: Request<JudgeRequest>) -> Result<Response<JudgeReply>, Status> {
        let clusters = request.into_inner().clusters;
        let judgements =
            clusters.iter().map(|cluster| Judgement { uid: cluster.uid.clone(), verdict: Some(judge(cluster)) });
        Ok(Response::new(JudgeReply { judgements: judgements.collect() }))
    }
}

fn judge(cluster: &Cluster) -> Verdict {
    if let Some(why) = cluster.properties.get("closed").filter(|why| !why.is_empty()) {
        return Verdict::Refused(format!("closed: {}", why.chars().take(100).collect::<String>()));
    }
    match cluster.properties.get("carbon").and_then(|grams| grams.parse::<f64>().ok()) {
        Some(grams) => Verdict::Score(100.0 * (1.0 - grams.clamp(0.0, DIRTIEST) / DIRTIEST)),
        None => Verdict::Score(0.0),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let socket = PathBuf::from(std::env::args_os().nth(1).ok_or("the path of the socket is missing")?);
    // What is left of an earlier process; nobody listens there any more.
    if socket.exists() {
        std::fs::remove_file(&socket)?;
    }
    let listener = UnixListener::bind(&socket)?;
    println!("listening at {}", socket.display());
    let incoming = UnixListenerStream::new(listener);
    Server::builder().add_service(PlacementPluginServer::new(Carbon)).serve_with_incoming(incoming).await?;
    Ok(())
}
