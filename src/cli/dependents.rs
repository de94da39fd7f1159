//! What depends on a KMS key, as far as the home knows: told before the key is deleted, and by `kmsfs key dependents`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::error::{CliError, Result};
use super::global::Global;
use super::key::time;
use super::{output, service};
use crate::iam::KeyArn;
use crate::kms::wire::{DescribeKeyRequest, KeyMetadata};
use crate::kms::{Home, KeyService, KeyState, Kms, KmsErrorKind, Place, PlaceKind, Session};
use crate::snapshot::depot::{Depot, DirDepot, descriptor_path};
use crate::snapshot::descriptor::{Descriptor, MAX_DESCRIPTOR};
use crate::volume::VolumeError;
use crate::volume::census::{Census, Hangs, Loss, Under, census};
use crate::volume::disk::Dir;
use crate::volume::host::HostDir;

/// A key that goes, or may go.
pub struct Target {
    /// As DescribeKey tells of it.
    pub key: KeyMetadata,
    arn: KeyArn,
    /// ARNs of related keys in other regions that stay: they have the same material.
    stay: Vec<String>,
}

/// What was found.
#[derive(Serialize)]
pub struct Report {
    key_arn: String,
    key_state: String,
    /// When the key goes, if that is settled.
    deletion_date: Option<String>,
    /// Related keys that stay, in other regions.
    related_keys: Vec<String>,
    /// Files of volumes that cannot be read without the key.
    files_unreadable: u64,
    /// The same of snapshots.
    snapshot_files_unreadable: u64,
    volumes: Vec<Dependent>,
    snapshots: Vec<Dependent>,
    /// Backups of the home that hold the key.
    backups: Vec<BackupOfKey>,
    /// What could not be looked into.
    unknown: Vec<Unknown>,
}

/// A volume or a snapshot that hangs on the key.
#[derive(Serialize)]
struct Dependent {
    location: String,
    volume_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
    #[serde(flatten)]
    loss: Loss,
    /// Files under each material of the key, by its hex id; "" where it cannot be told.
    by_material: BTreeMap<String, u64>,
    /// Files whose headers could not be read.
    failed: u64,
}

#[derive(Serialize)]
struct BackupOfKey {
    location: String,
    id: String,
    taken: String,
    with_root_keys: bool,
    found: bool,
}

#[derive(Serialize)]
struct Unknown {
    kind: PlaceKind,
    location: String,
    last_seen: String,
    reason: String,
}

/// A time as scripts read it: RFC 3339.
fn stamp(millisecond: i64) -> Timestamp {
    Timestamp::from_millisecond(millisecond).unwrap_or_default()
}

impl Target {
    /// Asks for the key, and for those related to it.
    pub fn describe(global: &Global, kms: &Arc<Kms>, session: &Session, key_id: &str) -> Result<Self> {
        let request = DescribeKeyRequest { key_id: key_id.to_owned(), ..DescribeKeyRequest::default() };
        let key = session.call(request)?.key_metadata;
        let arn: KeyArn =
            key.arn.parse().map_err(|e: crate::iam::IamError| CliError::Failed(e.to_string()))?;
        let family = key.multi_region_configuration.iter();
        let family = family.flat_map(|all| [&all.primary_key].into_iter().chain(&all.replica_keys));
        let mut stay = Vec::new();
        for related in family.filter(|related| related.arn != key.arn) {
            if works(global, kms, &related.arn) {
                stay.push(related.arn.clone());
            }
        }
        Ok(Self { key, arn, stay })
    }

    /// Is a wrapped key under this one, so that it goes with it? Ciphertexts under one multi-Region key open under all that are
    /// related to it: as long as one of these stays, only what names this one goes.
    fn goes(&self, under: &Under) -> bool {
        if under.0 == self.key.arn {
            return true;
        }
        let same = |arn: KeyArn| arn.key == self.arn.key && arn.account == self.arn.account;
        self.arn.key.multi_region && self.stay.is_empty() && under.0.parse().is_ok_and(same)
    }
}

/// Can this key open something, now and after the waiting periods that run? Yes where it cannot be told: a key of
/// another service or account, or a public key whose private half is kept elsewhere.
fn works(global: &Global, kms: &Arc<Kms>, arn: &str) -> bool {
    let Ok(parsed) = arn.parse::<KeyArn>() else { return true };
    let Ok(session) = service::begin_in(global, kms, &parsed.region) else { return true };
    match session.describe_key(arn) {
        Ok(key) => !matches!(key.state, KeyState::PendingDeletion | KeyState::PendingReplicaDeletion),
        Err(error) => error.kind != KmsErrorKind::NotFound || parsed.account != global.account,
    }
}

/// Names of the snapshots in a depot. One that is being made, or was cut, has no descriptor yet.
fn snapshot_names(depot: &DirDepot) -> crate::snapshot::Result<Vec<String>> {
    let mut names = depot.list("snapshots")?;
    names.retain(|name| depot.root().join(descriptor_path(name)).exists());
    Ok(names)
}

/// What a snapshot says of its keys; of key material it says nothing.
fn census_of(descriptor: &Descriptor) -> Census {
    let under = |arn: &String| (arn.clone(), None);
    let mut files: BTreeMap<Vec<Under>, u64> = BTreeMap::new();
    for set in descriptor.keys.iter().filter(|set| set.files > 0) {
        *files.entry(set.key_arns.iter().map(under).collect()).or_default() += set.files;
    }
    let volume_keys = descriptor.volume_keys.iter().map(|key| under(&key.key_arn)).collect();
    Census { volume_keys, files, ..Census::default() }
}

/// Looks into everything the home knows.
pub fn find(global: &Global, kms: &Arc<Kms>, target: &Target) -> Result<Report> {
    let places = places(kms.home())?;
    let mut report = Report {
        key_arn: target.key.arn.clone(),
        key_state: super::key::state(target.key.key_state).to_owned(),
        deletion_date: target.key.deletion_date.map(|date| date.to_string()),
        related_keys: target.stay.clone(),
        files_unreadable: 0,
        snapshot_files_unreadable: 0,
        volumes: Vec::new(),
        snapshots: Vec::new(),
        backups: Vec::new(),
        unknown: Vec::new(),
    };
    let bar = counting();
    let mut search = Search { global, kms, target, working: BTreeMap::new(), report: &mut report, bar: &bar };
    for place in &places {
        match place.kind {
            PlaceKind::Volume => search.volume(place),
            PlaceKind::Depot => search.depot(place),
            PlaceKind::Backup => search.backup(place),
        }
    }
    bar.finish_and_clear();
    report.files_unreadable = report.volumes.iter().map(|volume| volume.loss.unreadable).sum();
    report.snapshot_files_unreadable = report.snapshots.iter().map(|snapshot| snapshot.loss.unreadable).sum();
    Ok(report)
}

/// What the home knows.
pub fn places(home: &Home) -> Result<Vec<Place>> {
    home.places().and_then(|places| places.all()).map_err(|e| CliError::Home(e.to_string()))
}

/// On the terminal, if standard error is one.
fn counting() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    // A template that does not parse leaves the plain one.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} files looked at, {per_sec}") {
        bar.set_style(style);
    }
    bar
}

struct Search<'a> {
    global: &'a Global,
    kms: &'a Arc<Kms>,
    target: &'a Target,
    /// Of other keys, by ARN.
    working: BTreeMap<String, bool>,
    report: &'a mut Report,
    bar: &'a ProgressBar,
}

impl Search<'_> {
    fn unknown(&mut self, place: &Place, reason: &str) {
        self.report.unknown.push(Unknown {
            kind: place.kind,
            location: place.shown(),
            last_seen: stamp(place.last_seen).to_string(),
            reason: reason.to_owned(),
        });
    }

    fn volume(&mut self, place: &Place) {
        let Some(path) = place.path() else { return };
        let bar = self.bar;
        let dir: Arc<dyn Dir> = match HostDir::open(&path) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.unknown(place, "not found"),
            Err(e) => return self.unknown(place, &e.to_string()),
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        match census(&dir, threads, &|| bar.inc(1)) {
            Ok(found) => {
                let dependents = self.dependent(place.shown(), place.id.clone(), None, &found);
                self.report.volumes.extend(dependents);
            }
            Err(VolumeError::NotAVolume { .. }) => return self.unknown(place, "no volume is there any more"),
            Err(error) => return self.unknown(place, &error.to_string()),
        }
        self.snapshots(place, &path.join(".kmsfs/snapshots"));
    }

    fn depot(&mut self, place: &Place) {
        match place.path() {
            Some(path) if path.exists() => self.snapshots(place, &path),
            Some(_) => self.unknown(place, "not found"),
            None => self.unknown(place, "not looked into: it is not a directory of this machine"),
        }
    }

    /// The snapshots of a depot, by what each says of itself in the clear.
    fn snapshots(&mut self, place: &Place, depot: &Path) {
        if !depot.exists() {
            return;
        }
        let named = DirDepot::open(depot).and_then(|depot| Ok((snapshot_names(&depot)?, depot)));
        let (names, depot) = match named {
            Ok(named) => named,
            Err(error) => return self.unknown(place, &format!("its snapshots: {error}")),
        };
        for name in names {
            let text = depot.get(&descriptor_path(&name), MAX_DESCRIPTOR);
            match text.and_then(|text| Descriptor::parse(&text)) {
                Ok(descriptor) => {
                    let found = census_of(&descriptor);
                    let id = descriptor.volume_id.to_string();
                    let dependents = self.dependent(depot.location(), id, Some(name), &found);
                    self.report.snapshots.extend(dependents);
                }
                Err(error) => self.unknown(place, &format!("its snapshot {name}: {error}")),
            }
        }
    }

    fn backup(&mut self, place: &Place) {
        // Before the key was made, there was nothing of it.
        if place.first_seen < self.target.key.creation_date.as_millisecond() {
            return;
        }
        self.report.backups.push(BackupOfKey {
            location: place.shown(),
            id: place.id.clone(),
            taken: stamp(place.first_seen).to_string(),
            with_root_keys: place.with_root_keys,
            found: place.path().is_some_and(|path| path.exists()),
        });
    }

    /// None if nothing of it hangs on the key.
    fn dependent(
        &mut self,
        location: String,
        volume_id: String,
        snapshot: Option<String>,
        found: &Census,
    ) -> Option<Dependent> {
        let (global, kms, target) = (self.global, self.kms, self.target);
        for (arn, _) in found.keys().filter(|key| !target.goes(key)) {
            if !self.working.contains_key(arn) {
                self.working.insert(arn.clone(), works(global, kms, arn));
            }
        }
        let goes = |under: &Under| target.goes(under);
        let loss = found.loss(&goes, &|arn| self.working.get(arn).copied().unwrap_or(true));
        let failed = found.failed.count;
        if loss.is_nothing() && failed == 0 {
            return None;
        }
        let mut by_material: BTreeMap<String, u64> = BTreeMap::new();
        for (keys, count) in &found.files {
            let materials: BTreeSet<_> = keys.iter().filter(|key| goes(key)).map(|key| &key.1).collect();
            for material in materials {
                *by_material.entry(material.clone().unwrap_or_default()).or_default() += count;
            }
        }
        Some(Dependent { location, volume_id, snapshot, loss, by_material, failed })
    }
}

impl Report {
    /// True if something is known, or cannot be known, to hang on the key.
    fn is_of_weight(&self) -> bool {
        !(self.volumes.is_empty() && self.snapshots.is_empty() && self.unknown.is_empty())
    }

    /// For people: a table, and what it means. `when` says when the key stops working, in words.
    pub fn show(&self, when: &str) -> Result<()> {
        let mut rows = Vec::new();
        for (what, dependents) in [("volume", &self.volumes), ("snapshot", &self.snapshots)] {
            rows.extend(dependents.iter().map(|dependent| dependent.row(what)));
        }
        for place in &self.unknown {
            let what = match place.kind {
                PlaceKind::Volume => "volume",
                PlaceKind::Depot => "snapshots",
                PlaceKind::Backup => "backup",
            };
            let seen = place.last_seen.parse().map(time).unwrap_or_default();
            let note = format!("{}; last seen on {seen}", place.reason);
            rows.push([what.to_owned(), place.location.clone(), "?".to_owned(), "?".to_owned(), note]);
        }
        if !rows.is_empty() {
            output::table(["WHAT", "WHERE", "LOST", "STAY", "NOTE"], &rows)?;
        }
        for line in self.words(when) {
            output::line(&line)?;
        }
        Ok(())
    }

    /// What is lost of what, in words.
    fn whose(&self) -> String {
        let (volumes, snapshots) = (self.volumes.len() as u64, self.snapshots.len() as u64);
        let volumes_words = format!("{} of {}", files(self.files_unreadable), many(volumes, "volume"));
        let snapshots_words =
            format!("{} of {}", files(self.snapshot_files_unreadable), many(snapshots, "snapshot"));
        match (volumes, snapshots) {
            (_, 0) => volumes_words,
            (0, _) => snapshots_words,
            _ => format!("{volumes_words}, and {snapshots_words},"),
        }
    }

    fn words(&self, when: &str) -> Vec<String> {
        let mut words = Vec::new();
        if self.volumes.is_empty() && self.snapshots.is_empty() {
            words.push(format!("nothing that this home knows of depends on {}", self.key_arn));
        } else {
            words.push(format!("{} cannot be read without {}{when}", self.whose(), self.key_arn));
        }
        if !self.related_keys.is_empty() {
            words.push(format!(
                "{} stays and has the same material: `kmsfs key replicate` from there makes this key again, and what is \
                 under it opens again",
                self.related_keys.join(", ")
            ));
        }
        for backup in &self.backups {
            let how = if backup.with_root_keys { "with its root key" } else { "without its root key" };
            let found = if backup.found { "" } else { "; not found there now" };
            let taken: Timestamp = backup.taken.parse().unwrap_or_default();
            words.push(format!(
                "the home's backup {} of {} holds the key ({how}{found})",
                backup.location,
                time(taken)
            ));
        }
        if !self.backups.is_empty() {
            words.push(
                "a deleted key lives on in backups: only when these and all other copies of the home are destroyed, or the \
                 region's root key is, can nothing under it be opened again"
                    .to_owned(),
            );
        }
        if !self.unknown.is_empty() {
            words.push(
                "what could not be looked into may depend on it too; `kmsfs home forget PATH` takes away what is gone for good"
                    .to_owned(),
            );
        }
        words
    }

    /// Lets a person decide; with `yes` it is decided. Nothing is asked where nothing hangs on the key.
    pub fn confirm(&self, yes: bool, question: &str) -> Result<()> {
        if yes || !self.is_of_weight() {
            return Ok(());
        }
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(CliError::Usage(format!(
                "{}; nothing was changed; give --yes to go on",
                self.in_short()
            )));
        }
        if output::ask(&format!("{question} Type yes to go on: "))? == "yes" {
            return Ok(());
        }
        Err(CliError::Failed("not confirmed; nothing was changed".to_owned()))
    }

    /// In one line.
    pub fn in_short(&self) -> String {
        let unknown = match self.unknown.len() as u64 {
            0 => String::new(),
            n => format!("; of {} that this home knows it cannot be told", many(n, "place")),
        };
        format!(
            "{} cannot be read without {}{unknown} (`kmsfs key dependents` lists them)",
            self.whose(),
            self.key_arn,
        )
    }
}

impl Dependent {
    fn row(&self, what: &str) -> [String; 5] {
        let mut notes = Vec::new();
        match self.loss.volume_key {
            Hangs::Alone => {
                notes.push("the volume key is under it alone: without it, nothing here opens".to_owned())
            }
            Hangs::NotAlone => notes.push("the volume key is under another, too".to_owned()),
            Hangs::No => {}
        }
        if self.loss.also_under_another > 0 {
            notes.push(format!("{} also under another key", self.loss.also_under_another));
        }
        if self.by_material.len() > 1 {
            notes.push(format!("under {} materials of it", self.by_material.len()));
        }
        if self.failed > 0 {
            notes.push(format!("{} more could not be read", self.failed));
        }
        let location = match &self.snapshot {
            Some(name) => format!("{} in {}", name, self.location),
            None => self.location.clone(),
        };
        let stays = self.loss.under.saturating_sub(self.loss.unreadable);
        [what.to_owned(), location, self.loss.unreadable.to_string(), stays.to_string(), notes.join("; ")]
    }
}

fn files(count: u64) -> String {
    many(count, "file")
}

fn many(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// When a key goes whose deletion is scheduled now, in words.
pub fn from_now(days: i64) -> String {
    let date = Timestamp::now() + SignedDuration::from_hours(24 * days);
    format!(" from {} on", time(date))
}
