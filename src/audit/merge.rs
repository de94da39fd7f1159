//! Two logs, read as one.

use super::lookup::{Found, Page};

/// The newest of what two logs gave, newest first; and where each goes on, as [`Page::next`] says it. Each log keeps its
/// own order, and of events of one time those of the first log come first.
pub fn merge(pages: [Page; 2], limit: usize) -> (Vec<Found>, [Option<u64>; 2]) {
    let mut sides = pages.map(|page| (page.found.into_iter().peekable(), page.next));
    let mut found = Vec::new();
    while found.len() < limit {
        // A log that was not looked through to its end may hold what is newer than all that is left of the other.
        if sides.iter_mut().any(|(events, next)| next.is_some() && events.peek().is_none()) {
            break;
        }
        let [first, second] = sides.each_mut().map(|(events, _)| events.peek().map(|e| e.event.event_time));
        let side = match (first, second) {
            (None, None) => break,
            (Some(first), Some(second)) => usize::from(second > first),
            (first, None) | (first @ None, Some(_)) => usize::from(first.is_none()),
        };
        found.extend(sides[side].0.next());
    }
    let places = sides.map(|(mut events, next)| match events.peek() {
        Some(left) => Some(left.sequence + 1),
        None => next,
    });
    (found, places)
}
