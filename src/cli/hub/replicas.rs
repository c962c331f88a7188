//! The replicas of a hub, from the outside: invite one, look at all of them, remove one.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{
    cli::{
        admin::{Admin, Connection, print_lines, text},
        token::{parse_ttl, random},
    },
    hub::peers::joining::Invitation,
    kinds::{JOIN_TOKEN, REPLICA},
    model::{Digest, Timestamp},
};

/// How long a removal may take where nothing holds it.
const REMOVAL: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
}

#[derive(clap::Args)]
pub struct Invite {
    /// How long the token may be used: 90s, 30m, 1h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,

    /// Where the new replica reaches one that is there; else what the hub knows of its replicas. May be given several
    /// times
    #[arg(long = "peer", value_name = "HOST:PORT")]
    peers: Vec<String>,

    /// Text for people, json for scripts
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

impl Invite {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let admin = self.connection.open().await?;
        let (invitation, expires_at) = invite(&admin, self.ttl, &self.peers).await?;
        let revealed = invitation.reveal();
        let command = format!("hanse hub --join {revealed} --dir DIR --listen HOST:PORT --peer-listen HOST:PORT");
        match self.output {
            Output::Json => println!(
                "{:#}",
                json!({"name": invitation.name, "token": revealed, "expiresAt": expires_at, "command": command})
            ),
            Output::Text => {
                eprintln!(
                    "Run this on another machine before {expires_at}. The token is good for one replica, and whoever has it gets \
                     every key of this hub:\n"
                );
                println!("{command}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Has the hub store a token for one more replica. `peers` are where it reaches one that is there; where empty, what the
/// hub knows of its replicas. With when it ends.
pub async fn invite(admin: &Admin, ttl: Duration, peers: &[String]) -> anyhow::Result<(Invitation, Timestamp)> {
    let replicas = admin.list(&REPLICA).await?;
    let items = replicas["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let spec = |field: &'static str| items.iter().filter_map(move |item| item["spec"][field].as_str());
    let pin: Digest = spec("peerAuthority")
        .next()
        .and_then(|text| text.parse().ok())
        .context("the hub names no replica that one could join: it keeps its store in memory, or is just starting")?;
    let addresses = match peers.is_empty() {
        true => spec("peerAddress").map(str::to_owned).collect(),
        false => peers.to_vec(),
    };
    let secret = BASE64_URL_SAFE_NO_PAD.encode(random::<32>()?);
    let suffix: String = random::<4>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    let invitation = Invitation::new(&format!("replica-{suffix}"), &secret, pin, addresses);
    let seconds = ttl.as_secs().try_into().context("such a time never ends")?;
    let expires_at = Timestamp(jiff::Timestamp::now()).plus_seconds(seconds);
    let token = json!({
        "apiVersion": JOIN_TOKEN.gvk.api_version(),
        "kind": JOIN_TOKEN.gvk.kind,
        "metadata": {"name": invitation.name},
        "spec": {"secretDigest": invitation.secret_digest(), "expiresAt": expires_at, "replica": true},
    });
    admin.create(&JOIN_TOKEN, &token).await?;
    Ok((invitation, expires_at))
}

#[derive(clap::Args)]
pub struct Status {
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

impl Status {
    /// What one replica knows, without a quorum too. Exit code 1 where nobody leads.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let admin = self.connection.open().await?;
        let group = admin.replicas().await?;
        match self.output {
            Output::Json => println!("{group:#}"),
            Output::Text => {
                print_lines(lines(&group));
                println!("\n{}", summary(&group));
            }
        }
        Ok(if group["leader"].is_null() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn lines(group: &Value) -> Vec<Vec<String>> {
    let head = ["REPLICA", "ROLE", "LAG", "APPLIED", "HASH", "SNAPSHOT", "DISK", "PEER ADDRESS", "MESSAGE"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for replica in group["replicas"].as_array().into_iter().flatten() {
        let status = &replica["status"];
        let hash = match (&status["hash"]["index"], status["hash"]["value"].as_str()) {
            (Value::Number(index), Some(value)) => format!("{index}:{}", value.get(..12).unwrap_or(value)),
            _ => "-".into(),
        };
        let disk = status["diskBytes"].as_u64().map(|bytes| format!("{:.1}Mi", bytes as f64 / f64::from(1 << 20)));
        let shown = |value: &Value| if value.is_null() { "-".to_owned() } else { text(value) };
        lines.push(vec![
            shown(&replica["name"]),
            shown(&status["role"]),
            shown(&status["lag"]),
            shown(&status["applied"]),
            hash,
            shown(&status["snapshot"]),
            disk.unwrap_or_else(|| "-".into()),
            shown(&replica["peerAddress"]),
            status["message"].as_str().unwrap_or_default().to_owned(),
        ]);
    }
    lines
}

fn summary(group: &Value) -> String {
    let (voters, answering) = (group["voters"].as_u64().unwrap_or(0), group["answering"].as_u64().unwrap_or(0));
    let needed = voters / 2 + 1;
    match group["leader"].as_u64() {
        Some(leader) if answering > needed || voters < 3 => format!(
            "replica {leader} leads in term {}; {answering} of {voters} with a vote answer, {needed} are needed",
            group["term"]
        ),
        Some(leader) => format!(
            "replica {leader} leads in term {}; {answering} of {voters} with a vote answer and {needed} are needed: not one more may \
             be lost",
            group["term"]
        ),
        None => format!(
            "no replica leads: {answering} of {voters} with a vote answer replica {}, {needed} are needed; until then nothing can \
             be read or written. Bring another one back; where they are lost for good: hanse hub recover",
            group["replica"]
        ),
    }
}

#[derive(clap::Args)]
pub struct Remove {
    /// Its number
    replica: u64,

    #[command(flatten)]
    connection: Connection,
}

impl Remove {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let admin = self.connection.open().await?;
        let name = self.replica.to_string();
        admin.delete(&REPLICA, &name).await?;
        let began = Instant::now();
        while began.elapsed() < REMOVAL {
            // The replica that answers may be the very one that leaves: then asking it again tells nothing.
            if let Ok(replicas) = admin.list(&REPLICA).await
                && is_gone(&replicas, &name)
            {
                println!("replica {name} is removed: stop its process, its directory is of no use any more");
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        bail!("replica {name} is still there; it goes as soon as the others can do without it: {}", why(&admin).await)
    }
}

fn is_gone(replicas: &Value, name: &str) -> bool {
    replicas["items"].as_array().is_some_and(|items| items.iter().all(|item| item["metadata"]["name"] != *name))
}

async fn why(admin: &Admin) -> String {
    match admin.replicas().await {
        Ok(group) => summary(&group),
        Err(error) => format!("{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(leader: Value, voters: u64, answering: u64) -> Value {
        json!({"replica": 2, "leader": leader, "term": 7, "voters": voters, "answering": answering, "replicas": []})
    }

    #[test]
    fn the_last_line_says_what_may_still_be_lost() {
        let well = summary(&group(json!(1), 3, 3));
        assert!(well.contains("replica 1 leads in term 7") && !well.contains("not one more"), "{well}");
        assert!(!summary(&group(json!(1), 1, 1)).contains("not one more"), "nobody expects that of one replica");
        assert!(summary(&group(json!(1), 3, 2)).contains("not one more may be lost"));
        let none = summary(&group(Value::Null, 3, 1));
        assert!(
            none.contains("1 of 3") && none.contains("2 are needed") && none.contains("hanse hub recover"),
            "{none}"
        );
    }

    #[test]
    fn a_replica_that_is_not_listed_is_gone() {
        let list = json!({"items": [{"metadata": {"name": "1"}}, {"metadata": {"name": "12"}}]});
        assert!(is_gone(&list, "2") && !is_gone(&list, "12"));
        assert!(!is_gone(&json!({}), "2"), "no list is no answer");
    }
}
