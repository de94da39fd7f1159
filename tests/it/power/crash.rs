//! Runs operations, cuts the power at random calls, opens what is left, and checks it.

use std::collections::BTreeSet;
use std::sync::Arc;

use kmsfs::kms::FileEvent;
use kmsfs::volume::disk::{Dir, Kind};
use kmsfs::volume::{NodeId, ROOT, SetAttr, Volume, VolumeOptions};

use super::disk::Disk;
use super::oracle::{Done, History, Object, allowed, dump};
use super::world::{Dice, Nature, World};
use crate::fake::{FakeKms, KEY};
use crate::handles::READ_WRITE;
use crate::model::op::Op;
use crate::model::options;
use crate::model::run::{CALLER, Checked, Runner};
use crate::model::tree::{Content, Edit, Tree};

/// A disk with a volume, and all that was done to it.
pub struct Trial {
    pub disk: Arc<Disk>,
    pub kms: Arc<FakeKms>,
    nature: Nature,
    dice: Dice,
}

impl Trial {
    /// A fresh volume on a whole disk, which then takes on its nature.
    pub fn new(nature: Nature, seed: u64) -> Checked<Self> {
        let (kms, sound) = (FakeKms::new(), Nature { unordered: nature.unordered, ..Nature::default() });
        let disk = Disk::new(sound, seed);
        Volume::init(&*disk.root(), &*kms, KEY).map_err(|e| format!("init: {e:?}"))?;
        // What init leaves must be durable by itself.
        let mut world = disk.now().cut(0);
        world.nature = nature;
        Ok(Self { disk: Disk::holding(world), kms, nature, dice: Dice(seed ^ 0x5eed) })
    }

    fn ordered(&self) -> bool {
        !self.nature.unordered
    }

    /// Keeps the disk at about `count` random ones of the next `calls` calls.
    pub fn plan(&mut self, calls: u64, count: u64) {
        let from = self.disk.calls();
        self.disk.keep_at((0..count).map(|_| from + 1 + self.dice.below(calls)).collect());
    }

    /// Keeps the disk at every call.
    pub fn plan_all(&mut self) {
        let from = self.disk.calls();
        self.disk.keep_at((from + 1..from + 10_000).collect());
    }

    pub fn opener(&self) -> impl FnMut() -> kmsfs::volume::Result<Volume> + Send + 'static {
        let (dir, kms) = (self.disk.root(), self.kms.clone());
        move || Volume::open(dir.clone(), kms.clone(), kms.clone(), options())
    }

    /// Checks what every kept moment leaves; each history with the name of its directory, if that is not the root.
    pub fn check(&mut self, histories: &[(Option<&[u8]>, &History)]) -> Checked<u64> {
        let ordered = self.ordered();
        self.each_cut(|cut, found| {
            for (name, history) in histories {
                let part = match name {
                    None => found,
                    Some(name) => found.entries.get(*name).ok_or("a directory of the first hour is lost")?,
                };
                history.check(&Tree::new(), cut, ordered, part)?;
            }
            Ok(())
        })
    }

    /// Does something with what every kept moment leaves, and the number of its call.
    pub fn each_cut(&mut self, check: impl Fn(u64, &Object) -> Checked<()>) -> Checked<u64> {
        let torn = self.disk.now().rewritten_in_flight;
        if torn > 0 {
            return Err(format!("{torn} pages were rewritten while the device wrote them"));
        }
        let mut checked = 0;
        // And the moment when all is done.
        let last = (self.disk.calls() + 1, self.disk.now());
        for (cut, world) in self.disk.kept().into_iter().chain([last]) {
            let seed = self.dice.next();
            let held = self.survive(&world, seed).and_then(|found| check(cut, &found));
            held.map_err(|e| format!("cut at call {cut}, seed {seed}: {e}"))?;
            checked += 1;
        }
        Ok(checked)
    }

    /// Opens what a cut leaves, mends it, works on, closes and opens again. Answers what was found.
    fn survive(&self, world: &World, seed: u64) -> Checked<Object> {
        let mut dice = Dice(seed);
        let mut disk = Disk::holding(world.cut(dice.next()));
        // The power may go again while it is mended, and again.
        for _ in 0..2 {
            if !dice.percent(30) {
                break;
            }
            disk.keep_at(vec![disk.calls() + 1 + dice.below(120)]);
            self.mended(&disk, &mut dice)?;
            match disk.kept().pop() {
                Some((_, world)) => disk = Disk::holding(world.cut(dice.next())),
                None => break,
            }
        }
        let (mut volume, found) = self.mended(&disk, &mut dice)?;
        let mut last = found.clone();
        if dice.percent(40) {
            // And again in the next epoch, while every file changes.
            disk.keep_at(vec![disk.calls() + 1 + dice.below(100)]);
            extend(&volume, ROOT, &mut last, &mut BTreeSet::new())?;
            let world = disk.kept().pop().map_or_else(|| disk.now(), |kept| kept.1);
            disk = Disk::holding(world.cut(dice.next()));
            (volume, last) = self.mended(&disk, &mut dice)?;
            is_extended(&found, &last).map_err(|e| format!("in the next epoch: {e}"))?;
        }
        self.works(&disk, &volume, last)?;
        let damage = self.kms.events().into_iter().find(|e| matches!(e.0, FileEvent::DamagedFile { .. }));
        damage.map_or(Ok(found), |damage| Err(format!("damage was recorded: {damage:?}")))
    }

    /// Opens, perhaps read-only first; everything reads the same before and after mending.
    fn mended(&self, disk: &Arc<Disk>, dice: &mut Dice) -> Checked<(Volume, Object)> {
        let open = |options: VolumeOptions| {
            let what = if options.read_only { "opening read-only" } else { "opening" };
            let opened = Volume::open(disk.root(), self.kms.clone(), self.kms.clone(), options);
            opened.map_err(|e| format!("{what} after the cut: {e:?}"))
        };
        let mut before = None;
        if dice.percent(30) {
            let volume = open(VolumeOptions { read_only: true, ..options() })?;
            before = Some(dump(&volume, ROOT, None).map_err(|e| format!("read-only: {e}"))?);
            volume.close().map_err(|e| format!("closing a read-only one: {e:?}"))?;
        }
        // Mended in the background, beside whoever reads, or when it is asked for, or not at all.
        let volume = open(VolumeOptions { mend_in_background: dice.percent(20), ..options() })?;
        if dice.percent(60) {
            let found = dump(&volume, ROOT, None).map_err(|e| format!("before mending: {e}"))?;
            if before.is_some_and(|before| before != found) {
                return Err("a read-only mount and the next one do not find the same".to_owned());
            }
            before = Some(found);
        }
        if dice.percent(70) {
            volume.mend().map_err(|e| format!("mend: {e:?}"))?;
            let left = leftovers(&*disk.root())?;
            if !left.is_empty() {
                return Err(format!("mending leaves {left:?}"));
            }
        }
        let found = dump(&volume, ROOT, None).map_err(|e| format!("after opening and mending: {e}"))?;
        if let Some(before) = before.filter(|before| *before != found) {
            return Err(format!("mending changed what is found: {}", first_difference(&before, &found)));
        }
        Ok((volume, found))
    }

    /// Looks at a volume after a call failed, works on, closes and opens again. Answers what was found.
    pub fn goes_on(&self, volume: &Volume) -> Checked<Object> {
        let found = dump(volume, ROOT, None)?;
        self.works(&self.disk, volume, found.clone())?;
        Ok(found)
    }

    /// Changes every file and adds some, closes and opens again: all is as it was left.
    fn works(&self, disk: &Arc<Disk>, volume: &Volume, mut found: Object) -> Checked<()> {
        extend(volume, ROOT, &mut found, &mut BTreeSet::new())?;
        // Of 255 bytes: no operation has that name.
        let name = vec![b'z'; 255];
        let made =
            volume.mkdir(CALLER, ROOT, &name, 0o711).map_err(|e| format!("mkdir after the cut: {e:?}"))?;
        let created = volume.create(CALLER, made.node, &name, 0o611, READ_WRITE);
        let (_, handle) = created.map_err(|e| format!("create after the cut: {e:?}"))?;
        volume.write(handle, 5000, b"new", false).map_err(|e| format!("write after the cut: {e:?}"))?;
        volume.release(handle).map_err(|e| format!("release after the cut: {e:?}"))?;
        volume.close().map_err(|e| format!("close after the cut: {e:?}"))?;
        let opened = Volume::open(disk.root(), self.kms.clone(), self.kms.clone(), options());
        let volume = opened.map_err(|e| format!("opening after a clean close: {e:?}"))?;
        let mut again = dump(&volume, ROOT, None).map_err(|e| format!("after a clean close: {e}"))?;
        let new = again.entries.remove(&name).and_then(|mut dir| dir.entries.remove(&name));
        if new.is_none_or(|new| new.content.len() != 5003 || !new.content.ends_with(b"\0new")) {
            return Err("a file made after the cut is not there after a clean close".to_owned());
        }
        if again != found {
            return Err(format!("a clean close changed: {}", first_difference(&found, &again)));
        }
        volume.close().map_err(|e| format!("second close: {e:?}"))
    }
}

/// Appends to every file, or cuts it; once, whatever names it has.
fn extend(volume: &Volume, node: NodeId, object: &mut Object, seen: &mut BTreeSet<NodeId>) -> Checked<()> {
    for (name, child) in &mut object.entries {
        let attr = volume.lookup(node, name).map_err(|e| format!("lookup after the cut: {e:?}"))?;
        if child.kind == Kind::File && seen.insert(attr.node) {
            let what = |what: &str, e| format!("{what} {:#o} after the cut: {e:?}", child.perm);
            let handle = volume.open_file(CALLER, attr.node, READ_WRITE).map_err(|e| what("opening", e))?;
            let size = volume.getattr(attr.node, Some(handle)).map_err(|e| what("getattr", e))?.stat.size;
            match extension(size) {
                Edit::Size(half) => {
                    let set = SetAttr { size: Some(half as u64), ..SetAttr::default() };
                    let cut = volume.setattr(CALLER, attr.node, Some(handle), &set);
                    cut.map_err(|e| what("truncating", e)).map(drop)?;
                }
                Edit::Write(at, more) => {
                    let written = volume.write(handle, at as u64, &more, false);
                    written.map_err(|e| what("appending to", e))?;
                }
            }
            if size % 2 == 0 {
                volume.fsync(handle, true).map_err(|e| what("syncing", e))?;
            }
            volume.release(handle).map_err(|e| what("releasing", e))?;
        }
        if child.kind == Kind::Directory {
            extend(volume, attr.node, child, seen)?;
        }
    }
    for (name, child) in &mut object.entries {
        if child.kind == Kind::File {
            let attr = volume.lookup(node, name).map_err(|e| format!("lookup after the cut: {e:?}"))?;
            let what = |e| format!("reading {:#o} after the cut: {e:?}", child.perm);
            let now = crate::model::run::read_all(volume, attr.node).map_err(what)?;
            let same = now.iter().zip(&child.content).take_while(|(a, b)| a == b).count();
            if same < now.len().min(child.content.len()) {
                return Err(format!("file {:#o} reads other bytes after a change", child.perm));
            }
            child.content = now;
        }
    }
    Ok(())
}

/// What [`extend`] does to a file.
fn extension(size: u64) -> Edit {
    if size % 3 == 2 { Edit::Size(size as usize / 2) } else { Edit::Write(size as usize, b"more".to_vec()) }
}

/// After a cut somewhere in [`extend`].
fn is_extended(before: &Object, after: &Object) -> Checked<()> {
    let head = |o: &Object| (o.kind, o.perm, o.xattrs.clone(), o.target.clone());
    if head(before) != head(after) || !before.entries.keys().eq(after.entries.keys()) {
        return Err(first_difference(before, after));
    }
    if before.kind == Kind::File {
        let since = vec![extension(before.content.len() as u64)];
        let content = Content { synced: before.content.clone(), since, ..Content::default() };
        allowed(&content, &after.content).map_err(|e| format!("file {:#o}: {e}", before.perm))?;
    }
    before.entries.iter().try_for_each(|(name, child)| is_extended(child, &after.entries[name]))
}

/// Temporary names, and links of long names without their entries.
fn leftovers(dir: &dyn Dir) -> Checked<Vec<String>> {
    let failed = |e: std::io::Error| format!("listing the backing: {e}");
    let entries = dir.entries().map_err(failed)?;
    let has = |name: &[u8]| entries.iter().any(|e| e.name == name);
    let mut left = Vec::new();
    for entry in &entries {
        let orphan = entry.name.strip_suffix(b".name").is_some_and(|long| !has(long));
        if entry.name.starts_with(b"tmp.") || orphan {
            left.push(String::from_utf8_lossy(&entry.name).into_owned());
        }
        if entry.kind == Kind::Directory {
            left.extend(leftovers(&*dir.open_dir(&entry.name).map_err(failed)?)?);
        }
    }
    Ok(left)
}

fn first_difference(a: &Object, b: &Object) -> String {
    let head = |o: &Object| (o.kind, o.perm, o.xattrs.clone(), o.target.clone(), o.content.len());
    if head(a) != head(b) {
        return format!("{:?} became {:?}", head(a), head(b));
    }
    if a.content != b.content {
        return format!("bytes of {:#o}", a.perm);
    }
    let names = a.entries.keys().chain(b.entries.keys());
    let mut differing = names.filter(|n| a.entries.get(*n) != b.entries.get(*n));
    let found = differing.next().map(|name| match (a.entries.get(name), b.entries.get(name)) {
        (Some(a), Some(b)) => first_difference(a, b),
        (a, b) => format!("{:?} became {:?}", a.map(head), b.map(head)),
    });
    found.unwrap_or_else(|| "nothing".to_owned())
}

/// Runs operations on a runner and writes down what was acknowledged when.
pub fn record(disk: &Disk, runner: &mut Runner, ops: &[Op], history: &mut History) -> Checked<()> {
    for (at, op) in ops.iter().enumerate() {
        let start = disk.calls();
        let synced = runner.step(op).map_err(|e| {
            format!(
                "{e}\nbefore any cut, at operation {at}; the last ones: {:#?}",
                &ops[at.saturating_sub(5)..=at]
            )
        })?;
        history.0.push(Done { op: op.clone(), start, end: disk.calls(), synced, tree: runner.tree.clone() });
    }
    Ok(())
}

/// One caller: operations, a clean remount, operations. Answers how many cuts were checked.
pub fn alone(nature: Nature, seed: u64, first: &[Op], second: &[Op], cuts: u64) -> Checked<u64> {
    let mut trial = Trial::new(nature, seed)?;
    let (mut runner, mut history) = (Runner::new(Box::new(trial.opener()), true)?, History::default());
    // About what an operation takes.
    trial.plan(12 * (first.len() + second.len()) as u64 + 20, cuts);
    let disk = trial.disk.clone();
    record(&disk, &mut runner, first, &mut history)?;
    if !second.is_empty() {
        record(&disk, &mut runner, &[Op::Remount], &mut history)?;
        record(&disk, &mut runner, second, &mut history)?;
    }
    trial.check(&[(None, &history)])
}

/// One caller's few operations, cut at every call.
pub fn at_every_call(nature: Nature, seed: u64, ops: &[Op]) -> Checked<u64> {
    let mut trial = Trial::new(nature, seed)?;
    let (mut runner, mut history) = (Runner::new(Box::new(trial.opener()), true)?, History::default());
    trial.plan_all();
    let disk = trial.disk.clone();
    record(&disk, &mut runner, ops, &mut history)?;
    trial.check(&[(None, &history)])
}

/// Two callers at once, each in a directory of its own on the same volume.
pub fn together(nature: Nature, seed: u64, left: &[Op], right: &[Op], cuts: u64) -> Checked<u64> {
    let mut trial = Trial::new(nature, seed)?;
    let volume = Arc::new(trial.opener()().map_err(|e| format!("open: {e:?}"))?);
    let mut runners = Vec::new();
    for name in [b"left", b"rite"] {
        let dir = volume.mkdir(CALLER, ROOT, name, 0o700).map_err(|e| format!("mkdir: {e:?}"))?;
        runners.push(Runner::below(volume.clone(), dir.node));
        volume.fsync_dir(dir.node).map_err(|e| format!("fsyncdir: {e:?}"))?;
    }
    volume.fsync_dir(ROOT).map_err(|e| format!("fsyncdir: {e:?}"))?;
    trial.plan(12 * (left.len() + right.len()) as u64, cuts);
    let disk = &trial.disk;
    let results: Vec<Checked<History>> = std::thread::scope(|scope| {
        let threads: Vec<_> = runners
            .iter_mut()
            .zip([left, right])
            .map(|(runner, ops)| {
                scope.spawn(move || {
                    let mut history = History::default();
                    record(disk, runner, ops, &mut history).map(|()| history)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
            .collect()
    });
    let histories = results.into_iter().collect::<Checked<Vec<_>>>()?;
    trial.check(&[(Some(b"left"), &histories[0]), (Some(b"rite"), &histories[1])])
}
