//! Into the background, before any home, key or thread is opened; and what a process that holds keys owes
//! them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::mm::MlockAllFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit, WaitOptions};

/// What the child tells the parent: once, ready or failed.
pub struct Report(File);

/// Which side of [`fork`] this is.
pub enum Side {
    /// The one that the user waits for: what it ends with.
    Parent(ExitCode),
    /// The one that goes on.
    Child(Report),
}

/// Forks. The parent waits for the child's report and answers what to end with; the child is the leader of
/// a new session, in the root directory, without standard input and output.
///
/// To be called while the process has one thread and holds nothing that must not be there twice.
pub fn fork() -> io::Result<Side> {
    let (from_child, to_parent) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: no thread has been started yet (the caller's duty), so the child may go on as any process.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(from_child);
            rustix::process::setsid()?;
            rustix::process::chdir("/")?;
            let null = File::options().read(true).write(true).open("/dev/null")?;
            rustix::stdio::dup2_stdin(&null)?;
            rustix::stdio::dup2_stdout(&null)?;
            Ok(Side::Child(Report(to_parent.into())))
        }
        _ => {
            drop(to_parent);
            Ok(Side::Parent(hear(from_child, pid)))
        }
    }
}

/// The parent's half: prints the child's error, if that is what comes.
fn hear(from_child: OwnedFd, pid: i32) -> ExitCode {
    let mut report = Vec::new();
    // A read that fails leaves an empty report, which is told below.
    let _ = File::from(from_child).read_to_end(&mut report);
    match report.split_first() {
        Some((0, _)) => ExitCode::SUCCESS,
        Some((code, message)) => {
            let _ = writeln!(io::stderr(), "{}", String::from_utf8_lossy(message));
            ExitCode::from(*code)
        }
        None => {
            // The pipe closes without a report only when the child has ended.
            let pid = rustix::process::Pid::from_raw(pid);
            let status = rustix::process::waitpid(pid, WaitOptions::empty()).ok().flatten();
            let how = status.and_then(|(_, s)| s.terminating_signal()).map(|s| format!(" (signal {s})"));
            let _ = writeln!(
                io::stderr(),
                "kmsfs: the background process ended without a word{}; try again with --foreground to see why",
                how.unwrap_or_default()
            );
            ExitCode::FAILURE
        }
    }
}

impl Report {
    /// The parent returns with success. From here on what is printed goes to `log`.
    pub fn ready(mut self, log: &File) -> io::Result<()> {
        self.0.write_all(&[0])?;
        Ok(rustix::stdio::dup2_stderr(log)?)
    }

    /// The parent prints `message` and ends with `code`.
    pub fn failed(mut self, code: u8, message: &str) {
        // A parent that was killed hears nothing; there is nobody else to tell.
        let _ = self.0.write_all(&[&[code.max(1)], message.as_bytes()].concat());
    }
}

/// Opens, or makes, the file that a background process writes its warnings to.
pub fn open_log(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().create(true).append(true).mode(0o600).open(path)
}

/// No core dumps, and no ptrace or /proc/PID/mem by others: what every process that meets keys owes them.
/// Answers what could not be had, as warnings.
pub fn leave_no_traces() -> Vec<String> {
    let mut warnings = Vec::new();
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(e) = rustix::process::setrlimit(Resource::Core, none) {
        warnings.push(format!("core dumps could not be switched off ({e}); a crash may write keys to disk"));
    }
    if let Err(e) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warnings.push(format!("other processes of this user may read this one's memory ({e})"));
    }
    warnings
}

/// Memory that is not swapped, where that is allowed; else the warning. A fork does not inherit it.
pub fn lock_memory() -> Option<String> {
    const ADVICE: &str =
        "keys may reach the swap device; raise the limit (ulimit -l unlimited), or encrypt the swap";
    // With a limit, locking all future memory would make a later allocation fail.
    let unlimited = rustix::process::geteuid().is_root()
        || rustix::process::getrlimit(Resource::Memlock).current.is_none();
    if !unlimited {
        return Some(format!("memory is not locked: {ADVICE}"));
    }
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    rustix::mm::mlockall(flags).err().map(|e| format!("memory could not be locked ({e}): {ADVICE}"))
}

/// As many open files as the system allows this process: each open file of a mount is one.
pub fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // With less, a mount serves fewer open files; that is no reason not to serve.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
