//! `kmsfs key replicate` and `update-primary-region`: one key in several regions.

use super::{Named, done, tag};
use crate::cli::error::Result;
use crate::cli::{output, service};
use crate::iam::Region;
use crate::kms::Session;
use crate::kms::wire::{ReplicateKeyRequest, Tag, UpdatePrimaryRegionRequest};

/// Options of `key replicate`.
#[derive(Debug, clap::Args)]
pub struct Replicate {
    #[command(flatten)]
    named: Named,
    /// Region of the replica, in the same home
    #[arg(long, visible_alias = "replica-region", value_name = "REGION")]
    to: Region,
    /// What the replica is for
    #[arg(long)]
    description: Option<String>,
    /// Label of the replica, of which it may have several
    #[arg(long, value_name = "NAME=VALUE", value_parser = tag)]
    tag: Vec<Tag>,
}

/// Options of `key update-primary-region`.
#[derive(Debug, clap::Args)]
pub struct UpdatePrimary {
    #[command(flatten)]
    named: Named,
    /// Region of the replica that becomes the primary
    #[arg(long, visible_alias = "primary-region", value_name = "REGION")]
    to: Region,
}

/// Runs `replicate`.
pub fn replicate(session: &Session, args: &Replicate) -> Result<()> {
    let answer = session.call(ReplicateKeyRequest {
        key_id: service::resolve(session, &args.named.key)?,
        replica_region: args.to.to_string(),
        description: args.description.clone(),
        tags: args.tag.clone(),
        ..ReplicateKeyRequest::default()
    })?;
    if args.named.json {
        return output::json(&answer);
    }
    let replica = &answer.replica_key_metadata;
    output::facts(&[("replica", replica.arn.clone()), ("state", super::state(replica.key_state).to_owned())])
}

/// Runs `update-primary-region`.
pub fn update_primary(session: &Session, args: &UpdatePrimary) -> Result<()> {
    let key_id = service::resolve(session, &args.named.key)?;
    let primary_region = args.to.to_string();
    session.call(UpdatePrimaryRegionRequest { key_id: key_id.clone(), primary_region })?;
    done(args.named.json, &format!("the primary key of {key_id} is in {}", args.to))
}
