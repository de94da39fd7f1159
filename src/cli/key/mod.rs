//! `kmsfs key`: KMS keys, as AWS's operations make and change them.

mod bytes;
mod grant;
mod import;
mod mac;
pub mod policy;
mod public_key;
mod replicate;
mod sign;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::dependents::{Report, Target};
use super::error::{CliError, Result};
use super::global::Global;
use super::{dependents, output, service};
use crate::kms::wire::{
    CancelKeyDeletionRequest, CreateAliasRequest, CreateKeyRequest, DescribeKeyRequest, DisableKeyRequest,
    DisableKeyRotationRequest, EnableKeyRequest, EnableKeyRotationRequest, GetKeyLastUsageRequest,
    GetKeyRotationStatusRequest, KeyMetadata, ListKeyRotationsRequest, ListKeysRequest,
    ListResourceTagsRequest, RotateKeyOnDemandRequest, ScheduleKeyDeletionRequest, Tag, TagResourceRequest,
    UntagResourceRequest, UpdateKeyDescriptionRequest,
};
use crate::kms::{KeyState, Kms, KmsErrorKind, Session};

/// Makes, shows and changes KMS keys
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes a customer managed key (CreateKey)
    Create(Create),
    /// Shows one key (DescribeKey)
    Describe(Named),
    /// Lists the keys of the region, with their aliases (ListKeys)
    List(Page),
    /// Says anew what a key is for (UpdateKeyDescription)
    UpdateDescription(Description),
    /// Labels a key, or shows its labels
    Tag(Labels),
    /// Shows when a key was last used, and for what (GetKeyLastUsage)
    LastUsage(Named),
    /// Makes a disabled key usable again (EnableKey)
    Enable(Named),
    /// Makes a key unusable until it is enabled: files under it do not open (DisableKey)
    Disable(Named),
    /// Gives a key new material; old ciphertexts stay readable (RotateKeyOnDemand)
    Rotate(Named),
    /// Shows or sets a key's rotation by schedule
    Rotation(Rotation),
    /// Lists a key's materials (ListKeyRotations)
    Rotations(Rotations),
    /// Tells which files of which volumes and snapshots, and which backups of the home, depend on a key
    Dependents(Dependents),
    /// Deletes a key when a waiting period is over; what is under it is then lost (ScheduleKeyDeletion)
    ///
    /// Tells first what depends on the key, as far as the home knows, and asks whether to go on.
    ScheduleDeletion(Schedule),
    /// Keeps a key that waits for deletion; it is then disabled (CancelKeyDeletion)
    CancelDeletion(Named),
    /// Gives a key of origin EXTERNAL its material (GetParametersForImport, ImportKeyMaterial)
    Import(import::Import),
    /// Takes imported material away: files under the key do not open until it is imported again
    DeleteImportedMaterial(import::Delete),
    /// Copies a multi-Region key into another region (ReplicateKey)
    Replicate(replicate::Replicate),
    /// Makes the replica in another region the primary key (UpdatePrimaryRegion)
    UpdatePrimaryRegion(replicate::UpdatePrimary),
    /// Lets somebody use a key for some operations, beside its policy
    Grant(grant::Args),
    /// Shows or sets who may use a key
    Policy(policy::Policy),
    /// Prints the public key, to be used anywhere (GetPublicKey)
    PublicKey(public_key::Public),
    /// Signs up to 4096 bytes, or a digest (Sign)
    Sign(sign::Sign),
    /// Checks a signature; one that is not valid is an error (Verify)
    Verify(sign::Verify),
    /// Makes and checks message authentication codes
    Mac(mac::Mac),
    /// Agrees on a secret with the holder of another key, by ECDH (DeriveSharedSecret)
    DeriveSharedSecret(public_key::Derive),
}

#[derive(Debug, clap::Args)]
struct Create {
    /// What the key is for
    #[arg(long)]
    description: Option<String>,
    /// Name it at once, alias/NAME (CreateAlias)
    #[arg(long)]
    alias: Option<String>,
    /// What kind of key: SYMMETRIC_DEFAULT, RSA_2048, ECC_NIST_P256, HMAC_256, ML_DSA_65 ...
    #[arg(long)]
    key_spec: Option<String>,
    /// What it does: ENCRYPT_DECRYPT, SIGN_VERIFY, GENERATE_VERIFY_MAC, KEY_AGREEMENT or ENCAPSULATE_DECAPSULATE
    #[arg(long)]
    key_usage: Option<String>,
    /// AWS_KMS, or EXTERNAL: without material, which `kmsfs key import` gives it
    #[arg(long)]
    origin: Option<String>,
    /// Make a multi-Region primary key, which `kmsfs key replicate` copies
    #[arg(long)]
    multi_region: bool,
    /// File of its policy, JSON; `-` is standard input [default: the account's root may do everything]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    #[command(flatten)]
    check: policy::Check,
    /// Label, of which a key may have several
    #[arg(long, value_name = "NAME=VALUE", value_parser = tag)]
    tag: Vec<Tag>,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

fn tag(text: &str) -> std::result::Result<Tag, String> {
    let (key, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    Ok(Tag { tag_key: key.to_owned(), tag_value: value.to_owned() })
}

#[derive(Debug, clap::Args)]
struct Named {
    /// Key id, ARN, alias or alias ARN
    key: String,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Description {
    #[command(flatten)]
    named: Named,
    /// What the key is for
    #[arg(long)]
    description: String,
}

#[derive(Debug, clap::Args)]
struct Labels {
    #[command(flatten)]
    named: Named,
    /// Add a label, or give one that is there another value (TagResource)
    #[arg(long, value_name = "NAME=VALUE", value_parser = tag)]
    add: Vec<Tag>,
    /// Take a label away (UntagResource)
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
    /// Show the labels, as without an option (ListResourceTags)
    #[arg(long)]
    list: bool,
}

#[derive(Debug, clap::Args)]
struct Page {
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Rotation {
    #[command(flatten)]
    named: Named,
    /// Rotate by schedule (EnableKeyRotation)
    #[arg(long, conflicts_with_all = ["disable", "status"])]
    enable: bool,
    /// Days from one rotation to the next: 90 to 2560; 365 unless given
    #[arg(long, visible_alias = "period", value_name = "DAYS", requires = "enable")]
    rotation_period_in_days: Option<i64>,
    /// Rotate by schedule no more (DisableKeyRotation)
    #[arg(long, conflicts_with = "status")]
    disable: bool,
    /// Show the schedule, as without an option (GetKeyRotationStatus)
    #[arg(long)]
    status: bool,
}

#[derive(Debug, clap::Args)]
struct Rotations {
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, clap::Args)]
struct Dependents {
    /// Key id, ARN, alias or alias ARN
    key: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Schedule {
    #[command(flatten)]
    named: Named,
    /// Waiting period: 7 to 30 days
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pending_window_in_days: i64,
    /// Go on without asking, whatever depends on the key
    #[arg(short, long)]
    yes: bool,
}

/// The key service, for verbs that look beyond one key.
struct Open<'a> {
    global: &'a Global,
    kms: &'a Arc<Kms>,
    session: &'a Session,
}

impl Open<'_> {
    /// What depends on a key. None where that need not be told: the service will refuse to delete it.
    ///
    /// # Errors
    /// Also where the caller may not look at the key, and has not said that it need not be told.
    fn report(&self, key_id: &str, yes: bool) -> Result<Option<Report>> {
        let target = match Target::describe(self.global, self.kms, self.session, key_id) {
            Err(CliError::Refused(error)) if error.kind == KmsErrorKind::AccessDenied && yes => {
                output::warn(&format!("what depends on {key_id} is not known: {}", error.message));
                return Ok(None);
            }
            target => target?,
        };
        let gone =
            matches!(target.key.key_state, KeyState::PendingDeletion | KeyState::PendingReplicaDeletion);
        if gone || target.key.key_manager == "AWS" {
            return Ok(None);
        }
        dependents::find(self.global, self.kms, &target).map(Some)
    }
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    let kms = service::kms(global)?;
    let session = service::begin(global, &kms)?;
    let open = Open { global, kms: &kms, session: &session };
    match &args.verb {
        Verb::Create(args) => create(&session, args),
        Verb::Describe(args) => describe(&session, args),
        Verb::List(args) => list(&session, args.json),
        Verb::UpdateDescription(args) => {
            let key_id = service::resolve(&session, &args.named.key)?;
            let description = Some(args.description.clone());
            session.call(UpdateKeyDescriptionRequest { key_id: key_id.clone(), description })?;
            done(args.named.json, &format!("{key_id} has a new description"))
        }
        Verb::Tag(args) => tags(&session, args),
        Verb::LastUsage(args) => last_usage(&session, args),
        Verb::Enable(args) => {
            let key = service::resolve(&session, &args.key)?;
            session.call(EnableKeyRequest { key_id: key.clone() })?;
            done(args.json, &format!("{key} is enabled"))
        }
        Verb::Disable(args) => {
            let key = service::resolve(&session, &args.key)?;
            session.call(DisableKeyRequest { key_id: key.clone() })?;
            done(
                args.json,
                &format!(
                    "{key} is disabled; files under it do not open until `kmsfs key enable`, and `kmsfs key dependents` counts them"
                ),
            )
        }
        Verb::Rotate(args) => rotate(&session, args),
        Verb::Rotation(args) => rotation(&session, args),
        Verb::Rotations(args) => rotations(&session, &args.named),
        Verb::Dependents(args) => dependents(&open, args),
        Verb::ScheduleDeletion(args) => schedule(&open, args),
        Verb::CancelDeletion(args) => {
            let answer =
                session.call(CancelKeyDeletionRequest { key_id: service::resolve(&session, &args.key)? })?;
            if args.json {
                return output::json(&answer);
            }
            output::line(&format!(
                "{} stays, and is disabled; `kmsfs key enable` makes it usable",
                answer.key_id
            ))
        }
        Verb::Import(args) => import::import(&session, args),
        Verb::DeleteImportedMaterial(args) => import::delete(&open, args),
        Verb::Replicate(args) => replicate::replicate(&session, args),
        Verb::UpdatePrimaryRegion(args) => replicate::update_primary(&session, args),
        Verb::Grant(args) => grant::run(&session, args),
        Verb::Policy(args) => policy::run(&session, args),
        Verb::PublicKey(args) => public_key::public(&session, args),
        Verb::Sign(args) => sign::sign(&session, args),
        Verb::Verify(args) => sign::verify(&session, args),
        Verb::Mac(args) => mac::run(&session, args),
        Verb::DeriveSharedSecret(args) => public_key::derive(&session, args),
    }
}

/// For operations whose answer is empty: AWS's command line prints nothing then.
fn done(json: bool, text: &str) -> Result<()> {
    if json { Ok(()) } else { output::line(text) }
}

fn create(session: &Session, args: &Create) -> Result<()> {
    let alias = args.alias.as_deref().map(service::own_alias).transpose()?;
    let request = CreateKeyRequest {
        description: args.description.clone(),
        key_spec: args.key_spec.clone(),
        key_usage: args.key_usage.clone(),
        origin: args.origin.clone(),
        multi_region: args.multi_region.then_some(true),
        policy: args.policy.as_deref().map(policy::read).transpose()?,
        bypass_policy_lockout_safety_check: args.check.bypass_policy_lockout_safety_check,
        tags: args.tag.clone(),
        ..CreateKeyRequest::default()
    };
    let answer = session.call(request)?;
    if let Some(alias) = &alias {
        let target_key_id = answer.key_metadata.key_id.clone();
        session.call(CreateAliasRequest { alias_name: alias.to_string(), target_key_id })?;
    }
    if args.json {
        return output::json(&answer);
    }
    show(session, &answer.key_metadata)
}

fn describe(session: &Session, args: &Named) -> Result<()> {
    let answer =
        session.call(DescribeKeyRequest { key_id: args.key.clone(), ..DescribeKeyRequest::default() })?;
    if args.json { output::json(&answer) } else { show(session, &answer.key_metadata) }
}

fn show(session: &Session, key: &KeyMetadata) -> Result<()> {
    let names = service::aliases(session, Some(&key.key_id))?;
    let names: Vec<_> = names.aliases.into_iter().map(|alias| alias.alias_name).collect();
    let mut facts = vec![
        ("key", key.arn.clone()),
        ("aliases", if names.is_empty() { "-".to_owned() } else { names.join(" ") }),
        ("state", state(key.key_state).to_owned()),
        ("manager", key.key_manager.to_owned()),
        ("spec", key.key_spec.to_owned()),
        ("usage", key.key_usage.to_owned()),
        ("origin", key.origin.to_owned()),
        ("made", time(key.creation_date)),
    ];
    facts.extend(key.valid_to.map(|date| ("material is erased", time(date))));
    if let Some(family) = &key.multi_region_configuration {
        facts.push(("multi-Region", family.multi_region_key_type.to_owned()));
        facts.push(("primary key", family.primary_key.region.clone()));
        let replicas: Vec<_> = family.replica_keys.iter().map(|key| key.region.as_str()).collect();
        facts.push(("replicas", if replicas.is_empty() { "-".to_owned() } else { replicas.join(" ") }));
    }
    facts.extend(key.current_key_material_id.clone().map(|id| ("key material", id)));
    if !key.description.is_empty() {
        facts.push(("description", key.description.clone()));
    }
    if let Some(date) = key.deletion_date {
        facts.push(("is deleted", time(date)));
    }
    if let Some(days) = key.pending_deletion_window_in_days {
        facts.push(("is deleted", format!("{days} days after its last replica")));
    }
    output::facts(&facts)
}

fn list(session: &Session, json: bool) -> Result<()> {
    let mut answer = session.call(ListKeysRequest::default())?;
    while let Some(marker) = answer.next_marker.take() {
        let next = session.call(ListKeysRequest { marker: Some(marker), ..ListKeysRequest::default() })?;
        answer.keys.extend(next.keys);
        (answer.next_marker, answer.truncated) = (next.next_marker, next.truncated);
    }
    if json {
        return output::json(&answer);
    }
    let aliases = service::aliases(session, None)?.aliases;
    let mut rows = Vec::new();
    for key in &answer.keys {
        let request = DescribeKeyRequest { key_id: key.key_id.clone(), ..DescribeKeyRequest::default() };
        let metadata = session.call(request)?.key_metadata;
        let names = aliases.iter().filter(|alias| alias.target_key_id == key.key_id);
        let names: Vec<_> = names.map(|alias| alias.alias_name.as_str()).collect();
        rows.push([
            key.key_id.clone(),
            state(metadata.key_state).to_owned(),
            metadata.key_manager.to_owned(),
            time(metadata.creation_date),
            names.join(" "),
        ]);
    }
    output::table(["KEY", "STATE", "MANAGER", "MADE", "ALIASES"], &rows)
}

fn tags(session: &Session, args: &Labels) -> Result<()> {
    let key_id = service::resolve(session, &args.named.key)?;
    if !args.add.is_empty() {
        session.call(TagResourceRequest { key_id: key_id.clone(), tags: Some(args.add.clone()) })?;
    }
    if !args.remove.is_empty() {
        session.call(UntagResourceRequest { key_id: key_id.clone(), tag_keys: Some(args.remove.clone()) })?;
    }
    let changed = !(args.add.is_empty() && args.remove.is_empty());
    if changed && !args.list {
        return done(args.named.json, &format!("{key_id} has other labels; --list shows them"));
    }
    let first = ListResourceTagsRequest { key_id, ..ListResourceTagsRequest::default() };
    let mut answer = session.call(first.clone())?;
    while let Some(marker) = answer.next_marker.take() {
        let next = session.call(ListResourceTagsRequest { marker: Some(marker), ..first.clone() })?;
        answer.tags.extend(next.tags);
        (answer.next_marker, answer.truncated) = (next.next_marker, next.truncated);
    }
    if args.named.json {
        return output::json(&answer);
    }
    let rows = answer.tags.into_iter().map(|tag| [tag.tag_key, tag.tag_value]);
    output::table(["NAME", "VALUE"], &rows.collect::<Vec<_>>())
}

fn last_usage(session: &Session, args: &Named) -> Result<()> {
    let key_id = service::resolve(session, &args.key)?;
    let answer = session.call(GetKeyLastUsageRequest { key_id: key_id.clone() })?;
    if args.json {
        return output::json(&answer);
    }
    let last = answer.key_last_usage;
    let (Some(operation), Some(at)) = (last.operation, last.timestamp) else {
        return output::line(&format!("{key_id} was never used"));
    };
    let mut facts = vec![("key", key_id), ("used for", operation), ("at", time(at))];
    facts.extend(last.cloud_trail_event_id.map(|id| ("event", id)));
    output::facts(&facts)
}

fn rotate(session: &Session, args: &Named) -> Result<()> {
    let answer = session.call(RotateKeyOnDemandRequest { key_id: service::resolve(session, &args.key)? })?;
    if args.json {
        return output::json(&answer);
    }
    let request = DescribeKeyRequest { key_id: answer.key_id.clone(), ..DescribeKeyRequest::default() };
    let material = session.call(request)?.key_metadata.current_key_material_id;
    output::facts(&[("rotated", answer.key_id), ("key material", material.unwrap_or_default())])
}

fn rotation(session: &Session, args: &Rotation) -> Result<()> {
    let key_id = service::resolve(session, &args.named.key)?;
    if args.enable {
        let rotation_period_in_days = args.rotation_period_in_days;
        session.call(EnableKeyRotationRequest { key_id: key_id.clone(), rotation_period_in_days })?;
    } else if args.disable {
        session.call(DisableKeyRotationRequest { key_id: key_id.clone() })?;
    }
    if args.named.json && (args.enable || args.disable) {
        return Ok(());
    }
    let answer = session.call(GetKeyRotationStatusRequest { key_id: key_id.clone() })?;
    if args.named.json {
        return output::json(&answer);
    }
    let mut facts = vec![("key", key_id)];
    match (answer.rotation_period_in_days, answer.next_rotation_date) {
        (Some(days), Some(next)) => {
            facts.push(("rotates", format!("every {days} days")));
            facts.push(("next", time(next)));
        }
        _ => facts.push(("rotates", "on demand only".to_owned())),
    }
    output::facts(&facts)
}

fn rotations(session: &Session, args: &Named) -> Result<()> {
    let first = ListKeyRotationsRequest {
        key_id: service::resolve(session, &args.key)?,
        include_key_material: Some("ALL_KEY_MATERIAL".to_owned()),
        ..ListKeyRotationsRequest::default()
    };
    let mut answer = session.call(first.clone())?;
    while let Some(marker) = answer.next_marker.take() {
        let next = session.call(ListKeyRotationsRequest { marker: Some(marker), ..first.clone() })?;
        answer.rotations.extend(next.rotations);
        (answer.next_marker, answer.truncated) = (next.next_marker, next.truncated);
    }
    if args.json {
        return output::json(&answer);
    }
    let rows = answer.rotations.iter().map(|rotation| {
        [
            rotation.key_material_id.clone(),
            rotation.key_material_state.to_owned(),
            rotation.import_state.unwrap_or("-").to_owned(),
            rotation.rotation_date.map_or_else(|| "-".to_owned(), time),
            // The first came by none, and what waits for one has not come.
            rotation.rotation_type.unwrap_or("-").to_owned(),
        ]
    });
    output::table(["KEY MATERIAL", "STATE", "IMPORT", "SINCE", "ROTATION"], &rows.collect::<Vec<_>>())
}

fn dependents(open: &Open, args: &Dependents) -> Result<()> {
    let target = Target::describe(open.global, open.kms, open.session, &args.key)?;
    let report = dependents::find(open.global, open.kms, &target)?;
    if args.json {
        return output::json(&report);
    }
    let when = target.key.deletion_date.map(|date| format!(", from {} on", time(date)));
    report.show(&when.unwrap_or_default())
}

fn schedule(open: &Open, args: &Schedule) -> Result<()> {
    let session = open.session;
    if let Some(report) = open.report(&args.named.key, args.yes)? {
        if args.named.json {
            output::warn(&report.in_short());
        } else {
            report.show(&dependents::from_now(args.pending_window_in_days))?;
        }
        report.confirm(
            args.yes,
            &format!("Delete {} in {} days?", args.named.key, args.pending_window_in_days),
        )?;
    }
    let key_id = service::resolve(session, &args.named.key)?;
    let request =
        ScheduleKeyDeletionRequest { key_id, pending_window_in_days: Some(args.pending_window_in_days) };
    let answer = session.call(request)?;
    if args.named.json {
        return output::json(&answer);
    }
    let Some(date) = answer.deletion_date else {
        let days = answer.pending_window_in_days;
        return output::line(&format!(
            "{} is deleted {days} days after its last replica; until then `kmsfs key cancel-deletion` keeps it",
            answer.key_id
        ));
    };
    output::line(&format!(
        "{} is deleted at {}; until then `kmsfs key cancel-deletion` keeps it, afterwards nothing under it can be \
         opened again",
        answer.key_id,
        time(date)
    ))
}

/// Its name.
pub fn state(state: KeyState) -> &'static str {
    match state {
        KeyState::Enabled => "Enabled",
        KeyState::Disabled => "Disabled",
        KeyState::PendingDeletion => "PendingDeletion",
        KeyState::PendingImport => "PendingImport",
        KeyState::Creating => "Creating",
        KeyState::PendingReplicaDeletion => "PendingReplicaDeletion",
        KeyState::Updating => "Updating",
    }
}

/// To the second, in UTC.
pub fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
