//! `hanse token`: invitations for clusters.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use clap::{Subcommand, ValueEnum};
use ring::rand::SecureRandom;
use serde_json::{Value, json};

use super::admin::{Admin, Connection, print_table};
use crate::{
    agent::{deploy, join::Token},
    kinds,
    model::{Timestamp, selector},
};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a token and print the one command that joins a cluster with it
    Create(Create),
    /// List the tokens there are
    List(List),
}

#[derive(clap::Args)]
struct Create {
    /// Name the cluster is to have; left out, the agent chooses with --name
    name: Option<String>,

    /// The cluster takes the place of the one of that name: a rebuilt cluster joins again, with a new uid and nothing
    /// of the old one's
    #[arg(long, requires = "name")]
    replace: bool,

    /// The cluster is accepted at once, without `hanse cluster accept`
    #[arg(long)]
    auto_approve: bool,

    /// How long the token may be used: 90s, 30m, 1h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,

    /// A label for the cluster, for placement to select by; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,

    /// Address at which the agent reaches the hub; else the kubeconfig's
    #[arg(long, value_name = "URL")]
    hub: Option<String>,

    /// Image of the agent, for yaml
    #[arg(long, value_name = "IMAGE", default_value = deploy::IMAGE)]
    image: String,

    /// Text for people, json for scripts, yaml for `kubectl apply` in the member
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args)]
struct List {
    #[arg(short, long, value_enum, default_value_t)]
    output: ListOutput,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
    Yaml,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum ListOutput {
    #[default]
    Table,
    Json,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Create(create) => create.run().await,
        Command::List(list) => {
            let admin = list.connection.open().await?;
            match list.output {
                ListOutput::Table => Ok(print_table(&admin.table(&kinds::JOIN_TOKEN).await?)),
                ListOutput::Json => {
                    println!("{:#}", admin.list(&kinds::JOIN_TOKEN).await?);
                    Ok(ExitCode::SUCCESS)
                }
            }
        }
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let admin = self.connection.open().await?;
        let (token, expires_at) = self.make(&admin).await?;
        let hub = self.hub.clone().unwrap_or_else(|| admin.url.clone());
        let cluster = self.name.clone().unwrap_or_default();
        let command = command(&hub, &token, &cluster);
        match self.output {
            Output::Json => println!(
                "{:#}",
                json!({
                    "name": token.name,
                    "cluster": cluster,
                    "hub": hub,
                    "token": token.reveal(),
                    "expiresAt": expires_at,
                    "replace": self.replace,
                    "autoApprove": self.auto_approve,
                    "command": command,
                })
            ),
            Output::Yaml => print!("{}", deploy::member_manifests(&hub, &token.reveal(), &cluster, &self.image)),
            Output::Text => {
                eprintln!(
                    "Run this where the member's kubeconfig is, before {expires_at}; the token is good for one cluster:\n"
                );
                println!("{command}");
                if !self.auto_approve {
                    let name = self.name.as_deref().unwrap_or("NAME");
                    eprintln!("\nThen accept it: hanse cluster accept {name}");
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn make(&self, admin: &Admin) -> anyhow::Result<(Token, Timestamp)> {
        let secret = random::<32>()?;
        let suffix: String = random::<4>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{}-{suffix}", self.name.as_deref().unwrap_or("join"));
        let token = Token::new(&name, &BASE64_URL_SAFE_NO_PAD.encode(secret), admin.pin);
        let seconds = self.ttl.as_secs().try_into().context("such a --ttl never ends")?;
        let expires_at = Timestamp(jiff::Timestamp::now()).plus_seconds(seconds);
        let labels: BTreeMap<_, _> = self.labels.iter().cloned().collect();
        let mut spec = json!({
            "secretDigest": token.secret_digest(),
            "expiresAt": expires_at,
            "replace": self.replace,
            "autoApprove": self.auto_approve,
            "labels": labels,
        });
        if let Some(cluster) = &self.name {
            spec["cluster"] = json!(cluster);
        }
        let kind = &*kinds::JOIN_TOKEN;
        let object: Value = json!({
            "apiVersion": kind.gvk.api_version(),
            "kind": kind.gvk.kind,
            "metadata": {"name": name},
            "spec": spec,
        });
        admin.create(kind, &object).await?;
        Ok((token, expires_at))
    }
}

fn command(hub: &str, token: &Token, cluster: &str) -> String {
    let (dir, name) = match cluster {
        "" => ("./hanse-agent".to_owned(), " --name NAME"),
        cluster => (format!("./hanse-{cluster}"), ""),
    };
    format!("hanse agent --hub {hub} --token {}{name} --kubeconfig MEMBER.kubeconfig --dir {dir}", token.reveal())
}

pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = ring::rand::SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| anyhow!("the system has no randomness to give"))?;
    Ok(bytes)
}

pub fn parse_ttl(text: &str) -> Result<Duration, String> {
    let error = || format!("{text:?} is no time (expected a number with s, m, h or d: 30m, 1h)");
    let unit = text.chars().last().ok_or_else(error)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(error()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| error())?;
    match number.checked_mul(seconds) {
        Some(seconds @ 1..=31_536_000) => Ok(Duration::from_secs(seconds)),
        Some(_) | None => Err(format!("{text:?} is not between a second and a year")),
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no label (expected KEY=VALUE)"))?;
    selector::check_key(key)?;
    selector::check_value(value)?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live_are_numbers_with_a_unit() {
        assert_eq!(parse_ttl("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_ttl("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "h", "1", "-1h", "1.5h", "0s", "2y", "99999999999999999999d", "400d", "1ä"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}
