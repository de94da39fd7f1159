//! The files of the story.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Told;
use super::stage::print;

/// The repository around the current directory or the program, if this is run from one.
pub fn own_sources() -> Option<PathBuf> {
    let is_ours = |dir: &Path| {
        let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| line == "name = \"kmsfs\"") && dir.join("src").is_dir()
    };
    let starts = [std::env::current_dir(), std::env::current_exe()];
    let mut around = starts.iter().flatten().flat_map(|start| start.ancestors());
    around.find(|dir| is_ours(dir)).map(Path::to_owned)
}

/// A few files, where there is no repository.
pub fn make(dir: &Path) -> Told<PathBuf> {
    let make = || {
        fs::create_dir_all(dir.join("letters"))?;
        for number in 1..=20 {
            let text = format!("Letter {number}: meet me at the old bridge.\n").repeat(40 * number);
            fs::write(dir.join(format!("letters/{number:02}.txt")), text)?;
        }
        fs::write(dir.join("empty"), "")
    };
    make().map_err(|e| format!("cannot make files in {}: {e}", dir.display()))?;
    Ok(dir.to_owned())
}

/// The names in a directory, sorted.
pub fn entries(dir: &Path) -> Told<Vec<String>> {
    let read = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut names: Vec<String> =
        read.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// Regular files below a directory, without what git and cargo make.
fn walk(dir: &Path, each: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let made = [".git", "target"].iter().any(|name| entry.file_name() == *name);
        if kind.is_dir() && !made {
            walk(&entry.path(), each)?;
        } else if kind.is_file() {
            each(&entry.path())?;
        }
    }
    Ok(())
}

/// Copies regular files with their directories; how many.
pub fn copy_tree(from: &Path, to: &Path) -> Told<usize> {
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

/// Every regular file's content, by its path below the directory.
pub fn read_tree(dir: &Path) -> Told<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    walk(dir, &mut |file| {
        files.insert(file.strip_prefix(dir).unwrap_or(file).to_owned(), fs::read(file)?);
        Ok(())
    })
    .map_err(|e| format!("reading {}: {e}", dir.display()))?;
    Ok(files)
}

/// The backing file whose header bears this file id (docs/format.md: at byte 16).
pub fn find_backing(vault: &Path, file_id: &str) -> Told<Option<PathBuf>> {
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

/// Prints three lines of a hex dump.
pub fn dump(file: &Path, offset: u64) -> Told<()> {
    let mut bytes = [0; 48];
    let read = File::open(file).and_then(|f| f.read_at(&mut bytes, offset));
    let read = read.map_err(|e| format!("{}: {e}", file.display()))?;
    for line in bytes[..read].chunks(16) {
        let text: String =
            line.iter().map(|b| if (0x20..0x7f).contains(b) { char::from(*b) } else { '.' }).collect();
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        print(&format!("     {:48} {text}", hex.join(" ")));
    }
    Ok(())
}
