//! What changes about a node, in little room: a mount remembers a million of them as long as the kernel does.

use std::sync::Arc;

use super::{Directory, Link};
use crate::volume::file::File;
use crate::volume::names::{base64url, decode_base64url};
use crate::volume::types::NodeId;

/// Bytes of an encrypted name that stand in the node itself: those of a name of up to 30 bytes.
const SHORT: usize = 46;
/// Characters that stand for so many bytes.
const SHORT_TEXT: usize = (SHORT * 4).div_ceil(3);

/// A [`Link`] as it is remembered. Equal if the links are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub parent: NodeId,
    entry: Entry,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// What its base64url stands for, and zeros behind it. There is one such text for them.
    Short { len: u8, bytes: [u8; SHORT] },
    /// Any other text.
    Long(Box<[u8]>),
}

impl Entry {
    fn short(text: &[u8]) -> Option<Self> {
        if text.len() > SHORT_TEXT {
            return None;
        }
        // The decoder wants room for three bytes of each four characters begun.
        let mut room = [0; SHORT_TEXT.div_ceil(4) * 3];
        let used = decode_base64url(text, &mut room)?;
        let (len, mut bytes) = (u8::try_from(used).ok()?, [0; SHORT]);
        bytes.get_mut(..used)?.copy_from_slice(&room[..used]);
        Some(Self::Short { len, bytes })
    }
}

impl From<&Link> for Place {
    fn from(link: &Link) -> Self {
        let entry = Entry::short(&link.entry).unwrap_or_else(|| Entry::Long(link.entry[..].into()));
        Self { parent: link.parent, entry }
    }
}

impl From<&Place> for Link {
    fn from(place: &Place) -> Self {
        let entry = match &place.entry {
            Entry::Short { len, bytes } => base64url(&bytes[..usize::from(*len)]),
            Entry::Long(text) => text.to_vec(),
        };
        Self { parent: place.parent, entry }
    }
}

/// What changes about a node.
#[derive(Default)]
pub struct State {
    /// Lookups that were not forgotten.
    pub lookups: u64,
    /// The surest of the names of it that were seen; None if there is none at all.
    first: Option<Place>,
    /// What few nodes have at a time. None if it is nothing.
    more: Option<Box<More>>,
}

#[derive(Default)]
struct More {
    /// The other names, the surest first.
    places: Vec<Place>,
    /// Names of known nodes in this directory.
    children: u64,
    /// The content, while it is open.
    file: Option<Arc<File>>,
    /// The directory, while it is held open.
    directory: Option<Arc<Directory>>,
}

impl State {
    /// Changes what few nodes have.
    fn change<T>(&mut self, f: impl FnOnce(&mut More) -> T) -> T {
        let more = self.more.get_or_insert_default();
        let done = f(more);
        if more.places.is_empty() && more.children == 0 && more.file.is_none() && more.directory.is_none() {
            self.more = None;
        }
        done
    }

    /// All names, the surest first.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.first.iter().chain(self.more.iter().flat_map(|more| &more.places))
    }

    /// True if this is one of the names.
    pub fn has(&self, place: &Place) -> bool {
        self.places().any(|p| p == place)
    }

    /// One more name, the least sure; false if it is one already.
    pub fn add(&mut self, place: Place) -> bool {
        if self.has(&place) {
            return false;
        }
        if self.first.is_none() {
            self.first = Some(place);
        } else {
            // Nearly all of these have two names, and a vector grows to four.
            self.change(|more| {
                more.places.reserve_exact(1);
                more.places.push(place);
            });
        }
        true
    }

    /// One name less; false if it is none.
    pub fn remove(&mut self, place: &Place) -> bool {
        if self.first.as_ref() == Some(place) {
            let next = |more: &mut More| (!more.places.is_empty()).then(|| more.places.remove(0));
            self.first = self.change(next);
            return true;
        }
        let at = self.places().position(|p| p == place);
        // Not the first, and so behind it.
        let at = at.and_then(|at| at.checked_sub(1));
        at.map(|at| self.change(|more| more.places.remove(at))).is_some()
    }

    /// A name, if it is one, is the surest from now on.
    pub fn prefer(&mut self, place: &Place) {
        if self.first.as_ref() != Some(place) && self.remove(place) {
            let before = self.first.replace(place.clone());
            self.change(|more| more.places.splice(0..0, before).for_each(drop));
        }
    }

    /// Takes all names away.
    pub fn take_places(&mut self) -> Vec<Place> {
        let others = self.change(|more| std::mem::take(&mut more.places));
        self.first.take().into_iter().chain(others).collect()
    }

    /// Names of known nodes in this directory.
    pub fn children(&self) -> u64 {
        self.more.as_ref().map_or(0, |more| more.children)
    }

    /// Sets it.
    pub fn set_children(&mut self, children: u64) {
        self.change(|more| more.children = children);
    }

    /// The content, if it is open.
    pub fn file(&self) -> Option<&Arc<File>> {
        self.more.as_ref()?.file.as_ref()
    }

    /// Sets it; answers what was there, which is better closed when nothing is locked.
    pub fn set_file(&mut self, file: Option<Arc<File>>) -> Option<Arc<File>> {
        self.change(|more| std::mem::replace(&mut more.file, file))
    }

    /// The directory, if it is held open.
    pub fn directory(&self) -> Option<&Arc<Directory>> {
        self.more.as_ref()?.directory.as_ref()
    }

    /// As [`Self::set_file`].
    pub fn set_directory(&mut self, directory: Option<Arc<Directory>>) -> Option<Arc<Directory>> {
        self.change(|more| std::mem::replace(&mut more.directory, directory))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Encrypted names, long ones, and what is neither.
    fn entry() -> impl Strategy<Value = Vec<u8>> {
        let bytes = prop::collection::vec(any::<u8>(), 0..200);
        prop_oneof![
            4 => bytes.prop_map(|bytes| base64url(&bytes)),
            1 => prop::collection::vec(any::<u8>(), 0..80),
            1 => "[A-Za-z0-9_=-]{0,70}".prop_map(String::into_bytes),
            1 => "long\\.[A-Za-z0-9_-]{43}".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn a_link_comes_back_as_it_was(a in entry(), b in entry(), parent in any::<u64>()) {
            let link = |entry: &Vec<u8>| Link { parent, entry: entry.clone() };
            let (link_a, link_b) = (link(&a), link(&b));
            prop_assert_eq!(&Link::from(&Place::from(&link_a)), &link_a);
            prop_assert_eq!(Place::from(&link_a) == Place::from(&link_b), a == b);
            let elsewhere = Link { parent: parent ^ 1, ..link_a.clone() };
            prop_assert_ne!(Place::from(&elsewhere), Place::from(&link_a));
        }

        /// Beside a plain list of names.
        #[test]
        fn names_come_and_go_as_in_a_list(steps in prop::collection::vec((0..4u8, 0..5u64), 0..60)) {
            let (mut state, mut list) = (State::default(), Vec::<Link>::new());
            for (step, parent) in steps {
                let link = Link { parent, entry: base64url(&[7; 27]) };
                let place = Place::from(&link);
                match step {
                    0 | 1 => {
                        let new = !list.contains(&link);
                        if new {
                            list.push(link.clone());
                        }
                        prop_assert_eq!(state.add(place), new);
                    }
                    2 => {
                        let before = list.len();
                        list.retain(|l| *l != link);
                        prop_assert_eq!(state.remove(&place), list.len() < before);
                    }
                    _ => {
                        list.sort_by_key(|l| *l != link);
                        state.prefer(&place);
                    }
                }
                prop_assert_eq!(&state.places().map(Link::from).collect::<Vec<_>>(), &list);
                prop_assert!(state.more.is_some() == (list.len() > 1), "room for what is not there");
            }
            let taken: Vec<Link> = state.take_places().iter().map(Link::from).collect();
            prop_assert_eq!(taken, list);
            prop_assert!(state.places().next().is_none() && state.more.is_none());
        }
    }

    #[test]
    fn names_of_thirty_bytes_stand_in_the_node() {
        let stands = |name: usize| {
            let link = Link { parent: 1, entry: base64url(&vec![255; 16 + name]) };
            matches!(Place::from(&link).entry, Entry::Short { .. })
        };
        assert!((1..=30).all(stands) && !(31..=200).any(stands));
    }
}
