//! `hanse explain`: where an Application is, and why, for every cluster; and what would help where something is missing.

use std::{io::Write, process::ExitCode};

use serde_json::json;

use super::{
    admin::Connection,
    told::{self, Output},
};
use crate::{flow::schedule::account::Account, kinds::PLACEMENT_REVIEW};

/// Tell why an Application is where it is, for every cluster
#[derive(clap::Args)]
pub struct Args {
    /// The Application
    #[arg(value_name = "APP")]
    name: String,

    /// Its namespace; else that of the kubeconfig's context
    #[arg(short = 'n', long)]
    namespace: Option<String>,

    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let admin = args.connection.open().await?;
    let namespace = args.namespace.as_deref().unwrap_or(&admin.namespace);
    let account: Account = admin.review(&PLACEMENT_REVIEW, namespace, &json!({"name": args.name})).await?;
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&account)?,
        Output::Table => told::account(&account),
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(told::code(account.unplaced.is_empty()))
}
