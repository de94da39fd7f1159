//! A volume in a temporary directory, a depot, and pictures of backing trees to compare.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use kmsfs::snapshot::catalogue::{self, Deleted};
use kmsfs::snapshot::copy::To;
use kmsfs::snapshot::create::{self, Created, Ends, Hold, Options, Quiesce, Unmounted};
use kmsfs::snapshot::depot::{Depot, DirDepot};
use kmsfs::snapshot::descriptor::Descriptor;
use kmsfs::snapshot::dir::SnapshotDir;
use kmsfs::snapshot::restore::{self, Restored};
use kmsfs::snapshot::verify::{self, Verified};
use kmsfs::snapshot::{Opened, Result, Snapshot};
use kmsfs::volume::disk::{Dir, Kind, Time};
use kmsfs::volume::host::HostDir;
use kmsfs::volume::{Caller, NodeId, OpenMode, ROOT, Volume, VolumeOptions};

use super::super::fake::{FakeKms, KEY};

pub const ME: Caller = Caller { uid: 0, gid: 0 };
pub const WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, kill_priv: false };
pub const READ: OpenMode = OpenMode { read: true, write: false, truncate: false, kill_priv: false };

pub struct Bed {
    pub temp: tempfile::TempDir,
    pub kms: Arc<FakeKms>,
    pub depot: Arc<dyn Depot>,
    clock: RefCell<i64>,
}

impl Bed {
    pub fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("vault")).unwrap();
        let depot = Arc::new(DirDepot::create(&temp.path().join("depot")).unwrap());
        let bed = Self { temp, kms: FakeKms::new(), depot, clock: RefCell::new(1_000) };
        Volume::init(&*bed.root(), &*bed.kms, KEY).unwrap();
        bed
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn root(&self) -> Arc<dyn Dir> {
        HostDir::open(&self.path("vault")).unwrap()
    }

    pub fn volume(&self) -> Volume {
        open_volume(self.root(), &self.kms, false)
    }

    pub fn options(&self, name: &str) -> Options {
        *self.clock.borrow_mut() += 1;
        let now = Time { sec: *self.clock.borrow(), nsec: 0 };
        // Small, so that files go over the ends of packs.
        Options { pack_pages: 20, ..Options::new(name.to_owned(), "000000000000".to_owned(), now) }
    }

    pub fn create_with(&self, quiesce: &dyn Quiesce, options: &Options) -> Result<Created> {
        let scratch = HostDir::open(self.temp.path()).unwrap();
        let ends = Ends {
            root: &self.root(),
            depot: &self.depot,
            scratch: &*scratch,
            service: &*self.kms,
            ledger: &*self.kms,
        };
        create::create(&ends, quiesce, options, &|_| ())
    }

    /// Of the volume that nobody has mounted.
    pub fn create(&self, name: &str) -> Created {
        let unmounted = Unmounted::new(&*self.root()).unwrap();
        self.create_with(&unmounted, &self.options(name)).unwrap()
    }

    pub fn find(&self, name: &str) -> Result<Snapshot> {
        Snapshot::find(self.depot.clone(), name)
    }

    pub fn open(&self, name: &str) -> Result<Opened> {
        self.find(name)?.open(&*self.kms)
    }

    pub fn tree(&self, name: &str) -> Arc<dyn Dir> {
        SnapshotDir::open(self.open(name).unwrap()).unwrap()
    }

    pub fn verify(&self, name: &str) -> Result<Verified> {
        verify::verify(&self.open(name)?, 2, &|_| ())
    }

    pub fn restore(&self, name: &str, to: &str) -> Result<Restored> {
        let target = self.path(to);
        if !target.exists() {
            std::fs::create_dir(&target).unwrap();
        }
        let target = HostDir::open(&target).unwrap();
        restore::restore(&self.open(name)?, &target, &*self.kms, 3, &|_| ())
    }

    pub fn delete(&self, name: &str) -> Deleted {
        catalogue::delete(&self.depot, name, &*self.kms).unwrap()
    }

    pub fn list(&self) -> Vec<Descriptor> {
        let listing = catalogue::list(&self.depot).unwrap();
        assert!(listing.unreadable.is_empty());
        listing.snapshots
    }
}

pub fn open_volume(root: Arc<dyn Dir>, kms: &Arc<FakeKms>, read_only: bool) -> Volume {
    let options = VolumeOptions { read_only, pool: 0, ..VolumeOptions::default() };
    Volume::open(root, kms.clone(), kms.clone(), options).unwrap()
}

pub fn put(volume: &Volume, name: &str, data: &[u8]) -> NodeId {
    let (attr, handle) = volume.create(ME, ROOT, name.as_bytes(), 0o644, WRITE).unwrap();
    volume.write(handle, 0, data, false).unwrap();
    volume.release(handle).unwrap();
    attr.node
}

pub fn overwrite(volume: &Volume, name: &str, at: u64, data: &[u8]) {
    let node = volume.lookup(ROOT, name.as_bytes()).unwrap().node;
    let handle = volume.open_file(ME, node, WRITE).unwrap();
    volume.write(handle, at, data, false).unwrap();
    volume.release(handle).unwrap();
}

pub fn get(volume: &Volume, name: &str) -> Vec<u8> {
    let attr = volume.lookup(ROOT, name.as_bytes()).unwrap();
    let handle = volume.open_file(ME, attr.node, READ).unwrap();
    let mut out = vec![0; attr.stat.size as usize + 1];
    let read = volume.read(handle, 0, &mut out).unwrap();
    volume.release(handle).unwrap();
    out.truncate(read);
    out
}

/// Bytes that differ at every page.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// An entry of a backing tree, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    kind: Kind,
    perm: u32,
    owner: (u32, u32),
    rdev: u64,
    size: u64,
    mtime: Time,
    /// None of directories: they are of the filesystem.
    nlink: Option<u64>,
    target: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    content: Option<[u8; 32]>,
    /// The first path of the same object.
    first: String,
}

/// A picture of the part of a backing tree that a snapshot holds.
pub fn picture(root: &Arc<dyn Dir>) -> BTreeMap<String, Seen> {
    let mut out = BTreeMap::new();
    look(root, "", &mut HashMap::new(), &mut out);
    out
}

fn look(
    dir: &Arc<dyn Dir>,
    above: &str,
    objects: &mut HashMap<u64, String>,
    out: &mut BTreeMap<String, Seen>,
) {
    let mut entries = dir.entries().unwrap();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in entries {
        let name = String::from_utf8(entry.name.clone()).unwrap();
        let path = format!("{above}/{name}");
        let left_out = path == "/kmsfs.json" || name.starts_with("tmp.");
        if left_out || (above == "/.kmsfs" && name != "links") {
            continue;
        }
        let stat = dir.stat_at(&entry.name).unwrap();
        let target = if stat.kind == Kind::Symlink { dir.readlink(&entry.name).unwrap() } else { Vec::new() };
        let mut xattrs = Vec::new();
        if matches!(stat.kind, Kind::File | Kind::Directory) {
            for attr in dir.list_xattr(Some(&entry.name)).unwrap() {
                let value = dir.get_xattr(Some(&entry.name), &attr).unwrap();
                xattrs.push((attr, value));
            }
            xattrs.sort();
        }
        let content = (stat.kind == Kind::File).then(|| {
            let mut bytes = vec![0; stat.size as usize + 1];
            let read = dir.open_file(&entry.name, false).unwrap().read_at(&mut bytes, 0).unwrap();
            assert_eq!(read as u64, stat.size, "{path}");
            kmsfs::crypto::mac::sha256(&[&bytes[..read]])
        });
        let directory = stat.kind == Kind::Directory;
        // The private directory changes with what a mount keeps there.
        let own = path == "/.kmsfs";
        let seen = Seen {
            kind: stat.kind,
            perm: stat.perm,
            owner: (stat.uid, stat.gid),
            rdev: stat.rdev,
            size: if directory { 0 } else { stat.size },
            mtime: if own { Time::default() } else { stat.mtime },
            nlink: (!directory).then_some(stat.nlink),
            target,
            xattrs,
            content,
            first: objects.entry(stat.ino).or_insert_with(|| path.clone()).clone(),
        };
        out.insert(path.clone(), seen);
        if directory {
            look(&dir.open_dir(&entry.name).unwrap(), &path, objects, out);
        }
    }
}

/// A volume in use: `before_hold` is what its users do between the passes.
pub struct InUse<F> {
    pub before_hold: RefCell<Option<F>>,
    /// What [`Hold::still`] answers.
    pub broken: bool,
}

impl<F> InUse<F> {
    pub fn new(before_hold: F) -> Self {
        Self { before_hold: RefCell::new(Some(before_hold)), broken: false }
    }
}

struct Stands(bool);

impl Hold for Stands {
    fn still(&self) -> Result<()> {
        if self.0 {
            return Err(kmsfs::snapshot::SnapshotError::Refused("the hold was lost".to_owned()));
        }
        Ok(())
    }
}

impl<F: FnOnce()> Quiesce for InUse<F> {
    fn is_live(&self) -> bool {
        true
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn hold(&self) -> Result<Box<dyn Hold + '_>> {
        if let Some(work) = self.before_hold.borrow_mut().take() {
            work();
        }
        Ok(Box::new(Stands(self.broken)))
    }
}

/// A volume of six files of several blocks.
pub fn filled() -> Bed {
    let bed = Bed::new();
    let volume = bed.volume();
    for n in 0..6 {
        put(&volume, &format!("f{n}"), &noise(n, 20_000 + 100 * n as usize));
    }
    volume.close().unwrap();
    bed
}

/// A copy to be, under the key of another region.
pub fn destination(depot: Arc<dyn Depot>, kms: &Arc<FakeKms>, name: &str) -> To {
    To {
        depot,
        name: name.into(),
        region: "eu-west-1".into(),
        account: "000000000000".into(),
        service: kms.clone(),
        ledger: kms.clone(),
        key_arn: kms.arn(KEY),
        now: 1,
    }
}
