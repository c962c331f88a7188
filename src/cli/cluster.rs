//! `hanse cluster`: what an admin does to a member, each one small call on the hub's API that kubectl could make too.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::admin::{Admin, Connection, print_table};
use crate::{
    hub::agents::roster::FROZEN,
    kinds::{CLUSTER, cluster::FORGET_ANNOTATION},
};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the clusters
    List(List),
    /// Accept a cluster that asked to join: its agent gets a certificate
    Accept(Named),
    /// Cut a cluster's agent off at once; what it runs stays, and `accept` lets it in again
    Revoke(Named),
    /// Place nothing new on a cluster; what it runs stays
    Cordon(Named),
    /// Let a cordoned cluster get new work again
    Uncordon(Named),
    /// Remove from a cluster all that the hub runs there, then delete the cluster from the hub; `hanse drain` first moves
    /// what can run elsewhere
    Drain(Named),
    /// Delete a dead cluster from the hub at once: what still runs there stays, unmanaged, and whatever waited for its
    /// agent waits no more
    Forget(Named),
    /// Let one agent of a frozen cluster in again, once the other holder of its identity is stopped
    Unfreeze(Named),
}

#[derive(clap::Args)]
struct List {
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

#[derive(clap::Args)]
struct Named {
    /// The cluster's name
    name: String,

    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(list) => {
            let admin = list.connection.open().await?;
            match list.output {
                Output::Table => return Ok(print_table(&admin.table(&CLUSTER).await?)),
                Output::Json => println!("{:#}", admin.list(&CLUSTER).await?),
            }
        }
        Command::Accept(named) => {
            set(&named, json!({"accepted": true})).await?;
            println!("cluster {} is accepted: its agent gets its certificate when it asks next", named.name);
        }
        Command::Revoke(named) => {
            set(&named, json!({"accepted": false})).await?;
            println!("cluster {} is cut off: nothing reaches its agent any more; what it runs stays", named.name);
        }
        Command::Cordon(named) => {
            set(&named, json!({"unschedulable": true})).await?;
            println!("cluster {} is cordoned: it gets nothing new and keeps what it runs", named.name);
        }
        Command::Uncordon(named) => {
            set(&named, json!({"unschedulable": false})).await?;
            println!("cluster {} may get new work again", named.name);
        }
        Command::Drain(named) => {
            let admin = set(&named, json!({"deletionPolicy": "Drain"})).await?;
            admin.delete(&CLUSTER, &named.name).await?;
            println!(
                "cluster {} is being drained: what the hub runs there is removed, and the cluster goes when its agent has \
                 confirmed that",
                named.name
            );
        }
        Command::Forget(named) => forget(&named).await?,
        Command::Unfreeze(named) => {
            let admin = named.connection.open().await?;
            annotate(&admin, &named.name, FROZEN, Value::Null).await?;
            println!("cluster {} is open again: the first agent that connects with its identity acts", named.name);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn set(named: &Named, spec: Value) -> anyhow::Result<Admin> {
    let admin = named.connection.open().await?;
    admin.patch(&CLUSTER, &named.name, &json!({ "spec": spec })).await?;
    Ok(admin)
}

async fn annotate(admin: &Admin, name: &str, key: &str, value: Value) -> anyhow::Result<()> {
    admin.patch(&CLUSTER, name, &json!({"metadata": {"annotations": {key: value}}})).await?;
    Ok(())
}

async fn forget(named: &Named) -> anyhow::Result<()> {
    let admin = named.connection.open().await?;
    let cluster = admin.get(&CLUSTER, &named.name).await?;
    // Its uid, so that a cluster which takes the name meanwhile is not meant.
    annotate(&admin, &named.name, FORGET_ANNOTATION, cluster["metadata"]["uid"].clone()).await?;
    if cluster["metadata"]["deletionTimestamp"].is_null() {
        admin.delete(&CLUSTER, &named.name).await?;
    }
    println!(
        "cluster {} is forgotten: what still runs there stays, unmanaged, and nothing waits for its agent any more",
        named.name
    );
    Ok(())
}
