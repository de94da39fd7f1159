//! `kmsfs iam group`.

use serde_json::{Value, json};

use super::super::error::Result;
use super::super::output;
use super::held::{self, Held};
use super::{Named, Owner, Page, all, ask, cell, done, print, request, rows, time};
use crate::kms::identity::IdentitySession;

/// What clap shows of `iam group`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes a group (CreateGroup)
    Create {
        #[command(flatten)]
        named: Named,
        /// Where it stands among the groups: / or /people/
        #[arg(long)]
        path: Option<String>,
    },
    /// Shows a group and who is in it (GetGroup)
    Get(Named),
    /// Lists the account's groups (ListGroups)
    List(Page),
    /// Deletes a group that has no users and policies any more (DeleteGroup)
    Delete(Named),
    /// Puts a user into a group (AddUserToGroup)
    AddUser(Member),
    /// Takes a user out of a group (RemoveUserFromGroup)
    RemoveUser(Member),
    #[command(flatten)]
    Held(Held),
}

#[derive(Debug, clap::Args)]
struct Member {
    #[command(flatten)]
    named: Named,
    /// The user's name
    #[arg(long, value_name = "NAME")]
    user_name: String,
}

/// Runs it.
pub fn run(iam: &IdentitySession, args: &Args) -> Result<()> {
    let owner = Owner::Group;
    match &args.verb {
        Verb::Create { named, path } => {
            let body = request(&[
                ("GroupName", Some(json!(named.name))),
                ("Path", path.as_ref().map(|path| json!(path))),
            ]);
            let answer = ask(iam, "CreateGroup", body)?;
            if named.json { print(answer) } else { output::facts(&facts(&answer)) }
        }
        Verb::Get(named) => {
            let answer = all(iam, "GetGroup", &owner.request(&named.name, &[]), "Users")?;
            if named.json {
                return print(answer);
            }
            let mut facts = facts(&answer);
            let users = rows(&answer, "Users", ["Arn"]);
            facts.extend(users.into_iter().map(|[arn]| ("user", arn)));
            output::facts(&facts)
        }
        Verb::List(page) => {
            let body = request(&[("PathPrefix", page.path_prefix.as_ref().map(|path| json!(path)))]);
            let answer = all(iam, "ListGroups", &body, "Groups")?;
            if page.json { print(answer) } else { table(&answer) }
        }
        Verb::Delete(named) => {
            ask(iam, "DeleteGroup", owner.request(&named.name, &[]))?;
            done(named.json, &format!("the group {} is gone", named.name))
        }
        Verb::AddUser(Member { named, user_name }) => {
            ask(iam, "AddUserToGroup", owner.request(&named.name, &[("UserName", json!(user_name))]))?;
            done(named.json, &format!("the user {user_name} is in the group {}", named.name))
        }
        Verb::RemoveUser(Member { named, user_name }) => {
            ask(iam, "RemoveUserFromGroup", owner.request(&named.name, &[("UserName", json!(user_name))]))?;
            done(named.json, &format!("the user {user_name} is in the group {} no more", named.name))
        }
        Verb::Held(verb) => held::policies(iam, owner, verb),
    }
}

fn facts(answer: &Value) -> Vec<(&'static str, String)> {
    let group = &answer["Group"];
    vec![
        ("group", cell(&group["Arn"])),
        ("id", cell(&group["GroupId"])),
        ("made", time(&group["CreateDate"])),
    ]
}

/// Groups for people.
pub fn table(answer: &Value) -> Result<()> {
    let rows = rows(answer, "Groups", ["GroupName", "GroupId", "CreateDate", "Arn"]);
    output::table(["GROUP", "ID", "MADE", "ARN"], &rows)
}
