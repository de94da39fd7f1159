//! `kmsfs snapshot copy`: under keys of another region, or of another account.

use std::env;
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::error::{CliError, Result};
use super::super::global::{Global, Which};
use super::super::service::Service;
use super::super::{daemon, known, output, service};
use super::common;
use super::place::{self, Named};
use crate::iam::{AccountId, Region};
use crate::kms::home::{HomeError, Kms};
use crate::kms::{Caller, KeyService, Session};
use crate::snapshot::Snapshot;
use crate::snapshot::copy::{self, From, Options, Report, To, Way};
use crate::snapshot::depot::Depot;
use crate::snapshot::descriptor::Descriptor;
use crate::volume::descriptor::Feature;
use crate::volume::host::HostDir;

/// Copies a snapshot under a KMS key of another region, or of another account
///
/// By default everything is encrypted again: a new volume id, a new volume key, a new data key for every file, made by
/// GenerateDataKey in the region --to. Whoever copies needs kms:Decrypt on the old key, and kms:GenerateDataKey and
/// kms:Decrypt on the new one. The copy belongs to that region, and to the account of --as or else of --account: the
/// old region's keys do not open it, nor the new one's the old. What was begun and cut off goes on when it is called again
/// with the same arguments. All that was written is read back.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    named: Named,
    /// Region of the copy; it is made in the home if it is not there
    #[arg(long, value_name = "REGION")]
    to: Region,
    /// KMS key of the copy: key id, ARN, alias or alias ARN there [default: alias/aws/kmsfs, made if it is not there]
    #[arg(long, visible_alias = "key-id", value_name = "KEY")]
    key: Option<String>,
    /// Depot of the copy: a volume, a directory, or s3://BUCKET/PREFIX [default: the snapshot's own]
    #[arg(long, value_name = "DEPOT")]
    dest: Option<String>,
    /// Name of the copy [default: NAME-REGION, in another account NAME-REGION-ACCOUNT]
    #[arg(long)]
    name: Option<String>,
    /// Encrypt nothing again: wrap the same keys under the new KMS key (Decrypt there, Encrypt here). Who knows a data
    /// key of the old one, or can still open it there, can then read that file in the copy too
    #[arg(long)]
    rewrap: bool,
    /// Take away what a copy that was begun under this name has left, and copy nothing
    #[arg(long, conflicts_with_all = ["rewrap", "key"])]
    abandon: bool,
    /// Units that are copied at once [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// MiB of content between two points from which a copy that was cut off goes on
    #[arg(long, value_name = "MIB", default_value = "64", value_parser = clap::value_parser!(u16).range(1..=4096))]
    unit: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    let from = args.named.place()?;
    daemon::raise_open_files();
    let old = Snapshot::find(from.depot.clone(), &from.name).map_err(place::failed)?.descriptor;
    let depot = match &args.dest {
        Some(dest) => place::open_or_make(dest, &args.named.s3)?,
        None => from.depot.clone(),
    };
    if args.abandon {
        let name = args.name.clone().unwrap_or_else(|| default_name(&old, &args.to, global.account.as_str()));
        return abandon(&depot, &name);
    }
    let kms = service::kms(global)?;
    let caller = caller(global, &kms, &global.account)?;
    let source = source(global, &kms, &old)?;
    let (target, key_arn) = target(global, &kms, caller, args)?;
    let account = account_of(&key_arn)?;
    let name = args.name.clone().unwrap_or_else(|| default_name(&old, &args.to, &account));
    let to = To {
        depot,
        name,
        region: args.to.to_string(),
        account,
        service: target.keys,
        ledger: target.ledger,
        key_arn,
        now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs() as i64),
    };
    let from = From { depot: from.depot, name: from.name, service: source };
    let report = copied(&from, &to, args)?;
    known::depot(global, &to.depot.location());
    if args.rewrap {
        output::warn(
            "--rewrap keeps the volume key and the data keys: who knows one, or can open the old snapshot, can read the copy \
             too. Without it all is encrypted again",
        );
    }
    show(args, &to, &report)
}

fn copied(from: &From, to: &To, args: &Args) -> Result<Report> {
    let bar = ProgressBar::new(0);
    let template = "{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    // A template that does not parse leaves the plain bar.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let temporary = env::temp_dir();
    let spool = HostDir::open(&temporary)
        .map_err(|e| CliError::io("the directory of temporary files", &temporary, e))?;
    let options = Options {
        way: if args.rewrap { Way::Rewrap } else { Way::EncryptAgain },
        threads: args
            .threads
            .map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from),
        unit_pages: u64::from(args.unit) << 8,
        spool: &*spool,
        progress: &|done, all| {
            if let Some(all) = all {
                bar.set_length(all);
            }
            bar.inc(done);
        },
    };
    let done = copy::copy(from, to, &options);
    bar.finish_and_clear();
    done.map_err(place::failed)
}

/// Whom `--as` names, or else the root of an account.
fn caller(global: &Global, kms: &Kms, account: &AccountId) -> Result<Caller> {
    match &global.principal {
        Some(principal) => service::named(kms, principal),
        None => Ok(Caller::root(account.clone())),
    }
}

/// The embedded key service of the snapshot's region, for whom `--as` names, or else the root of the snapshot's account.
pub fn embedded_source(global: &Global, kms: &Arc<Kms>, old: &Descriptor) -> Result<Session> {
    let told = |what: &str, e: crate::iam::IamError| CliError::Failed(format!("the snapshot's {what}: {e}"));
    let region: Region = old.region.parse().map_err(|e| told("region", e))?;
    let account: AccountId = old.account.parse().map_err(|e| told("account", e))?;
    service::session_in(kms, caller(global, kms, &account)?, &region)
}

/// The key service that the snapshot's keys are in.
fn source(global: &Global, kms: &Arc<Kms>, old: &Descriptor) -> Result<Arc<dyn KeyService>> {
    if old.volume_features().map_err(place::failed)?.contains(&Feature::AwsKms) {
        // Which refuses where --kms does not name it: nobody's credentials are used for a snapshot's asking.
        return Ok(common::service_of(global, old)?.keys);
    }
    Ok(Arc::new(embedded_source(global, kms, old)?))
}

/// The key service of the copy, and the KMS key there.
fn target(global: &Global, kms: &Arc<Kms>, caller: Caller, args: &Args) -> Result<(Service, String)> {
    if global.kms == Which::Aws {
        let Some(key) = &args.key else {
            return Err(CliError::Usage(
                "a copy under AWS KMS (--kms aws) goes under a key of yours: name it with --key".to_owned(),
            ));
        };
        let service = Service::aws(global, &args.to, global.passphrase(false)?)?;
        let key_arn = service.keys.describe_key(key)?.key_arn;
        return Ok((service, key_arn));
    }
    // A key that is named can only be in a region that is there.
    if args.key.is_none() && !kms.home().region_path(&args.to).exists() {
        match kms.create_region(&args.to, global.passphrase(true)?.as_ref()) {
            // Another process was first.
            Ok(()) | Err(HomeError::RegionExists { .. }) => {}
            Err(error) => return Err(service::failed(error)),
        }
    }
    let session = Arc::new(service::session_in(kms, caller, &args.to)?);
    let key_arn = match &args.key {
        Some(key) => session.describe_key(key)?.key_arn,
        None => session.ensure_managed_key("aws/kmsfs")?,
    };
    Ok((Service { keys: session.clone(), ledger: session, region: args.to.clone() }, key_arn))
}

/// The account in a key's ARN.
fn account_of(key_arn: &str) -> Result<String> {
    let account = key_arn.split(':').nth(4).filter(|account| !account.is_empty());
    account.map(str::to_owned).ok_or_else(|| CliError::Failed(format!("{key_arn} names no account")))
}

fn default_name(old: &Descriptor, region: &Region, account: &str) -> String {
    match account == old.account {
        true => format!("{}-{region}", old.name),
        false => format!("{}-{region}-{account}", old.name),
    }
}

fn abandon(depot: &Arc<dyn Depot>, name: &str) -> Result<()> {
    match copy::abandon(depot, name).map_err(place::failed)? {
        true => output::line(&format!("what the copy {name} had left is gone")),
        false => Err(CliError::Usage(format!("no copy was begun as {name} in {}", depot.location()))),
    }
}

fn show(args: &Args, to: &To, report: &Report) -> Result<()> {
    for told in &report.told {
        output::warn(&format!("left out, as a mount would not show it: {told}"));
    }
    if args.json {
        return output::json(&serde_json::json!({
            "name": to.name,
            "depot": to.depot.location(),
            "region": to.region,
            "account": to.account,
            "report": report,
        }));
    }
    output::facts(&[
        ("snapshot", to.name.clone()),
        ("in", to.depot.location()),
        ("region, account", format!("{}, {}", to.region, to.account)),
        ("KMS key", report.key_arn.clone()),
        ("volume id", report.volume_id.to_string()),
        ("files", report.files.to_string()),
        ("bytes", report.bytes.to_string()),
        ("encrypted again", if args.rewrap { "no: the same data keys" } else { "yes" }.to_owned()),
        ("verified", "all that was written was read back".to_owned()),
    ])
}
