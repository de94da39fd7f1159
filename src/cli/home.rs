//! `kmsfs home`: the key service's home as a whole: what it knows, its backups.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

use super::error::{CliError, Result};
use super::global::Global;
use super::key::time;
use super::{dependents, known, output};
use crate::kms::{Caller, Home, HomeError, Manifest, Place, PlaceKind};
use crate::volume::descriptor::Descriptor;
use crate::volume::host::HostDir;

/// The key service's home: what it knows of volumes, snapshots and backups; backups of itself
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Lists the volumes, snapshots and backups that this home knows
    List(List),
    /// Notes a volume, a depot of snapshots or a backup that this home has not seen
    ///
    /// Commands note by themselves what they make and mount. This is for what was made elsewhere, or brought to another place.
    Note(Note),
    /// Forgets something that is gone for good, so that no key's deletion tells of it any more
    Forget(Forget),
    /// Copies the home, while it is used, as it is at one moment
    ///
    /// All regions with their keys, policies and logs, and the users and roles. A backup keeps keys alive that are deleted
    /// later: destroy it too when a key is to be gone for good.
    Backup(Backup),
    /// Makes a home out of a backup, whose files are checked, where none is
    Restore(Restore),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Note {
    /// A directory, or the address of a bucket (s3://bucket/prefix)
    location: String,
}

#[derive(Debug, clap::Args)]
struct Forget {
    /// Where it was, as `kmsfs home list` shows it
    location: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Backup {
    /// Directory that is made for it; it must not be there, or be empty
    to: PathBuf,
    /// With the root keys: it is then enough to open everything of its time. Without them, keep them elsewhere
    #[arg(long)]
    with_root_keys: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Restore {
    /// Directory that `kmsfs home backup` made
    from: PathBuf,
    /// Where the root keys are that are not in the backup: DIR/REGION/root.key and DIR/iam/root.key, as in a home
    #[arg(long, value_name = "DIR")]
    root_keys: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    match &args.verb {
        Verb::List(args) => list(&open(global)?, args.json),
        Verb::Note(args) => note(&open(global)?, &args.location),
        Verb::Forget(args) => forget(&open(global)?, &args.location),
        Verb::Backup(args) => backup(global, args),
        Verb::Restore(args) => restore(global, args),
    }
}

fn open(global: &Global) -> Result<Home> {
    Home::open(&global.home()?).map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: HomeError) -> CliError {
    CliError::Home(error.to_string())
}

/// Who can read a home is every account's root in it, whatever `--as` says.
fn whoever(global: &Global) -> Caller {
    Caller::root(global.account.clone())
}

/// What is at a place now.
fn state(place: &Place) -> &'static str {
    let Some(path) = place.path() else { return "not looked at" };
    match place.kind {
        PlaceKind::Volume => match HostDir::open(&path).ok().map(|dir| Descriptor::read(&*dir)) {
            None if path.exists() => "cannot be opened",
            None => "not found",
            Some(Ok(descriptor)) if hex::encode(descriptor.id) == place.id => "there",
            Some(Ok(_)) => "another volume",
            Some(Err(_)) => "no volume",
        },
        PlaceKind::Depot if path.exists() => "there",
        PlaceKind::Backup if Manifest::read(&path).is_ok_and(|manifest| manifest.id == place.id) => "there",
        PlaceKind::Backup if path.exists() => "another backup, or none",
        PlaceKind::Depot | PlaceKind::Backup => "not found",
    }
}

fn list(home: &Home, as_json: bool) -> Result<()> {
    let places = dependents::places(home)?;
    let seen = |at: i64| Timestamp::from_millisecond(at).unwrap_or_default();
    if as_json {
        let all = places.iter().map(|place| {
            json!({
                "kind": place.kind,
                "location": place.shown(),
                "id": place.id,
                "region": place.region,
                "first_seen": seen(place.first_seen).to_string(),
                "last_seen": seen(place.last_seen).to_string(),
                "with_root_keys": place.with_root_keys,
                "state": state(place),
            })
        });
        return output::json(&all.collect::<Vec<_>>());
    }
    let rows = places.iter().map(|place| {
        let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        [
            named(place).to_owned(),
            place.shown(),
            or_none(&place.region),
            or_none(&place.id),
            time(seen(place.last_seen)),
            state(place).to_owned(),
        ]
    });
    output::table(["WHAT", "WHERE", "REGION", "ID", "LAST SEEN", "STATE"], &rows.collect::<Vec<_>>())
}

fn note(home: &Home, location: &str) -> Result<()> {
    if !location.contains("://") && !Path::new(location).is_dir() {
        return Err(CliError::Failed(format!(
            "{location} is no directory, and no address (s3://bucket/prefix)"
        )));
    }
    let place = known::look(location);
    home.places().and_then(|places| places.note(&place)).map_err(failed)?;
    output::line(&format!("{}: {} is noted", named(&place), place.shown()))
}

/// What it is, in words.
fn named(place: &Place) -> &'static str {
    match place.kind {
        PlaceKind::Volume => "volume",
        PlaceKind::Depot => "snapshots",
        PlaceKind::Backup if place.with_root_keys => "backup with root keys",
        PlaceKind::Backup => "backup",
    }
}

fn forget(home: &Home, location: &Path) -> Result<()> {
    let places = home.places().map_err(failed)?;
    let whole = std::path::absolute(location).map_err(|e| CliError::io("cannot forget", location, e))?;
    // An address is no path.
    let mut gone = 0;
    for name in [location, &whole] {
        gone += places.forget(name.as_os_str().as_bytes()).map_err(failed)?;
    }
    if gone == 0 {
        return Err(CliError::Failed(format!(
            "this home knows nothing at {}; `kmsfs home list` shows what it knows",
            whole.display()
        )));
    }
    output::line(&format!("{} is forgotten; what is there stays as it is", location.display()))
}

fn backup(global: &Global, args: &Backup) -> Result<()> {
    let manifest = open(global)?
        .backup(&args.to, args.with_root_keys, &whoever(global), Timestamp::now())
        .map_err(failed)?;
    if args.json {
        return output::json(&manifest);
    }
    let to = std::path::absolute(&args.to).map_err(|e| CliError::io("the backup", &args.to, e))?;
    output::facts(&[
        ("backup", to.display().to_string()),
        ("id", manifest.id.clone()),
        ("taken", time(manifest.taken)),
        ("regions", manifest.regions.join(" ")),
        ("size", format!("{} bytes", manifest.files.iter().map(|file| file.bytes).sum::<u64>())),
    ])?;
    output::warn(if args.with_root_keys {
        "the root keys are in it: who has this backup can open whatever the home can, unless a passphrase protects them"
    } else {
        "the root keys are not in it, and without them it opens nothing: keep copies of root.key of each region, and of \
         iam, elsewhere"
    });
    Ok(())
}

fn restore(global: &Global, args: &Restore) -> Result<()> {
    let home = global.home()?;
    let passphrase = global.passphrase(false)?;
    let keys = args.root_keys.as_deref();
    let restored =
        Home::restore(&args.from, &home, keys, passphrase.as_ref(), &whoever(global), Timestamp::now())
            .map_err(failed)?;
    if args.json {
        output::json(&json!({ "backup": restored.manifest, "without_root_key": restored.without_root_key }))?;
    } else {
        output::facts(&[
            ("home", home.display().to_string()),
            ("as it was", time(restored.manifest.taken)),
            ("regions", restored.manifest.regions.join(" ")),
        ])?;
    }
    for dir in &restored.without_root_key {
        output::warn(&format!(
            "{} is missing; bring it there, or nothing in it opens",
            home.join(dir).join("root.key").display()
        ));
    }
    Ok(())
}
