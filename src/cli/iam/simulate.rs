//! `kmsfs iam simulate`: whether somebody may do something, and by which statement or grant.

use std::process::ExitCode;

use serde_json::json;

use super::super::error::{CliError, Exit, Result};
use super::super::global::Global;
use super::super::{output, service};
use super::pair;
use crate::kms::identity::IdentityErrorKind;
use crate::kms::{EncryptionContext, KmsError, KmsErrorKind, Simulated};

/// Says whether somebody may do something, and which statement or grant allows or denies it
///
/// It decides as the key service would decide a real request, without doing or recording anything. It ends with 0
/// if the request would be allowed and with 8 if it would be denied.
#[derive(Debug, clap::Args)]
pub struct Simulate {
    /// Who would ask: a user's name or ARN, or the ARN of a role, an assumed-role session or a root [default: the caller]
    #[arg(long, visible_alias = "policy-source-arn")]
    principal: Option<String>,
    /// For what: kms:Decrypt, iam:CreateUser ...
    #[arg(long, visible_alias = "action-names")]
    action: String,
    /// On what: a key's id, ARN or alias; of other actions any ARN
    #[arg(long, visible_alias = "resource-arns", default_value = "*")]
    resource: String,
    /// Condition keys, in place of what the request would say of itself; one that is given again has several values
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = pair)]
    context_entries: Vec<(String, String)>,
    /// The request's encryption context, for conditions on it and for constraints of grants
    #[arg(long, value_name = "NAME=VALUE", num_args = 1.., value_parser = pair)]
    encryption_context: Vec<(String, String)>,
    /// Print JSON: AWS's EvaluationResults, with the words and each ground
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(global: &Global, args: &Simulate) -> Result<ExitCode> {
    let kms = service::kms(global)?;
    let own = service::begin(global, &kms)?;
    let session = match &args.principal {
        None => own,
        Some(principal) => {
            let caller = service::named(&kms, principal)?;
            let whose = &caller.principal;
            if global.principal.is_some() {
                // AWS's simulator is in IAM, where a policy of the caller decides.
                let arn = whose.principal_arn();
                let may =
                    own.simulate("iam:SimulatePrincipalPolicy", &arn, &[], &EncryptionContext::new())?;
                if !may.allowed || whose.account() != own.caller().principal.account() {
                    let kind = KmsErrorKind::Identity(IdentityErrorKind::AccessDenied);
                    let words = if may.allowed { format!("{arn} is of another account") } else { may.words };
                    return Err(CliError::Refused(KmsError::new(kind, words)));
                }
            }
            service::session_as(global, &kms, caller)?
        }
    };
    let mut context: Vec<(String, Vec<String>)> = Vec::new();
    for (key, value) in &args.context_entries {
        match context.iter_mut().find(|(there, _)| there.eq_ignore_ascii_case(key)) {
            Some((_, values)) => values.push(value.clone()),
            None => context.push((key.clone(), vec![value.clone()])),
        }
    }
    let pairs: EncryptionContext = args.encryption_context.iter().cloned().collect();
    let Simulated { allowed, words, grounds } =
        session.simulate(&args.action, &args.resource, &context, &pairs)?;
    if args.json {
        let decision = match (allowed, grounds.is_empty()) {
            (true, _) => "allowed",
            (false, true) => "implicitDeny",
            (false, false) => "explicitDeny",
        };
        output::json(&json!({"EvaluationResults": [{
            "EvalActionName": args.action, "EvalResourceName": args.resource, "EvalDecision": decision,
            "Words": words, "Grounds": grounds
        }]}))?;
    } else {
        let decision = if allowed { "allowed" } else { "denied" };
        let mut facts = vec![("decision", decision.to_owned()), ("words", words)];
        let by = if allowed { "allowed by" } else { "denied by" };
        facts.extend(grounds.into_iter().map(|ground| (by, ground)));
        output::facts(&facts)?;
    }
    Ok(if allowed { Exit::Success } else { Exit::Denied }.into())
}
