//! `kmsfs demo`: the whole story on real files in a temporary home, by the very commands a user would type.
//! Each step is checked; the first that does not hold ends the demonstration with an error.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Tells the whole story on real files: mount, look at the ciphertext, rotate, disable, look at the log.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of real files to copy in [default: this repository's own sources]
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// Keep the temporary directory, with its home and volume
    #[arg(long)]
    keep: bool,
}

/// What did not hold.
type Result<T> = std::result::Result<T, String>;

const KEY: &str = "alias/aws/kmsfs";
/// Header pages and blocks of the format.
const PAGE: u64 = 4096;

/// Runs it.
pub fn run(args: &Args) -> Result<()> {
    let stage = Stage::new(args.keep)?;
    let files = match &args.files {
        Some(dir) => dir.clone(),
        None => own_sources().map_or_else(|| stage.make_files(), Ok)?,
    };
    stage.tell(&files)
}

/// The repository around the current directory or the program, if this is run from one.
fn own_sources() -> Option<PathBuf> {
    let is_ours = |dir: &Path| {
        let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| line == "name = \"kmsfs\"") && dir.join("src").is_dir()
    };
    let starts = [std::env::current_dir(), std::env::current_exe()];
    starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors())
        .find(|dir| is_ours(dir))
        .map(|dir| dir.join("src"))
}

/// A temporary directory with home, volume and mount point. Dropping it unmounts and removes them.
struct Stage {
    dir: PathBuf,
    program: PathBuf,
    keep: bool,
    bold: bool,
}

impl Stage {
    fn new(keep: bool) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("kmsfs-demo-{}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        let program = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
        let stage = Self { dir, program, keep, bold: io::stdout().is_terminal() };
        for name in ["vault", "plain"] {
            fs::create_dir(stage.path(name)).map_err(|e| e.to_string())?;
        }
        Ok(stage)
    }

    fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.join(below)
    }

    fn title(&self, number: u32, text: &str) {
        let (on, off) = if self.bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        println!("\n{on}{number}. {text}{off}");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .current_dir(&self.dir)
            .env("KMSFS_HOME", self.path("home"))
            .env_remove("AWS_REGION")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command as a user would type it, and shows what it prints.
    fn run(&self, args: &[&str]) -> Result<String> {
        println!("   $ kmsfs {}", args.join(" "));
        let text = self.quietly(args)?;
        for line in text.lines() {
            println!("     {line}");
        }
        Ok(text)
    }

    fn quietly(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output().map_err(|e| format!("kmsfs {}: {e}", args[0]))?;
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            println!("     {line}");
        }
        if !output.status.success() {
            return Err(format!("`kmsfs {}` failed ({})", args.join(" "), output.status));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn tell(&self, files: &Path) -> Result<()> {
        println!("Everything happens in {}: nothing of yours is touched.", self.dir.display());

        self.title(1, "Make a volume");
        println!("   The first init also makes the key service's home: a root key, and the KMS key {KEY}.");
        self.run(&["init", "vault"])?;
        self.run(&["mount", "vault", "plain"])?;

        self.title(2, "Copy real files in");
        let copied = copy_tree(files, &self.path("plain/files"))?;
        println!("   copied {copied} files from {}", files.display());
        let sample = self.sample()?;
        println!("   plain/files holds them as they are; vault holds this:");
        for name in entries(&self.path("vault"))?.iter().take(5) {
            println!("     {name}");
        }

        self.title(3, "Plaintext beside ciphertext");
        let envelope = self.envelope(&sample)?;
        let backing = find_backing(&self.path("vault"), &envelope.file_id)?
            .ok_or("the file's ciphertext was not found in the vault")?;
        println!("   {sample}, first bytes:");
        dump(&self.path(&sample), 0)?;
        println!("   the same file in the vault, first block (nonce, tag, length, ciphertext):");
        dump(&backing, PAGE)?;
        self.check_secret(&sample, &backing)?;

        self.title(4, "Look into one envelope");
        println!(
            "   Each file has a data key of its own, wrapped by the KMS key. This is what stands in its header:"
        );
        self.run(&["inspect", &sample])?;

        self.title(5, "Rotate the KMS key");
        println!(
            "   New material wraps new files' keys; old files open under the material they name. Nothing is rewritten."
        );
        self.run(&["key", "rotate", KEY])?;
        let ciphertext = fs::read(&backing).map_err(|e| e.to_string())?;
        let new = "plain/after-rotation.txt";
        self.wait("a file under the new material", || {
            fs::write(self.path(new), "written after the rotation\n").map_err(|e| e.to_string())?;
            Ok(self.envelope(new)?.material != envelope.material)
        })?;
        println!("   old file's key material: {}", envelope.material);
        println!("   new file's key material: {}", self.envelope(new)?.material);
        let old = self.envelope(&sample)?;
        hold(old.material == envelope.material, "the old file names its own key material")?;
        hold(
            fs::read(&backing).is_ok_and(|now| now == ciphertext),
            "not one byte of the old file was rewritten",
        )?;

        self.title(6, "Disable the KMS key, and open a file");
        self.run(&["key", "disable", KEY])?;
        let begun = Instant::now();
        let refusal = self.refusal(&sample)?;
        println!("   $ cat {sample}");
        println!("     cat: {sample}: {refusal}");
        println!(
            "   refused after {} ms, in every process, by the kernel itself",
            begun.elapsed().as_millis()
        );

        self.title(7, "Enable it again");
        self.run(&["key", "enable", KEY])?;
        self.wait("the file to open again", || Ok(fs::read(self.path(&sample)).is_ok()))?;
        println!("   {sample} opens again");

        self.title(8, "What the log says");
        println!(
            "   Every use of the key is an event, the refused ones too; files appear by id, never by name."
        );
        self.run(&["audit", "lookup", "--max", "8"])?;
        let errors = self.quietly(&["audit", "lookup", "--errors", "--json"])?;
        hold(errors.contains("DisabledException"), "the refused open is in the log")?;
        println!("   The events are chained: none can be changed or removed without showing.");
        self.run(&["audit", "verify"])?;

        self.title(9, "Unmount, mount again, compare every byte");
        self.run(&["umount", "plain"])?;
        hold(entries(&self.path("plain"))?.is_empty(), "nothing is seen without the mount")?;
        self.run(&["mount", "vault", "plain"])?;
        let (now, then) = (read_tree(&self.path("plain/files"))?, read_tree(files)?);
        let bytes: usize = then.values().map(Vec::len).sum();
        hold(now == then, &format!("{} files with {bytes} bytes are the same", then.len()))?;
        self.run(&["umount", "plain"])?;

        println!(
            "\nThat was the whole story. `kmsfs help` lists the verbs, README.md the first five minutes."
        );
        Ok(())
    }

    /// The largest text among what was copied, named from the stage.
    fn sample(&self) -> Result<String> {
        let files = read_tree(&self.path("plain/files"))?;
        let best = files.iter().max_by_key(|(_, content)| content.len());
        let (name, _) =
            best.filter(|(_, content)| content.len() > 64).ok_or("no file has more than 64 bytes")?;
        Ok(format!("plain/files/{}", name.display()))
    }

    fn envelope(&self, file: &str) -> Result<Seen> {
        let text = self.quietly(&["inspect", "--json", file])?;
        let json: serde_json::Value = serde_json::from_str(&text)
            .map_err(|e| format!("`kmsfs inspect --json` printed no JSON: {e}"))?;
        let word = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let file_id = word(&json["file_id"]).ok_or("the envelope names no file id")?;
        let material =
            word(&json["data_keys"][0]["key_material_id"]).ok_or("the envelope names no key material")?;
        Ok(Seen { file_id, material })
    }

    /// No line of the plaintext stands in the ciphertext.
    fn check_secret(&self, sample: &str, backing: &Path) -> Result<()> {
        let plain = fs::read(self.path(sample)).map_err(|e| e.to_string())?;
        let cipher = fs::read(backing).map_err(|e| e.to_string())?;
        let found =
            plain.chunks_exact(16).take(200).any(|part| cipher.windows(16).any(|window| window == part));
        hold(!found, "nothing of the plaintext is found in the vault's file")
    }

    /// Opens the file until that is refused, and checks that it is for the right reason.
    fn refusal(&self, file: &str) -> Result<io::Error> {
        let mut refusal = None;
        self.wait("open() to be refused", || {
            refusal = File::open(self.path(file)).err();
            Ok(refusal.is_some())
        })?;
        let refusal = refusal.ok_or("open() was not refused")?;
        if refusal.raw_os_error() == Some(libc::ENOKEY) {
            Ok(refusal)
        } else {
            Err(format!("open() was refused with {refusal}, not with ENOKEY"))
        }
    }

    /// A change by another process counts within a second.
    fn wait(&self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        while !done()? {
            if begun.elapsed() > Duration::from_secs(2) {
                return Err(format!("waited two seconds in vain for {what}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// A few files of our own, where there is no repository.
    fn make_files(&self) -> Result<PathBuf> {
        let dir = self.path("originals");
        let make = || {
            fs::create_dir_all(dir.join("letters"))?;
            for number in 1..=20 {
                let text = format!("Letter {number}: meet me at the old bridge.\n").repeat(40 * number);
                fs::write(dir.join(format!("letters/{number:02}.txt")), text)?;
            }
            fs::write(dir.join("empty"), "")
        };
        make().map_err(|e| format!("cannot make files in {}: {e}", dir.display()))?;
        Ok(dir)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if fs::read_dir(self.path("plain")).is_ok_and(|mut entries| entries.next().is_some()) {
            // After a failed step; the step's error is what is told.
            let _ = self.command(&["umount", "plain"]).output();
        }
        if self.keep {
            println!("kept: {}", self.dir.display());
        } else if let Err(e) = fs::remove_dir_all(&self.dir) {
            println!("{} could not be removed: {e}", self.dir.display());
        }
    }
}

/// The part of an envelope that the story needs.
struct Seen {
    file_id: String,
    material: String,
}

/// Prints what holds, or ends with what does not.
fn hold(holds: bool, what: &str) -> Result<()> {
    if holds {
        println!("   checked: {what}");
        Ok(())
    } else {
        Err(format!("this does not hold: {what}"))
    }
}

fn entries(dir: &Path) -> Result<Vec<String>> {
    let read = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut names: Vec<String> =
        read.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// Regular files below a directory, by their paths in it.
fn walk(dir: &Path, each: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && entry.file_name() != OsStr::new(".git") {
            walk(&entry.path(), each)?;
        } else if kind.is_file() {
            each(&entry.path())?;
        }
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<usize> {
    let mut count = 0;
    walk(from, &mut |file| {
        let target = to.join(file.strip_prefix(from).unwrap_or(file));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(file, target)?;
        count += 1;
        Ok(())
    })
    .map_err(|e| format!("copying {}: {e}", from.display()))?;
    if count == 0 { Err(format!("{} holds no files", from.display())) } else { Ok(count) }
}

fn read_tree(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    walk(dir, &mut |file| {
        files.insert(file.strip_prefix(dir).unwrap_or(file).to_owned(), fs::read(file)?);
        Ok(())
    })
    .map_err(|e| format!("reading {}: {e}", dir.display()))?;
    Ok(files)
}

/// The backing file whose header bears this file id.
fn find_backing(vault: &Path, file_id: &str) -> Result<Option<PathBuf>> {
    let mut found = None;
    walk(vault, &mut |file| {
        let mut head = [0; 32];
        if File::open(file)?.read(&mut head)? == head.len() && hex::encode(&head[16..]) == file_id {
            found = Some(file.to_owned());
        }
        Ok(())
    })
    .map_err(|e| format!("reading {}: {e}", vault.display()))?;
    Ok(found)
}

/// Three lines of a hex dump.
fn dump(file: &Path, offset: u64) -> Result<()> {
    let mut bytes = [0; 48];
    let read = File::open(file).and_then(|f| f.read_at(&mut bytes, offset));
    let read = read.map_err(|e| format!("{}: {e}", file.display()))?;
    for line in bytes[..read].chunks(16) {
        let text: String =
            line.iter().map(|b| if (0x20..0x7f).contains(b) { char::from(*b) } else { '.' }).collect();
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        println!("     {:48} {text}", hex.join(" "));
    }
    Ok(())
}
