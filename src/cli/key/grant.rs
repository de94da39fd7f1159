//! `kmsfs key grant`: what one principal may do with one key, beside its policy.

use super::super::error::Result;
use super::super::{output, service};
use super::time;
use crate::kms::wire::{
    CreateGrantRequest, GrantConstraints, GrantListEntry, ListGrantsRequest, ListRetirableGrantsRequest,
    RetireGrantRequest, RevokeGrantRequest,
};
use crate::kms::{EncryptionContext, Session};

/// What clap shows of `key grant`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Lets somebody use a key for some operations, at once (CreateGrant)
    Create(Box<Create>),
    /// Lists a key's grants (ListGrants)
    List(List),
    /// Lists the grants, of all keys of the region, that a principal may retire (ListRetirableGrants)
    Retirable(Retirable),
    /// Ends a grant, as one whom the grant lets do so (RetireGrant)
    Retire(Retire),
    /// Ends a grant, as one who administers the key (RevokeGrant)
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Key id, ARN, alias or alias ARN
    key: String,
    /// Who gets the permissions: ARN of a root, user, role or session
    #[arg(long, value_name = "ARN", required_unless_present = "grantee_service_principal")]
    grantee_principal: Option<String>,
    /// The service that gets the permissions, by its name, instead
    #[arg(long, value_name = "NAME", conflicts_with = "grantee_principal")]
    grantee_service_principal: Option<String>,
    /// Who may retire the grant: ARN of a root, user, role or session
    #[arg(long, value_name = "ARN")]
    retiring_principal: Option<String>,
    /// The service that may retire the grant, by its name, instead
    #[arg(long, value_name = "NAME", conflicts_with = "retiring_principal")]
    retiring_service_principal: Option<String>,
    /// What it allows: Decrypt, Encrypt, GenerateDataKey, ReEncryptFrom, Sign, CreateGrant, RetireGrant ...
    #[arg(long, value_name = "OPERATION", required = true, num_args = 1.., value_delimiter = ',')]
    operations: Vec<String>,
    /// When it counts: EncryptionContextSubset={NAME=VALUE,...}, EncryptionContextEquals={...}, SourceArn=ARN,
    /// or the same in JSON
    #[arg(long, value_parser = constraints)]
    constraints: Option<GrantConstraints>,
    /// The same command under the same name makes no second grant
    #[arg(long)]
    name: Option<String>,
    /// Tokens of grants that let this be done
    #[arg(long, value_name = "TOKEN", num_args = 1..)]
    grant_tokens: Vec<String>,
    /// Check whether it would succeed, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Key id, ARN, alias or alias ARN
    key: String,
    /// Only this grant
    #[arg(long, value_name = "ID")]
    grant_id: Option<String>,
    /// Only this principal's grants
    #[arg(long, value_name = "ARN")]
    grantee_principal: Option<String>,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Retirable {
    /// Who may retire them: ARN of a root, user, role or session of the account
    #[arg(long, value_name = "ARN")]
    retiring_principal: String,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Retire {
    /// Key id, ARN, alias or alias ARN; with --grant-id
    #[arg(requires = "grant_id", required_unless_present = "grant_token")]
    key: Option<String>,
    /// The grant's id
    #[arg(long, value_name = "ID", requires = "key")]
    grant_id: Option<String>,
    /// One of the grant's tokens, instead of key and id
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["key", "grant_id"])]
    grant_token: Option<String>,
    /// Check whether it would succeed, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// Key id, ARN, alias or alias ARN
    key: String,
    /// The grant's id
    #[arg(long, value_name = "ID")]
    grant_id: String,
    /// Check whether it would succeed, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Constraints in JSON, or as AWS's command line shortens it.
fn constraints(text: &str) -> std::result::Result<GrantConstraints, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|e| e.to_string());
    }
    let mut found = GrantConstraints::default();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=').ok_or("NAME={...} or SourceArn=ARN")?;
        let field = match name {
            "EncryptionContextSubset" => &mut found.encryption_context_subset,
            "EncryptionContextEquals" => &mut found.encryption_context_equals,
            "SourceArn" => {
                let (arn, behind) = value.split_once(',').unwrap_or((value, ""));
                found.source_arn = Some(arn.to_owned());
                rest = behind;
                continue;
            }
            other => return Err(format!("there is no constraint {other:?}")),
        };
        let inner = value.strip_prefix('{').and_then(|value| value.split_once('}'));
        let (inner, behind) = inner.ok_or_else(|| format!("{name}={{NAME=VALUE,...}}"))?;
        *field = Some(pairs(inner)?);
        rest = match behind.strip_prefix(',') {
            Some(rest) => rest,
            None if behind.is_empty() => "",
            None => return Err(format!("{behind:?} behind {name}")),
        };
    }
    Ok(found)
}

fn pairs(text: &str) -> std::result::Result<EncryptionContext, String> {
    let pair = |text: &str| {
        let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    text.split(',').filter(|pair| !pair.is_empty()).map(pair).collect()
}

/// Runs it.
pub fn run(session: &Session, args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Create(args) => create(session, args),
        Verb::List(args) => list(session, args),
        Verb::Retirable(args) => retirable(session, args),
        Verb::Retire(args) => {
            let key_id = args.key.as_deref().map(|key| service::resolve(session, key)).transpose()?;
            session.call(RetireGrantRequest {
                grant_token: args.grant_token.clone(),
                key_id,
                grant_id: args.grant_id.clone(),
                dry_run: args.dry_run,
            })?;
            let what = args.grant_id.as_deref().unwrap_or("of the token");
            super::done(args.json, &format!("the grant {what} is retired"))
        }
        Verb::Revoke(args) => {
            session.call(RevokeGrantRequest {
                key_id: service::resolve(session, &args.key)?,
                grant_id: args.grant_id.clone(),
                dry_run: args.dry_run,
            })?;
            super::done(args.json, &format!("the grant {} is revoked", args.grant_id))
        }
    }
}

fn create(session: &Session, args: &Create) -> Result<()> {
    let answer = session.call(CreateGrantRequest {
        key_id: service::resolve(session, &args.key)?,
        grantee_principal: args.grantee_principal.clone(),
        retiring_principal: args.retiring_principal.clone(),
        operations: Some(args.operations.clone()),
        constraints: args.constraints.clone(),
        grant_tokens: args.grant_tokens.clone(),
        name: args.name.clone(),
        dry_run: args.dry_run,
        grantee_service_principal: args.grantee_service_principal.clone(),
        retiring_service_principal: args.retiring_service_principal.clone(),
    })?;
    if args.json {
        return output::json(&answer);
    }
    output::facts(&[("grant", answer.grant_id), ("token", answer.grant_token)])
}

fn list(session: &Session, args: &List) -> Result<()> {
    let first = ListGrantsRequest {
        key_id: service::resolve(session, &args.key)?,
        grant_id: args.grant_id.clone(),
        grantee_principal: args.grantee_principal.clone(),
        ..ListGrantsRequest::default()
    };
    let mut answer = session.call(first.clone())?;
    while let Some(marker) = answer.next_marker.take() {
        let next = session.call(ListGrantsRequest { marker: Some(marker), ..first.clone() })?;
        answer.grants.extend(next.grants);
        (answer.next_marker, answer.truncated) = (next.next_marker, next.truncated);
    }
    if args.json {
        return output::json(&answer);
    }
    let rows = answer.grants.iter().map(|grant| {
        [
            grant.grant_id.clone(),
            grantee(grant),
            grant.operations.join(" "),
            time(grant.creation_date),
            grant.name.clone().unwrap_or_else(|| "-".to_owned()),
            constraint_text(grant.constraints.as_ref()),
        ]
    });
    let headings = ["GRANT", "GRANTEE", "OPERATIONS", "MADE", "NAME", "CONSTRAINTS"];
    output::table(headings, &rows.collect::<Vec<_>>())
}

fn retirable(session: &Session, args: &Retirable) -> Result<()> {
    let retiring_principal = Some(args.retiring_principal.clone());
    let first = ListRetirableGrantsRequest { retiring_principal, ..ListRetirableGrantsRequest::default() };
    let mut answer = session.call(first.clone())?;
    while let Some(marker) = answer.next_marker.take() {
        let next = session.call(ListRetirableGrantsRequest { marker: Some(marker), ..first.clone() })?;
        answer.grants.extend(next.grants);
        (answer.next_marker, answer.truncated) = (next.next_marker, next.truncated);
    }
    if args.json {
        return output::json(&answer);
    }
    let rows = answer.grants.iter().map(|grant| {
        [grant.grant_id.clone(), grant.key_id.clone(), grantee(grant), grant.operations.join(" ")]
    });
    output::table(["GRANT", "KEY", "GRANTEE", "OPERATIONS"], &rows.collect::<Vec<_>>())
}

fn grantee(grant: &GrantListEntry) -> String {
    let of_either = grant.grantee_principal.clone().or_else(|| grant.grantee_service_principal.clone());
    of_either.unwrap_or_else(|| "-".to_owned())
}

/// As the option takes them.
fn constraint_text(constraints: Option<&GrantConstraints>) -> String {
    let Some(constraints) = constraints else { return "-".to_owned() };
    let map = |name: &str, pairs: &EncryptionContext| {
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{name}={{{}}}", pairs.join(","))
    };
    let mut parts = Vec::new();
    parts.extend(constraints.encryption_context_subset.as_ref().map(|p| map("EncryptionContextSubset", p)));
    parts.extend(constraints.encryption_context_equals.as_ref().map(|p| map("EncryptionContextEquals", p)));
    parts.extend(constraints.source_arn.as_ref().map(|arn| format!("SourceArn={arn}")));
    if parts.is_empty() { "-".to_owned() } else { parts.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn constraints_are_read_in_json_and_in_short() {
        let json = constraints(r#"{"EncryptionContextSubset": {"a": "b"}, "SourceArn": "arn:x"}"#).unwrap();
        assert_eq!(constraints("EncryptionContextSubset={a=b},SourceArn=arn:x").unwrap(), json);
        assert_eq!(constraints("SourceArn=arn:x,EncryptionContextSubset={a=b}").unwrap(), json);
        let both = constraints("EncryptionContextSubset={a=b,c=d=e},EncryptionContextEquals={}").unwrap();
        assert_eq!(
            constraint_text(Some(&both)),
            "EncryptionContextSubset={a=b,c=d=e},EncryptionContextEquals={}"
        );
        assert_eq!(constraint_text(Some(&GrantConstraints::default())), "-");
    }

    #[test]
    fn what_is_no_constraint_is_refused() {
        for bad in [
            "x",
            "Subset={a=b}",
            "EncryptionContextSubset=a=b",
            "EncryptionContextSubset={a=b",
            "EncryptionContextSubset={a}",
            "EncryptionContextSubset={a=b}x",
            "{",
            r#"{"EncryptionContextSubset": 5}"#,
        ] {
            assert!(constraints(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn short_constraints_come_back_as_they_are_printed(
            subset in proptest::option::of(proptest::collection::btree_map("[a-z]{1,4}", "[a-z =]{0,4}", 0..3)),
            equals in proptest::option::of(proptest::collection::btree_map("[a-z]{1,4}", "[a-z =]{0,4}", 0..3)),
            source in proptest::option::of("arn:[a-z:/]{1,9}"),
        ) {
            let given = GrantConstraints {
                encryption_context_subset: subset, encryption_context_equals: equals, source_arn: source,
            };
            prop_assume!(given != GrantConstraints::default());
            prop_assert_eq!(constraints(&constraint_text(Some(&given))).unwrap(), given);
        }
    }
}
