//! The simulated disk as a backing directory.

use std::any::Any;
use std::io;
use std::sync::Arc;

use kmsfs::volume::disk::{
    BackingFile, Change, Dir, FsStat, Kind, RawEntry, RenameMode, SetTime, Stat, XattrMode,
};
use parking_lot::{Mutex, MutexGuard};

use super::world::{Ino, Inode, Nature, PAGE, ROOT, Step, World};

/// A disk, and the taps on it.
pub struct Disk {
    world: Mutex<World>,
    taps: Mutex<Taps>,
}

#[derive(Default)]
struct Taps {
    calls: u64,
    /// Call numbers at which to keep what the disk holds, ascending.
    wanted: Vec<u64>,
    kept: Vec<(u64, World)>,
    fail: Option<Fail>,
    failed: bool,
    locked: std::collections::BTreeSet<Ino>,
}

/// The call of this number answers this error.
#[derive(Debug, Clone, Copy)]
pub struct Fail {
    pub at: u64,
    pub errno: i32,
    /// Only calls that need room on the disk count, and all later ones fail too.
    pub full: bool,
}

/// What a call does, as far as taps care.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Look,
    Change,
    /// Takes room on the disk.
    Take,
    Write(Ino),
    /// A write where room is taken already.
    Rewrite(Ino),
}

impl Disk {
    pub fn new(nature: Nature, seed: u64) -> Arc<Self> {
        Self::holding(World::new(nature, seed))
    }

    pub fn holding(world: World) -> Arc<Self> {
        Arc::new(Self { world: Mutex::new(world), taps: Mutex::default() })
    }

    pub fn root(self: &Arc<Self>) -> Arc<dyn Dir> {
        Arc::new(SimDir { disk: self.clone(), ino: ROOT })
    }

    /// Calls that were made; one more for the moment between the two halves of a sync.
    pub fn calls(&self) -> u64 {
        self.taps.lock().calls
    }

    /// Keeps what the disk holds at these calls, or the next that change something, before they do.
    pub fn keep_at(&self, mut calls: Vec<u64>) {
        calls.sort_unstable_by(|a, b| b.cmp(a));
        self.taps.lock().wanted = calls;
    }

    /// What was kept, with the calls' numbers.
    pub fn kept(&self) -> Vec<(u64, World)> {
        std::mem::take(&mut self.taps.lock().kept)
    }

    /// What the disk holds now.
    pub fn now(&self) -> World {
        self.world.lock().clone()
    }

    pub fn fail(&self, fail: Option<Fail>) {
        let mut taps = self.taps.lock();
        (taps.calls, taps.fail, taps.failed) = (0, fail, false);
    }

    /// True if a call has failed that was to fail.
    pub fn has_failed(&self) -> bool {
        self.taps.lock().failed
    }

    fn enter(&self, call: Call) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.world.lock();
        self.tick(call, &world)?;
        match call {
            Call::Look => {}
            Call::Change | Call::Take => world.background(None),
            Call::Write(ino) | Call::Rewrite(ino) => world.background(Some(ino)),
        }
        Ok(world)
    }

    fn tick(&self, call: Call, world: &World) -> io::Result<()> {
        let mut taps = self.taps.lock();
        let takes = matches!(call, Call::Take | Call::Write(_));
        if let Some(fail) = taps.fail.as_mut().filter(|fail| !fail.full || takes) {
            if fail.at == 0 {
                let errno = fail.errno;
                taps.failed = true;
                taps.fail = taps.fail.filter(|fail| fail.full);
                return Err(io::Error::from_raw_os_error(errno));
            }
            fail.at -= 1;
        }
        taps.calls += 1;
        // Between two changes all moments are one.
        if call != Call::Look && taps.wanted.last().is_some_and(|wanted| *wanted <= taps.calls) {
            let calls = taps.calls;
            while taps.wanted.last().is_some_and(|wanted| *wanted <= calls) {
                taps.wanted.pop();
            }
            taps.kept.push((calls, world.clone()));
        }
        Ok(())
    }
}

fn error<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

fn stat(world: &World, ino: Ino) -> io::Result<Stat> {
    let Some(inode) = world.live.get(&ino) else { return error(libc::ESTALE) };
    let size = if inode.kind == Kind::Symlink { inode.target.len() as u64 } else { inode.size };
    Ok(Stat {
        dev: 1,
        ino,
        kind: inode.kind,
        perm: inode.perm,
        nlink: if inode.kind == Kind::Directory { 2 } else { world.links(ino) },
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        size,
        blocks: inode.map.len() as u64 * 8,
        atime: inode.atime,
        mtime: inode.mtime,
        ctime: inode.ctime,
    })
}

fn change(world: &mut World, ino: Ino, change: &Change) -> io::Result<()> {
    let now = world.now();
    let Some(inode) = world.live.get(&ino) else { return error(libc::ESTALE) };
    let mut new = Inode::clone(inode);
    new.perm = change.perm.unwrap_or(new.perm);
    (new.uid, new.gid) = (change.uid.unwrap_or(new.uid), change.gid.unwrap_or(new.gid));
    for (time, set) in [(&mut new.atime, change.atime), (&mut new.mtime, change.mtime)] {
        match set {
            SetTime::Omit => {}
            SetTime::Now => *time = now,
            SetTime::At(at) => *time = at,
        }
    }
    new.ctime = now;
    world.log(vec![Step::Attr(ino, Arc::new(new))]);
    Ok(())
}

fn get_xattr(world: &World, ino: Ino, attr: &[u8]) -> io::Result<Vec<u8>> {
    match world.live.get(&ino).and_then(|inode| inode.xattrs.get(attr)) {
        Some(value) => Ok(value.clone()),
        None => error(libc::ENODATA),
    }
}

fn set_xattr(world: &mut World, ino: Ino, attr: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
    match (mode, get_xattr(world, ino, attr).is_ok()) {
        (XattrMode::Create, true) => return error(libc::EEXIST),
        (XattrMode::Replace, false) => return error(libc::ENODATA),
        _ => {}
    }
    let now = world.now();
    let set = Step::Xattr(ino, attr.to_vec(), Some(value.to_vec()));
    world.log(vec![set, Step::Touch(ino, None, now)]);
    Ok(())
}

fn list_xattr(world: &World, ino: Ino) -> Vec<Vec<u8>> {
    world.live.get(&ino).map(|inode| inode.xattrs.keys().cloned().collect()).unwrap_or_default()
}

fn remove_xattr(world: &mut World, ino: Ino, attr: &[u8]) -> io::Result<()> {
    get_xattr(world, ino, attr)?;
    let now = world.now();
    world.log(vec![Step::Xattr(ino, attr.to_vec(), None), Step::Touch(ino, None, now)]);
    Ok(())
}

struct SimDir {
    disk: Arc<Disk>,
    ino: Ino,
}

struct SimFile {
    disk: Arc<Disk>,
    ino: Ino,
    write: bool,
}

impl SimDir {
    fn sim(dir: &dyn Dir) -> io::Result<&Self> {
        dir.as_any().downcast_ref().map_or_else(|| error(libc::EXDEV), Ok)
    }

    fn find(&self, world: &World, name: &[u8]) -> io::Result<Ino> {
        match world.live.get(&self.ino).and_then(|dir| dir.entries.get(name)) {
            Some(ino) => Ok(*ino),
            None => error(libc::ENOENT),
        }
    }

    /// The entry, or the directory itself.
    fn target(&self, world: &World, name: Option<&[u8]>) -> io::Result<Ino> {
        name.map_or(Ok(self.ino), |name| self.find(world, name))
    }

    /// An entry may be made: the directory is there, the name free and short enough.
    fn free(&self, world: &World, name: &[u8]) -> io::Result<()> {
        if name.len() > 255 {
            return error(libc::ENAMETOOLONG);
        }
        if self.ino != ROOT && world.links(self.ino) == 0 {
            return error(libc::ENOENT);
        }
        if self.find(world, name).is_ok() { error(libc::EEXIST) } else { Ok(()) }
    }

    fn touch(&self, world: &mut World) -> Step {
        let now = world.now();
        Step::Touch(self.ino, Some(now), now)
    }

    fn make(&self, name: &[u8], kind: Kind, perm: u32, finish: impl FnOnce(&mut Inode)) -> io::Result<Ino> {
        let mut world = self.disk.enter(Call::Take)?;
        self.free(&world, name)?;
        let (ino, mut new) = world.make(kind, perm);
        if let Step::New(_, inode) = &mut new {
            let inode = Arc::make_mut(inode);
            finish(inode);
            if kind == Kind::Directory {
                inode.perm |= world.live[&self.ino].perm & 0o2000;
            }
        }
        let touch = self.touch(&mut world);
        world.log(vec![new, Step::Entry(self.ino, name.to_vec(), Some(ino)), touch]);
        Ok(ino)
    }

    fn remove(&self, name: &[u8], directory: bool) -> io::Result<()> {
        let mut world = self.disk.enter(Call::Change)?;
        let ino = self.find(&world, name)?;
        let inode = &world.live[&ino];
        match (directory, inode.kind == Kind::Directory) {
            (true, false) => return error(libc::ENOTDIR),
            (false, true) => return error(libc::EISDIR),
            (true, true) if !inode.entries.is_empty() => return error(libc::ENOTEMPTY),
            _ => {}
        }
        let (touch, now) = (self.touch(&mut world), world.now());
        world.log(vec![Step::Entry(self.ino, name.to_vec(), None), touch, Step::Touch(ino, None, now)]);
        Ok(())
    }

    fn file(&self, ino: Ino, write: bool) -> Arc<dyn BackingFile> {
        Arc::new(SimFile { disk: self.disk.clone(), ino, write })
    }
}

/// True if `ino` is `below` or a directory above it.
fn is_above(world: &World, ino: Ino, below: Ino) -> bool {
    ino == below || world.live[&ino].entries.values().any(|child| is_above(world, *child, below))
}

impl Dir for SimDir {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn Dir>> {
        let world = self.disk.enter(Call::Look)?;
        let ino = if name == b"." { self.ino } else { self.find(&world, name)? };
        if world.live[&ino].kind != Kind::Directory {
            return error(libc::ENOTDIR);
        }
        Ok(Arc::new(Self { disk: self.disk.clone(), ino }))
    }

    fn stat(&self) -> io::Result<Stat> {
        stat(&*self.disk.enter(Call::Look)?, self.ino)
    }

    fn stat_at(&self, name: &[u8]) -> io::Result<Stat> {
        let world = self.disk.enter(Call::Look)?;
        if name.len() > 255 {
            return error(libc::ENAMETOOLONG);
        }
        stat(&world, self.find(&world, name)?)
    }

    fn open_file(&self, name: &[u8], write: bool) -> io::Result<Arc<dyn BackingFile>> {
        let world = self.disk.enter(Call::Look)?;
        let ino = self.find(&world, name)?;
        match world.live[&ino].kind {
            Kind::Symlink => error(libc::ELOOP),
            Kind::Directory if write => error(libc::EISDIR),
            Kind::Socket => error(libc::ENXIO),
            _ => Ok(self.file(ino, write)),
        }
    }

    fn create_file(&self, name: &[u8], perm: u32) -> io::Result<Arc<dyn BackingFile>> {
        Ok(self.file(self.make(name, Kind::File, perm, |_| ())?, true))
    }

    fn mkdir(&self, name: &[u8], perm: u32) -> io::Result<()> {
        self.make(name, Kind::Directory, perm, |_| ()).map(drop)
    }

    fn mknod(&self, name: &[u8], kind: Kind, perm: u32, rdev: u64) -> io::Result<()> {
        self.make(name, kind, perm, |inode| inode.rdev = rdev).map(drop)
    }

    fn symlink(&self, target: &[u8], name: &[u8]) -> io::Result<()> {
        if target.len() > 4095 {
            return error(libc::ENAMETOOLONG);
        }
        self.make(name, Kind::Symlink, 0o777, |inode| inode.target = target.to_vec()).map(drop)
    }

    fn readlink(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        let world = self.disk.enter(Call::Look)?;
        let inode = &world.live[&self.find(&world, name)?];
        if inode.kind == Kind::Symlink { Ok(inode.target.clone()) } else { error(libc::EINVAL) }
    }

    fn link(&self, name: &[u8], to_dir: &dyn Dir, to_name: &[u8]) -> io::Result<()> {
        let (mut world, to) = (self.disk.enter(Call::Take)?, Self::sim(to_dir)?);
        let ino = self.find(&world, name)?;
        to.free(&world, to_name)?;
        if world.live[&ino].kind == Kind::Directory {
            return error(libc::EPERM);
        }
        let (touch, now) = (to.touch(&mut world), world.now());
        let entry = Step::Entry(to.ino, to_name.to_vec(), Some(ino));
        world.log(vec![entry, touch, Step::Touch(ino, None, now)]);
        Ok(())
    }

    fn unlink(&self, name: &[u8]) -> io::Result<()> {
        self.remove(name, false)
    }

    fn rmdir(&self, name: &[u8]) -> io::Result<()> {
        self.remove(name, true)
    }

    fn rename(&self, name: &[u8], to_dir: &dyn Dir, to_name: &[u8], mode: RenameMode) -> io::Result<()> {
        let (mut world, to) = (self.disk.enter(Call::Take)?, Self::sim(to_dir)?);
        let from_ino = self.find(&world, name)?;
        let to_ino = to.find(&world, to_name).ok();
        if to_name.len() > 255 {
            return error(libc::ENAMETOOLONG);
        }
        let is_dir = |ino: Ino| world.live[&ino].kind == Kind::Directory;
        if is_dir(from_ino) && is_above(&world, from_ino, to.ino) {
            return error(libc::EINVAL);
        }
        match (mode, to_ino) {
            (RenameMode::NoReplace, Some(_)) => return error(libc::EEXIST),
            (RenameMode::Exchange, None) => return error(libc::ENOENT),
            (RenameMode::Exchange, Some(ino)) if is_dir(ino) && is_above(&world, ino, self.ino) => {
                return error(libc::EINVAL);
            }
            (RenameMode::Replace, Some(ino)) if ino != from_ino => match (is_dir(from_ino), is_dir(ino)) {
                _ if is_dir(ino) && is_above(&world, ino, self.ino) => return error(libc::ENOTEMPTY),
                (true, false) => return error(libc::ENOTDIR),
                (false, true) => return error(libc::EISDIR),
                (true, true) if !world.live[&ino].entries.is_empty() => return error(libc::ENOTEMPTY),
                _ => {}
            },
            _ => {}
        }
        if to_ino == Some(from_ino) {
            return Ok(());
        }
        if mode == RenameMode::Replace && to_ino.is_some() && self.flushes_by(&world) {
            world.flush(Some(from_ino));
        }
        let (left, right, now) = (self.touch(&mut world), to.touch(&mut world), world.now());
        let back = if mode == RenameMode::Exchange { to_ino } else { None };
        let mut steps = vec![
            Step::Entry(self.ino, name.to_vec(), back),
            Step::Entry(to.ino, to_name.to_vec(), Some(from_ino)),
            left,
            right,
            Step::Touch(from_ino, None, now),
        ];
        steps.extend(to_ino.map(|ino| Step::Touch(ino, None, now)));
        world.log(steps);
        Ok(())
    }

    fn entries(&self) -> io::Result<Vec<RawEntry>> {
        let world = self.disk.enter(Call::Look)?;
        let Some(inode) = world.live.get(&self.ino) else { return error(libc::ESTALE) };
        let entries = inode.entries.iter();
        Ok(entries
            .map(|(name, ino)| RawEntry { name: name.clone(), kind: world.live[ino].kind, ino: *ino })
            .collect())
    }

    fn change(&self, name: Option<&[u8]>, new: &Change) -> io::Result<()> {
        let mut world = self.disk.enter(Call::Change)?;
        let ino = self.target(&world, name)?;
        if new.perm.is_some() && world.live[&ino].kind == Kind::Symlink {
            return error(libc::EOPNOTSUPP);
        }
        change(&mut world, ino, new)
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.enter(Call::Change)?;
        if !world.nature.sync_lies {
            world.commit_inode(self.ino, false);
        }
        Ok(())
    }

    fn sync_fs(&self) -> io::Result<()> {
        let mut world = self.disk.enter(Call::Change)?;
        if world.nature.sync_lies {
            return Ok(());
        }
        world.flush(None);
        drop(world);
        // The power may go when the data is written and the journal is not.
        let mut world = self.disk.enter(Call::Change)?;
        world.commit();
        Ok(())
    }

    fn fs_stat(&self) -> io::Result<FsStat> {
        let (blocks, files) = (1 << 20, 1 << 16);
        Ok(FsStat {
            bsize: PAGE,
            frsize: PAGE,
            blocks,
            bfree: blocks / 2,
            bavail: blocks / 2,
            files,
            ffree: files / 2,
            namemax: 255,
        })
    }

    fn orders_metadata(&self) -> bool {
        !self.disk.world.lock().nature.unordered
    }

    fn flushes_on_rename(&self) -> bool {
        !self.disk.world.lock().nature.unordered
    }

    fn get_xattr(&self, name: Option<&[u8]>, attr: &[u8]) -> io::Result<Vec<u8>> {
        let world = self.disk.enter(Call::Look)?;
        get_xattr(&world, self.target(&world, name)?, attr)
    }

    fn set_xattr(&self, name: Option<&[u8]>, attr: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        let mut world = self.disk.enter(Call::Take)?;
        let ino = self.target(&world, name)?;
        set_xattr(&mut world, ino, attr, value, mode)
    }

    fn list_xattr(&self, name: Option<&[u8]>) -> io::Result<Vec<Vec<u8>>> {
        let world = self.disk.enter(Call::Look)?;
        Ok(list_xattr(&world, self.target(&world, name)?))
    }

    fn remove_xattr(&self, name: Option<&[u8]>, attr: &[u8]) -> io::Result<()> {
        let mut world = self.disk.enter(Call::Change)?;
        let ino = self.target(&world, name)?;
        remove_xattr(&mut world, ino, attr)
    }

    fn lock(&self, name: &[u8], exclusive: bool) -> io::Result<Box<dyn Send + Sync>> {
        let there = self.find(&*self.disk.enter(Call::Look)?, name);
        let ino = match there {
            Err(_) if exclusive => self.make(name, Kind::File, 0o600, |_| ())?,
            there => there?,
        };
        // Shared locks are not counted: no test here holds two.
        if !self.disk.taps.lock().locked.insert(ino) {
            return error(libc::EWOULDBLOCK);
        }
        Ok(Box::new(Lock { disk: self.disk.clone(), ino }))
    }
}

impl SimDir {
    fn flushes_by(&self, world: &World) -> bool {
        !world.nature.unordered && !world.nature.order_lies && !world.nature.flush_lies
    }
}

struct Lock {
    disk: Arc<Disk>,
    ino: Ino,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.disk.taps.lock().locked.remove(&self.ino);
    }
}

impl SimFile {
    /// The call that a write is, and how many of its bytes stand if it fails: those before the first page that
    /// needs room.
    fn room_for(&self, len: usize, offset: u64) -> (Call, usize) {
        let world = self.disk.world.lock();
        let mut pages = offset / PAGE..(offset + len as u64).div_ceil(PAGE);
        match pages.find(|page| world.read(self.ino, *page).is_none()) {
            Some(page) => (Call::Write(self.ino), (page * PAGE).saturating_sub(offset) as usize),
            None => (Call::Rewrite(self.ino), 0),
        }
    }

    fn sync_inode(&self, data_only: bool) -> io::Result<()> {
        let mut world = self.disk.enter(Call::Change)?;
        if world.nature.sync_lies {
            return Ok(());
        }
        world.start(Some(self.ino));
        drop(world);
        // Others may call meanwhile.
        std::thread::yield_now();
        self.disk.world.lock().flush(Some(self.ino));
        let mut world = self.disk.world.lock();
        // The power may go when the data is written and the journal is not.
        self.disk.tick(Call::Change, &world)?;
        world.commit_inode(self.ino, data_only);
        Ok(())
    }
}

impl BackingFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.stat()?.size)
    }

    fn stat(&self) -> io::Result<Stat> {
        stat(&*self.disk.enter(Call::Look)?, self.ino)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.disk.enter(Call::Look)?;
        let Some(inode) = world.live.get(&self.ino) else { return error(libc::ESTALE) };
        let end = inode.size.min(offset + buf.len() as u64);
        let mut at = offset;
        while at < end {
            let (page, from) = (at / PAGE, (at % PAGE) as usize);
            let next = ((page + 1) * PAGE).min(end);
            let out = &mut buf[(at - offset) as usize..(next - offset) as usize];
            match world.read(self.ino, page) {
                Some(bytes) => out.copy_from_slice(&bytes[from..from + out.len()]),
                None => out.fill(0),
            }
            at = next;
        }
        Ok(end.saturating_sub(offset) as usize)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if !self.write {
            return error(libc::EBADF);
        }
        let (call, room) = self.room_for(data.len(), offset);
        let (data, failed, mut world) = match self.disk.enter(call) {
            Ok(world) => (data, Ok(()), world),
            // What was written before the disk was full, say, stands.
            Err(e) => (&data[..room], Err(e), self.disk.world.lock()),
        };
        world.writes += u64::from(offset >= PAGE);
        if offset >= PAGE && world.nature.drops_write == Some(world.writes) {
            return Ok(());
        }
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (page, from) = (at / PAGE, (at % PAGE) as usize);
            let (now, later) = rest.split_at(rest.len().min(PAGE as usize - from));
            world.dirty(self.ino, page, from, now);
            at += now.len() as u64;
            rest = later;
        }
        if at > world.live[&self.ino].size && !data.is_empty() {
            world.grow(self.ino, at);
        }
        let now = world.now();
        world.log(vec![Step::Touch(self.ino, Some(now), now)]);
        failed
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.enter(Call::Rewrite(self.ino))?;
        if !self.write {
            return error(libc::EINVAL);
        }
        world.truncate(self.ino, len);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_inode(true)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_inode(false)
    }

    fn wait_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut world = self.disk.enter(Call::Change)?;
        world.wait(self.ino, offset / PAGE..(offset + len).div_ceil(PAGE));
        Ok(())
    }

    fn start_writeback(&self) -> io::Result<()> {
        self.disk.enter(Call::Change)?.start(Some(self.ino));
        Ok(())
    }

    fn change(&self, new: &Change) -> io::Result<()> {
        change(&mut *self.disk.enter(Call::Change)?, self.ino, new)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset).filter(|at| self.len().is_ok_and(|len| *at < len)))
    }

    fn get_xattr(&self, attr: &[u8]) -> io::Result<Vec<u8>> {
        get_xattr(&*self.disk.enter(Call::Look)?, self.ino, attr)
    }

    fn set_xattr(&self, attr: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        set_xattr(&mut *self.disk.enter(Call::Take)?, self.ino, attr, value, mode)
    }

    fn list_xattr(&self) -> io::Result<Vec<Vec<u8>>> {
        Ok(list_xattr(&*self.disk.enter(Call::Look)?, self.ino))
    }

    fn remove_xattr(&self, attr: &[u8]) -> io::Result<()> {
        remove_xattr(&mut *self.disk.enter(Call::Change)?, self.ino, attr)
    }
}
