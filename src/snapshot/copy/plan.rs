//! The order of a copy. Names come under other keys, and a manifest is sorted by names: so the order of the new one is
//! settled before anything is copied, from the records' offsets and the beginnings of the new names alone (some 50 bytes
//! an entry). Then consecutive entries make units, each of which is copied, and stands, by itself.

use std::collections::HashMap;
use std::ops::Range;

use super::super::error::Result;
use super::super::manifest::{Entry, Manifest, Offset};
use crate::volume::VolumeError;
use crate::volume::descriptor::PRIVATE_DIR;
use crate::volume::disk::Kind;
use crate::volume::names::{self, DIR_ID, DirId, EntryClass, classify};
use crate::volume::transcode::Rename;

/// Pages after which a unit ends, usually: 64 MiB.
pub const UNIT_PAGES: u64 = (64 << 20) / 4096;
/// Entries after which a unit ends.
const UNIT_ENTRIES: usize = 4096;
/// In place of a number: none.
const NONE: u32 = u32::MAX;
/// Entries that are left out and told of.
const TOLD: usize = 10;

/// One entry.
#[derive(Clone, Copy)]
struct Item {
    /// Where its record begins.
    offset: Offset,
    /// The beginning of its new name; where two are equal, one is the other with something behind it, or both are
    /// pieces of one target, and the old order holds. (Else the manifest's writer refuses: 88 random bits would be equal.)
    key: [u8; 16],
    /// The directory it stands in, by number; [`NONE`] for what is not reached.
    parent: u32,
    /// Its own number, if it is a directory.
    dir: u32,
    /// Number of its group, if it has several names.
    group: u32,
    /// Pages of its content.
    pages: u32,
}

#[derive(Clone, Copy, Default)]
struct Directory {
    id: DirId,
    has_id: bool,
    /// `.kmsfs`, and what is below: names in the clear.
    private: bool,
    /// Rubbish, and what is below.
    skipped: bool,
}

/// How an entry of the manifest is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Under its name: what the volume keeps for itself, and everything where names are not encrypted again.
    Plain,
    /// Its name is encrypted, in a directory of this id.
    Named(DirId),
    /// It stands in `.kmsfs`: a piece of a long target, if it is a link.
    Private,
}

/// One entry to copy.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Where its record begins.
    pub offset: Offset,
    /// Where those of its neighbours in the same directory do: before and behind it, in the new order.
    pub beside: (Option<Offset>, Option<Offset>),
    /// How.
    pub role: Role,
    /// Of a directory: its id, to which its attributes are bound.
    pub dir_id: Option<DirId>,
    /// The group of names of one file.
    pub group: Option<u32>,
    /// It is the first of its group, or in none: its content is copied with it.
    pub first: bool,
}

/// All of it.
pub struct Plan {
    items: Vec<Item>,
    dirs: Vec<Directory>,
    /// Places of items, in the order of the new manifest.
    order: Vec<u32>,
    /// Place in `order` of the first of each group.
    firsts: Vec<u32>,
    units: Vec<Range<usize>>,
    renamed: bool,
    /// Entries that are left out, since a mount does not show them either.
    pub left_out: u64,
    /// The first few of them.
    pub told: Vec<String>,
}

impl Plan {
    /// Reads the manifest through. Without `rename` everything stays in its order, under its name. A unit
    /// ends after `unit_pages`.
    pub fn new(manifest: &Manifest, rename: Option<&Rename>, unit_pages: u64) -> Result<Self> {
        let mut plan = Self {
            items: Vec::new(),
            dirs: Vec::new(),
            order: Vec::new(),
            firsts: Vec::new(),
            units: Vec::new(),
            renamed: rename.is_some(),
            left_out: 0,
            told: Vec::new(),
        };
        if rename.is_some() {
            plan.find_directories(manifest)?;
        }
        plan.find_items(manifest, rename)?;
        plan.put_in_order();
        plan.cut(unit_pages);
        Ok(plan)
    }

    /// Units.
    pub fn units(&self) -> usize {
        self.units.len()
    }

    /// The entries of a unit.
    pub fn unit(&self, unit: usize) -> impl Iterator<Item = Step> + '_ {
        self.units[unit].clone().map(|at| self.step(at))
    }

    /// Bytes of content that a unit holds.
    pub fn unit_bytes(&self, unit: usize) -> u64 {
        self.units[unit].clone().map(|at| 4096 * self.pages(at)).sum()
    }

    fn step(&self, at: usize) -> Step {
        let i = self.order[at] as usize;
        let item = self.items[i];
        let beside = |other: Option<&Item>| other.filter(|o| o.parent == item.parent).map(|o| o.offset);
        let parent = self.dirs.get(item.parent as usize).copied();
        let role = match parent {
            Some(parent) if self.renamed => match (parent.private, parent.has_id) {
                (true, _) => Role::Private,
                (false, true) => Role::Named(parent.id),
                (false, false) => Role::Plain,
            },
            _ => Role::Plain,
        };
        Step {
            offset: item.offset,
            beside: (beside(i.checked_sub(1).map(|i| &self.items[i])), beside(self.items.get(i + 1))),
            role,
            dir_id: self.dirs.get(item.dir as usize).filter(|dir| dir.has_id).map(|dir| dir.id),
            group: (item.group != NONE).then_some(item.group),
            first: self.is_first(at),
        }
    }

    /// Pages to copy with an entry.
    fn pages(&self, at: usize) -> u64 {
        if self.is_first(at) { u64::from(self.items[self.order[at] as usize].pages) } else { 0 }
    }

    fn is_first(&self, at: usize) -> bool {
        let group = self.items[self.order[at] as usize].group;
        group == NONE || self.firsts[group as usize] as usize == at
    }

    /// The ids of all directories, numbered as they are met.
    fn find_directories(&mut self, manifest: &Manifest) -> Result<()> {
        let mut entries = manifest.entries()?;
        let mut above = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            above.truncate(entry.depth as usize);
            match entry.meta.kind() {
                Kind::Directory => {
                    above.push(self.dirs.len());
                    self.dirs.push(Directory::default());
                }
                Kind::Symlink if entry.name == DIR_ID => {
                    if let Some(dir) = above.last().map(|&dir| &mut self.dirs[dir]) {
                        dir.id = names::parse_dir_id(&entry.target)?;
                        dir.has_id = true;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn find_items(&mut self, manifest: &Manifest, rename: Option<&Rename>) -> Result<()> {
        let mut entries = manifest.entries()?;
        let mut groups = HashMap::new();
        let mut dirs = 0;
        // By depth: the directories above, and the `long.` entry that waits for its link.
        let mut above: Vec<u32> = Vec::new();
        let mut waiting: Vec<Option<(usize, Vec<u8>, u32)>> = Vec::new();
        loop {
            let offset = entries.offset();
            let Some(entry) = entries.next_entry()? else { break };
            let depth = entry.depth as usize;
            above.truncate(depth);
            waiting.resize(depth + 1, None);
            let mut item = Item {
                offset,
                key: [0; 16],
                parent: above.last().copied().unwrap_or(NONE),
                dir: NONE,
                group: NONE,
                pages: 0,
            };
            if entry.meta.kind() == Kind::Directory {
                item.dir = dirs;
                above.push(dirs);
                dirs += 1;
            }
            if let Some(stored) = &entry.stored {
                item.pages = u32::try_from(stored.pages()).unwrap_or(u32::MAX);
                if entry.meta.nlink > 1 {
                    let next = groups.len() as u32;
                    item.group = *groups.entry((entry.meta.dev, entry.meta.ino)).or_insert(next);
                }
            }
            if let Some(rename) = rename {
                self.place(&entry, item, rename, &mut waiting)?;
            } else {
                self.items.push(item);
            }
        }
        self.firsts = vec![NONE; groups.len()];
        Ok(())
    }

    /// Finds the new name of an entry, and takes it in if a mount would show it.
    fn place(
        &mut self,
        entry: &Entry,
        mut item: Item,
        rename: &Rename,
        waiting: &mut [Option<(usize, Vec<u8>, u32)>],
    ) -> Result<()> {
        let depth = entry.depth as usize;
        if depth == 0 {
            self.items.push(item);
            return Ok(());
        }
        let parent = self.dirs[item.parent as usize];
        let hidden = depth == 1 && entry.name == PRIVATE_DIR;
        if let Some(dir) = self.dirs.get_mut(item.dir as usize) {
            dir.private = parent.private || hidden;
            dir.skipped = parent.skipped;
        }
        if parent.skipped {
            return Ok(());
        }
        let class = classify(&entry.name);
        if parent.private || hidden || entry.name == DIR_ID {
            item.key = beginning(&entry.name);
            self.items.push(item);
            return Ok(());
        }
        let new = match class {
            EntryClass::Name => rename.name(&parent.id, &parent.id, &entry.name),
            EntryClass::LongName => rename.name(&parent.id, &parent.id, &entry.target),
            EntryClass::Long => {
                // It is reached once its link is met, which is the next entry of the same depth.
                waiting[depth] = Some((self.items.len(), entry.name.clone(), item.parent));
                item.parent = NONE;
                self.items.push(item);
                return Ok(());
            }
            EntryClass::Temporary | EntryClass::Reserved => {
                Err(VolumeError::damaged("it is none of the volume's"))
            }
        };
        match new {
            Ok(new) if class == EntryClass::LongName => {
                let entry_of = names::entry_of_long_name(&entry.name);
                let long = waiting[depth].take().filter(|(_, name, _)| name == entry_of);
                let Some((long, _, parent)) = long else { return Ok(()) };
                item.key = beginning(&new.entry);
                self.items[long].key = item.key;
                self.items[long].parent = parent;
                self.items.push(item);
            }
            Ok(new) => {
                item.key = beginning(&new.entry);
                self.items.push(item);
            }
            Err(error) => {
                if let Some(dir) = self.dirs.get_mut(item.dir as usize) {
                    dir.skipped = true;
                }
                // Temporary names and links without an entry are what any crash leaves.
                if class == EntryClass::Name {
                    self.left_out += 1;
                    if self.told.len() < TOLD {
                        self.told.push(format!("{}: {error}", String::from_utf8_lossy(&entry.name)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Depth first, names sorted in each directory.
    fn put_in_order(&mut self) {
        if !self.renamed {
            self.order = (0..self.items.len() as u32).collect();
        } else if let Some((root, rest)) = self.items.split_first_mut() {
            root.parent = NONE;
            rest.sort_unstable_by_key(|item| (item.parent, item.key, item.offset));
            // Where the entries of each directory begin; those that are not reached come last.
            let mut starts = vec![0; self.dirs.len() + 1];
            for item in rest.iter().filter(|item| item.parent != NONE) {
                starts[item.parent as usize + 1] += 1;
            }
            let mut at = 1;
            for start in &mut starts {
                at += *start;
                *start = at;
            }
            let below = |dir: u32| starts[dir as usize]..starts[dir as usize + 1];
            self.order.push(0);
            let mut open = vec![below(self.items[0].dir)];
            while let Some(entries) = open.last_mut() {
                let Some(next) = entries.next() else {
                    open.pop();
                    continue;
                };
                self.order.push(next);
                let dir = self.items[next as usize].dir;
                if dir != NONE {
                    open.push(below(dir));
                }
            }
        }
        for (at, &i) in self.order.iter().enumerate().rev() {
            let group = self.items[i as usize].group;
            if group != NONE {
                self.firsts[group as usize] = at as u32;
            }
        }
    }

    fn cut(&mut self, unit_pages: u64) {
        let (mut start, mut pages) = (0, 0);
        for at in 0..self.order.len() {
            pages += self.pages(at);
            if pages >= unit_pages || at + 1 - start >= UNIT_ENTRIES {
                self.units.push(start..at + 1);
                (start, pages) = (at + 1, 0);
            }
        }
        if start < self.order.len() {
            self.units.push(start..self.order.len());
        }
    }
}

fn beginning(name: &[u8]) -> [u8; 16] {
    let mut key = [0; 16];
    let len = name.len().min(16);
    key[..len].copy_from_slice(&name[..len]);
    key
}
