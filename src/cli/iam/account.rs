//! `kmsfs iam account`.

use serde_json::{Value, json};

use super::super::error::{CliError, Result};
use super::super::global::Global;
use super::super::{output, service};
use super::{ask, cell, done, items};
use crate::kms::Caller;
use crate::kms::identity::IdentitySession;

/// What clap shows of `iam account`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Shows the account, the caller, and what the account has (GetCallerIdentity, ListAccountAliases, GetAccountSummary)
    Get(Json),
    /// Lists the accounts that have identities in this home
    List(Json),
    /// The account's alias, which is unique in the home
    Alias {
        #[command(subcommand)]
        verb: Alias,
    },
}

#[derive(Debug, clap::Args)]
struct Json {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Alias {
    /// Names the account (CreateAccountAlias)
    Create(Name),
    /// Takes the name away (DeleteAccountAlias)
    Delete(Name),
    /// Prints the name (ListAccountAliases)
    List(Json),
}

#[derive(Debug, clap::Args)]
struct Name {
    /// 3 to 63 of a-z, 0-9 and -
    account_alias: String,
    /// Print nothing, as AWS's answer is empty
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Get(args) => get(&service::identity(global)?, args.json),
        Verb::List(args) => list(global, args.json),
        Verb::Alias { verb } => alias(&service::identity(global)?, verb),
    }
}

fn get(iam: &IdentitySession, json: bool) -> Result<()> {
    let who = ask(iam, "GetCallerIdentity", json!({}))?;
    let aliases = ask(iam, "ListAccountAliases", json!({}))?;
    let summary = ask(iam, "GetAccountSummary", json!({}))?;
    if json {
        let all = json!({
            "Account": who["Account"], "Arn": who["Arn"], "UserId": who["UserId"],
            "AccountAliases": aliases["AccountAliases"], "SummaryMap": summary["SummaryMap"]
        });
        return output::json(&all);
    }
    let number = |name: &str| cell(&summary["SummaryMap"][name]);
    let root_keys = if summary["SummaryMap"]["AccountAccessKeysPresent"] == 0 { "none" } else { "yes" };
    output::facts(&[
        ("account", cell(&who["Account"])),
        ("alias", cell(items(&aliases, "AccountAliases").first().unwrap_or(&Value::Null))),
        ("caller", cell(&who["Arn"])),
        ("users", number("Users")),
        ("groups", number("Groups")),
        ("roles", number("Roles")),
        ("policies", number("Policies")),
        ("root's access keys", root_keys.to_owned()),
    ])
}

fn list(global: &Global, json: bool) -> Result<()> {
    if global.principal.is_some() {
        return Err(CliError::Usage(
            "the accounts of a home are in no account, so that no policy lets anybody list them; leave --as away"
                .to_owned(),
        ));
    }
    let kms = service::identities(global)?;
    let (mut rows, mut accounts) = (Vec::new(), Vec::new());
    for account in kms.accounts()? {
        let iam = kms.identity(Caller::root(account.clone()));
        let aliases = ask(&iam, "ListAccountAliases", json!({}))?;
        let summary = ask(&iam, "GetAccountSummary", json!({}))?;
        let alias = items(&aliases, "AccountAliases").first().unwrap_or(&Value::Null);
        let number = |name: &str| cell(&summary["SummaryMap"][name]);
        let numbers = ["Users", "Groups", "Roles", "Policies"].map(number);
        let [users, groups, roles, policies] = numbers;
        rows.push([account.to_string(), cell(alias), users, groups, roles, policies]);
        accounts.push(json!({
            "Id": account.to_string(), "Alias": alias, "Arn": format!("arn:aws:iam::{account}:root")
        }));
    }
    if json {
        return output::json(&json!({"Accounts": accounts}));
    }
    output::table(["ACCOUNT", "ALIAS", "USERS", "GROUPS", "ROLES", "POLICIES"], &rows)
}

fn alias(iam: &IdentitySession, verb: &Alias) -> Result<()> {
    let account = iam.caller().principal.account();
    match verb {
        Alias::Create(Name { account_alias, json }) => {
            ask(iam, "CreateAccountAlias", json!({"AccountAlias": account_alias}))?;
            done(*json, &format!("the account {account} is called {account_alias}"))
        }
        Alias::Delete(Name { account_alias, json }) => {
            ask(iam, "DeleteAccountAlias", json!({"AccountAlias": account_alias}))?;
            done(*json, &format!("the account {account} is called {account_alias} no more"))
        }
        Alias::List(Json { json }) => {
            let answer = ask(iam, "ListAccountAliases", json!({}))?;
            if *json {
                return output::json(&answer);
            }
            let lines: Vec<_> =
                items(&answer, "AccountAliases").iter().map(|name| cell(name) + "\n").collect();
            output::bytes(lines.concat().as_bytes())
        }
    }
}
