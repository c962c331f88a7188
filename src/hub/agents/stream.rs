//! The tokio shell around one [`Session`]: moves messages, carries out effects, decides nothing.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use prost::Message;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    Agents,
    resume::Stamp,
    roster::Member,
    session::{self, Effect, Event, Session},
};
use crate::{
    hub::{desk::outpost, listen::AgentPeer},
    model::{
        Uid,
        protocol::{Refuse, ToAgent, ToHub},
    },
    store::Revision,
    wire::proto,
};

/// Messages that may wait for the network, beyond which the session is not asked for more.
pub const OUTBOX_MAX: usize = 8;
/// How long a last word may wait for the network.
const FAREWELL: Duration = Duration::from_secs(2);

/// What others tell a session.
pub enum Mail {
    Member(Option<(Revision, Arc<Member>)>),
    Admitted,
    /// The works here are as of this revision, which was the store's after the stream had been admitted.
    CaughtUp(Revision),
    Refused(Refuse),
}

type Outbox = mpsc::Sender<Result<proto::ToAgent, Status>>;

pub struct Stream {
    agents: Agents,
    session: Session,
    id: u64,
    cluster: Uid,
    key: String,
    /// Store revision that the member's facts are from: older news of it is no news.
    member_revision: Revision,
    has_previous_key: bool,
    outbox: Outbox,
    mailbox: mpsc::UnboundedSender<Mail>,
    paused_until_ms: u64,
    /// The stream ends with this.
    farewell: Option<Refuse>,
}

impl Stream {
    /// Serves until either side ends it.
    pub async fn serve(agents: Agents, peer: AgentPeer, inbound: Streaming<proto::ToHub>, outbox: Outbox) {
        let (revision, member) = match agents.member(&peer).await {
            Ok(known) => known,
            Err(refuse) => return say_goodbye(&outbox, refuse).await,
        };
        let (mailbox, mail) = mpsc::unbounded_channel();
        let cluster = member.uid.clone();
        let id = agents.enter(&cluster, mailbox.clone());
        let config = &agents.0.config;
        let session_config = session::Config {
            hub: config.hub.clone(),
            incarnation: config.store.incarnation().clone(),
            stamp: Stamp::new(&config.resume_key, &config.hub, config.store.incarnation(), &cluster),
            key_fingerprint: peer.key_fingerprint.clone(),
            urls: config.urls.borrow().clone(),
        };
        let has_previous_key = member.previous_key.is_some() && member.key == peer.key_fingerprint;
        let (session, effects) = Session::open(session_config, member, agents.now());
        let mut stream = Self {
            agents: agents.clone(),
            session,
            id,
            cluster: cluster.clone(),
            key: peer.key_fingerprint,
            member_revision: revision,
            has_previous_key,
            outbox,
            mailbox,
            paused_until_ms: 0,
            farewell: None,
        };
        stream.carry_out(effects).await;
        stream.turn(inbound, mail).await;
        stream.step(Event::Gone).await;
        agents.leave(id).await;
        if let Some(refuse) = stream.farewell.take() {
            info!(%cluster, %refuse, "a stream is ended");
            say_goodbye(&stream.outbox, refuse).await;
        }
    }

    async fn turn(&mut self, mut inbound: Streaming<proto::ToHub>, mut mail: mpsc::UnboundedReceiver<Mail>) {
        let slices = self.agents.0.config.slices.clone();
        let stop = self.agents.0.config.stop.clone();
        let started = self.agents.0.started;
        let mut changed = slices.subscribe(&self.cluster);
        changed.mark_unchanged();
        self.step(Event::Slice(slices.slice(&self.cluster))).await;
        let sleep = tokio::time::sleep_until(started);
        tokio::pin!(sleep);
        while self.farewell.is_none() {
            let now_ms = self.agents.now().monotonic_ms;
            let paused = now_ms < self.paused_until_ms;
            let wake_ms = self.session.wake_at().min(if paused { self.paused_until_ms } else { u64::MAX });
            let deadline = started + Duration::from_millis(wake_ms);
            if sleep.deadline() != deadline {
                sleep.as_mut().reset(deadline);
            }
            tokio::select! {
                () = stop.cancelled() => {
                    let message = "the hub is stopping".into();
                    self.step(Event::Refused(Refuse { reason: "Stopping".into(), message, retry: true })).await;
                }
                Some(mail) = mail.recv() => self.read(mail).await,
                Ok(()) = changed.changed() => self.step(Event::Slice(slices.slice(&self.cluster))).await,
                permit = self.outbox.clone().reserve_owned(), if self.session.has_due() => match permit {
                    Ok(permit) => {
                        // The room is ours now; the step decides what goes in.
                        drop(permit);
                        self.step(Event::Room).await;
                    }
                    Err(_) => return,
                },
                message = inbound.message(), if !paused => match message {
                    Ok(Some(message)) => self.hear(message).await,
                    Ok(None) => return,
                    Err(status) => {
                        debug!(cluster = %self.cluster, %status, "a stream broke off");
                        return;
                    }
                },
                () = &mut sleep => self.step(Event::Tick { revision: slices.revision() }).await,
            }
        }
    }

    async fn hear(&mut self, message: proto::ToHub) {
        let bytes = message.encoded_len();
        let event = match ToHub::try_from(message) {
            Ok(message) => Event::Message { message, bytes },
            Err(invalid) => Event::Garbage(invalid),
        };
        self.step(event).await;
    }

    async fn read(&mut self, mail: Mail) {
        let event = match mail {
            Mail::Member(Some((revision, _))) if revision < self.member_revision => return,
            Mail::Member(Some((revision, member))) => {
                self.member_revision = revision;
                Event::Member(Some(member))
            }
            Mail::Member(None) => Event::Member(None),
            Mail::Admitted => {
                if std::mem::take(&mut self.has_previous_key) {
                    self.agents.retire_previous_key(&self.cluster, &self.key).await;
                }
                Event::Admitted
            }
            Mail::CaughtUp(revision) => {
                let slice = self.agents.0.config.slices.slice(&self.cluster);
                self.step(Event::Slice(slice)).await;
                Event::CaughtUp { revision }
            }
            Mail::Refused(refuse) => Event::Refused(refuse),
        };
        self.step(event).await;
    }

    /// One event and all that follows from it at once.
    async fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let effects = self.session.step(self.agents.now(), event);
            events.extend(self.carry_out(effects).await);
        }
    }

    /// The answers to what can be answered at once.
    async fn carry_out(&mut self, effects: Vec<Effect>) -> Vec<Event> {
        let mut answers = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send(message) => self.send(&message).await,
                Effect::Forward(fact) => {
                    // Waits while control is behind: then this agent is read more slowly.
                    self.post(outpost::Event::Said { session: self.id, from: fact }).await;
                }
                Effect::Claim { instance, epoch } => {
                    let cluster = self.cluster.clone();
                    self.post(outpost::Event::Claimed { session: self.id, cluster, instance, epoch }).await;
                }
                Effect::CatchUp => {
                    let (agents, mailbox) = (self.agents.clone(), self.mailbox.clone());
                    tokio::spawn(async move {
                        let _gone = mailbox.send(agents.caught_up().await);
                    });
                }
                Effect::ReadBlob(digest) => {
                    let bytes = self.agents.0.config.slices.blob(&self.cluster, &digest);
                    answers.push(Event::Blob { digest, bytes });
                }
                Effect::AskReleased { application, generation } => {
                    if self.agents.0.config.slices.is_released(&application, &self.cluster) {
                        answers.push(Event::Released { application, generation });
                    }
                }
                Effect::PauseUntil(until_ms) => self.paused_until_ms = until_ms,
                Effect::Denied(what) => warn!(cluster = %self.cluster, what, "denied"),
                Effect::Close(refuse) => self.farewell = Some(refuse),
            }
        }
        answers
    }

    async fn post(&self, event: outpost::Event) {
        self.agents.0.config.post.send(event).await;
    }

    async fn send(&self, message: &ToAgent) {
        // A closed outbox is noticed where the loop waits for it.
        let _ = self.outbox.send(Ok(message.into())).await;
    }
}

/// The reason twice: as a message for this protocol's agents, as a status for whoever else listens.
async fn say_goodbye(outbox: &Outbox, refuse: Refuse) {
    let code = match refuse.reason.as_str() {
        "Revoked" | "NotAccepted" | "PermissionDenied" | "WrongCluster" | "IdentityFrozen" => Code::PermissionDenied,
        "Invalid" => Code::InvalidArgument,
        "ProtocolTooOld" | "ProtocolTooNew" | "StoreWentBack" => Code::FailedPrecondition,
        _ => Code::Unavailable,
    };
    let status = Status::new(code, refuse.to_string());
    let last = async {
        let _ = outbox.send(Ok((&ToAgent::Refuse(refuse)).into())).await;
        let _ = outbox.send(Err(status)).await;
    };
    let _ = tokio::time::timeout(FAREWELL, last).await;
}
