//! `kmsfs alias`: further names of KMS keys.

use super::error::Result;
use super::global::Global;
use super::{output, service};
use crate::kms::wire::{CreateAliasRequest, DeleteAliasRequest, UpdateAliasRequest};

/// Names KMS keys
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Gives a key a further name (CreateAlias)
    Create(Target),
    /// Lets an alias name another key (UpdateAlias)
    Update(Target),
    /// Takes a name away; the key stays (DeleteAlias)
    Delete {
        /// alias/NAME
        alias: String,
    },
    /// Lists aliases (ListAliases)
    List {
        /// Only this key's: key id, ARN, alias or alias ARN
        #[arg(long, visible_alias = "key-id", value_name = "KEY")]
        key: Option<String>,
        /// Print AWS's answer as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Target {
    /// alias/NAME
    alias: String,
    /// Key id, ARN, or another alias of the key
    key: String,
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    let session = service::session(global)?;
    match &args.verb {
        Verb::Create(Target { alias, key }) => {
            let target_key_id = service::resolve(&session, key)?;
            session.call(CreateAliasRequest {
                alias_name: alias.clone(),
                target_key_id: target_key_id.clone(),
            })?;
            output::line(&format!("{alias} names {target_key_id}"))
        }
        Verb::Update(Target { alias, key }) => {
            let target_key_id = service::resolve(&session, key)?;
            session.call(UpdateAliasRequest {
                alias_name: alias.clone(),
                target_key_id: target_key_id.clone(),
            })?;
            output::line(&format!("{alias} names {target_key_id}"))
        }
        Verb::Delete { alias } => {
            session.call(DeleteAliasRequest { alias_name: alias.clone() })?;
            output::line(&format!("{alias} is gone; its key stays"))
        }
        Verb::List { key, json } => {
            let key = key.as_deref().map(|key| service::resolve(&session, key)).transpose()?;
            let answer = service::aliases(&session, key.as_deref())?;
            if *json {
                return output::json(&answer);
            }
            let rows = answer
                .aliases
                .into_iter()
                .map(|a| [a.alias_name, a.target_key_id, super::key::time(a.last_updated_date)]);
            output::table(["ALIAS", "KEY", "SINCE"], &rows.collect::<Vec<_>>())
        }
    }
}
