//! Which kmsfs mounts there are, from /proc/self/mountinfo.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub point: PathBuf,
    /// Filesystem type: `fuse.kmsfs` for ours.
    pub kind: String,
    /// For ours the backing directory.
    pub source: PathBuf,
    /// Mounted for reading only.
    pub read_only: bool,
}

impl Mounted {
    /// True for a mount of this program.
    pub fn is_ours(&self) -> bool {
        self.kind == "fuse.kmsfs"
    }

    /// False if the process that served it has died.
    pub fn answers(&self) -> bool {
        rustix::fs::statfs(&self.point).err() != Some(Errno::NOTCONN)
    }
}

/// All mounts that this process sees.
pub fn all() -> io::Result<Vec<Mounted>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// The mount that is seen at `point`, an absolute path: the last of those stacked there.
pub fn at(point: &Path) -> io::Result<Option<Mounted>> {
    Ok(all()?.into_iter().rfind(|mounted| mounted.point == point))
}

/// The mount of the volume in the backing directory `volume` that `path` lies in, if it lies in one; also by way of another
/// volume whose backing directory does.
pub fn of_volume<'a>(all: &'a [Mounted], volume: &Path, path: &Path) -> Option<&'a Mounted> {
    let mut path = path;
    // Each step goes to a backing directory, of which no mount is its own; the count guards from a table that says so.
    for _ in 0..=all.len() {
        let above = all.iter().filter(|mounted| path.starts_with(&mounted.point));
        // The innermost, and of those at one point the last.
        let mount = above.max_by_key(|mounted| mounted.point.components().count())?;
        if !mount.is_ours() {
            return None;
        }
        if mount.source == volume {
            return Some(mount);
        }
        path = &mount.source;
    }
    None
}

/// mountinfo's lines (proc(5)); one that does not fit the form is left out.
fn parse(text: &[u8]) -> Vec<Mounted> {
    text.split(|b| *b == b'\n')
        .filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
            let dash = fields.iter().position(|field| *field == b"-")?;
            let word = |at: usize| fields.get(at).map(|field| String::from_utf8_lossy(field).into_owned());
            let path = |at: usize| fields.get(at).map(|field| unescape(field));
            Some(Mounted {
                point: path(4)?,
                kind: word(dash + 1)?,
                source: path(dash + 2)?,
                read_only: fields.get(5)?.split(|b| *b == b',').any(|option| option == b"ro"),
            })
        })
        .collect()
}

/// Undoes the kernel's `\040` for blanks, tabs, newlines and backslashes.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|c| std::str::from_utf8(c).ok()).and_then(|c| u8::from_str_radix(c, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// Processes that hold something below `point` open, as "PID name", as far as this user may see them.
pub fn holders(point: &Path) -> Vec<String> {
    let below = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(point));
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for process in processes.flatten() {
        let name = process.file_name();
        if !name.as_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let dir = process.path();
        let files = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
        let holds = below(dir.join("cwd"))
            || below(dir.join("root"))
            || below(dir.join("exe"))
            || files.map(|fd| fd.path()).any(below);
        if holds {
            let command = fs::read_to_string(dir.join("comm")).unwrap_or_default();
            found.push(format!("{} {}", name.to_string_lossy(), command.trim_end()));
        }
    }
    found
}

/// Who holds `point`, in words.
pub fn busy_with(point: &Path) -> String {
    let holders = holders(point);
    if holders.is_empty() {
        "a process that this user may not see, or a mount below it, holds it".to_owned()
    } else {
        format!("held by process {}", holders.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read() {
        let text = b"36 35 98:0 /m /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
            41 35 0:52 / /home/a\\040b\\134 ro,nosuid - fuse.kmsfs /vault\\011x rw,user_id=0\nrubbish\n\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[1].point, Path::new("/home/a b\\"));
        assert_eq!(mounts[1].source, Path::new("/vault\tx"));
        assert!(mounts[1].read_only && !mounts[0].read_only);
        assert!(mounts[1].is_ours() && !mounts[0].is_ours());
    }

    #[test]
    fn what_lies_in_a_mount_of_a_volume_is_found() {
        let text = b"1 0 8:1 / / rw - ext4 /dev/sda rw\n\
            2 1 0:50 / /a rw - fuse.kmsfs /vault rw\n\
            3 2 0:51 / /a/tmp rw - tmpfs none rw\n\
            4 1 0:52 / /b rw - fuse.kmsfs /a/inner rw\n\
            5 1 0:53 / /c rw - fuse.kmsfs /other rw\n\
            6 1 0:54 / /d rw - fuse.kmsfs /d/within rw\n";
        let all = parse(text);
        let seen = |path: &str| {
            let found = of_volume(&all, Path::new("/vault"), Path::new(path));
            found.map(|mounted| mounted.point.to_str().unwrap())
        };
        assert_eq!((seen("/a"), seen("/a/x/y"), seen("/b/x")), (Some("/a"), Some("/a"), Some("/a")));
        for elsewhere in ["/", "/ab", "/vault/.kmsfs", "/a/tmp/x", "/c/x", "/d/x"] {
            assert_eq!(seen(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn a_holder_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap();
        assert_eq!(holders(&path), Vec::<String>::new());
        let _file = fs::File::create(path.join("held")).unwrap();
        let found = holders(&path);
        assert!(found.iter().any(|h| h.starts_with(&format!("{} ", std::process::id()))), "{found:?}");
    }
}
