//! Names: finding, making, moving and removing them. A directory's names change under its lock.
//!
//! What a power cut leaves: a directory is renamed into place with its id inside; the link with a long name
//! stands before the entry it belongs to and goes after it; a directory is renamed away before it is taken
//! apart. Temporary names and links without an entry are rubbish that the next mount takes away.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::core::Core;
use super::descriptor::LINKS_DIR;
use super::disk::{Change, Dir, Kind, RawEntry, RenameMode, Stat};
use super::each::upwards;
use super::error::{Attempt, Result, VolumeError};
use super::names::{self, DIR_ID, EntryClass, OVERFLOW_PIECE, StoredName, classify, overflow_name};
use super::nodes::{Directory, Link, Node};
use super::recover;
use super::types::{Attr, Caller, NodeId, OpenMode, ROOT};

const STAT: &str = "asking for an entry's attributes";

/// A directory, or the name of one below it, and the node it has.
type Waiting = (Arc<dyn Dir>, Option<Vec<u8>>, NodeId);

impl Core {
    /// A node's directory, opened by way of its parents if it is not held open.
    pub(super) fn directory(&self, id: NodeId) -> Result<Arc<Directory>> {
        let node = self.nodes.get(id)?;
        if let Some(directory) = node.directory() {
            return Ok(directory);
        }
        if node.kind != Kind::Directory {
            return Err(VolumeError::NotDirectory);
        }
        let opened = self.at_link(&node, |parent, link| {
            let dir = parent.dir.open_dir(&link.entry).on_entry("opening a directory")?;
            let found = dir.stat().attempt("asking for a directory's attributes")?;
            if found.ino != self.nodes.ino_of(node.id) {
                return Err(VolumeError::Stale);
            }
            open_directory(dir)
        });
        let directory = Arc::new(opened.inspect_err(|e| self.tell_damage(None, e))?);
        self.nodes.hold(&node, directory.clone());
        Ok(directory)
    }

    /// Does something at a name of a node that tells by itself whether the node is there: at the first where it is, and if it is
    /// at none, since a name is just being given or taken, as [`Self::at_own_link`] does. Under no directory's lock.
    pub(super) fn at_link<T>(&self, node: &Node, f: impl Fn(&Directory, &Link) -> Result<T>) -> Result<T> {
        for link in node.links() {
            match self.directory(link.parent).and_then(|directory| f(&directory, &link)) {
                Err(VolumeError::NotFound | VolumeError::Stale) => {}
                done => return done,
            }
        }
        self.at_own_link(node, None, f)
    }

    /// Does something at a name of a node under the lock of the name's directory (and of `also`), so that nothing else stands
    /// there: names are given and taken under it, and the nodes told. `f` takes no such lock. Under none either.
    ///
    /// What remains is somebody else who changes the backing directory. He could do so between any look and the act, and may
    /// write to the files themselves.
    pub(super) fn at_own_link<T>(
        &self,
        node: &Node,
        also: Option<NodeId>,
        f: impl Fn(&Directory, &Link) -> Result<T>,
    ) -> Result<T> {
        loop {
            let (mut failed, mut moved) = (VolumeError::Stale, false);
            for link in node.links() {
                let done = self.directory(link.parent).and_then(|directory| {
                    let locked: Vec<_> = also.into_iter().chain([link.parent]).collect();
                    let _names = self.lock_directories(&locked);
                    moved |= !node.is_at(&link);
                    if node.is_at(&link) { f(&directory, &link) } else { Err(VolumeError::Stale) }
                });
                match done {
                    Err(e @ (VolumeError::NotFound | VolumeError::Stale)) => failed = e,
                    done => return done,
                }
            }
            // Each round of this one is a rename, or the like, of others; without names it is gone.
            if !moved {
                return Err(failed);
            }
        }
    }

    /// Finds an entry and counts one more lookup of its node.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Attr> {
        let directory = self.directory(parent)?;
        let entry = self.keys.encode_name(&directory.id, name)?.entry;
        self.enter(&directory, Link { parent, entry })
    }

    /// Counts a lookup of what is at `link`.
    pub(super) fn enter(&self, directory: &Directory, link: Link) -> Result<Attr> {
        let (node, stat) = self.found(directory, &link)?;
        self.entered(directory, &link, &node, stat)
    }

    /// Counts a lookup of what is at `link`. A name that goes between the look at it and the remembering would stay with the
    /// node, and be taken for the object's later on: so, if any has gone meanwhile, it is looked at once more, under the lock.
    pub(super) fn found(&self, directory: &Directory, link: &Link) -> Result<(Arc<Node>, Stat)> {
        let before = self.nodes.changes();
        let stat = directory.dir.stat_at(&link.entry).on_entry(STAT)?;
        if let Some(node) = self.nodes.remember_since(before, &stat, link)? {
            return Ok((node, stat));
        }
        let _names = self.lock_directory(link.parent);
        self.found_locked(directory, link)
    }

    /// The same; the directory is locked.
    fn found_locked(&self, directory: &Directory, link: &Link) -> Result<(Arc<Node>, Stat)> {
        let stat = directory.dir.stat_at(&link.entry).on_entry(STAT)?;
        Ok((self.nodes.remember(&stat, link)?, stat))
    }

    /// The attributes of what was found.
    fn entered(&self, directory: &Directory, link: &Link, node: &Node, stat: Stat) -> Result<Attr> {
        let attr = self.attr(node, stat, Some(self.place(directory, &link.entry)));
        if attr.is_err() {
            self.nodes.forget(node.id, 1);
        }
        attr
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, node: NodeId, count: u64) {
        self.nodes.forget(node, count);
    }

    /// Makes an entry whose name may be a long one: the link with the name comes first, and goes if there
    /// is no entry in the end.
    pub(super) fn with_long_name<T>(
        &self,
        directory: &Directory,
        stored: &StoredName,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let Some((link, full)) = &stored.long else { return make() };
        let what = "storing a long name";
        match directory.dir.symlink(full, link) {
            // There already, for an entry that is or for one that a crash prevented.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return make(),
            made => made.attempt(what)?,
        }
        if !directory.dir.orders_metadata() {
            directory.dir.sync().attempt(what)?;
        }
        let made = make();
        if made.is_err() {
            // Best effort: a link without an entry is rubbish that does no harm.
            let _ = directory.dir.unlink(link);
        }
        made
    }

    /// Takes away the link of a long name whose entry is gone.
    fn drop_long_name(&self, directory: &Directory, entry: &[u8]) {
        if classify(entry) == EntryClass::Long {
            // Best effort, as above.
            let _ = directory.dir.unlink(&names::long_name_link(entry));
        }
    }

    /// A regular file, FIFO, socket or device; `perm` has the umask applied. Counts a lookup.
    pub fn mknod(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        kind: Kind,
        perm: u32,
        rdev: u64,
    ) -> Result<Attr> {
        if kind == Kind::File {
            let mode = OpenMode { read: false, write: true, truncate: false, kill_priv: false };
            let (attr, handle) = self.create(caller, parent, name, perm, mode)?;
            self.release(handle)?;
            return Ok(attr);
        }
        let _change = self.changing()?;
        self.make(caller, parent, name, perm, |directory, entry| {
            directory.dir.mknod(entry, kind, perm, rdev).on_entry("making a special file")
        })
    }

    /// Makes an entry, gives it to its owner, and counts a lookup. Through the gate already.
    fn make(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        perm: u32,
        make: impl FnOnce(&Directory, &[u8]) -> Result<()>,
    ) -> Result<Attr> {
        let directory = self.directory(parent)?;
        let stored = self.keys.encode_name(&directory.id, name)?;
        let _names = self.lock_directory(parent);
        self.with_long_name(&directory, &stored, || make(&directory, &stored.entry))?;
        if self.options.chown_to_caller {
            let stat = directory.dir.stat_at(&stored.entry).on_entry(STAT)?;
            if let Some(change) = self.owner_of_new(caller, &directory, &stat, perm)? {
                let given = directory.dir.change(Some(&stored.entry), &change);
                given.attempt("giving a new entry to its owner")?;
            }
        }
        let link = Link { parent, entry: stored.entry };
        let (node, stat) = self.found_locked(&directory, &link)?;
        self.entered(&directory, &link, &node, stat)
    }

    /// Counts a lookup.
    pub fn mkdir(&self, caller: Caller, parent: NodeId, name: &[u8], perm: u32) -> Result<Attr> {
        let _change = self.changing()?;
        self.make(caller, parent, name, perm, |directory, entry| {
            let temporary = names::temporary_name()?;
            // In the same parent, so that group, ACLs and project are those that mkdir would give.
            directory.dir.mkdir(&temporary, perm | 0o700).on_entry("making a directory")?;
            let made = fill_directory(directory, &temporary, perm).and_then(|()| {
                directory.dir.rename(&temporary, &*directory.dir, entry, RenameMode::NoReplace)
            });
            if made.is_err() {
                // Best effort: the error that counts is the one above.
                let _ = recover::remove_entry(&*directory.dir, &temporary, Kind::Directory);
            }
            made.on_entry("making a directory")
        })
    }

    /// Counts a lookup.
    pub fn symlink(&self, caller: Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Attr> {
        if target.is_empty() {
            return Err(VolumeError::NotFound);
        }
        let _change = self.changing()?;
        let stored = self.keys.encode_target(target)?;
        let what = "storing a long target";
        if !stored.overflow.is_empty() {
            let links = self.private.open_dir(LINKS_DIR).attempt(what)?;
            for (piece, text) in &stored.overflow {
                links.symlink(text, piece).attempt(what)?;
            }
            if !links.orders_metadata() {
                links.sync().attempt(what)?;
            }
        }
        let stands = std::cell::Cell::new(false);
        let made = self.make(caller, parent, name, 0o777, |directory, entry| {
            directory.dir.symlink(&stored.target, entry).on_entry("making a symbolic link")?;
            stands.set(true);
            Ok(())
        });
        if made.is_err() && !stands.get() {
            self.drop_overflow(&stored.target);
        }
        made
    }

    /// The plaintext target.
    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>> {
        let node = self.nodes.get(node)?;
        if node.kind != Kind::Symlink {
            return Err(VolumeError::Invalid("not a symbolic link"));
        }
        let target = self.at_own_link(&node, None, |directory, link| self.target(directory, &link.entry));
        target.inspect_err(|e| self.tell_damage(None, e))
    }

    pub(super) fn target(&self, directory: &Directory, entry: &[u8]) -> Result<Vec<u8>> {
        let what = "reading a symbolic link";
        let stored = directory.dir.readlink(entry).on_entry(what)?;
        let Some(id) = names::overflow_id(&stored) else { return self.keys.decode_target(&stored) };
        let links = self.private.open_dir(LINKS_DIR).attempt(what)?;
        let mut text = Vec::new();
        for index in 0.. {
            let piece = match links.readlink(&overflow_name(id, index)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                piece => piece.attempt(what)?,
            };
            text.extend_from_slice(&piece);
            if piece.len() < OVERFLOW_PIECE {
                break;
            }
        }
        self.keys.decode_target(&text)
    }

    /// Takes away the pieces of a target that stands elsewhere.
    fn drop_overflow(&self, target: &[u8]) {
        let Some(id) = names::overflow_id(target) else { return };
        let Ok(links) = self.private.open_dir(LINKS_DIR) else { return };
        // Best effort: pieces that no link names are rubbish.
        for index in 0.. {
            if links.unlink(&overflow_name(id, index)).is_err() {
                break;
            }
        }
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        let _change = self.changing()?;
        let directory = self.directory(parent)?;
        let stored = self.keys.encode_name(&directory.id, name)?;
        let _names = self.lock_directory(parent);
        let stat = directory.dir.stat_at(&stored.entry).on_entry(STAT)?;
        if stat.kind == Kind::Directory {
            return Err(VolumeError::IsDirectory);
        }
        self.remove_name(&directory, &Link { parent, entry: stored.entry }, &stat)
    }

    /// Under the directory's lock.
    fn remove_name(&self, directory: &Directory, link: &Link, stat: &Stat) -> Result<()> {
        let target = self.overflowing_target(directory, &link.entry, stat);
        let unlink = || directory.dir.unlink(&link.entry).on_entry("removing a name");
        self.nodes.unlink(stat, link, stat.nlink <= 1, unlink)?;
        self.drop_long_name(directory, &link.entry);
        if let Some(target) = target {
            self.drop_overflow(&target);
        }
        Ok(())
    }

    /// The stored target of a link that is about to lose its last name, if that stands elsewhere.
    fn overflowing_target(&self, directory: &Directory, entry: &[u8], stat: &Stat) -> Option<Vec<u8>> {
        let may_be = stat.kind == Kind::Symlink && stat.nlink == 1 && names::target_len(stat.size).is_none();
        if may_be { directory.dir.readlink(entry).ok() } else { None }
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        let _change = self.changing()?;
        let directory = self.directory(parent)?;
        let stored = self.keys.encode_name(&directory.id, name)?;
        let stat = directory.dir.stat_at(&stored.entry).on_entry(STAT)?;
        if stat.kind != Kind::Directory {
            return Err(VolumeError::NotDirectory);
        }
        let _names = self.lock_directories(&[parent, self.nodes.id_of(stat.ino)]);
        check_empty(&*directory.dir, &stored.entry)?;
        self.remove_directory(&directory, &Link { parent, entry: stored.entry }, &stat)
    }

    /// A directory of which nothing is seen any more. Under the locks of both.
    fn remove_directory(&self, directory: &Directory, link: &Link, stat: &Stat) -> Result<()> {
        let temporary = names::temporary_name()?;
        let what = "removing a directory";
        self.nodes.unlink(stat, link, true, || {
            directory
                .dir
                .rename(&link.entry, &*directory.dir, &temporary, RenameMode::NoReplace)
                .on_entry(what)
        })?;
        self.drop_long_name(directory, &link.entry);
        recover::remove_entry(&*directory.dir, &temporary, Kind::Directory).attempt(what)
    }

    /// Removes an entry with all that is in it, as far as anybody sees: of a directory what is left, which is to be taken apart, is
    /// answered by its temporary name. Behind the closed gate. `gone` gets the node of each.
    pub(super) fn take_out(
        &self,
        directory: &Directory,
        link: &Link,
        gone: &mut Vec<NodeId>,
    ) -> Result<Option<Vec<u8>>> {
        let stat = directory.dir.stat_at(&link.entry).on_entry(STAT)?;
        let _names = self.lock_directory(link.parent);
        gone.push(self.nodes.id_of(stat.ino));
        if stat.kind != Kind::Directory {
            return self.remove_name(directory, link, &stat).map(|()| None);
        }
        let what = "removing a directory";
        let inner = directory.dir.open_dir(&link.entry).on_entry(what)?;
        let temporary = names::temporary_name()?;
        self.nodes.unlink(&stat, link, true, || {
            let rename =
                directory.dir.rename(&link.entry, &*directory.dir, &temporary, RenameMode::NoReplace);
            rename.on_entry(what)
        })?;
        self.drop_long_name(directory, &link.entry);
        self.lose_below(inner, self.nodes.id_of(stat.ino), gone)?;
        Ok(Some(temporary))
    }

    /// What is in a directory is seen by nobody any more. Not by calling itself, as in [`upwards`].
    fn lose_below(&self, dir: Arc<dyn Dir>, node: NodeId, gone: &mut Vec<NodeId>) -> Result<()> {
        // How many names are left of objects with several.
        let mut names: HashMap<u64, u64> = HashMap::new();
        // Directories that wait are not open, only those above them.
        let mut waiting: Vec<Waiting> = vec![(dir, None, node)];
        while let Some((above, name, parent)) = waiting.pop() {
            let dir = match name {
                None => above,
                Some(name) => above.open_dir(&name).on_entry("removing a directory")?,
            };
            for RawEntry { name: entry, .. } in dir.entries().attempt("listing a directory")? {
                if !matches!(classify(&entry), EntryClass::Name | EntryClass::Long) {
                    continue;
                }
                let stat = dir.stat_at(&entry).on_entry(STAT)?;
                let id = self.nodes.id_of(stat.ino);
                gone.push(id);
                let mut last = true;
                if stat.kind == Kind::Directory {
                    waiting.push((dir.clone(), Some(entry.clone()), id));
                } else if stat.nlink > 1 {
                    let left = names.entry(stat.ino).or_insert(stat.nlink);
                    *left -= 1;
                    last = *left == 0;
                }
                self.nodes.unlink(&stat, &Link { parent, entry }, last, || Ok(()))?;
            }
        }
        Ok(())
    }

    /// Removes what [`Self::take_out`] has left. Others may be removing it too. Each step goes through the gate.
    pub(super) fn take_apart(&self, dir: &dyn Dir, name: &[u8], kind: Kind) -> io::Result<()> {
        upwards(dir, name, kind, &mut |dir, name, kind| self.take_one(dir, name, kind))
    }

    fn take_one(&self, dir: &dyn Dir, name: &[u8], kind: Kind) -> io::Result<()> {
        let _change = self.gate.enter();
        let target = match kind {
            Kind::Symlink if dir.stat_at(name)?.nlink == 1 => dir.readlink(name).ok(),
            _ => None,
        };
        let removed = if kind == Kind::Directory { dir.rmdir(name) } else { dir.unlink(name) };
        if let Some(target) = target.filter(|_| removed.is_ok()) {
            self.drop_overflow(&target);
        }
        removed
    }

    /// A further name for a file. Counts a lookup.
    pub fn link(&self, node: NodeId, to_parent: NodeId, to_name: &[u8]) -> Result<Attr> {
        let _change = self.changing()?;
        let node = self.nodes.get(node)?;
        if node.kind == Kind::Directory {
            return Err(VolumeError::NotPermitted("a hard link to a directory"));
        }
        let to = self.directory(to_parent)?;
        let stored = self.keys.encode_name(&to.id, to_name)?;
        let made = Link { parent: to_parent, entry: stored.entry.clone() };
        let (node, stat) = self.at_own_link(&node, Some(to_parent), |from, link| {
            self.with_long_name(&to, &stored, || {
                from.dir.link(&link.entry, &*to.dir, &made.entry).on_entry("making a hard link")
            })?;
            // Its other names may go before anybody looks at them.
            self.note_moved(&made);
            self.found_locked(&to, &made)
        })?;
        self.entered(&to, &made, &node, stat)
    }

    /// rename, RENAME_NOREPLACE, RENAME_EXCHANGE.
    pub fn rename(
        &self,
        parent: NodeId,
        name: &[u8],
        to_parent: NodeId,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let _change = self.changing()?;
        for link in self.rename_inside(parent, name, to_parent, to_name, mode)? {
            self.note_moved(&link);
        }
        Ok(())
    }

    /// The same, through the gate already; answers the names where something else may stand now.
    fn rename_inside(
        &self,
        parent: NodeId,
        name: &[u8],
        to_parent: NodeId,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<[Link; 2]> {
        let (from, to) = (self.directory(parent)?, self.directory(to_parent)?);
        let old = self.keys.encode_name(&from.id, name)?;
        let new = self.keys.encode_name(&to.id, to_name)?;
        // A directory that is replaced is locked too, which only its name tells: looked at again under its lock.
        let mut locked = vec![parent, to_parent];
        let (moving, replaced, _names) = loop {
            let names = self.lock_directories(&locked);
            let moving = from.dir.stat_at(&old.entry).on_entry(STAT)?;
            let replaced = match to.dir.stat_at(&new.entry).on_entry(STAT) {
                Err(VolumeError::NotFound) => None,
                stat => Some(stat?),
            };
            let directory =
                replaced.iter().find(|s| s.kind == Kind::Directory).map(|s| self.nodes.id_of(s.ino));
            match directory.filter(|directory| !locked.contains(directory)) {
                None => break (moving, replaced, names),
                Some(directory) => locked = vec![parent, to_parent, directory],
            }
        };
        let from_link = Link { parent, entry: old.entry.clone() };
        let to_link = Link { parent: to_parent, entry: new.entry.clone() };
        let what = "renaming";
        let rename = |mode| from.dir.rename(&old.entry, &*to.dir, &new.entry, mode).on_entry(what);
        match (mode, &replaced) {
            (RenameMode::Exchange, None) => return Err(VolumeError::NotFound),
            (RenameMode::NoReplace, Some(_)) => return Err(VolumeError::Exists),
            // Two names of one object: POSIX says that nothing happens.
            (_, Some(there)) if there.ino == moving.ino => {}
            (RenameMode::Exchange, Some(there)) => {
                rename(RenameMode::Exchange)?;
                self.nodes.moved(moving.ino, &from_link, &to_link);
                self.nodes.moved(there.ino, &to_link, &from_link);
            }
            (RenameMode::Replace, Some(there)) => match (moving.kind, there.kind) {
                (Kind::Directory, Kind::Directory) => {
                    check_empty(&*to.dir, &new.entry)?;
                    rename(RenameMode::Exchange)?;
                    self.nodes.moved(moving.ino, &from_link, &to_link);
                    self.removed_after_exchange(&from, parent, &old, there, &to_link)?;
                }
                (Kind::Directory, _) => return Err(VolumeError::NotDirectory),
                (_, Kind::Directory) => return Err(VolumeError::IsDirectory),
                _ => {
                    self.prepare_to_replace(&from, &old.entry, &moving)?;
                    let target = self.overflowing_target(&to, &new.entry, there);
                    let replace = || rename(RenameMode::Replace);
                    self.nodes.unlink(there, &to_link, there.nlink <= 1, replace)?;
                    self.nodes.moved(moving.ino, &from_link, &to_link);
                    if let Some(target) = target {
                        self.drop_overflow(&target);
                    }
                    self.drop_long_name(&from, &old.entry);
                }
            },
            (_, None) => {
                self.with_long_name(&to, &new, || rename(RenameMode::NoReplace))?;
                self.nodes.moved(moving.ino, &from_link, &to_link);
                self.drop_long_name(&from, &old.entry);
            }
        }
        Ok([from_link, to_link])
    }

    /// The directory that was replaced stands under the old name now.
    fn removed_after_exchange(
        &self,
        from: &Directory,
        parent: NodeId,
        old: &StoredName,
        there: &Stat,
        to_link: &Link,
    ) -> Result<()> {
        let link = Link { parent, entry: old.entry.clone() };
        self.nodes.moved(there.ino, to_link, &link);
        self.remove_directory(from, &link, there)
    }

    /// Before a file takes another's name: its header is in the backing, and where the backing does not flush
    /// on such a rename, its writeback is on the way. Otherwise a crash could leave an empty file in the place
    /// of a good one.
    fn prepare_to_replace(&self, from: &Directory, entry: &[u8], moving: &Stat) -> Result<()> {
        if moving.kind != Kind::File {
            return Ok(());
        }
        let open = self.nodes.get(self.nodes.id_of(moving.ino)).ok().and_then(|node| node.file());
        if let Some(file) = open.as_ref().filter(|f| f.is_writable()) {
            file.content.settle_header()?;
        }
        if from.dir.flushes_on_rename() {
            return Ok(());
        }
        let backing = match &open {
            Some(file) => file.content.file(),
            None => match from.dir.open_file(entry, false) {
                Ok(file) => file,
                // Nobody who may not read it has written to it here.
                Err(_) => return Ok(()),
            },
        };
        backing.start_writeback().attempt("writing a file back before it is renamed")
    }

    /// Number of the directory above, for `..`.
    pub(super) fn parent_of(&self, node: &Node) -> NodeId {
        node.link().map_or(ROOT, |link| link.parent)
    }
}

fn open_directory(dir: Arc<dyn Dir>) -> Result<Directory> {
    let id = match dir.readlink(DIR_ID) {
        Ok(target) => names::parse_dir_id(&target)?,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
            return Err(VolumeError::damaged(
                "a directory has no id (kmsfs.dir); the directory can be removed",
            ));
        }
        Err(source) => return Err(VolumeError::Backing { what: "reading a directory's id", source }),
    };
    Ok(Directory { dir, id })
}

/// The id into a new directory that nobody sees yet.
fn fill_directory(directory: &Directory, temporary: &[u8], perm: u32) -> io::Result<()> {
    let made = directory.dir.open_dir(temporary)?;
    // A random id: an error would be the system's lack of randomness.
    let id = names::new_dir_id().map_err(io::Error::other)?;
    made.symlink(&names::encode_dir_id(&id), DIR_ID)?;
    if !made.orders_metadata() {
        made.sync()?;
    }
    if perm & 0o700 != 0o700 {
        let inherited = made.stat()?.perm & 0o2000;
        directory
            .dir
            .change(Some(temporary), &Change { perm: Some(perm | inherited), ..Change::default() })?;
        if !made.orders_metadata() {
            match made.sync() {
                // Its own maker may not open it any more; the mode then comes with the next commit.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced?,
            }
        }
    }
    Ok(())
}

/// ENOTEMPTY if a directory holds more than its id and rubbish.
fn check_empty(parent: &dyn Dir, entry: &[u8]) -> Result<()> {
    let what = "looking whether a directory is empty";
    let dir = parent.open_dir(entry).on_entry(what)?;
    let entries = dir.entries().attempt(what)?;
    let is_rubbish = |name: &[u8]| match classify(name) {
        EntryClass::Temporary => true,
        EntryClass::LongName => {
            let entry = names::entry_of_long_name(name);
            entries.iter().all(|e| e.name != entry)
        }
        EntryClass::Reserved => name == DIR_ID,
        EntryClass::Name | EntryClass::Long => false,
    };
    if entries.iter().all(|e| is_rubbish(&e.name)) { Ok(()) } else { Err(VolumeError::NotEmpty) }
}
