//! Sizes, names and secrecy on a real mount.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::mounted::bed::Bed;

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 131 + i / 4064) as u8).collect()
}

#[test]
fn files_of_awkward_sizes_keep_them() {
    let bed = Bed::mounted();
    let sizes = [0, 1, 4063, 4064, 4065, 4095, 4096, 4097, 8127, 8128, 8129, 1 << 20, (1 << 20) + 1];
    for size in sizes {
        fs::write(bed.plain(size.to_string()), pattern(size)).unwrap();
    }
    let check = || {
        for size in sizes {
            let path = bed.plain(size.to_string());
            assert_eq!(fs::metadata(&path).unwrap().len(), size as u64);
            assert_eq!(fs::read(&path).unwrap(), pattern(size), "size {size}");
        }
    };
    check();
    bed.remount();
    check();
    // Appending and cutting at the edges.
    for size in sizes {
        let file = File::options().append(true).open(bed.plain(size.to_string())).unwrap();
        io::Write::write_all(&mut &file, b"tail").unwrap();
    }
    bed.remount();
    for size in sizes {
        let path = bed.plain(size.to_string());
        assert_eq!(fs::read(&path).unwrap(), [&pattern(size)[..], b"tail"].concat(), "size {size}");
        File::options().write(true).open(&path).unwrap().set_len(size as u64).unwrap();
    }
    check();
    bed.remount();
    check();
}

#[test]
fn a_sparse_file_of_5_gib_takes_no_room() {
    const SIZE: u64 = 5 << 30;
    let bed = Bed::mounted();
    let path = bed.plain("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(b"in the middle", 3 << 30).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let check = || {
        let file = File::open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), SIZE);
        let mut around = [0xff; 4096 * 3];
        file.read_exact_at(&mut around, (3 << 30) - 4096).unwrap();
        let mut due = vec![0; 4096 * 3];
        due[4096..4096 + 13].copy_from_slice(b"in the middle");
        assert_eq!(around, due[..]);
        for offset in [0, 1 << 30, SIZE - 4096] {
            let mut page = [0xff; 4096];
            file.read_exact_at(&mut page, offset).unwrap();
            assert_eq!(page, [0; 4096], "at {offset}");
        }
        assert_eq!(file.read_at(&mut [0; 10], SIZE).unwrap(), 0);
    };
    check();
    bed.remount();
    check();
    assert!(fs::metadata(&path).unwrap().blocks() < 2048, "a hole took room");
}

/// Names that try the limits: the longest, the border to `long.` names, and every byte there is.
fn names() -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    for len in [1, 100, 174, 175, 176, 177, 254, 255] {
        names.insert(vec![b'L'; len]);
    }
    names.insert("\u{00e4}\u{4e2d}\u{1f600}".repeat(28).into_bytes());
    let all: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    for byte in &all {
        if *byte != b'.' {
            names.insert(vec![*byte]);
        }
        names.insert([b"..", &[*byte][..]].concat());
    }
    names.insert(all);
    names
}

fn listed(dir: &Path) -> BTreeSet<Vec<u8>> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_vec()).collect()
}

#[test]
fn names_of_every_byte_and_of_255_bytes_work() {
    let bed = Bed::mounted();
    let dir = bed.plain("names");
    let at = |name: &[u8]| dir.join(OsStr::from_bytes(name));
    fs::create_dir(&dir).unwrap();
    for name in names() {
        fs::write(at(&name), &name).unwrap();
    }
    let check = || {
        assert_eq!(listed(&dir), names());
        for name in names() {
            assert_eq!(fs::read(at(&name)).unwrap(), name);
        }
    };
    check();
    bed.remount();
    check();
    // Directories, links and renames with long names, both ways.
    let (long, other) = (vec![b'd'; 255], vec![b'e'; 255]);
    fs::create_dir(at(&long)).unwrap();
    fs::write(at(&long).join("inside"), "x").unwrap();
    fs::rename(at(&long), at(&other)).unwrap();
    fs::rename(at(&other), at(b"short")).unwrap();
    fs::rename(at(b"short"), at(&long)).unwrap();
    fs::rename(at(&[b'L'; 255]), at(&other)).unwrap();
    fs::hard_link(at(&other), at(&[b'h'; 200])).unwrap();
    std::os::unix::fs::symlink(OsStr::from_bytes(&[b't'; 4095]), at(&[b's'; 255])).unwrap();
    bed.remount();
    assert_eq!(fs::read(at(&long).join("inside")).unwrap(), b"x");
    assert_eq!(fs::read(at(&[b'h'; 200])).unwrap(), vec![b'L'; 255]);
    assert_eq!(fs::read_link(at(&[b's'; 255])).unwrap().into_os_string().into_vec(), vec![b't'; 4095]);
    let too_long = fs::write(at(&[b'x'; 256]), "").unwrap_err();
    assert_eq!(too_long.raw_os_error(), Some(libc::ENAMETOOLONG));
    fs::remove_dir_all(&dir).unwrap();
    bed.unmount();
    let left = listed(&bed.vault());
    let own: BTreeSet<Vec<u8>> =
        ["kmsfs.json", "kmsfs.dir", ".kmsfs"].iter().map(|n| n.as_bytes().to_vec()).collect();
    assert_eq!(left, own, "something stayed behind in the backing directory");
}

/// Every name, target, attribute and byte below a directory.
fn everything(dir: &Path, out: &mut Vec<u8>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        out.extend(path.file_name().unwrap().as_bytes());
        out.push(b'\n');
        let mut list = [0u8; 8192];
        let len = rustix::fs::llistxattr(&path, &mut list[..]).unwrap_or(0);
        for name in list[..len].split(|b| *b == 0).filter(|name| !name.is_empty()) {
            let mut value = [0u8; 8192];
            let len = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
            out.extend(name);
            out.extend(&value[..len]);
        }
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            everything(&path, out);
        } else if kind.is_symlink() {
            out.extend(fs::read_link(&path).unwrap().into_os_string().into_vec());
        } else if kind.is_file() {
            out.extend(fs::read(&path).unwrap());
        }
        out.push(b'\n');
    }
}

#[test]
fn nothing_of_names_or_contents_is_in_the_backing_directory() {
    let bed = Bed::mounted();
    let secrets =
        ["Gehaltsliste", "Herbstgewitter", "Kanarienvogel", "Lindenallee", "user.Merkzettel", "Nachtzug"];
    let [dir, name, content, target, attribute, value] = secrets;
    fs::create_dir(bed.plain(dir)).unwrap();
    let file = bed.plain(dir).join(name);
    fs::write(&file, format!("{content} ").repeat(3000)).unwrap();
    fs::write(bed.plain("tiny"), content).unwrap();
    fs::write(bed.plain(name.repeat(18)), content).unwrap();
    std::os::unix::fs::symlink(target, bed.plain("link")).unwrap();
    rustix::fs::setxattr(&file, attribute, value.as_bytes(), rustix::fs::XattrFlags::empty()).unwrap();
    File::open(&file).unwrap().sync_all().unwrap();
    let check = |when: &str| {
        let mut bytes = Vec::new();
        everything(&bed.vault(), &mut bytes);
        assert!(bytes.len() > 36_000, "the backing directory holds less than was written");
        for secret in secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} stands in the backing directory {when}");
        }
    };
    check("while mounted");
    bed.unmount();
    check("after the unmount");
    bed.mount();
    let mut got = [0u8; 64];
    let len = rustix::fs::getxattr(&file, attribute, &mut got[..]).unwrap();
    assert_eq!(&got[..len], value.as_bytes());
    // The search itself finds what is there: it does on the plaintext side.
    let mut bytes = Vec::new();
    everything(&bed.plain(""), &mut bytes);
    for secret in secrets {
        assert!(bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
    }
}
