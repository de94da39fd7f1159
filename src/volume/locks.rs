//! Locks on ranges of a file's pages (docs/architecture.md, "How a write goes"). Writers hold the pages they
//! write, readers those they read, fsync all of them.

use std::ops::Range;

use parking_lot::{Condvar, Mutex};

/// Locks of one file. Waiters are served so that none starves: a request waits for every earlier one that it
/// conflicts with, whether that is held or waits itself.
#[derive(Default)]
pub struct RangeLocks {
    queue: Mutex<Queue>,
    freed: Condvar,
}

#[derive(Default)]
struct Queue {
    next: u64,
    /// Held and waiting, in the order of arrival.
    entries: Vec<Entry>,
}

struct Entry {
    id: u64,
    range: Range<u64>,
    exclusive: bool,
}

impl Entry {
    fn conflicts(&self, other: &Self) -> bool {
        (self.exclusive || other.exclusive)
            && self.range.start < other.range.end
            && other.range.start < self.range.end
    }
}

/// A locked range; dropping it unlocks.
pub struct RangeGuard<'a> {
    locks: &'a RangeLocks,
    id: u64,
}

impl RangeLocks {
    /// Waits until nobody holds a page of `range` exclusively.
    pub fn shared(&self, range: Range<u64>) -> RangeGuard<'_> {
        self.lock(range, false)
    }

    /// Waits until nobody else holds a page of `range`.
    pub fn exclusive(&self, range: Range<u64>) -> RangeGuard<'_> {
        self.lock(range, true)
    }

    fn lock(&self, range: Range<u64>, exclusive: bool) -> RangeGuard<'_> {
        let mut queue = self.queue.lock();
        let id = queue.next;
        queue.next += 1;
        queue.entries.push(Entry { id, range, exclusive });
        while !queue.is_first(id) {
            self.freed.wait(&mut queue);
        }
        RangeGuard { locks: self, id }
    }
}

impl Queue {
    /// True if no earlier entry conflicts with `id`'s.
    fn is_first(&self, id: u64) -> bool {
        let at = self.entries.partition_point(|e| e.id < id);
        let (earlier, rest) = self.entries.split_at(at);
        rest.first().is_some_and(|mine| !earlier.iter().any(|e| e.conflicts(mine)))
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut queue = self.locks.queue.lock();
        let at = queue.entries.partition_point(|e| e.id < self.id);
        queue.entries.remove(at);
        // Nobody waits behind the last entry.
        if at < queue.entries.len() {
            drop(queue);
            self.locks.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Each page counts its holders: readers up, a writer far down.
    #[test]
    fn no_writer_shares_a_page() {
        let (locks, pages) = (RangeLocks::default(), [const { AtomicI32::new(0) }; 16]);
        let rounds = AtomicU64::new(0);
        thread::scope(|scope| {
            for seed in 1..=4u64 {
                let (locks, pages, rounds) = (&locks, &pages, &rounds);
                scope.spawn(move || {
                    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    for _ in 0..3000 {
                        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let (start, len, exclusive) = (x >> 33 & 15, 1 + (x >> 40 & 3), x >> 50 & 1 == 0);
                        let range = start..(start + len).min(16);
                        let mine = &pages[start as usize..range.end as usize];
                        if exclusive {
                            let _guard = locks.exclusive(range);
                            mine.iter().for_each(|p| assert_eq!(p.fetch_sub(1000, Ordering::SeqCst), 0));
                            thread::yield_now();
                            mine.iter().for_each(|p| assert_eq!(p.fetch_add(1000, Ordering::SeqCst), -1000));
                        } else {
                            let _guard = locks.shared(range);
                            mine.iter().for_each(|p| assert!(p.fetch_add(1, Ordering::SeqCst) >= 0));
                            thread::yield_now();
                            mine.iter().for_each(|p| assert!(p.fetch_sub(1, Ordering::SeqCst) > 0));
                        }
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(rounds.into_inner(), 12_000);
        assert!(locks.queue.lock().entries.is_empty());
    }

    #[test]
    fn readers_that_come_later_do_not_starve_a_writer() {
        let locks = RangeLocks::default();
        let (said, heard) = mpsc::channel();
        thread::scope(|scope| {
            let first = locks.shared(0..10);
            let (locks, writer_said) = (&locks, said.clone());
            scope.spawn(move || {
                let _guard = locks.exclusive(5..6);
                writer_said.send("writer").unwrap();
            });
            while locks.queue.lock().entries.len() < 2 {
                thread::yield_now();
            }
            scope.spawn(move || {
                let _guard = locks.shared(0..10);
                said.send("reader").unwrap();
            });
            while locks.queue.lock().entries.len() < 3 {
                thread::yield_now();
            }
            assert!(heard.try_recv().is_err());
            drop(locks.shared(10..20));
            drop(first);
            assert_eq!(heard.recv_timeout(Duration::from_secs(10)), Ok("writer"));
            assert_eq!(heard.recv_timeout(Duration::from_secs(10)), Ok("reader"));
        });
    }
}
