//! `kmsfs iam role`.

use std::path::PathBuf;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::super::error::Result;
use super::super::key::policy::read;
use super::super::output;
use super::held::{self, Held, Marks};
use super::{
    Named, Owner, Page, all, ask, cell, document, done, policy_arn, print, request, rows, tag, tags, time,
};
use crate::kms::identity::IdentitySession;
use crate::kms::identity::wire::{AssumeRoleRequest, AssumeRoleResponse, IdentityTag, PolicyDescriptor};

/// What clap shows of `iam role`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes a role (CreateRole)
    Create(Create),
    /// Shows a role and who may assume it (GetRole)
    Get(Named),
    /// Lists the account's roles (ListRoles)
    List(Page),
    /// Deletes a role that has no policies any more (DeleteRole)
    Delete(Named),
    /// Says anew what a role is for and how long its sessions may last (UpdateRole)
    Update(Update),
    /// Says anew who may assume a role (UpdateAssumeRolePolicy)
    #[command(visible_alias = "update-assume-role-policy")]
    UpdateTrust(Trust),
    /// Begins a session of a role and prints its credentials (AssumeRole)
    Assume(Box<Assume>),
    #[command(flatten)]
    Held(Held),
    #[command(flatten)]
    Marks(Marks),
}

#[derive(Debug, clap::Args)]
struct Create {
    #[command(flatten)]
    named: Named,
    /// File of its trust policy, JSON: who may assume it; `-` is standard input
    #[arg(long, value_name = "FILE")]
    assume_role_policy_document: PathBuf,
    /// Where it stands among the roles: / or /people/
    #[arg(long)]
    path: Option<String>,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// How long a session of it may last: 3600 (the default) to 43200 seconds
    #[arg(long, value_name = "SECONDS")]
    max_session_duration: Option<i64>,
    /// ARN of the managed policy beyond which it may nothing; of one of the account its name is enough
    #[arg(long, value_name = "ARN")]
    permissions_boundary: Option<String>,
    /// Label, of which a role may have several
    #[arg(long, value_name = "NAME=VALUE", value_parser = tag)]
    tag: Vec<IdentityTag>,
}

#[derive(Debug, clap::Args)]
struct Update {
    #[command(flatten)]
    named: Named,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// How long a session of it may last: 3600 to 43200 seconds
    #[arg(long, value_name = "SECONDS")]
    max_session_duration: Option<i64>,
}

#[derive(Debug, clap::Args)]
struct Trust {
    #[command(flatten)]
    named: Named,
    /// File of the trust policy, JSON; `-` is standard input
    #[arg(long, value_name = "FILE")]
    policy_document: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Assume {
    /// The role's ARN; of one of the account its name, behind its path, is enough
    role: String,
    /// What the session is called, in its ARN and in the log
    #[arg(long, value_name = "NAME")]
    role_session_name: String,
    /// How long it lasts: 900 seconds to what the role permits; 3600 unless given
    #[arg(long, value_name = "SECONDS")]
    duration_seconds: Option<i64>,
    /// What the role's trust policy may ask for in sts:ExternalId
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
    /// File of a policy, JSON, that limits the session; `-` is standard input
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Managed policies that limit the session
    #[arg(long, value_name = "ARN", num_args = 1..)]
    policy_arns: Vec<String>,
    /// Label of the session, of which it may have several
    #[arg(long, value_name = "NAME=VALUE", value_parser = tag)]
    tag: Vec<IdentityTag>,
    /// Names of labels that sessions which this one begins have too
    #[arg(long, value_name = "NAME", num_args = 1..)]
    transitive_tag_keys: Vec<String>,
    /// Who is behind it, for the log and for aws:SourceIdentity
    #[arg(long, value_name = "NAME")]
    source_identity: Option<String>,
    /// Print the credentials as export lines of a shell
    #[arg(long, conflicts_with = "json")]
    env: bool,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(iam: &IdentitySession, args: &Args) -> Result<()> {
    let owner = Owner::Role;
    match &args.verb {
        Verb::Create(args) => create(iam, args),
        Verb::Get(named) => show(ask(iam, "GetRole", owner.request(&named.name, &[]))?, named.json),
        Verb::List(page) => {
            let body = request(&[("PathPrefix", page.path_prefix.as_ref().map(|path| json!(path)))]);
            let answer = all(iam, "ListRoles", &body, "Roles")?;
            if page.json {
                return print(answer);
            }
            let rows = rows(&answer, "Roles", ["RoleName", "RoleId", "CreateDate", "Arn"]);
            output::table(["ROLE", "ID", "MADE", "ARN"], &rows)
        }
        Verb::Delete(named) => {
            ask(iam, "DeleteRole", owner.request(&named.name, &[]))?;
            done(named.json, &format!("the role {} is gone", named.name))
        }
        Verb::Update(Update { named, description, max_session_duration }) => {
            let body = request(&[
                ("RoleName", Some(json!(named.name))),
                ("Description", description.as_ref().map(|text| json!(text))),
                ("MaxSessionDuration", max_session_duration.map(Value::from)),
            ]);
            let answer = ask(iam, "UpdateRole", body)?;
            if named.json {
                return print(answer);
            }
            output::line(&format!("the role {} is changed", named.name))
        }
        Verb::UpdateTrust(Trust { named, policy_document }) => {
            let document = json!(read(policy_document)?);
            ask(iam, "UpdateAssumeRolePolicy", owner.request(&named.name, &[("PolicyDocument", document)]))?;
            done(named.json, &format!("the role {} has this trust policy now", named.name))
        }
        Verb::Assume(args) => assume(iam, args),
        Verb::Held(verb) => held::policies(iam, owner, verb),
        Verb::Marks(verb) => held::marks(iam, owner, verb),
    }
}

fn create(iam: &IdentitySession, args: &Create) -> Result<()> {
    let boundary = args.permissions_boundary.as_deref().map(|policy| policy_arn(iam, policy));
    let body = request(&[
        ("RoleName", Some(json!(args.named.name))),
        ("AssumeRolePolicyDocument", Some(json!(read(&args.assume_role_policy_document)?))),
        ("Path", args.path.as_ref().map(|path| json!(path))),
        ("Description", args.description.as_ref().map(|text| json!(text))),
        ("MaxSessionDuration", args.max_session_duration.map(Value::from)),
        ("PermissionsBoundary", boundary.map(Value::from)),
        ("Tags", tags(&args.tag)),
    ]);
    show(ask(iam, "CreateRole", body)?, args.named.json)
}

fn show(answer: Value, json: bool) -> Result<()> {
    if json {
        return print(answer);
    }
    let role = &answer["Role"];
    let mut facts = vec![
        ("role", cell(&role["Arn"])),
        ("id", cell(&role["RoleId"])),
        ("made", time(&role["CreateDate"])),
        ("sessions last", format!("{} seconds at most", cell(&role["MaxSessionDuration"]))),
    ];
    if let Some(text) = role["Description"].as_str() {
        facts.push(("description", text.to_owned()));
    }
    held::facts(role, &mut facts);
    facts.push(("trust policy", "below".to_owned()));
    output::facts(&facts)?;
    document(&role["AssumeRolePolicyDocument"])
}

fn assume(iam: &IdentitySession, args: &Assume) -> Result<()> {
    let role_arn = if args.role.contains(':') {
        args.role.clone()
    } else {
        let account = iam.caller().principal.account();
        format!("arn:aws:iam::{account}:role/{}", args.role.trim_start_matches('/'))
    };
    let policies = args.policy_arns.iter().map(|policy| PolicyDescriptor { arn: policy_arn(iam, policy) });
    let answer = iam.call(AssumeRoleRequest {
        role_arn,
        role_session_name: args.role_session_name.clone(),
        policy_arns: policies.collect(),
        policy: args.policy.as_deref().map(read).transpose()?,
        duration_seconds: args.duration_seconds,
        tags: args.tag.clone(),
        transitive_tag_keys: args.transitive_tag_keys.clone(),
        external_id: args.external_id.clone(),
        source_identity: args.source_identity.clone(),
        ..AssumeRoleRequest::default()
    })?;
    if args.json {
        return output::json(&answer);
    }
    let AssumeRoleResponse { credentials, assumed_role_user, .. } = &answer;
    let (id, secret) = (&credentials.access_key_id, credentials.secret_access_key.expose());
    let (token, expires) = (&credentials.session_token, credentials.expiration.replacen('T', " ", 1));
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(1024 + token.len()));
    let parts: &[&str] = if args.env {
        // Of letters, digits and `+/=` alone: nothing of it needs quotes.
        &[
            "export AWS_ACCESS_KEY_ID=",
            id,
            "\nexport AWS_SECRET_ACCESS_KEY=",
            secret,
            "\nexport AWS_SESSION_TOKEN=",
            token,
        ]
    } else {
        let arn = &assumed_role_user.arn;
        &[
            "session            ",
            arn,
            "\nuntil              ",
            &expires,
            "\naccess key id      ",
            id,
            "\nsecret access key  ",
            secret,
            "\nsession token      ",
            token,
        ]
    };
    parts.iter().for_each(|part| text.push_str(part));
    text.push('\n');
    output::bytes(text.as_bytes())
}
