//! What a disk and the kernel's cache above it hold, and what of it a power cut leaves.
//!
//! Two views of all metadata: `live`, as programs see it, and `durable`, as the medium has it; between them a
//! log of transactions. Content stands in blocks on the medium, dirty pages in the cache. As on ext4 with
//! data=ordered and delayed allocation: a dirty page whose place is allocated is written in place, at any time
//! and whether or not the transactions that go with it are committed; one without place gets a new block, and
//! the transaction that maps it comes after its data. A cut keeps any dirty pages and a prefix of the log.
//!
//! On a disk that does not order metadata (btrfs), fsync makes durable only what concerns the object, and what the
//! names that lead to it need; all else of the log may come later or never.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kmsfs::volume::disk::{Kind, Time};

pub const PAGE: u64 = 4096;
pub const ROOT: Ino = 2;

pub type Ino = u64;
pub type Page = Arc<[u8; PAGE as usize]>;

/// Random numbers from a seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// How the disk behaves, and in what it is broken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nature {
    /// As btrfs: metadata is not kept in order, renames do not flush.
    pub unordered: bool,
    /// Percent of calls at which the kernel writes something back or commits by itself.
    pub restless: u64,
    /// Broken: fsync, fdatasync and syncfs answer at once and do nothing.
    pub sync_lies: bool,
    /// Broken: says that it orders metadata and flushes on rename, and does not order it.
    pub order_lies: bool,
    /// Broken: says that it flushes on rename and does not.
    pub flush_lies: bool,
    /// Broken: does not wait for pages under writeback.
    pub wait_lies: bool,
    /// Broken: of the writes behind a file's first page, the one of this number is lost.
    pub drops_write: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct Inode {
    pub kind: Kind,
    pub perm: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub entries: BTreeMap<Vec<u8>, Ino>,
    pub size: u64,
    /// Page of the file to block of the medium.
    pub map: BTreeMap<u64, u64>,
}

pub type Meta = BTreeMap<Ino, Arc<Inode>>;

/// One change of metadata.
#[derive(Debug, Clone)]
pub enum Step {
    New(Ino, Arc<Inode>),
    /// Sets or removes an entry.
    Entry(Ino, Vec<u8>, Option<Ino>),
    /// truncate: pages behind it are no longer mapped.
    Size(Ino, u64),
    /// The size that a write reaches to.
    Grow(Ino, u64),
    Map(Ino, u64, u64),
    /// Mode, owner, times as of this inode.
    Attr(Ino, Arc<Inode>),
    Xattr(Ino, Vec<u8>, Option<Vec<u8>>),
    /// mtime (if told) and ctime; orders nothing.
    Touch(Ino, Option<Time>, Time),
}

/// What a step touches; steps that touch one thing keep their order on every disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Inode(Ino),
    Entry(Ino, Vec<u8>),
}

impl Step {
    fn thing(&self) -> Option<Thing> {
        match self {
            Self::New(ino, _)
            | Self::Size(ino, _)
            | Self::Grow(ino, _)
            | Self::Map(ino, ..)
            | Self::Attr(ino, _)
            | Self::Xattr(ino, ..) => Some(Thing::Inode(*ino)),
            Self::Entry(dir, name, _) => Some(Thing::Entry(*dir, name.clone())),
            Self::Touch(..) => None,
        }
    }

    /// True if fsync of `ino` must wait for it; `data_only` is fdatasync.
    fn concerns(&self, of: Ino, data_only: bool) -> bool {
        match self {
            Self::New(ino, _) | Self::Size(ino, _) | Self::Grow(ino, _) | Self::Map(ino, ..) => *ino == of,
            Self::Entry(dir, _, ino) => !data_only && (*dir == of || *ino == Some(of)),
            Self::Attr(ino, _) | Self::Xattr(ino, ..) | Self::Touch(ino, ..) => !data_only && *ino == of,
        }
    }

    fn apply(&self, meta: &mut Meta) {
        let ino = match self {
            Self::New(ino, inode) => {
                meta.insert(*ino, inode.clone());
                return;
            }
            Self::Entry(ino, ..)
            | Self::Size(ino, _)
            | Self::Grow(ino, _)
            | Self::Map(ino, ..)
            | Self::Attr(ino, _)
            | Self::Xattr(ino, ..)
            | Self::Touch(ino, ..) => *ino,
        };
        let Some(inode) = meta.get_mut(&ino).map(Arc::make_mut) else { return };
        match self {
            Self::New(..) => {}
            Self::Entry(_, name, Some(ino)) => drop(inode.entries.insert(name.clone(), *ino)),
            Self::Entry(_, name, None) => drop(inode.entries.remove(name)),
            Self::Size(_, len) => {
                inode.size = *len;
                inode.map.split_off(&len.div_ceil(PAGE));
            }
            Self::Grow(_, len) => inode.size = inode.size.max(*len),
            Self::Map(_, page, block) => drop(inode.map.insert(*page, *block)),
            Self::Attr(_, new) => {
                (inode.perm, inode.uid, inode.gid) = (new.perm, new.uid, new.gid);
                (inode.atime, inode.mtime, inode.ctime) = (new.atime, new.mtime, new.ctime);
            }
            Self::Xattr(_, name, Some(value)) => drop(inode.xattrs.insert(name.clone(), value.clone())),
            Self::Xattr(_, name, None) => drop(inode.xattrs.remove(name)),
            Self::Touch(_, mtime, ctime) => {
                inode.mtime = mtime.unwrap_or(inode.mtime);
                inode.ctime = *ctime;
            }
        }
    }
}

/// Steps that a crash keeps or loses together.
type Transaction = Vec<Step>;

#[derive(Debug, Clone)]
struct Dirty {
    page: Page,
    /// The device is writing it.
    in_flight: bool,
    /// It changed while the device wrote it: a cut may leave a mixture of these two.
    torn: Option<Page>,
}

#[derive(Debug, Clone)]
pub struct World {
    pub nature: Nature,
    pub live: Meta,
    durable: Meta,
    log: Vec<Transaction>,
    blocks: BTreeMap<u64, Page>,
    dirty: BTreeMap<(Ino, u64), Dirty>,
    /// Pages whose writeback was awaited and that are about to be rewritten: not started by themselves.
    awaited: BTreeSet<(Ino, u64)>,
    /// Sizes that writes have reached, not yet in the log.
    delayed: BTreeMap<Ino, u64>,
    clock: u64,
    next_ino: Ino,
    next_block: u64,
    pub dice: Dice,
    /// Pages that were rewritten while the device wrote them.
    pub rewritten_in_flight: u64,
    pub writes: u64,
}

impl World {
    /// A disk with an empty root directory.
    pub fn new(nature: Nature, seed: u64) -> Self {
        let mut world = Self {
            nature,
            live: Meta::new(),
            durable: Meta::new(),
            log: Vec::new(),
            blocks: BTreeMap::new(),
            dirty: BTreeMap::new(),
            awaited: BTreeSet::new(),
            delayed: BTreeMap::new(),
            clock: 1_700_000_000_000,
            next_ino: ROOT,
            next_block: 1,
            dice: Dice(seed),
            rewritten_in_flight: 0,
            writes: 0,
        };
        let (root, new) = world.make(Kind::Directory, 0o700);
        assert_eq!(root, ROOT);
        world.log(vec![new]);
        world.commit();
        world
    }

    /// The backing's clock: as coarse as the kernel's, so that several calls see one time.
    pub fn now(&mut self) -> Time {
        self.clock += u64::from(self.dice.percent(30)) * 4;
        Time { sec: (self.clock / 1000) as i64, nsec: (self.clock % 1000) as u32 * 1_000_000 }
    }

    /// A new inode, and the step that brings it about.
    pub fn make(&mut self, kind: Kind, perm: u32) -> (Ino, Step) {
        let (ino, now) = (self.next_ino, self.now());
        self.next_ino += 1;
        let inode = Inode {
            kind,
            perm,
            uid: 0,
            gid: 0,
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
            target: Vec::new(),
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
            size: 0,
            map: BTreeMap::new(),
        };
        (ino, Step::New(ino, Arc::new(inode)))
    }

    /// Does a transaction, and keeps it for the next commit.
    pub fn log(&mut self, transaction: Transaction) {
        for step in &transaction {
            step.apply(&mut self.live);
        }
        self.log.push(transaction);
    }

    pub fn links(&self, ino: Ino) -> u64 {
        self.live.values().flat_map(|i| i.entries.values()).filter(|i| **i == ino).count() as u64
    }

    pub fn read(&self, ino: Ino, page: u64) -> Option<Page> {
        if let Some(dirty) = self.dirty.get(&(ino, page)) {
            return Some(dirty.page.clone());
        }
        let block = self.live.get(&ino)?.map.get(&page)?;
        self.blocks.get(block).cloned()
    }

    /// Changes bytes of a page in the cache.
    pub fn dirty(&mut self, ino: Ino, page: u64, from: usize, bytes: &[u8]) {
        let old = self.read(ino, page).unwrap_or_else(|| Arc::new([0; PAGE as usize]));
        let mut new = old.clone();
        Arc::make_mut(&mut new)[from..from + bytes.len()].copy_from_slice(bytes);
        self.awaited.remove(&(ino, page));
        let torn = match self.dirty.get(&(ino, page)) {
            Some(before) if before.in_flight => {
                self.rewritten_in_flight += 1;
                Some(old)
            }
            _ => None,
        };
        self.dirty.insert((ino, page), Dirty { page: new, in_flight: false, torn });
    }

    /// A write made the file longer; the log hears of it when its pages are written, or at once.
    pub fn grow(&mut self, ino: Ino, len: u64) {
        Step::Grow(ino, len).apply(&mut self.live);
        self.delayed.insert(ino, len);
        if self.dice.percent(20) {
            self.log(vec![Step::Grow(ino, len)]);
        }
    }

    pub fn truncate(&mut self, ino: Ino, len: u64) {
        let now = self.now();
        let (page, at) = (len / PAGE, (len % PAGE) as usize);
        let shorter = self.live.get(&ino).is_some_and(|i| len < i.size);
        if shorter && at > 0 && self.read(ino, page).is_some() {
            self.dirty(ino, page, at, &[0; PAGE as usize][at..]);
        }
        let beyond: Vec<_> =
            self.dirty.range((ino, len.div_ceil(PAGE))..(ino + 1, 0)).map(|(key, _)| *key).collect();
        for key in beyond {
            self.dirty.remove(&key);
        }
        self.delayed.remove(&ino);
        self.log(vec![Step::Size(ino, len), Step::Touch(ino, Some(now), now)]);
    }

    /// Dirty pages of a file, or of all.
    fn dirty_pages(&self, ino: Option<Ino>) -> Vec<(Ino, u64)> {
        self.dirty.keys().filter(|key| ino.is_none_or(|ino| key.0 == ino)).copied().collect()
    }

    /// The device begins to write a file's dirty pages, or all.
    pub fn start(&mut self, ino: Option<Ino>) {
        for key in self.dirty_pages(ino) {
            let of_page = self.dirty.get_mut(&key).filter(|_| !self.awaited.contains(&key));
            if let Some(dirty) = of_page {
                dirty.in_flight = true;
            }
        }
    }

    /// Waits for pages under writeback.
    pub fn wait(&mut self, ino: Ino, pages: std::ops::Range<u64>) {
        if self.nature.wait_lies {
            return;
        }
        for page in pages {
            if self.dirty.get(&(ino, page)).is_some_and(|dirty| dirty.in_flight) {
                self.write_back((ino, page));
            }
            self.awaited.insert((ino, page));
        }
    }

    /// A dirty page reaches the medium.
    fn write_back(&mut self, key @ (ino, page): (Ino, u64)) {
        let Some(dirty) = self.dirty.remove(&key) else { return };
        let Some(inode) = self.live.get(&ino) else { return };
        if let Some(block) = inode.map.get(&page) {
            self.blocks.insert(*block, dirty.page);
            return;
        }
        let block = self.next_block;
        self.next_block += 1;
        self.blocks.insert(block, dirty.page);
        let mut transaction = vec![Step::Map(ino, page, block)];
        if let Some(len) = self.delayed.get(&ino).copied() {
            transaction.push(Step::Grow(ino, len.min((page + 1) * PAGE)));
        }
        self.log(transaction);
    }

    /// All dirty pages of a file, or of all files, reach the medium.
    pub fn flush(&mut self, ino: Option<Ino>) {
        for key in self.dirty_pages(ino) {
            self.write_back(key);
        }
        for (ino, len) in self
            .delayed
            .iter()
            .filter(|d| ino.is_none_or(|ino| *d.0 == ino))
            .map(|d| (*d.0, *d.1))
            .collect::<Vec<_>>()
        {
            self.delayed.remove(&ino);
            self.log(vec![Step::Grow(ino, len)]);
        }
    }

    /// The log reaches the medium.
    pub fn commit(&mut self) {
        for step in self.log.drain(..).flatten() {
            step.apply(&mut self.durable);
        }
    }

    /// fsync or fdatasync after its data is written; also of a directory.
    pub fn commit_inode(&mut self, ino: Ino, data_only: bool) {
        let wanted = |t: &Transaction| t.iter().any(|step| step.concerns(ino, data_only));
        if !self.disorders() {
            if self.log.iter().any(wanted) {
                self.commit();
            }
            return;
        }
        // The inode's own, and the entries that lead to it.
        let above = self.ancestors(ino);
        let leads = |t: &Transaction| {
            t.iter().any(|step| match step {
                Step::Entry(_, _, Some(to)) => above.contains(to),
                Step::New(made, _) => above.contains(made),
                _ => false,
            })
        };
        let chosen: Vec<bool> = self.log.iter().map(|t| wanted(t) || leads(t)).collect();
        // An inode that becomes durable does so with its mode and owner of now.
        let made = |t: &&Transaction| {
            t.iter().find_map(|s| if let Step::New(ino, _) = s { Some(*ino) } else { None })
        };
        let made: BTreeSet<Ino> = self
            .log
            .iter()
            .zip(&chosen)
            .filter(|(_, chosen)| **chosen)
            .filter_map(|(t, _)| made(&t))
            .collect();
        let mode = |t: &Transaction| t.iter().any(|s| matches!(s, Step::Attr(ino, _) if made.contains(ino)));
        let chosen = self.log.iter().zip(chosen).map(|(t, chosen)| chosen || mode(t)).collect();
        self.keep(chosen);
    }

    fn disorders(&self) -> bool {
        self.nature.unordered || self.nature.order_lies
    }

    /// The inode and all directories above its names.
    fn ancestors(&self, ino: Ino) -> BTreeSet<Ino> {
        let (mut found, mut todo) = (BTreeSet::new(), vec![ino]);
        while let Some(ino) = todo.pop() {
            if found.insert(ino) {
                todo.extend(
                    self.live.iter().filter(|(_, i)| i.entries.values().any(|e| *e == ino)).map(|i| *i.0),
                );
            }
        }
        found
    }

    /// Makes the chosen transactions durable, and all before them that touch the same things.
    fn keep(&mut self, mut chosen: Vec<bool>) {
        let mut needed = BTreeSet::new();
        for (at, transaction) in self.log.iter().enumerate().rev() {
            let things: Vec<Thing> = transaction.iter().filter_map(Step::thing).collect();
            if chosen[at] || things.iter().any(|thing| needed.contains(thing)) {
                chosen[at] = true;
                needed.extend(things);
            }
        }
        let (mut kept, mut left) = (Vec::new(), Vec::new());
        for (transaction, chosen) in self.log.drain(..).zip(chosen) {
            if chosen { kept.push(transaction) } else { left.push(transaction) }
        }
        for step in kept.iter().flatten() {
            step.apply(&mut self.durable);
        }
        self.log = left;
    }

    /// What the kernel does by itself now and then.
    pub fn background(&mut self, ino: Option<Ino>) {
        if !self.dice.percent(self.nature.restless) {
            return;
        }
        for key in self.dirty_pages(None) {
            // Not of the file that is written to just now.
            if self.awaited.contains(&key) || Some(key.0) == ino {
                continue;
            }
            match self.dice.below(4) {
                0 => self.write_back(key),
                1 => self.dirty.get_mut(&key).into_iter().for_each(|dirty| dirty.in_flight = true),
                _ => {}
            }
        }
        if self.dice.percent(30) {
            self.commit();
        }
    }

    /// The disk after a power cut at this moment.
    pub fn cut(&self, seed: u64) -> Self {
        let mut after = self.clone();
        let mut dice = Dice(seed);
        // Pages: all, none, or each by itself.
        let chance = [0, 100, 50, 90, 10][dice.below(5) as usize];
        let mut keys = after.dirty_pages(None);
        for at in (1..keys.len()).rev() {
            keys.swap(at, dice.below(at as u64 + 1) as usize);
        }
        for key in keys {
            let Some(dirty) = after.dirty.get_mut(&key) else { continue };
            if let Some(old) = dirty.torn.take().filter(|_| dice.percent(50)) {
                for sector in (0..PAGE as usize).step_by(512).filter(|_| dice.percent(50)) {
                    Arc::make_mut(&mut dirty.page)[sector..sector + 512]
                        .copy_from_slice(&old[sector..sector + 512]);
                }
            }
            if dice.percent(chance) {
                after.write_back(key);
            }
        }
        // Transactions: all, none, or some.
        let count = after.log.len() as u64;
        let whole = dice.below(4);
        let kept = [count, 0, dice.below(count + 1), dice.below(count + 1)][whole as usize];
        for step in after.log.drain(..kept as usize).flatten() {
            step.apply(&mut after.durable);
        }
        let mut world = Self { live: Meta::new(), durable: after.reachable(), ..after };
        world.live = world.durable.clone();
        world.log.clear();
        world.dirty.clear();
        world.awaited.clear();
        world.delayed.clear();
        let used: BTreeSet<u64> = world.live.values().flat_map(|i| i.map.values().copied()).collect();
        world.blocks.retain(|block, _| used.contains(block));
        // The machine takes some time to start.
        world.clock += 1000;
        world.dice = dice;
        world
    }

    /// The durable inodes that have a name; entries of lost ones go.
    fn reachable(&self) -> Meta {
        let (mut found, mut todo) = (Meta::new(), vec![ROOT]);
        while let Some(ino) = todo.pop() {
            let Some(inode) = self.durable.get(&ino).filter(|_| !found.contains_key(&ino)) else { continue };
            let mut inode = inode.clone();
            if inode.entries.values().any(|e| !self.durable.contains_key(e)) {
                Arc::make_mut(&mut inode).entries.retain(|_, e| self.durable.contains_key(e));
            }
            todo.extend(inode.entries.values());
            found.insert(ino, inode);
        }
        found
    }
}
