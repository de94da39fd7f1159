//! Where the story is played: a temporary directory, and the program itself as the actor.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

use super::Told;
use crate::cli::mounts;

/// A change by another process counts within a second; this leaves room for a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// A temporary directory with home, volume and mount point. Dropping it unmounts and removes them.
pub struct Stage {
    dir: PathBuf,
    program: PathBuf,
    keep: bool,
    bold: bool,
    titles: Cell<u32>,
    interrupted: Arc<AtomicBool>,
}

impl Stage {
    /// Makes the directory.
    pub fn new(keep: bool) -> Told<Self> {
        // The mounts table names paths without symbolic links.
        let parent = std::env::temp_dir();
        let parent = parent.canonicalize().map_err(|e| format!("{}: {e}", parent.display()))?;
        let dir = parent.join(format!("kmsfs-demo-{}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        let interrupted = Arc::new(AtomicBool::new(false));
        let program = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
        let bold = io::stdout().is_terminal();
        let stage = Self { dir, program, keep, bold, titles: Cell::new(0), interrupted };
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, stage.interrupted.clone()).map_err(|e| e.to_string())?;
        }
        for name in ["vault", "plain"] {
            fs::create_dir(stage.path(name)).map_err(|e| e.to_string())?;
        }
        Ok(stage)
    }

    /// A path below the stage.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.join(below)
    }

    /// Begins a chapter. Here an interruption ends the story, in order.
    pub fn title(&self, text: &str) -> Told<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err("interrupted".to_owned());
        }
        self.titles.set(self.titles.get() + 1);
        let (on, off) = if self.bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        print(&format!("\n{on}{}. {text}{off}", self.titles.get()));
        Ok(())
    }

    /// A sentence of the story, in lines of a readable length.
    pub fn say(&self, text: &str) {
        let mut line = String::from("  ");
        for word in text.split_whitespace() {
            if line.len() + word.len() > 100 {
                print(&line);
                line = String::from("  ");
            }
            line.push(' ');
            line.push_str(word);
        }
        print(&line);
    }

    /// Something that is looked at.
    #[expect(clippy::unused_self, reason = "one voice for all lines of the story")]
    pub fn show(&self, text: &str) {
        print(&format!("     {text}"));
    }

    fn output(&self, args: &[&str]) -> Told<Output> {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .current_dir(&self.dir)
            .env("KMSFS_HOME", self.path("home"))
            .env_remove("AWS_REGION")
            .env_remove("KMSFS_ACCOUNT")
            .env_remove("KMSFS_PASSPHRASE_FILE")
            .stdin(Stdio::null());
        command.output().map_err(|e| format!("kmsfs {}: {e}", args[0]))
    }

    /// Runs a command as a user would type it, and shows what it prints.
    pub fn run(&self, args: &[&str]) -> Told<String> {
        print(&format!("   $ kmsfs {}", args.join(" ")));
        let text = self.quietly(args)?;
        for line in text.lines() {
            self.show(line);
        }
        Ok(text)
    }

    /// Runs a command; what it prints, without showing it.
    pub fn quietly(&self, args: &[&str]) -> Told<String> {
        let output = self.output(args)?;
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            self.show(line);
        }
        if !output.status.success() {
            return Err(format!("`kmsfs {}` failed ({})", args.join(" "), output.status));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command that must be refused, and shows how; what it said.
    pub fn fails(&self, args: &[&str]) -> Told<String> {
        print(&format!("   $ kmsfs {}", args.join(" ")));
        let output = self.output(args)?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        for line in text.lines() {
            self.show(line);
        }
        if output.status.success() {
            return Err(format!("`kmsfs {}` was to be refused, and was not", args.join(" ")));
        }
        Ok(text)
    }

    /// Opens a file until that is refused; how, and after how long.
    pub fn refusal(&self, file: &str) -> Told<(io::Error, Duration)> {
        let begun = Instant::now();
        let mut refusal = None;
        self.wait("open() to be refused", || {
            refusal = File::open(self.path(file)).err();
            Ok(refusal.is_some())
        })?;
        let refusal = refusal.ok_or("open() was not refused")?;
        Ok((refusal, begun.elapsed()))
    }

    /// Tries until it is done.
    #[expect(clippy::unused_self, reason = "see `show`")]
    pub fn wait(&self, what: &str, mut done: impl FnMut() -> Told<bool>) -> Told<()> {
        let begun = Instant::now();
        while !done()? {
            if begun.elapsed() > PATIENCE {
                return Err(format!("waited {} seconds in vain for {what}", PATIENCE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let point = self.path("plain");
        let mounted = || mounts::at(&point).is_ok_and(|there| there.is_some());
        for args in [["umount", "plain"].as_slice(), &["umount", "--lazy", "plain"]] {
            if mounted() {
                // After a failed step; the step's error is what is told.
                let _ = self.output(args);
            }
        }
        if mounted() {
            print(&format!("{} is still mounted; `kmsfs umount` takes it away", point.display()));
        } else if self.keep {
            print(&format!("kept: {}", self.dir.display()));
        } else if let Err(e) = fs::remove_dir_all(&self.dir) {
            print(&format!("{} could not be removed: {e}", self.dir.display()));
        }
    }
}

/// Prints a line. A reader that has gone away does not end the story: it cleans up at its end.
pub fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints what holds, or ends with what does not.
pub fn hold(holds: bool, what: &str) -> Told<()> {
    if holds {
        print(&format!("   checked: {what}"));
        Ok(())
    } else {
        Err(format!("this does not hold: {what}"))
    }
}
