//! `kmsfs iam access-key`.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::super::error::Result;
use super::super::output;
use super::{all, ask, done, print, request, rows};
use crate::kms::identity::IdentitySession;
use crate::kms::identity::wire::CreateAccessKeyRequest;

/// What clap shows of `iam access-key`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes an access key; its secret is shown this once (CreateAccessKey)
    Create(Whose),
    /// Lists access keys (ListAccessKeys)
    List(Whose),
    /// Lets an access key sign again (UpdateAccessKey)
    Activate(One),
    /// Lets an access key sign no more, until it is activated (UpdateAccessKey)
    Deactivate(One),
    /// Deletes an access key (DeleteAccessKey)
    Delete(One),
}

#[derive(Debug, clap::Args)]
struct Whose {
    /// The user whose it is [default: the caller, which may be the account's root]
    #[arg(long, value_name = "NAME")]
    user_name: Option<String>,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct One {
    /// Its id: AKIA...
    access_key_id: String,
    #[command(flatten)]
    whose: Whose,
}

/// Runs it.
pub fn run(iam: &IdentitySession, args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Create(whose) => create(iam, whose),
        Verb::List(whose) => {
            let answer = all(iam, "ListAccessKeys", &request(&[user(whose)]), "AccessKeyMetadata")?;
            if whose.json {
                return print(answer);
            }
            let rows =
                rows(&answer, "AccessKeyMetadata", ["AccessKeyId", "Status", "CreateDate", "UserName"]);
            output::table(["ACCESS KEY", "STATUS", "MADE", "USER"], &rows)
        }
        Verb::Activate(one) => update(iam, one, "Active", "signs again"),
        Verb::Deactivate(one) => update(iam, one, "Inactive", "signs no more"),
        Verb::Delete(one) => {
            let body = request(&[user(&one.whose), ("AccessKeyId", Some(json!(one.access_key_id)))]);
            ask(iam, "DeleteAccessKey", body)?;
            done(one.whose.json, &format!("the access key {} is gone", one.access_key_id))
        }
    }
}

fn user(whose: &Whose) -> (&'static str, Option<Value>) {
    ("UserName", whose.user_name.as_ref().map(|name| json!(name)))
}

fn create(iam: &IdentitySession, whose: &Whose) -> Result<()> {
    let answer = iam.call(CreateAccessKeyRequest { user_name: whose.user_name.clone() })?;
    if whose.json {
        return output::json(&answer);
    }
    let made = &answer.access_key;
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(512));
    for part in [
        "access key id      ",
        &made.access_key_id,
        "\nsecret access key  ",
        made.secret_access_key.expose(),
        "\nthe secret is shown this once: keep it now\n",
    ] {
        text.push_str(part);
    }
    output::bytes(text.as_bytes())
}

fn update(iam: &IdentitySession, one: &One, status: &str, text: &str) -> Result<()> {
    let body = request(&[
        user(&one.whose),
        ("AccessKeyId", Some(json!(one.access_key_id))),
        ("Status", Some(json!(status))),
    ]);
    ask(iam, "UpdateAccessKey", body)?;
    done(one.whose.json, &format!("the access key {} {text}", one.access_key_id))
}
