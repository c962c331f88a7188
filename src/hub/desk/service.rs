//! The way between processes: one gRPC stream per replica, on the listener for replicas.

use std::sync::Arc;

use futures::{Stream, StreamExt, stream::BoxStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status, transport::Channel};
use tracing::warn;

use serde_json::Value;

use super::{Reception, Unanswered};
use crate::{
    store::raft::ReplicaId,
    wire::{
        FromDesk, Invalid, Question, ToDesk, limits,
        proto::{self, desk_client::DeskClient, desk_server::DeskServer},
    },
};

/// Who the authenticated sender of a request is.
pub type Sender = Arc<dyn Fn(&Extensions) -> Result<ReplicaId, Status> + Send + Sync>;

pub struct Service {
    reception: Reception,
    sender: Sender,
}

pub fn service(reception: Reception, sender: Sender) -> DeskServer<Service> {
    DeskServer::new(Service { reception, sender })
        .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::ANSWER_BYTES_MAX)
}

#[tonic::async_trait]
impl proto::desk_server::Desk for Service {
    type MeetStream = BoxStream<'static, Result<proto::FromDesk, Status>>;

    async fn meet(
        &self,
        request: Request<tonic::Streaming<proto::ToDesk>>,
    ) -> Result<Response<Self::MeetStream>, Status> {
        let replica = (self.sender)(request.extensions())?;
        let said = understood(request.into_inner());
        let told = self.reception.admit(replica, said).await;
        let told = told.ok_or_else(|| Status::unavailable("this replica does not lead"))?;
        Ok(Response::new(ReceiverStream::new(told).map(|told| Ok(proto::FromDesk::from(&told))).boxed()))
    }

    async fn ask(&self, request: Request<proto::DeskQuestion>) -> Result<Response<proto::DeskAnswer>, Status> {
        (self.sender)(request.extensions())?;
        let question = Question::try_from(request.into_inner());
        let question = question.map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
        let answer = self.reception.ask(question).await?.to_string().into();
        Ok(Response::new(proto::DeskAnswer { answer }))
    }
}

/// Opens a stream to the desk of the replica at the other end; why not, in words.
pub async fn meet(
    channel: Channel,
    said: impl Stream<Item = ToDesk> + Send + 'static,
) -> Result<BoxStream<'static, FromDesk>, String> {
    let mut client = DeskClient::new(channel)
        .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::MESSAGE_BYTES_MAX);
    let told = client.meet(said.map(|said| proto::ToDesk::from(&said))).await;
    let told = told.map_err(|status| status.message().to_owned())?;
    Ok(understood(told.into_inner()))
}

/// Asks the replica at the other end, which leads.
pub async fn ask(channel: Channel, question: &Question) -> Result<Value, Unanswered> {
    let mut client = DeskClient::new(channel)
        .max_decoding_message_size(limits::ANSWER_BYTES_MAX)
        .max_encoding_message_size(limits::MESSAGE_BYTES_MAX);
    let answered = client.ask(proto::DeskQuestion::from(question)).await?.into_inner();
    serde_json::from_slice(&answered.answer).map_err(|error| Unanswered::Unavailable(error.to_string()))
}

/// Until the stream breaks. What a newer replica says that cannot be understood here is left out, so that the two get along
/// while one is being replaced.
fn understood<A, B>(stream: tonic::Streaming<A>) -> BoxStream<'static, B>
where
    A: Send + 'static,
    B: TryFrom<A, Error = Invalid> + Send + 'static,
{
    let until_broken = stream.take_while(|message| std::future::ready(message.is_ok()));
    until_broken
        .filter_map(|message| async {
            match B::try_from(message.ok()?) {
                Ok(message) => Some(message),
                Err(invalid) => {
                    warn!(%invalid, "another replica said what cannot be understood");
                    None
                }
            }
        })
        .boxed()
}
