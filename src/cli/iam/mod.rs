//! `kmsfs iam`: who there is and what they may, as AWS's operations of IAM and STS make and change it.

mod access_key;
mod account;
mod group;
mod held;
mod policy;
mod role;
mod simulate;
mod user;

use std::process::ExitCode;

use serde_json::{Value, json};

use super::error::{CliError, Exit, Result};
use super::global::Global;
use super::{output, service};
use crate::kms::identity::IdentitySession;
use crate::kms::identity::wire::IdentityTag;

/// Makes, shows and changes users, groups, roles and their policies, and says what they may
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Shows or names the account, or lists the accounts of the home
    Account(account::Args),
    /// Users: somebody who signs with access keys, or whom `--as` names
    User(user::Args),
    /// Groups: users with the same policies
    Group(group::Args),
    /// Roles: to be assumed by whom their trust policy names
    Role(role::Args),
    /// Managed policies: documents that are attached to users, groups and roles
    Policy(policy::Args),
    /// Access keys of users and of the account's root
    AccessKey(access_key::Args),
    /// Says whether somebody may do something, and which statement or grant allows or denies it
    Simulate(simulate::Simulate),
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Account(args) => account::run(global, args)?,
        Verb::User(args) => user::run(&service::identity(global)?, args)?,
        Verb::Group(args) => group::run(&service::identity(global)?, args)?,
        Verb::Role(args) => role::run(&service::identity(global)?, args)?,
        Verb::Policy(args) => policy::run(&service::identity(global)?, args)?,
        Verb::AccessKey(args) => access_key::run(&service::identity(global)?, args)?,
        Verb::Simulate(args) => return simulate::run(global, args),
    }
    Ok(Exit::Success.into())
}

/// What can have policies.
#[derive(Debug, Clone, Copy)]
enum Owner {
    User,
    Group,
    Role,
}

impl Owner {
    /// In the names of operations.
    fn title(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Group => "Group",
            Self::Role => "Role",
        }
    }

    /// In sentences.
    fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Role => "role",
        }
    }

    /// Its name as requests have it, with what else they say.
    fn request(self, name: &str, more: &[(&str, Value)]) -> Value {
        let mut all = serde_json::Map::new();
        all.insert(format!("{}Name", self.title()), name.into());
        all.extend(more.iter().map(|(field, value)| ((*field).to_owned(), value.clone())));
        Value::Object(all)
    }
}

/// One by its name.
#[derive(Debug, clap::Args)]
struct Named {
    /// Its name
    name: String,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

/// All, or those under a path.
#[derive(Debug, clap::Args)]
struct Page {
    /// Only those whose path begins so: /people/
    #[arg(long, value_name = "PATH")]
    path_prefix: Option<String>,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

/// NAME=VALUE.
fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn tag(text: &str) -> std::result::Result<IdentityTag, String> {
    pair(text).map(|(key, value)| IdentityTag { key, value })
}

/// One operation whose answer holds no secret. Its request has no nulls in place of lists.
fn ask(iam: &IdentitySession, operation: &str, request: Value) -> Result<Value> {
    Ok(iam.call_json(operation, request)?)
}

/// All pages of a list as one.
fn all(iam: &IdentitySession, operation: &str, request: &Value, list: &str) -> Result<Value> {
    let mut answer = ask(iam, operation, request.clone())?;
    while let Some(marker) = answer.get("Marker").cloned() {
        let mut request = request.clone();
        request["Marker"] = marker;
        let mut next = ask(iam, operation, request)?;
        let mut items = items(&answer, list).to_vec();
        items.extend_from_slice(self::items(&next, list));
        next[list] = items.into();
        answer = next;
    }
    Ok(answer)
}

fn items<'a>(answer: &'a Value, list: &str) -> &'a [Value] {
    answer[list].as_array().map_or(&[], Vec::as_slice)
}

/// What a table or list of facts has for a field: nothing is a dash.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A moment, as the other tables have it.
fn time(value: &Value) -> String {
    cell(value).replacen('T', " ", 1)
}

/// Some fields of a list's items; those whose names end in Date are moments.
fn rows<const N: usize>(answer: &Value, list: &str, fields: [&str; N]) -> Vec<[String; N]> {
    let shown = |item: &Value, field: &str| {
        if field.ends_with("Date") { time(&item[field]) } else { cell(&item[field]) }
    };
    items(answer, list).iter().map(|item| fields.map(|field| shown(item, field))).collect()
}

/// For operations whose answer is empty: AWS's command line prints nothing then.
fn done(json: bool, text: &str) -> Result<()> {
    if json { Ok(()) } else { output::line(text) }
}

/// Prints an answer as `aws iam` does: documents as what they say, not as texts.
fn print(mut answer: Value) -> Result<()> {
    open_documents(&mut answer);
    output::json(&answer)
}

fn open_documents(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let document =
                    matches!(name.as_str(), "Document" | "PolicyDocument" | "AssumeRolePolicyDocument");
                match value.as_str().map(serde_json::from_str) {
                    Some(Ok(opened)) if document => *value = opened,
                    _ => open_documents(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(open_documents),
        _ => {}
    }
}

/// Prints a policy document for people.
fn document(text: &Value) -> Result<()> {
    let opened: Value = serde_json::from_str(text.as_str().unwrap_or_default())
        .map_err(|e| CliError::Failed(format!("the policy: {e}")))?;
    output::json(&opened)
}

/// The ARN of a managed policy: of one of the caller's account the name, behind its path, is enough.
fn policy_arn(iam: &IdentitySession, policy: &str) -> String {
    if policy.contains(':') {
        return policy.to_owned();
    }
    format!("arn:aws:iam::{}:policy/{}", iam.caller().principal.account(), policy.trim_start_matches('/'))
}

/// A request without what is not given.
fn request(fields: &[(&str, Option<Value>)]) -> Value {
    let given = fields.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
    Value::Object(given.collect())
}

fn tags(tags: &[IdentityTag]) -> Option<Value> {
    Some(json!(tags)).filter(|_| !tags.is_empty())
}
