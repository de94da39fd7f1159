//! `kmsfs key policy`: who may use a key.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::super::error::{CliError, Result};
use super::super::files::input;
use super::super::{output, service};
use crate::kms::Session;
use crate::kms::wire::{GetKeyPolicyRequest, ListKeyPoliciesRequest, PutKeyPolicyRequest};

/// More than the 32 KiB that a policy may have; what is longer the key service refuses.
const MAX_POLICY: u64 = 64 * 1024;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Policy {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    get: Option<Get>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Prints the policy, as without a verb (GetKeyPolicy)
    Get(Get),
    /// Replaces the policy (PutKeyPolicy)
    Put {
        /// Key id, ARN, alias or alias ARN
        key: String,
        /// File of the policy, JSON; `-` is standard input
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
        #[command(flatten)]
        check: Check,
        /// Print nothing, as AWS's answer is empty
        #[arg(long)]
        json: bool,
    },
    /// Lists the names of a key's policies: `default` is the only one there is (ListKeyPolicies)
    List(Get),
}

#[derive(Debug, clap::Args)]
struct Get {
    /// Key id, ARN, alias or alias ARN
    key: String,
    /// Print AWS's answer as JSON, the policy in it as a text
    #[arg(long)]
    json: bool,
}

/// How a policy is set.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Allow a policy under which you cannot change it again
    #[arg(long)]
    pub bypass_policy_lockout_safety_check: bool,
}

/// Runs it.
pub fn run(session: &Session, args: &Policy) -> Result<()> {
    match (&args.verb, &args.get) {
        (Some(Verb::Get(args)), _) | (None, Some(args)) => get(session, args),
        (Some(Verb::List(args)), _) => {
            let key_id = service::resolve(session, &args.key)?;
            let request = ListKeyPoliciesRequest { key_id, ..ListKeyPoliciesRequest::default() };
            let answer = session.call(request)?;
            if args.json { output::json(&answer) } else { output::line(&answer.policy_names.join("\n")) }
        }
        (Some(Verb::Put { key, policy, check, json }), _) => {
            let policy = read(policy)?;
            let key_id = service::resolve(session, key)?;
            session.call(PutKeyPolicyRequest {
                key_id: key_id.clone(),
                policy,
                bypass_policy_lockout_safety_check: check.bypass_policy_lockout_safety_check,
                ..PutKeyPolicyRequest::default()
            })?;
            super::done(*json, &format!("{key_id} has this policy now"))
        }
        (None, None) => Err(CliError::Usage("name a key: `kmsfs key policy KEY`".to_owned())),
    }
}

fn get(session: &Session, args: &Get) -> Result<()> {
    let key_id = service::resolve(session, &args.key)?;
    let answer = session.call(GetKeyPolicyRequest { key_id, ..GetKeyPolicyRequest::default() })?;
    if args.json {
        return output::json(&answer);
    }
    let policy: serde_json::Value =
        serde_json::from_str(&answer.policy).map_err(|e| CliError::Failed(format!("the policy: {e}")))?;
    output::json(&policy)
}

/// A policy document from a file.
pub fn read(path: &Path) -> Result<String> {
    let (file, shown) = input(Some(path))?;
    let mut text = String::new();
    let read = file.take(MAX_POLICY).read_to_string(&mut text);
    read.map_err(|e| CliError::io("cannot read the policy", &shown, e))?;
    Ok(text)
}
