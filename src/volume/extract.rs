//! A volume's plaintext written out to a directory: names, content with its holes, modes, owners, times, symbolic and
//! hard links, extended attributes, special files. What fails is told and left out; the rest goes on.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::core::Volume;
use super::disk::{Change, Dir, Kind, SetTime, Stat, XattrMode};
use super::each::{in_threads, joined};
use super::error::{Attempt, Result, VolumeError};
use super::header::is_zero;
use super::recover::own_process;
use super::types::{Attr, NodeId, OpenMode, ROOT};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// Zeros of this length become a hole.
const HOLE: usize = 1 << 16;

/// What was written out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Extracted {
    /// Directories, without the root.
    pub directories: u64,
    /// Regular files; further names of one are not counted.
    pub files: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Symbolic links and special files.
    pub others: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// Sets an attribute of what is written.
type SetXattr<'a> = dyn Fn(&[u8], &[u8]) -> io::Result<()> + 'a;

/// Told of a path and what happened to it; several threads tell.
pub type Failed<'a> = dyn Fn(&[u8], &VolumeError) + Sync + 'a;

/// Writes all of a volume into `target`, an empty directory. Owners are set only by root. All is on the medium when
/// this returns without an error.
pub fn extract(
    volume: &Volume,
    target: Arc<dyn Dir>,
    threads: usize,
    seen: &(dyn Fn() + Sync),
    failed: &Failed,
) -> Result<Extracted> {
    let owners = rustix::process::geteuid().is_root();
    let (done, links) = (Mutex::default(), Mutex::default());
    let job = Job { volume, owners, done, links, root: target.clone(), seen, failed };
    in_threads(threads, &|item: Item| job.file(&item), |give| job.walk(give))?;
    target.sync_fs().attempt("syncing what was written")?;
    Ok(*job.done.lock())
}

struct Job<'a> {
    volume: &'a Volume,
    owners: bool,
    done: Mutex<Extracted>,
    /// Files with several names: where the first was written to.
    links: Mutex<HashMap<NodeId, Vec<Vec<u8>>>>,
    root: Arc<dyn Dir>,
    seen: &'a (dyn Fn() + Sync),
    failed: &'a Failed<'a>,
}

/// An entry to be written.
struct Item<'a> {
    into: Arc<Out<'a>>,
    name: Vec<u8>,
    attr: Attr,
}

/// A directory that is being written. It gets its attributes when everything in it is there.
struct Out<'a> {
    job: &'a Job<'a>,
    dir: Arc<dyn Dir>,
    path: Arc<[u8]>,
    attr: Attr,
    /// Kept until this one has its attributes, which change its own times.
    _above: Option<Arc<Out<'a>>>,
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        let change = self.job.change(&self.attr.stat);
        let copied = self.job.copy_xattrs(self.attr.node, &self.path, &|name, value| {
            self.dir.set_xattr(None, name, value, XattrMode::Any)
        });
        let changed = copied.and_then(|()| self.dir.change(None, &change).attempt("setting its attributes"));
        if let Err(error) = changed {
            (self.job.failed)(&self.path, &error);
        }
        if self.attr.node != ROOT {
            self.job.volume.forget(self.attr.node, 1);
        }
    }
}

impl<'a> Job<'a> {
    /// Goes through the tree; files with one name are given to the threads.
    fn walk(&'a self, give: &mut dyn FnMut(Item<'a>)) -> Result<()> {
        let attr = self.volume.getattr(ROOT, None)?;
        let root = Out { job: self, dir: self.root.clone(), path: Arc::default(), attr, _above: None };
        let mut waiting = vec![Arc::new(root)];
        while let Some(out) = waiting.pop() {
            let entries = match self.entries(&out) {
                Ok(entries) => entries,
                Err(error) => {
                    (self.failed)(&out.path, &error);
                    continue;
                }
            };
            for (name, attr) in entries {
                let path = joined(&out.path, &name);
                let Some(attr) = attr else {
                    (self.failed)(&path, &VolumeError::damaged("the entry cannot be read"));
                    continue;
                };
                let item = Item { into: out.clone(), name, attr };
                match attr.stat.kind {
                    Kind::Directory => match self.directory(&item) {
                        Ok(dir) => {
                            self.done.lock().directories += 1;
                            let (job, path) = (self, path.clone());
                            waiting.push(Arc::new(Out { job, dir, path, attr, _above: Some(out.clone()) }));
                        }
                        Err(error) => (self.failed)(&path, &error),
                    },
                    Kind::File if attr.stat.nlink > 1 => self.file(&item),
                    Kind::File => give(item),
                    _ => self.other(&item, &path),
                }
            }
        }
        Ok(())
    }

    fn entries(&self, out: &Out) -> Result<Vec<(Vec<u8>, Option<Attr>)>> {
        let handle = self.volume.open_dir(out.attr.node)?;
        let mut found = Vec::new();
        let read = self.volume.read_dir_plus(handle, 0, &mut |entry, attr| {
            if entry.name != b"." && entry.name != b".." {
                found.push((entry.name.clone(), attr.copied()));
            }
            true
        });
        let unread = self.volume.unlisted(handle);
        self.volume.release_dir(handle);
        read?;
        if unread > 0 {
            let what = format!("{unread} of the directory's names cannot be read");
            (self.failed)(&out.path, &VolumeError::damaged(what));
        }
        Ok(found)
    }

    fn directory(&self, item: &Item) -> Result<Arc<dyn Dir>> {
        let dir = &item.into.dir;
        let made = dir.mkdir(&item.name, 0o700).and_then(|()| dir.open_dir(&item.name));
        made.attempt("making the directory").inspect_err(|_| self.volume.forget(item.attr.node, 1))
    }

    /// Attributes of what was written; modes last.
    fn change(&self, stat: &Stat) -> Change {
        let mut perm = stat.perm;
        if !self.owners && stat.kind != Kind::Directory {
            // It would run as whoever recovers, and not as whom it belonged to.
            if stat.uid != rustix::process::geteuid().as_raw() {
                perm &= !0o4000;
            }
            if stat.gid != rustix::process::getegid().as_raw() {
                perm &= !0o2000;
            }
        }
        Change {
            perm: (stat.kind != Kind::Symlink).then_some(perm),
            uid: self.owners.then_some(stat.uid),
            gid: self.owners.then_some(stat.gid),
            atime: SetTime::At(stat.atime),
            mtime: SetTime::At(stat.mtime),
        }
    }

    /// An attribute that cannot be kept is told, and the object stays without it.
    fn copy_xattrs(&self, node: NodeId, path: &[u8], set: &SetXattr) -> Result<()> {
        for name in self.volume.list_xattr(node)? {
            let copied = self.volume.get_xattr(node, &name);
            let copied = copied.and_then(|value| set(&name, &value).attempt("setting an extended attribute"));
            if let Err(error) = copied {
                let path = [path, b" (attribute ", &name, b")"].concat();
                (self.failed)(&path, &error);
            }
        }
        Ok(())
    }

    /// A regular file, or a further name of one.
    fn file(&self, item: &Item) {
        let path = joined(&item.into.path, &item.name);
        let several = item.attr.stat.nlink > 1;
        let first = if several { self.links.lock().get(&item.attr.node).cloned() } else { None };
        let written = match first {
            Some(first) => self.link(item, &first).map(|()| self.done.lock().hard_links += 1),
            None => self.content(item, &path).map(|bytes| {
                let mut done = self.done.lock();
                done.files += 1;
                done.bytes += bytes;
                if several {
                    let names = path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
                    self.links.lock().insert(item.attr.node, names);
                }
            }),
        };
        if let Err(error) = written {
            (self.failed)(&path, &error);
        }
        self.volume.forget(item.attr.node, 1);
        (self.seen)();
    }

    fn link(&self, item: &Item, first: &[Vec<u8>]) -> Result<()> {
        let what = "making the hard link";
        let Some((name, above)) = first.split_last() else { return Err(VolumeError::NotFound) };
        let mut from = self.root.clone();
        for step in above {
            from = from.open_dir(step).attempt(what)?;
        }
        from.link(name, &*item.into.dir, &item.name).attempt(what)
    }

    fn content(&self, item: &Item, path: &[u8]) -> Result<u64> {
        let Item { into, name, attr } = item;
        let mode = OpenMode { read: true, write: false, truncate: false, kill_priv: false };
        let handle = self.volume.open_file(own_process(), attr.node, mode)?;
        let file = into.dir.create_file(name, 0o600).attempt("creating the file");
        let made = file.is_ok();
        let written = file.and_then(|file| {
            let mut buffer = vec![0; CHUNK];
            let mut size = 0;
            loop {
                let read = self.volume.read(handle, size, &mut buffer)?;
                let mut at = size;
                for piece in buffer[..read].chunks(HOLE) {
                    if !is_zero(piece) {
                        file.write_at(piece, at).attempt("writing the file")?;
                    }
                    at += piece.len() as u64;
                }
                size = at;
                if read < buffer.len() {
                    break;
                }
            }
            file.set_len(size).attempt("writing the file")?;
            self.copy_xattrs(attr.node, path, &|name, value| file.set_xattr(name, value, XattrMode::Any))?;
            file.change(&self.change(&attr.stat)).attempt("setting its attributes")?;
            Ok(size)
        });
        if made && written.is_err() {
            // No part of a file under its name. Best effort: the error that counts is the one above.
            let _ = into.dir.unlink(name);
        }
        let closed = self.volume.release(handle);
        written.and_then(|size| closed.map(|()| size))
    }

    /// A symbolic link or special file.
    fn other(&self, item: &Item, path: &[u8]) {
        let Item { into, name, attr } = item;
        let stat = &attr.stat;
        let made = match stat.kind {
            Kind::Symlink => self
                .volume
                .readlink(attr.node)
                .and_then(|target| into.dir.symlink(&target, name).attempt("making the symbolic link")),
            kind => into.dir.mknod(name, kind, 0o600, stat.rdev).attempt("making the special file"),
        };
        let change = self.change(stat);
        let made = made.and_then(|()| into.dir.change(Some(name), &change).attempt("setting its attributes"));
        match made {
            Ok(()) => self.done.lock().others += 1,
            Err(error) => (self.failed)(path, &error),
        }
        self.volume.forget(attr.node, 1);
    }
}
