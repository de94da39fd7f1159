//! `kmsfs snapshot copy`: under keys of another region, or of another account.

use std::env;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::error::{CliError, Result};
use super::super::global::{Global, Which};
use super::super::rewrap::{processors, usual_threads};
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
use crate::volume::host::HostDir;

/// Copies a snapshot under a KMS key of another region, or of another account
///
/// By default everything is encrypted again: a new volume id, a new volume key, a new data key for every file, made by
/// GenerateDataKey in the region --to. The copy belongs to that region: the old region's keys do not open it, nor the new
/// one's the old. What was begun and cut off goes on when it is called again with the same arguments. All that was
/// written is read back.
///
/// Whoever copies needs kms:Decrypt on the old key, and kms:GenerateDataKey and kms:Decrypt on the new one (and
/// kms:DescribeKey where --key names it). With --as both are used in that name, and the copy is of that account. Without
/// --as the old key is used as the root of the account that the snapshot belongs to, whatever --account says, and the new
/// one as the root of --account: that is the operator of the home, who holds both. With --kms aws both are used with your
/// credentials, and the copy is of the account of --key.
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
    /// Units that are copied at once [default: two for each processor, since one waits for its disk; with --kms aws 16]
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
        let account = if global.kms == Which::Aws { &*old.account } else { global.account.as_str() };
        let name = args.name.clone().unwrap_or_else(|| default_name(&old, &args.to, account));
        return abandon(&depot, &name);
    }
    let KeyServices { source, target, key_arn } = KeyServices::of(global, args, &old)?;
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
    let report = copied(global.kms, &from, &to, args)?;
    known::depot(global, &to.depot.location());
    if args.rewrap {
        output::warn(
            "--rewrap keeps the volume key and the data keys: who knows one, or can open the old snapshot, can read the copy \
             too. Without it all is encrypted again",
        );
    }
    show(args, &to, &report)
}

fn copied(kms: Which, from: &From, to: &To, args: &Args) -> Result<Report> {
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
        threads: args.threads.map_or_else(|| usual_threads(kms).max(2 * processors()), usize::from),
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
    let told = |e: crate::iam::IamError| CliError::Failed(format!("the snapshot's account: {e}"));
    let account: AccountId = old.account.parse().map_err(told)?;
    service::session_in(kms, caller(global, kms, &account)?, &common::region_of(old)?)
}

/// The key services that a copy goes between, and its KMS key.
struct KeyServices {
    source: Arc<dyn KeyService>,
    target: Service,
    key_arn: String,
}

impl KeyServices {
    fn of(global: &Global, args: &Args, old: &Descriptor) -> Result<Self> {
        let there = global.in_region(args.to.clone());
        if let Some(key) = &args.key {
            let region = service::region_of_key(&there, key)?;
            if region != args.to {
                return Err(CliError::Usage(format!(
                    "{key} is a key of {region}, and the copy goes to {}; name a key there, or give --to {region}",
                    args.to
                )));
            }
        }
        match (global.kms, common::at_aws(old)?) {
            (Which::Embedded, true) => Err(common::at_aws_only()),
            (Which::Embedded, false) => {
                // A key that is named can only be in a region that is there.
                let new = args.key.is_none() && service::is_new(&there)?;
                let passphrase = there.passphrase(new)?;
                let kms = service::kms_with(global, passphrase.clone())?;
                let source = Arc::new(embedded_source(global, &kms, old)?);
                if new {
                    match kms.create_region(&args.to, passphrase.as_ref()) {
                        // Another process was first.
                        Ok(()) | Err(HomeError::RegionExists { .. }) => {}
                        Err(error) => return Err(service::failed(error)),
                    }
                }
                let session = service::session_in(&kms, caller(global, &kms, &global.account)?, &args.to)?;
                let key_arn = match &args.key {
                    Some(key) => session.describe_key(key)?.key_arn,
                    None => session.ensure_managed_key("aws/kmsfs")?,
                };
                let session = Arc::new(session);
                let target = Service { keys: session.clone(), ledger: session, region: args.to.clone() };
                Ok(Self { source, target, key_arn })
            }
            (Which::Aws, at_aws) => {
                let Some(key) = &args.key else {
                    return Err(CliError::Usage(
                        "a copy under AWS KMS (--kms aws) goes under a key of yours: name it with --key"
                            .to_owned(),
                    ));
                };
                let region = common::region_of(old)?;
                let new = service::is_new(&there)?
                    || (at_aws && service::is_new(&global.in_region(region.clone()))?);
                let passphrase = there.passphrase(new)?;
                // Refuses --as before anything is asked.
                let target = Service::aws(global, &args.to, passphrase.clone())?;
                let source: Arc<dyn KeyService> = match at_aws {
                    true => Service::aws(global, &region, passphrase)?.keys,
                    false => {
                        let kms = service::kms_with(global, passphrase)?;
                        Arc::new(embedded_source(global, &kms, old)?)
                    }
                };
                let key_arn = target.keys.describe_key(key)?.key_arn;
                Ok(Self { source, target, key_arn })
            }
        }
    }
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
        false => Err(CliError::Usage(format!(
            "no copy was begun as {name} in {}; --name names another one",
            depot.location()
        ))),
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
