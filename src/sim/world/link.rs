//! The link between an agent and the hub: streams that delay, stall and break, and never lose or reorder what is on
//! them, as connections do.

use std::collections::VecDeque;

use super::{At, Happening, World};
use crate::{
    agent::core,
    model::protocol::{ToAgent, ToHub},
};

/// One stream: messages on their way, with their time of arrival; `None` is the stream's end.
pub struct Stream {
    at: At,
    up: VecDeque<(u64, Option<ToHub>)>,
    down: VecDeque<(u64, Option<ToAgent>)>,
}

/// How many messages a stream takes before its sender has to wait.
const STREAM_MAX: usize = 8;

impl Stream {
    pub fn has_room_down(&self) -> bool {
        self.down.len() < STREAM_MAX
    }
}

impl World {
    /// Cuts or heals the network between agent and hub, by direction.
    pub fn set_cut(&mut self, at: At, up: bool, down: bool) {
        let site = &mut self.sites[at];
        (site.cut_up, site.cut_down) = (up, down);
        self.trace.line(self.now_ms, format_args!("{}: cut up {up}, down {down}", self.sites[at].name));
        let streams = self.streams.iter().filter(|(_, stream)| stream.at == at).map(|(id, _)| *id);
        for stream in streams.collect::<Vec<_>>() {
            self.after(1, Happening::Pump { stream, up: true });
            self.after(1, Happening::Pump { stream, up: false });
        }
    }

    pub(super) fn dial(&mut self, at: At, life: u64) {
        let site = &self.sites[at];
        if site.life != life || site.agent.is_none() || site.stream.is_some() {
            return;
        }
        if site.cut_up || site.cut_down || self.hub.is_none() {
            let delay = self.chance.between(500, 2_000);
            return self.after(delay, Happening::Dial { at, life });
        }
        self.sequence += 1;
        let stream = self.sequence;
        self.streams.insert(stream, Stream { at, up: VecDeque::new(), down: VecDeque::new() });
        self.sites[at].stream = Some(stream);
        self.accept(stream, at);
        self.agent_step(at, life, core::Event::LinkOpened);
    }

    fn travel(&mut self, last: Option<u64>) -> u64 {
        let slow = if self.mishap() { 900 } else { 0 };
        let delay = self.chance.between(1, 20) + slow;
        last.unwrap_or_default().max(self.now_ms + delay)
    }

    pub(super) fn send_down(&mut self, stream: u64, at: At, message: Option<ToAgent>) {
        let last = self.streams.get(&stream).and_then(|stream| stream.down.back()).map(|(at, _)| *at);
        let arrival = self.travel(last);
        let Some(queue) = self.streams.get_mut(&stream) else { return };
        queue.down.push_back((arrival, message.clone()));
        self.after(arrival - self.now_ms, Happening::Pump { stream, up: false });
        let Some(ToAgent::Work(work)) = message else { return };
        // The same again, or one from before: a replica that lags may say what is no longer true.
        let lags = self.settings.mishaps > 0 && self.chance.happens(10 * self.settings.mishaps);
        let late = lags.then(|| {
            let older = self.sites[at].sent.iter().filter(|old| old.application_uid == work.application_uid);
            let older = older.chain([&work]).cloned().collect::<Vec<_>>();
            self.chance.pick(&older).cloned()
        });
        self.sites[at].sent.push(work);
        if let Some(late) = late.flatten() {
            self.trace.line(self.now_ms, format_args!("generation {} is told late", late.generation));
            let arrival = self.travel(Some(arrival));
            if let Some(queue) = self.streams.get_mut(&stream) {
                queue.down.push_back((arrival, Some(ToAgent::Work(late))));
            }
            self.after(arrival - self.now_ms, Happening::Pump { stream, up: false });
        }
    }

    pub(super) fn send_up(&mut self, stream: u64, message: Option<ToHub>) {
        let last = self.streams.get(&stream).and_then(|stream| stream.up.back()).map(|(at, _)| *at);
        let mut copies = vec![message];
        if let [Some(ToHub::Report(report))] = copies.as_slice() {
            let again = self.settings.mishaps > 0 && self.chance.happens(self.settings.mishaps);
            copies.extend(again.then(|| Some(ToHub::Report(report.clone()))));
        }
        for message in copies {
            let arrival = self.travel(last);
            let Some(queue) = self.streams.get_mut(&stream) else { return };
            let arrival = queue.up.back().map_or(arrival, |(last, _)| arrival.max(*last));
            queue.up.push_back((arrival, message));
            self.after(arrival - self.now_ms, Happening::Pump { stream, up: true });
        }
    }

    /// Lets what has arrived out of a stream, in order, unless the network is cut.
    pub(super) fn pump(&mut self, stream: u64, up: bool) {
        loop {
            let now_ms = self.now_ms;
            let Some(queue) = self.streams.get_mut(&stream) else { return };
            let (at, arrived) = (queue.at, |arrival: u64| arrival <= now_ms);
            let site = &self.sites[at];
            if up {
                if site.cut_up || !queue.up.front().is_some_and(|(arrival, _)| arrived(*arrival)) {
                    return;
                }
                let Some((_, message)) = queue.up.pop_front() else { return };
                self.trace.line(now_ms, format_args!("{} → hub: {}", site.name, name_up(message.as_ref())));
                self.hear(stream, message);
            } else {
                if site.cut_down || !queue.down.front().is_some_and(|(arrival, _)| arrived(*arrival)) {
                    return;
                }
                let Some((_, message)) = queue.down.pop_front() else { return };
                self.trace.line(now_ms, format_args!("hub → {}: {}", site.name, name_down(message.as_ref())));
                self.tell_agent(stream, at, message);
                self.session_room(stream);
            }
        }
    }
}

fn name_up(message: Option<&ToHub>) -> String {
    match message {
        None => "end".into(),
        Some(ToHub::Hello(hello)) => format!("hello, epoch {}, {} works", hello.session_epoch, hello.ledger.len()),
        Some(ToHub::FetchBlobs(digests)) => format!("fetch {} blobs", digests.len()),
        Some(ToHub::Report(report)) => {
            let (applied, removed) = (report.applied, report.removed.len());
            format!("report on generation {}, applied {applied}, removed {removed}", report.generation)
        }
        Some(ToHub::Sketch(sketch)) => format!("sketch {}", sketch.sequence),
        Some(ToHub::Facts(_)) => "facts".into(),
        Some(ToHub::Beat) => "beat".into(),
    }
}

fn name_down(message: Option<&ToAgent>) -> String {
    match message {
        None => "end".into(),
        Some(ToAgent::Welcome(_)) => "welcome".into(),
        Some(ToAgent::Refuse(refuse)) => format!("refused, {refuse}"),
        Some(ToAgent::Work(work)) => format!(
            "{} generation {} with {} manifests and {} removals",
            work.application,
            work.generation,
            work.manifests.len(),
            work.removals.len()
        ),
        Some(ToAgent::Blob { digest, .. }) => format!("blob {}", digest.short()),
        Some(ToAgent::Release { generation, .. }) => format!("release at generation {generation}"),
        Some(ToAgent::Resume(token)) => format!("resume token at {}", token.revision),
        Some(ToAgent::BeatAck) => "ack".into(),
    }
}
