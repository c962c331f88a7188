//! The link to the hub: one stream at a time, over as many connections as it takes.
//!
//! Owns: connecting, the Hello's way out and messages' way in, renewal in time. What to do next is decided by
//! [`course::Course`]; this is the shell around it. Must never: touch the member, or stop trying.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use self::course::{Action, Course, Ended, Event, Validity};
use super::{
    Link, LinkEvent,
    dial::{self, Trust, dial},
    identity::{Identity, Keep},
    join,
};
use crate::{
    model::{
        Digest, Now, Timestamp,
        protocol::{ToAgent, ToHub},
    },
    wire::{
        limits,
        proto::{self, agents_client::AgentsClient},
    },
};

pub mod course;

/// Events that may wait for the agent; the stream is read no faster than they are taken.
const EVENTS_MAX: usize = 64;
/// Messages that may wait for the stream.
const OUTBOX_MAX: usize = 16;
/// The stream is accepted, or refused, by then.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// Clocks that differ by more are worth a warning.
const SKEW_SECONDS_MAX: i64 = 60;

#[derive(Clone)]
pub struct Config {
    /// `https://HOST:PORT`, tried besides those that the hub itself says; another one after each failure.
    pub urls: Vec<String>,
    /// Where `identity` is from; renewed ones are put there.
    pub keep: Arc<dyn Keep>,
    /// Where jitter comes from.
    pub seed: u64,
}

/// Begins to connect. The task ends when the returned [`Link`] is dropped.
pub fn start(config: Config, identity: Identity) -> Link {
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(run(config, identity, sender));
    Link { events }
}

/// Ends once nobody listens.
async fn run(config: Config, identity: Identity, events: mpsc::Sender<LinkEvent>) {
    let started = Instant::now();
    let now = || Now {
        wall: Timestamp(jiff::Timestamp::now()),
        monotonic_ms: started.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
    };
    let course = Course::start(now(), validity(&identity), config.seed);
    let urls = addresses(&identity.urls, &config.urls, config.seed);
    let mut link = Shell { config, identity, urls, events, course, stream: None };
    link.course.learn_addresses(link.urls.len());
    loop {
        let wake_at = link.course.wake_at(now());
        let sleep = tokio::time::sleep_until(started + Duration::from_millis(wake_at.unwrap_or_default()));
        let event = tokio::select! {
            () = link.events.closed() => return,
            message = next(&mut link.stream) => match link.received(message).await {
                Some(event) => event,
                None => continue,
            },
            () = sleep, if wake_at.is_some() => Event::Tick,
        };
        let mut action = link.course.step(now(), event);
        while let Some(due) = action.take() {
            let Some(event) = link.carry_out(due).await else { return };
            action = link.course.step(now(), event);
        }
    }
}

/// What the hub says first, each agent in an order of its own, so that those of a replica that is gone spread over all
/// others; then what the agent was started with, which may be reachable where those are not.
pub fn addresses(said: &[String], given: &[String], seed: u64) -> Vec<String> {
    let plain = |url: &String| url.trim_end_matches('/').to_owned();
    let mut urls: Vec<String> = said.iter().map(plain).collect();
    urls.sort_by_key(|url| Digest::of(format!("{seed} {url}").as_bytes()));
    urls.extend(given.iter().map(plain));
    let mut seen = BTreeSet::new();
    urls.retain(|url| seen.insert(url.clone()));
    urls
}

fn validity(identity: &Identity) -> Validity {
    Validity { renew_at: identity.renew_at(), not_after: identity.not_after }
}

type Inbound = tonic::Streaming<proto::ToAgent>;

/// Pends while there is no stream.
async fn next(stream: &mut Option<Inbound>) -> Option<Result<proto::ToAgent, tonic::Status>> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

struct Shell {
    config: Config,
    identity: Identity,
    /// In the order in which they are tried.
    urls: Vec<String>,
    events: mpsc::Sender<LinkEvent>,
    course: Course,
    stream: Option<Inbound>,
}

impl Shell {
    /// `None` once nobody listens.
    async fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Connect(address) => match self.connect(&self.url(address)).await {
                Ok((outbox, stream)) => {
                    info!(url = self.url(address), "a stream to the hub stands");
                    self.stream = Some(stream);
                    self.events.send(LinkEvent::Opened(outbox)).await.ok()?;
                    Some(Event::Opened)
                }
                Err((why, ended)) => {
                    self.events.send(LinkEvent::Closed(why)).await.ok()?;
                    Some(Event::Ended(ended))
                }
            },
            Action::Renew(address) => {
                // Beats and works wait for the few milliseconds that this takes; the hub bears with it.
                match join::renew(&self.url(address), &*self.config.keep).await {
                    Ok(identity) => {
                        info!(not_after = %identity.not_after, "the certificate is renewed");
                        self.identity = identity;
                        Some(Event::Renewed(validity(&self.identity)))
                    }
                    Err(error) => {
                        warn!(error = dial::chain(&error), not_after = %self.identity.not_after, "cannot renew the certificate");
                        Some(Event::RenewFailed)
                    }
                }
            }
            Action::Close => {
                self.stream = None;
                self.events
                    .send(LinkEvent::Closed("connecting anew with the renewed certificate".into()))
                    .await
                    .ok()?;
                Some(Event::Ended(Ended::Lost))
            }
        }
    }

    fn url(&self, address: usize) -> String {
        let urls = &self.urls;
        urls.get(address % urls.len().max(1)).cloned().unwrap_or_default()
    }

    /// Where the hub can be reached is kept beside the identity: the address the agent was started with may be the one
    /// that is gone next time.
    fn learn(&mut self, urls: &[String]) {
        if urls.is_empty() || urls == self.identity.urls {
            return;
        }
        info!(?urls, "the hub's replicas");
        self.identity.urls = urls.to_vec();
        self.urls = addresses(urls, &self.config.urls, self.config.seed);
        self.course.learn_addresses(self.urls.len());
        let kept = self.config.keep.load().and_then(|stored| {
            let Some(mut stored) = stored else { return Ok(()) };
            let Some(identity) = &mut stored.identity else { return Ok(()) };
            identity.urls = urls.to_vec();
            self.config.keep.save(&stored)
        });
        if let Err(error) = kept {
            warn!(error = dial::chain(&error), "where the hub's replicas are could not be kept");
        }
    }

    async fn connect(&self, url: &str) -> Result<(mpsc::Sender<ToHub>, Inbound), (String, Ended)> {
        let authorities = self.identity.serving_authorities.iter().map(|authority| authority.0.clone()).collect();
        let channel = dial(url, &Trust::Authorities(authorities), Some(&self.identity))
            .await
            .map_err(|error| (dial::chain(&error), Ended::Lost))?;
        let mut client = AgentsClient::new(channel)
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::MESSAGE_BYTES_MAX);
        let (outbox, queue) = mpsc::channel(OUTBOX_MAX);
        let messages = ReceiverStream::new(queue).map(|message: ToHub| proto::ToHub::from(&message));
        match tokio::time::timeout(OPEN_TIMEOUT, client.session(messages)).await {
            Ok(Ok(response)) => Ok((outbox, response.into_inner())),
            Ok(Err(status)) => Err(refused(&status)),
            Err(_) => Err((format!("{url} did not open a stream within {} s", OPEN_TIMEOUT.as_secs()), Ended::Lost)),
        }
    }

    async fn received(&mut self, message: Option<Result<proto::ToAgent, tonic::Status>>) -> Option<Event> {
        let (why, ended) = match message {
            Some(Ok(message)) => match ToAgent::try_from(message) {
                Ok(message) => return self.pass_on(message).await,
                Err(invalid) => (format!("the hub sent what cannot be understood: {invalid}"), Ended::Lost),
            },
            Some(Err(status)) => refused(&status),
            None => ("the hub ended the stream".into(), Ended::Lost),
        };
        self.close(why, ended).await
    }

    async fn pass_on(&mut self, message: ToAgent) -> Option<Event> {
        let event = match &message {
            ToAgent::Welcome(welcome) => {
                let skew = welcome.hub_time.seconds() - jiff::Timestamp::now().as_second();
                if skew.abs() > SKEW_SECONDS_MAX {
                    let (hub, here) = (welcome.hub_time, Timestamp(jiff::Timestamp::now()));
                    warn!(%hub, %here, "this machine's clock and the hub's differ by {} s; certificates go by the hub's", skew.abs());
                }
                self.learn(&welcome.urls);
                Some(Event::HubTime(welcome.hub_time))
            }
            ToAgent::Refuse(refuse) => {
                let (why, retry) = (refuse.to_string(), refuse.retry);
                let _ = self.events.send(LinkEvent::Message(message)).await;
                return self.close(why, if retry { Ended::Lost } else { Ended::Refused }).await;
            }
            _ => None,
        };
        let _ = self.events.send(LinkEvent::Message(message)).await;
        event
    }

    async fn close(&mut self, why: String, ended: Ended) -> Option<Event> {
        self.stream = None;
        let _ = self.events.send(LinkEvent::Closed(why)).await;
        Some(Event::Ended(ended))
    }
}

fn refused(status: &tonic::Status) -> (String, Ended) {
    let ended = match status.code() {
        tonic::Code::Unauthenticated => Ended::Expired,
        _ => Ended::Lost,
    };
    (format!("{}: {}", status.code(), status.message()), ended)
}
