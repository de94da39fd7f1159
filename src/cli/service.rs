//! The key service of this run: the embedded one, opened as the account's root, or as whom `--as` names, in the chosen
//! region; or AWS KMS.

use std::path::Path;
use std::sync::Arc;

use aws_config::{BehaviorVersion, SdkConfig};

use super::error::{CliError, Result};
use super::global::{Global, Which};
use crate::client::AwsKms;
use crate::crypto::SecretVec;
use crate::iam::{AliasName, IamError, Region};
use crate::kms::home::{Home, HomeError, Kms, KmsOptions};
use crate::kms::identity::IdentitySession;
use crate::kms::root::RootKeyError;
use crate::kms::wire::{CreateAliasRequest, CreateKeyRequest, ListAliasesRequest, ListAliasesResponse};
use crate::kms::{Caller, KeyHolder, KeyService, KmsError, KmsErrorKind, Ledger, Session};
use crate::volume::VolumeError;
use crate::volume::descriptor::Descriptor;
use crate::volume::disk::Dir;
use crate::volume::recipients::OtherRegions;

/// What a volume needs: the key service that has its keys, in one region, and the log of what happens to its files.
pub struct Service {
    /// The key service.
    pub keys: Arc<dyn KeyService>,
    /// The log.
    pub ledger: Arc<dyn Ledger>,
    /// Their region.
    pub region: Region,
}

impl Service {
    /// That of a volume, which must be the one that --kms names: who can write to the volume's directory could
    /// otherwise have the credentials of whoever mounts it used with a key of theirs.
    pub fn of_volume(
        global: &Global,
        path: &Path,
        dir: &dyn Dir,
        passphrase: Option<SecretVec>,
    ) -> Result<Self> {
        let descriptor = Descriptor::read(dir).map_err(|e| CliError::volume(path, e))?;
        agree(global, &descriptor, false)?;
        let region = match global.kms {
            Which::Embedded => global.region.clone(),
            Which::Aws => region_of(path, &descriptor)?,
        };
        Self::in_region(global, global.kms, &region, passphrase)
    }

    /// Either of them.
    pub fn in_region(
        global: &Global,
        which: Which,
        region: &Region,
        passphrase: Option<SecretVec>,
    ) -> Result<Self> {
        match which {
            Which::Embedded => {
                let session = Arc::new(session_with(&global.in_region(region.clone()), passphrase)?);
                Ok(Self { keys: session.clone(), ledger: session, region: region.clone() })
            }
            Which::Aws => Self::aws(global, region, passphrase),
        }
    }

    /// That of a volume's own region, whichever --region names.
    pub fn at_home(
        global: &Global,
        path: &Path,
        descriptor: &Descriptor,
        passphrase: Option<SecretVec>,
    ) -> Result<Self> {
        agree(global, descriptor, false)?;
        Self::in_region(global, global.kms, &region_of(path, descriptor)?, passphrase)
    }

    /// AWS KMS in a region; its calls are recorded in that region of the home, which is made if it is not there.
    pub fn aws(global: &Global, region: &Region, passphrase: Option<SecretVec>) -> Result<Self> {
        if global.principal.is_some() {
            return Err(CliError::Usage(
                "--as (KMSFS_AS) names somebody of the embedded key service; whom AWS KMS sees is whose credentials are \
                 used: AWS_PROFILE chooses them"
                    .to_owned(),
            ));
        }
        let here = global.in_region(region.clone());
        let log = Arc::new(begin(&here, &open_or_make(&here, passphrase)?)?);
        let keys = AwsKms::new(&sdk_config(region)?, global.kms_endpoint.as_deref(), log)?;
        let keys = Arc::new(keys);
        // Not the log itself: its generation says nothing of keys at AWS.
        Ok(Self { keys: keys.clone(), ledger: keys, region: region.clone() })
    }
}

/// All regions of the key service that --kms names, for a volume that has recipients there.
pub fn regions(global: &Global, passphrase: Option<SecretVec>) -> OtherRegions {
    let global = global.clone();
    OtherRegions::new(move |region| {
        let failed = |why: String| {
            VolumeError::Key(KmsError::new(
                KmsErrorKind::NotFound,
                format!("The key is in region {region:?}, which cannot be used here: {why}"),
            ))
        };
        let name: Region = region.parse().map_err(|e: IamError| failed(e.to_string()))?;
        let service = Service::in_region(&global, global.kms, &name, passphrase.clone());
        Ok(service.map_err(|e| failed(e.to_string()))?.keys)
    })
}

/// A volume's keys must be at the key service that --kms names, or be going to come there.
pub fn agree(global: &Global, descriptor: &Descriptor, change: bool) -> Result<()> {
    let key =
        || descriptor.keys.first().map_or_else(String::new, |key| key.key_arn.escape_debug().to_string());
    match (global.kms, descriptor.holder()) {
        _ if change => Ok(()),
        (Which::Embedded, KeyHolder::Embedded) | (Which::Aws, KeyHolder::Aws) => Ok(()),
        (Which::Aws, KeyHolder::Embedded) => Err(CliError::Usage(
            "the volume's keys are in an embedded key service; leave --kms aws (KMSFS_KMS) away, or bring them to AWS KMS \
             with `kmsfs --kms aws rewrap --change-kms`"
                .to_owned(),
        )),
        (Which::Embedded, KeyHolder::Aws) => Err(CliError::Usage(format!(
            "the volume's keys are at AWS KMS, under {}; give --kms aws to have it asked with your credentials",
            key()
        ))),
    }
}

/// The passphrase, for [`Service::of_volume`]: asked for twice where a region is going to be made for the log.
pub fn passphrase(global: &Global, volume: &Path, dir: &dyn Dir) -> Result<Option<SecretVec>> {
    let new = match global.kms {
        Which::Embedded => false,
        Which::Aws => {
            let descriptor = Descriptor::read(dir).map_err(|e| CliError::volume(volume, e))?;
            is_new(&global.in_region(region_of(volume, &descriptor)?))?
        }
    };
    global.passphrase(new)
}

/// The region of a key: the ARN's, or the chosen one where it is named without.
pub fn region_of_key(global: &Global, key: &str) -> Result<Region> {
    // The fourth part of an ARN of a key or an alias.
    match key.strip_prefix("arn:").and_then(|rest| rest.split(':').nth(2)) {
        Some(region) => region.parse().map_err(|e: IamError| CliError::Usage(format!("{key}: {e}"))),
        None => Ok(global.region.clone()),
    }
}

/// The region that a volume says is its.
pub fn region_of(volume: &Path, descriptor: &Descriptor) -> Result<Region> {
    let bad =
        |e: IamError| VolumeError::Descriptor(format!("names no region ({e}); restore it from a backup"));
    descriptor.region.parse().map_err(|e| CliError::volume(volume, bad(e)))
}

/// AWS's variables, its files and what they lead to, for a region.
fn sdk_config(region: &Region) -> Result<SdkConfig> {
    let failed = |source| CliError::Io { what: "cannot read AWS's configuration".to_owned(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let region = aws_config::Region::new(region.to_string());
    Ok(runtime.block_on(aws_config::defaults(BehaviorVersion::v2026_01_12()).region(region).load()))
}

/// The region must be there.
pub fn session(global: &Global) -> Result<Session> {
    begin(global, &kms(global)?)
}

/// With a passphrase that was asked for before.
pub fn session_with(global: &Global, passphrase: Option<SecretVec>) -> Result<Session> {
    begin(global, &open(global, passphrase)?)
}

/// A session of the account's root, or of whom `--as` names: the local command line is believed.
pub fn begin(global: &Global, kms: &Arc<Kms>) -> Result<Session> {
    begin_in(global, kms, &global.region)
}

/// The same in another region.
pub fn begin_in(global: &Global, kms: &Arc<Kms>, region: &Region) -> Result<Session> {
    kms.session(caller(global, kms)?, region).map_err(failed)
}

/// A session of somebody in a region.
pub fn session_in(kms: &Arc<Kms>, caller: Caller, region: &Region) -> Result<Session> {
    kms.session(caller, region).map_err(failed)
}

/// A session of somebody in the chosen region.
pub fn session_as(global: &Global, kms: &Arc<Kms>, caller: Caller) -> Result<Session> {
    kms.session(caller, &global.region).map_err(failed)
}

fn caller(global: &Global, kms: &Kms) -> Result<Caller> {
    match &global.principal {
        Some(principal) => named(kms, principal),
        None => Ok(Caller::root(global.account.clone())),
    }
}

/// Whom an option names.
pub fn named(kms: &Kms, principal: &str) -> Result<Caller> {
    kms.caller(principal).map_err(|error| match error.kind {
        KmsErrorKind::Identity(_) => CliError::NoPrincipal(error),
        _ => CliError::Refused(error),
    })
}

/// All regions of a home that is there.
pub fn kms(global: &Global) -> Result<Arc<Kms>> {
    open(global, global.passphrase(false)?)
}

/// The same with a passphrase that was asked for before.
pub fn kms_with(global: &Global, passphrase: Option<SecretVec>) -> Result<Arc<Kms>> {
    open(global, passphrase)
}

/// The home with its directory of identities, which the first call makes; no region is needed.
pub fn identities(global: &Global) -> Result<Arc<Kms>> {
    let home = Home::open_or_create(&global.home()?).map_err(failed)?;
    let new = !home.path().join("iam").exists();
    open(global, global.passphrase(new)?)
}

/// IAM and STS, as the account's root or as whom `--as` names.
pub fn identity(global: &Global) -> Result<IdentitySession> {
    let kms = identities(global)?;
    Ok(kms.identity(caller(global, &kms)?))
}

/// Makes home and region if they are not there.
pub fn session_or_new(global: &Global) -> Result<Session> {
    begin(global, &kms_or_new(global)?)
}

/// The same, of all regions.
pub fn kms_or_new(global: &Global) -> Result<Arc<Kms>> {
    open_or_make(global, global.passphrase(is_new(global)?)?)
}

/// Whether [`kms_or_new`] will make the region.
pub fn is_new(global: &Global) -> Result<bool> {
    Ok(!global.home()?.join(global.region.as_str()).exists())
}

fn open_or_make(global: &Global, passphrase: Option<SecretVec>) -> Result<Arc<Kms>> {
    let home = Home::open_or_create(&global.home()?).map_err(failed)?;
    let new = !home.region_path(&global.region).exists();
    let kms = open(global, passphrase.clone())?;
    if new {
        match kms.create_region(&global.region, passphrase.as_ref()) {
            // Another process was first.
            Ok(()) | Err(HomeError::RegionExists { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(kms)
}

fn open(global: &Global, passphrase: Option<SecretVec>) -> Result<Arc<Kms>> {
    let options = KmsOptions { passphrase, ..KmsOptions::new(global.account.clone()) };
    Kms::open(&global.home()?, options).map_err(failed)
}

/// What a home's error is at the command line.
pub fn failed(error: HomeError) -> CliError {
    let advice = match &error {
        HomeError::RootKey(RootKeyError::NeedsPassphrase { .. }) => {
            "; give --passphrase-file FILE, or --passphrase to be asked for it"
        }
        _ => "",
    };
    CliError::Home(format!("{error}{advice}"))
}

/// A customer managed key with an alias; its ARN.
pub fn new_key(session: &Session, alias: &str) -> Result<String> {
    // Before the key is made: one without its alias would be left behind.
    let alias = own_alias(alias)?;
    if aliases(session, None)?.aliases.iter().any(|there| there.alias_name == alias.as_str()) {
        return Err(CliError::Usage(format!("{alias} names a key already; use it with --key {alias}")));
    }
    let made = session.call(CreateKeyRequest::default())?.key_metadata;
    session.call(CreateAliasRequest { alias_name: alias.to_string(), target_key_id: made.key_id })?;
    Ok(made.arn)
}

/// An alias that a customer may give.
pub fn own_alias(alias: &str) -> Result<AliasName> {
    let alias: AliasName = alias.parse().map_err(|e: IamError| CliError::Usage(e.to_string()))?;
    if alias.is_reserved() {
        return Err(CliError::Usage(format!(
            "{alias} is not yours to give: alias/aws/ belongs to keys that the service manages"
        )));
    }
    Ok(alias)
}

/// The ARN of a key by any of its names: most operations take no alias.
pub fn resolve(session: &Session, key: &str) -> Result<String> {
    if !key.contains("alias/") {
        return Ok(key.to_owned());
    }
    Ok(session.describe_key(key)?.key_arn)
}

/// All aliases, or all of one key.
pub fn aliases(session: &Session, key_id: Option<&str>) -> Result<ListAliasesResponse> {
    let first = ListAliasesRequest { key_id: key_id.map(str::to_owned), ..ListAliasesRequest::default() };
    let mut answer = session.call(first.clone())?;
    while let Some(marker) = answer.next_marker.take() {
        let next = session.call(ListAliasesRequest { marker: Some(marker), ..first.clone() })?;
        answer.aliases.extend(next.aliases);
        (answer.next_marker, answer.truncated) = (next.next_marker, next.truncated);
    }
    Ok(answer)
}
