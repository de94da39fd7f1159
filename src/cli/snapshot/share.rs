//! `kmsfs snapshot share`: what somebody of another account needs to copy or open a snapshot.

use serde_json::{Value, json};

use super::super::error::{CliError, Result};
use super::super::global::Global;
use super::super::{output, service};
use super::common;
use super::copy::embedded_source;
use super::place::{self, Named};
use crate::kms::wire::{
    CreateGrantRequest, DescribeKeyRequest, GetKeyPolicyRequest, GrantConstraints, PutKeyPolicyRequest,
};
use crate::kms::{EncryptionContext, KeyService, Session};
use crate::snapshot::Snapshot;
use crate::snapshot::descriptor::Descriptor;
use crate::snapshot::share::{OPERATION, Sharing, VOLUME_CONTEXT};

/// Shows or applies what lets another account (--account) open a snapshot, to copy it under a key of its own
///
/// Both sides must agree: the KMS key's policy must name the other account, and an identity policy there must allow the
/// same to who copies. With --role a grant lets that role alone in, which needs no identity policy. Each is for kms:Decrypt
/// of what belongs to this volume, by its encryption context, and nothing else. A snapshot under a service-managed key cannot be
/// shared, since the policy of such a key is the service's own. With --kms aws it is shown, and applied with AWS's own tools.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    named: Named,
    /// Let in this role of the other account, by a grant, instead of the account
    #[arg(long, value_name = "ARN")]
    role: Option<String>,
    /// Add the statement to the key's policy, or make the grant
    #[arg(long)]
    apply: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    let place = args.named.place()?;
    let snapshot = Snapshot::find(place.depot, &place.name).map_err(place::failed)?.descriptor;
    let account = global.account.as_str();
    let sharing = Sharing::new(&snapshot, account).map_err(place::failed)?;
    if let Some(role) = &args.role
        && role.strip_prefix(&format!("arn:aws:iam::{account}:role/")).is_none_or(str::is_empty)
    {
        return Err(CliError::Usage(format!("{role} is not the ARN of a role of account {account}")));
    }
    if common::at_aws(&snapshot)? {
        if args.apply {
            return Err(CliError::Usage(
                "the snapshot's keys are at AWS KMS, whose policies and grants AWS's own tools change; leave --apply away to be \
                 shown what for"
                    .to_owned(),
            ));
        }
        // The keys that AWS manages let kmsfs do nothing: none of them can be a snapshot's.
        authentic(&*common::service_of(global, &snapshot)?.keys, &snapshot)?;
        return match &args.role {
            Some(role) => show_grant(args, &sharing, role, At::Aws, &[]),
            None => show_policy(args, &sharing, account, At::Aws, &[]),
        };
    }
    let session = embedded_source(global, &service::kms(global)?, &snapshot)?;
    own_keys(&session, &snapshot, &sharing, &place.shown)?;
    authentic(&session, &snapshot)?;
    match &args.role {
        Some(role) => by_grant(&session, args, &sharing, role),
        None => by_policy(&session, args, &sharing, account),
    }
}

/// Where the keys are, and so with which program policies and grants are changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Home,
    Aws,
}

/// Nobody can change the policy of a service-managed key.
fn own_keys(session: &Session, snapshot: &Descriptor, sharing: &Sharing, depot: &str) -> Result<()> {
    for key in &sharing.key_arns {
        let request = DescribeKeyRequest { key_id: key.clone(), ..DescribeKeyRequest::default() };
        if session.call(request)?.key_metadata.key_manager == "AWS" {
            return Err(CliError::Usage(format!(
                "snapshot {name:?} cannot be shared: {key} is a service-managed key, and nobody can change the policy of \
                 such a key. Copy it under a key of your own first, and share the copy: `kmsfs snapshot copy {name} --in \
                 {depot} --to {region} --key alias/NAME`",
                name = snapshot.name,
                region = snapshot.region,
            )));
        }
    }
    Ok(())
}

/// Whom the descriptor lets in must be its own volume's matter, and not that of who changed it.
fn authentic(service: &dyn KeyService, snapshot: &Descriptor) -> Result<()> {
    snapshot.unlock(service).map_err(place::failed)?;
    Ok(())
}

fn by_policy(session: &Session, args: &Args, sharing: &Sharing, account: &str) -> Result<()> {
    let principal = root_of(account);
    let mut done = Vec::new();
    if args.apply {
        for key in &sharing.key_arns {
            let get = GetKeyPolicyRequest { key_id: key.clone(), ..GetKeyPolicyRequest::default() };
            let policy = session.call(get)?.policy;
            if let Some(policy) = sharing.add_to(&policy, &principal).map_err(place::failed)? {
                let key_id = key.clone();
                session.call(PutKeyPolicyRequest { key_id, policy, ..PutKeyPolicyRequest::default() })?;
                done.push(key.clone());
            }
        }
    }
    show_policy(args, sharing, account, At::Home, &done)
}

/// What lets an account in; `done` are the keys whose policies were changed.
fn show_policy(args: &Args, sharing: &Sharing, account: &str, at: At, done: &[String]) -> Result<()> {
    let statement = sharing.key_statement(&root_of(account));
    if args.json {
        return output::json(&json!({
            "key_arns": sharing.key_arns,
            "key_policy_statement": statement,
            "identity_policy": sharing.identity_policy(),
            "applied": args.apply,
            "changed": done,
        }));
    }
    let keys = sharing.key_arns.join(", ");
    output::line(&match args.apply {
        true if done.is_empty() => format!("The policy of {keys} had this statement already:"),
        true => format!("Added to the policy of {}:", done.join(", ")),
        false => {
            let how = if at == At::Aws {
                "`aws kms put-key-policy`, with what is there"
            } else {
                "--apply does it"
            };
            format!("To add to the policy of {keys} ({how}):")
        }
    })?;
    output::json(&statement)?;
    let how = if at == At::Aws { "aws iam put-role-policy" } else { "kmsfs iam role put-policy" };
    output::line(&format!("To attach, by account {account}, to who copies (`{how}`):"))?;
    output::json(&sharing.identity_policy())
}

fn root_of(account: &str) -> String {
    format!("arn:aws:iam::{account}:root")
}

fn by_grant(session: &Session, args: &Args, sharing: &Sharing, role: &str) -> Result<()> {
    let mut made = Vec::new();
    if args.apply {
        for key in &sharing.key_arns {
            let answer = session.call(CreateGrantRequest {
                key_id: key.clone(),
                grantee_principal: Some(role.to_owned()),
                operations: Some(vec![OPERATION.to_owned()]),
                constraints: Some(GrantConstraints {
                    encryption_context_subset: Some(context_of(sharing)),
                    ..GrantConstraints::default()
                }),
                name: Some(format!("kmsfs-{}", sharing.volume_id)),
                ..CreateGrantRequest::default()
            })?;
            made.push(json!({ "key_arn": key, "grant_id": answer.grant_id }));
        }
    }
    show_grant(args, sharing, role, At::Home, &made)
}

/// What lets a role in; `made` are the grants that were made.
fn show_grant(args: &Args, sharing: &Sharing, role: &str, at: At, made: &[Value]) -> Result<()> {
    if args.json {
        return output::json(&json!({
            "key_arns": sharing.key_arns,
            "grantee_principal": role,
            "operations": [OPERATION],
            "encryption_context_subset": context_of(sharing),
            "applied": args.apply,
            "grants": made,
        }));
    }
    for grant in made {
        let text = |name: &str| grant[name].as_str().unwrap_or_default().to_owned();
        output::facts(&[("key", text("key_arn")), ("grant", text("grant_id"))])?;
    }
    if !args.apply {
        output::line(if at == At::Aws { "To make:" } else { "To make (--apply does it):" })?;
        for key in &sharing.key_arns {
            let command = match at {
                At::Home => format!("kmsfs key grant create {key}"),
                // Of an ARN the AWS CLI does not take the region.
                At::Aws => {
                    let region = key.split(':').nth(3).unwrap_or_default();
                    format!("aws kms create-grant --region {region} --key-id {key}")
                }
            };
            output::line(&format!(
                "{command} --grantee-principal {role} --operations {OPERATION} --constraints \
                 'EncryptionContextSubset={{{VOLUME_CONTEXT}={}}}'",
                sharing.volume_id
            ))?;
        }
    }
    Ok(())
}

fn context_of(sharing: &Sharing) -> EncryptionContext {
    [(VOLUME_CONTEXT.to_owned(), sharing.volume_id.clone())].into()
}
