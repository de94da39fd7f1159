//! `kmsfs iam user`.

use serde_json::{Value, json};

use super::super::error::Result;
use super::super::output;
use super::held::{self, Held, Marks};
use super::{Named, Owner, Page, all, ask, cell, done, policy_arn, print, request, rows, tag, tags, time};
use crate::kms::identity::IdentitySession;
use crate::kms::identity::wire::IdentityTag;

/// What clap shows of `iam user`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes a user (CreateUser)
    Create(Create),
    /// Shows a user; without a name, the caller (GetUser)
    Get {
        /// Its name
        name: Option<String>,
        /// Print AWS's answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Lists the account's users (ListUsers)
    List(Page),
    /// Deletes a user that has no policies, groups and access keys any more (DeleteUser)
    Delete(Named),
    /// Lists the groups that a user is in (ListGroupsForUser)
    Groups(Named),
    #[command(flatten)]
    Held(Held),
    #[command(flatten)]
    Marks(Marks),
}

#[derive(Debug, clap::Args)]
struct Create {
    #[command(flatten)]
    named: Named,
    /// Where it stands among the users: / or /people/
    #[arg(long)]
    path: Option<String>,
    /// ARN of the managed policy beyond which it may nothing; of one of the account its name is enough
    #[arg(long, value_name = "ARN")]
    permissions_boundary: Option<String>,
    /// Label, of which a user may have several
    #[arg(long, value_name = "NAME=VALUE", value_parser = tag)]
    tag: Vec<IdentityTag>,
}

/// Runs it.
pub fn run(iam: &IdentitySession, args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Create(Create { named, path, permissions_boundary, tag }) => {
            let boundary = permissions_boundary.as_deref().map(|policy| policy_arn(iam, policy));
            let body = request(&[
                ("UserName", Some(json!(named.name))),
                ("Path", path.as_ref().map(|path| json!(path))),
                ("PermissionsBoundary", boundary.map(Value::from)),
                ("Tags", tags(tag)),
            ]);
            show(ask(iam, "CreateUser", body)?, named.json)
        }
        Verb::Get { name, json } => {
            let body = request(&[("UserName", name.as_ref().map(|name| json!(name)))]);
            show(ask(iam, "GetUser", body)?, *json)
        }
        Verb::List(page) => {
            let body = request(&[("PathPrefix", page.path_prefix.as_ref().map(|path| json!(path)))]);
            let answer = all(iam, "ListUsers", &body, "Users")?;
            if page.json {
                return print(answer);
            }
            let rows = rows(&answer, "Users", ["UserName", "UserId", "CreateDate", "Arn"]);
            output::table(["USER", "ID", "MADE", "ARN"], &rows)
        }
        Verb::Delete(named) => {
            ask(iam, "DeleteUser", Owner::User.request(&named.name, &[]))?;
            done(named.json, &format!("the user {} is gone", named.name))
        }
        Verb::Groups(named) => {
            let body = Owner::User.request(&named.name, &[]);
            let answer = all(iam, "ListGroupsForUser", &body, "Groups")?;
            if named.json { print(answer) } else { super::group::table(&answer) }
        }
        Verb::Held(verb) => held::policies(iam, Owner::User, verb),
        Verb::Marks(verb) => held::marks(iam, Owner::User, verb),
    }
}

fn show(answer: Value, json: bool) -> Result<()> {
    if json {
        return print(answer);
    }
    let user = &answer["User"];
    let mut facts = vec![
        ("user", cell(&user["Arn"])),
        ("id", cell(&user["UserId"])),
        ("made", time(&user["CreateDate"])),
    ];
    held::facts(user, &mut facts);
    output::facts(&facts)
}
