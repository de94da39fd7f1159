//! What users, groups and roles have: managed policies, policies of their own, labels and a boundary. One code for
//! all three.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::error::Result;
use super::super::key::policy::read;
use super::super::output;
use super::{Named, Owner, all, ask, cell, document, done, items, policy_arn, print, rows, tag};
use crate::kms::identity::IdentitySession;
use crate::kms::identity::wire::IdentityTag;

#[derive(Debug, clap::Subcommand)]
pub enum Held {
    /// Attaches a managed policy (AttachUserPolicy and its like)
    AttachPolicy(Managed),
    /// Takes a managed policy away again (DetachUserPolicy and its like)
    DetachPolicy(Managed),
    /// Sets a policy of its own (PutUserPolicy and its like)
    PutPolicy(Put),
    /// Prints a policy of its own (GetUserPolicy and its like)
    GetPolicy(Own),
    /// Deletes a policy of its own (DeleteUserPolicy and its like)
    DeletePolicy(Own),
    /// Lists its policies, the attached and its own (ListAttachedUserPolicies, ListUserPolicies and their like)
    ListPolicies(Named),
}

#[derive(Debug, clap::Subcommand)]
pub enum Marks {
    /// Labels it, or shows its labels
    Tag(Labels),
    /// Sets or takes away the managed policy beyond which it may nothing
    Boundary {
        #[command(subcommand)]
        verb: Boundary,
    },
}

#[derive(Debug, clap::Args)]
pub struct Managed {
    #[command(flatten)]
    named: Named,
    /// The policy's ARN; of one of the account its name is enough
    #[arg(long, value_name = "ARN")]
    policy_arn: String,
}

#[derive(Debug, clap::Args)]
pub struct Put {
    #[command(flatten)]
    named: Named,
    /// The policy's name
    #[arg(long, value_name = "NAME")]
    policy_name: String,
    /// File of the policy, JSON; `-` is standard input
    #[arg(long, value_name = "FILE")]
    policy_document: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct Own {
    #[command(flatten)]
    named: Named,
    /// The policy's name
    #[arg(long, value_name = "NAME")]
    policy_name: String,
}

#[derive(Debug, clap::Args)]
pub struct Labels {
    #[command(flatten)]
    named: Named,
    /// Add a label, or give one that is there another value (TagUser, TagRole)
    #[arg(long, value_name = "NAME=VALUE", value_parser = tag)]
    add: Vec<IdentityTag>,
    /// Take a label away (UntagUser, UntagRole)
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
    /// Show the labels, as without an option (ListUserTags, ListRoleTags)
    #[arg(long)]
    list: bool,
}

#[derive(Debug, clap::Subcommand)]
pub enum Boundary {
    /// Limits it to what this policy allows (PutUserPermissionsBoundary, PutRolePermissionsBoundary)
    Put {
        #[command(flatten)]
        named: Named,
        /// ARN of a managed policy; of one of the account its name is enough
        #[arg(long, value_name = "ARN")]
        permissions_boundary: String,
    },
    /// Limits it no more (DeleteUserPermissionsBoundary, DeleteRolePermissionsBoundary)
    Delete(Named),
}

pub fn policies(iam: &IdentitySession, owner: Owner, verb: &Held) -> Result<()> {
    let (title, word) = (owner.title(), owner.word());
    match verb {
        Held::AttachPolicy(Managed { named, policy_arn: policy }) => {
            let arn = policy_arn(iam, policy);
            let request = owner.request(&named.name, &[("PolicyArn", json!(arn))]);
            ask(iam, &format!("Attach{title}Policy"), request)?;
            done(named.json, &format!("the {word} {} has {arn}", named.name))
        }
        Held::DetachPolicy(Managed { named, policy_arn: policy }) => {
            let arn = policy_arn(iam, policy);
            let request = owner.request(&named.name, &[("PolicyArn", json!(arn))]);
            ask(iam, &format!("Detach{title}Policy"), request)?;
            done(named.json, &format!("the {word} {} has {arn} no more", named.name))
        }
        Held::PutPolicy(Put { named, policy_name, policy_document }) => {
            let more =
                [("PolicyName", json!(policy_name)), ("PolicyDocument", json!(read(policy_document)?))];
            ask(iam, &format!("Put{title}Policy"), owner.request(&named.name, &more))?;
            done(named.json, &format!("the {word} {} has the policy {policy_name}", named.name))
        }
        Held::GetPolicy(Own { named, policy_name }) => {
            let request = owner.request(&named.name, &[("PolicyName", json!(policy_name))]);
            let answer = ask(iam, &format!("Get{title}Policy"), request)?;
            if named.json { print(answer) } else { document(&answer["PolicyDocument"]) }
        }
        Held::DeletePolicy(Own { named, policy_name }) => {
            let request = owner.request(&named.name, &[("PolicyName", json!(policy_name))]);
            ask(iam, &format!("Delete{title}Policy"), request)?;
            done(named.json, &format!("the {word} {} has the policy {policy_name} no more", named.name))
        }
        Held::ListPolicies(named) => list(iam, owner, named),
    }
}

fn list(iam: &IdentitySession, owner: Owner, named: &Named) -> Result<()> {
    let (title, request) = (owner.title(), owner.request(&named.name, &[]));
    let attached = all(iam, &format!("ListAttached{title}Policies"), &request, "AttachedPolicies")?;
    let own = all(iam, &format!("List{title}Policies"), &request, "PolicyNames")?;
    if named.json {
        let both = json!({
            "AttachedPolicies": attached["AttachedPolicies"], "PolicyNames": own["PolicyNames"], "IsTruncated": false
        });
        return print(both);
    }
    let mut table = rows(&attached, "AttachedPolicies", ["PolicyName", "PolicyArn"]);
    table.extend(items(&own, "PolicyNames").iter().map(|name| [cell(name), "its own".to_owned()]));
    output::table(["POLICY", "ARN"], &table)
}

pub fn marks(iam: &IdentitySession, owner: Owner, verb: &Marks) -> Result<()> {
    let (title, word) = (owner.title(), owner.word());
    match verb {
        Marks::Tag(args) => labels(iam, owner, args),
        Marks::Boundary { verb: Boundary::Put { named, permissions_boundary } } => {
            let arn = policy_arn(iam, permissions_boundary);
            let request = owner.request(&named.name, &[("PermissionsBoundary", json!(arn))]);
            ask(iam, &format!("Put{title}PermissionsBoundary"), request)?;
            done(named.json, &format!("the {word} {} may nothing beyond {arn}", named.name))
        }
        Marks::Boundary { verb: Boundary::Delete(named) } => {
            ask(iam, &format!("Delete{title}PermissionsBoundary"), owner.request(&named.name, &[]))?;
            done(named.json, &format!("the {word} {} has no boundary", named.name))
        }
    }
}

fn labels(iam: &IdentitySession, owner: Owner, args: &Labels) -> Result<()> {
    let (title, name) = (owner.title(), &args.named.name);
    if !args.add.is_empty() {
        ask(iam, &format!("Tag{title}"), owner.request(name, &[("Tags", json!(args.add))]))?;
    }
    if !args.remove.is_empty() {
        ask(iam, &format!("Untag{title}"), owner.request(name, &[("TagKeys", json!(args.remove))]))?;
    }
    let changed = !(args.add.is_empty() && args.remove.is_empty());
    if changed && !args.list {
        let text = format!("the {} {name} has other labels; --list shows them", owner.word());
        return done(args.named.json, &text);
    }
    let answer = all(iam, &format!("List{title}Tags"), &owner.request(name, &[]), "Tags")?;
    if args.named.json {
        return print(answer);
    }
    output::table(["NAME", "VALUE"], &rows(&answer, "Tags", ["Key", "Value"]))
}

/// What a user or role says of its boundary and labels, for its facts.
pub fn facts(of: &Value, facts: &mut Vec<(&'static str, String)>) {
    if let Some(boundary) = of["PermissionsBoundary"]["PermissionsBoundaryArn"].as_str() {
        facts.push(("boundary", boundary.to_owned()));
    }
    let labels = items(of, "Tags").iter().map(|tag| format!("{}={}", cell(&tag["Key"]), cell(&tag["Value"])));
    facts.extend(labels.map(|label| ("label", label)));
}
