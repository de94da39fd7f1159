//! `kmsfs iam policy`: managed policies and their versions.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::error::Result;
use super::super::key::policy::read;
use super::super::output;
use super::{
    Owner, all, ask, cell, document, done, items, policy_arn, print, request, rows, tag, tags, time,
};
use crate::kms::identity::IdentitySession;
use crate::kms::identity::wire::IdentityTag;

/// What clap shows of `iam policy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes a managed policy (CreatePolicy)
    Create(Create),
    /// Shows a managed policy (GetPolicy)
    Get(Policy),
    /// Lists managed policies, the account's and AWS's (ListPolicies)
    List(List),
    /// Deletes a managed policy that nobody has and that has no further versions (DeletePolicy)
    Delete(Policy),
    /// Lists the users, groups and roles that have a policy (ListEntitiesForPolicy)
    Entities(Entities),
    /// A policy's versions, of which one counts
    Version {
        #[command(subcommand)]
        verb: Version,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Its name
    name: String,
    /// File of the policy, JSON; `-` is standard input
    #[arg(long, value_name = "FILE")]
    policy_document: PathBuf,
    /// Where it stands among the policies: / or /keys/
    #[arg(long)]
    path: Option<String>,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// Label, of which a policy may have several
    #[arg(long, value_name = "NAME=VALUE", value_parser = tag)]
    tag: Vec<IdentityTag>,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Policy {
    /// Its ARN; of one of the account its name, behind its path, is enough
    policy: String,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct List {
    /// All (the default), AWS or Local: the account's own
    #[arg(long)]
    scope: Option<String>,
    /// Only those that somebody has
    #[arg(long)]
    only_attached: bool,
    /// Only those that are used so: PermissionsPolicy or PermissionsBoundary
    #[arg(long, value_name = "USAGE")]
    policy_usage_filter: Option<String>,
    #[command(flatten)]
    page: super::Page,
}

#[derive(Debug, clap::Args)]
struct Entities {
    #[command(flatten)]
    policy: Policy,
    /// Only these: User, Group or Role
    #[arg(long, value_name = "KIND")]
    entity_filter: Option<String>,
    /// Who is allowed by it (PermissionsPolicy, the default) or limited by it (PermissionsBoundary)
    #[arg(long, value_name = "USAGE")]
    policy_usage_filter: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Version {
    /// Adds a version; a policy has five at most (CreatePolicyVersion)
    Create {
        #[command(flatten)]
        policy: Policy,
        /// File of the policy, JSON; `-` is standard input
        #[arg(long, value_name = "FILE")]
        policy_document: PathBuf,
        /// Let it count from now on
        #[arg(long)]
        set_as_default: bool,
    },
    /// Prints a version (GetPolicyVersion)
    Get(OneVersion),
    /// Lists the versions (ListPolicyVersions)
    List(Policy),
    /// Lets a version count (SetDefaultPolicyVersion)
    SetDefault(OneVersion),
    /// Deletes a version that does not count (DeletePolicyVersion)
    Delete(OneVersion),
}

#[derive(Debug, clap::Args)]
struct OneVersion {
    #[command(flatten)]
    policy: Policy,
    /// Which: v1, v2 ...
    #[arg(long, value_name = "VERSION")]
    version_id: String,
}

/// Runs it.
pub fn run(iam: &IdentitySession, args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Create(args) => {
            let body = request(&[
                ("PolicyName", Some(json!(args.name))),
                ("PolicyDocument", Some(json!(read(&args.policy_document)?))),
                ("Path", args.path.as_ref().map(|path| json!(path))),
                ("Description", args.description.as_ref().map(|text| json!(text))),
                ("Tags", tags(&args.tag)),
            ]);
            show(ask(iam, "CreatePolicy", body)?, args.json)
        }
        Verb::Get(args) => {
            show(ask(iam, "GetPolicy", json!({"PolicyArn": policy_arn(iam, &args.policy)}))?, args.json)
        }
        Verb::List(args) => list(iam, args),
        Verb::Delete(args) => {
            let arn = policy_arn(iam, &args.policy);
            ask(iam, "DeletePolicy", json!({"PolicyArn": arn}))?;
            done(args.json, &format!("{arn} is gone"))
        }
        Verb::Entities(args) => entities(iam, args),
        Verb::Version { verb } => version(iam, verb),
    }
}

fn show(answer: Value, json: bool) -> Result<()> {
    if json {
        return print(answer);
    }
    let policy = &answer["Policy"];
    let mut facts = vec![
        ("policy", cell(&policy["Arn"])),
        ("id", cell(&policy["PolicyId"])),
        ("made", time(&policy["CreateDate"])),
        ("counts", cell(&policy["DefaultVersionId"])),
        ("attached to", cell(&policy["AttachmentCount"])),
        ("boundary of", cell(&policy["PermissionsBoundaryUsageCount"])),
    ];
    if let Some(text) = policy["Description"].as_str() {
        facts.push(("description", text.to_owned()));
    }
    super::held::facts(policy, &mut facts);
    output::facts(&facts)
}

fn list(iam: &IdentitySession, args: &List) -> Result<()> {
    let body = request(&[
        ("Scope", args.scope.as_ref().map(|scope| json!(scope))),
        ("OnlyAttached", Some(json!(args.only_attached))),
        ("PolicyUsageFilter", args.policy_usage_filter.as_ref().map(|usage| json!(usage))),
        ("PathPrefix", args.page.path_prefix.as_ref().map(|path| json!(path))),
    ]);
    let answer = all(iam, "ListPolicies", &body, "Policies")?;
    if args.page.json {
        return print(answer);
    }
    let fields = ["PolicyName", "DefaultVersionId", "AttachmentCount", "UpdateDate", "Arn"];
    output::table(["POLICY", "COUNTS", "ATTACHED", "CHANGED", "ARN"], &rows(&answer, "Policies", fields))
}

fn entities(iam: &IdentitySession, args: &Entities) -> Result<()> {
    let body = request(&[
        ("PolicyArn", Some(json!(policy_arn(iam, &args.policy.policy)))),
        ("EntityFilter", args.entity_filter.as_ref().map(|kind| json!(kind))),
        ("PolicyUsageFilter", args.policy_usage_filter.as_ref().map(|usage| json!(usage))),
    ]);
    let answer = ask(iam, "ListEntitiesForPolicy", body)?;
    if args.policy.json {
        return print(answer);
    }
    let mut table = Vec::new();
    for owner in [Owner::User, Owner::Group, Owner::Role] {
        let title = owner.title();
        for one in items(&answer, &format!("Policy{title}s")) {
            let field = |field: &str| cell(&one[format!("{title}{field}")]);
            table.push([owner.word().to_owned(), field("Name"), field("Id")]);
        }
    }
    output::table(["KIND", "NAME", "ID"], &table)
}

fn version(iam: &IdentitySession, verb: &Version) -> Result<()> {
    let of = |one: &OneVersion| {
        let arn = policy_arn(iam, &one.policy.policy);
        (json!({"PolicyArn": arn, "VersionId": one.version_id}), arn)
    };
    match verb {
        Version::Create { policy, policy_document, set_as_default } => {
            let arn = policy_arn(iam, &policy.policy);
            let body = json!({
                "PolicyArn": arn, "PolicyDocument": read(policy_document)?, "SetAsDefault": set_as_default
            });
            let answer = ask(iam, "CreatePolicyVersion", body)?;
            if policy.json {
                return print(answer);
            }
            let counts = if *set_as_default { "counts" } else { "does not count yet" };
            output::line(&format!(
                "version {} of {arn} {counts}",
                cell(&answer["PolicyVersion"]["VersionId"])
            ))
        }
        Version::Get(one) => {
            let answer = ask(iam, "GetPolicyVersion", of(one).0)?;
            if one.policy.json { print(answer) } else { document(&answer["PolicyVersion"]["Document"]) }
        }
        Version::List(policy) => {
            let body = json!({"PolicyArn": policy_arn(iam, &policy.policy)});
            let answer = all(iam, "ListPolicyVersions", &body, "Versions")?;
            if policy.json {
                return print(answer);
            }
            let rows = rows(&answer, "Versions", ["VersionId", "IsDefaultVersion", "CreateDate"]);
            output::table(["VERSION", "COUNTS", "MADE"], &rows)
        }
        Version::SetDefault(one) => {
            let (body, arn) = of(one);
            ask(iam, "SetDefaultPolicyVersion", body)?;
            done(one.policy.json, &format!("version {} of {arn} counts", one.version_id))
        }
        Version::Delete(one) => {
            let (body, arn) = of(one);
            ask(iam, "DeletePolicyVersion", body)?;
            done(one.policy.json, &format!("version {} of {arn} is gone", one.version_id))
        }
    }
}
