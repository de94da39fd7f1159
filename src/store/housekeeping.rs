//! Threads that work behind the answers.

use std::io;
use std::thread::{self, JoinHandle};

/// Starts a thread for what nobody waits for. Where the process was given a real-time priority (chrt(1), systemd's
/// CPUSchedulingPolicy) it has an ordinary one: that priority is for answers, and whoever has it is not interrupted for another.
pub fn housekeeper(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        if matches!(policy(), libc::SCHED_FIFO | libc::SCHED_RR) {
            // Best effort, but anybody may give up a priority.
            let _ = set_policy(libc::SCHED_OTHER, 0);
        }
        work();
    })
}

/// sched_getscheduler(2) of this thread.
fn policy() -> i32 {
    // SAFETY: 0 is this thread, and no memory is passed.
    unsafe { libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK }
}

/// sched_setscheduler(2) of this thread.
fn set_policy(policy: i32, priority: i32) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 is this thread, and the struct is only read.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// What a housekeeper has that is started by a thread with this policy; None if nobody lets us have that.
    fn started_with(given: i32, priority: i32) -> Option<i32> {
        let parent = thread::spawn(move || {
            set_policy(given, priority).ok()?;
            let (tell, told) = std::sync::mpsc::channel();
            housekeeper("test", move || tell.send(policy()).unwrap()).unwrap().join().unwrap();
            Some(told.recv().unwrap())
        });
        parent.join().unwrap()
    }

    #[test]
    fn a_housekeeper_has_no_real_time_priority() {
        assert_eq!(started_with(libc::SCHED_BATCH, 0), Some(libc::SCHED_BATCH), "what is low stays low");
        match started_with(libc::SCHED_FIFO, 1) {
            Some(policy) => assert_eq!(policy, libc::SCHED_OTHER),
            // Seen also though the test passes.
            None => std::io::stderr()
                .write_all(b"SKIPPED in part: the system gives this user no real-time priority\n")
                .unwrap(),
        }
    }
}
