//! The link between an agent and the hub: streams that delay, stall and break, and never lose or reorder what is on
//! them, as connections do.

use std::collections::VecDeque;

use super::{At, Happening, World, hub::Process};
use crate::{
    agent::{core, link::course},
    model::protocol::{ToAgent, ToHub},
    store::raft::ReplicaId,
};

/// One stream: messages on their way, with their time of arrival; `None` is the stream's end.
pub struct Stream {
    at: At,
    process: Process,
    up: VecDeque<(u64, Option<ToHub>)>,
    down: VecDeque<(u64, Option<ToAgent>)>,
}

/// How many messages a stream takes before its sender has to wait.
const STREAM_MAX: usize = 8;

/// How long an agent waits for a replica that does not answer.
const CONNECT_MS: u64 = 5_000;

impl Stream {
    pub fn at(&self) -> At {
        self.at
    }

    pub fn has_room_down(&self) -> bool {
        self.down.len() < STREAM_MAX
    }
}

impl World {
    /// Cuts or heals the network between an agent and all replicas, by direction.
    pub fn set_cut(&mut self, at: At, up: bool, down: bool) {
        let site = &mut self.sites[at];
        (site.cut_up, site.cut_down) = (up, down);
        site.cuts.clear();
        self.trace.line(self.now_ms, format_args!("{}: cut up {up}, down {down}", self.sites[at].name));
        self.pump_all(at);
    }

    /// Cuts or heals the network between an agent and one replica, by direction.
    pub fn set_cut_from(&mut self, at: At, replica: ReplicaId, up: bool, down: bool) {
        self.sites[at].cuts.insert(replica, (up, down));
        self.trace.line(self.now_ms, format_args!("{}: cut from {replica} up {up}, down {down}", self.sites[at].name));
        self.pump_all(at);
    }

    fn pump_all(&mut self, at: At) {
        let streams = self.streams.iter().filter(|(_, stream)| stream.at == at).map(|(id, _)| *id);
        for stream in streams.collect::<Vec<_>>() {
            self.after(1, Happening::Pump { stream, up: true });
            self.after(1, Happening::Pump { stream, up: false });
        }
    }

    /// An agent tries the replica of this number; the answer follows.
    pub(super) fn dial(&mut self, at: At, life: u64, replica: Option<ReplicaId>) {
        let up = self.group.up();
        let replica = replica.or_else(|| self.chance.pick(&up).copied()).unwrap_or_default();
        let site = &self.sites[at];
        if site.life != life || site.agent.is_none() || site.stream.is_some() {
            return;
        }
        let (cut_up, cut_down) = site.cut_from(replica);
        if cut_up || cut_down || self.group.is_paused(replica) {
            return self.after(CONNECT_MS, Happening::Undialled { at, life });
        }
        let Some(process) = self.hubs.get(&replica).map(|hub| hub.process) else {
            return self.after(5, Happening::Undialled { at, life });
        };
        let stream = self.number();
        self.streams.insert(stream, Stream { at, process, up: VecDeque::new(), down: VecDeque::new() });
        self.sites[at].stream = Some(stream);
        self.trace.line(self.now_ms, format_args!("{} dials {replica}", self.sites[at].name));
        self.accept(process, stream, at);
        self.agent_step(at, life, core::Event::LinkOpened);
        self.steer(at, life, course::Event::Opened);
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

    /// Whose process reads what comes up the stream.
    pub(super) fn reader(&self, stream: u64) -> Option<Process> {
        self.streams.get(&stream).map(|stream| stream.process)
    }

    /// Lets what has arrived out of a stream, in order, unless the network is cut.
    pub(super) fn pump(&mut self, stream: u64, up: bool) {
        loop {
            let now_ms = self.now_ms;
            let Some(queue) = self.streams.get_mut(&stream) else { return };
            let (at, process) = (queue.at, queue.process);
            let arrived = |arrival: u64| arrival <= now_ms;
            let site = &self.sites[at];
            let (cut_up, cut_down) = site.cut_from(process.id);
            if up {
                if cut_up || !queue.up.front().is_some_and(|(arrival, _)| arrived(*arrival)) {
                    return;
                }
                let Some((_, message)) = queue.up.pop_front() else { return };
                self.trace
                    .line(now_ms, format_args!("{} → hub {}: {}", site.name, process.id, name_up(message.as_ref())));
                self.hear(process, stream, message);
            } else {
                if cut_down || !queue.down.front().is_some_and(|(arrival, _)| arrived(*arrival)) {
                    return;
                }
                let Some((_, message)) = queue.down.pop_front() else { return };
                self.trace
                    .line(now_ms, format_args!("hub {} → {}: {}", process.id, site.name, name_down(message.as_ref())));
                self.tell_agent(stream, at, message);
                self.session_room(process, stream);
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
