//! What POSIX promises and programs rely on.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with};
use rustix::io::Errno;

use crate::mounted::bed::{Bed, sh, skipped};

/// Runs a script as a user without privileges. False if this is no root that could.
fn as_nobody(dir: &Path, script: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        skipped("only root can act as another user");
        return false;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-euc", script]).current_dir(dir);
    let output = command.output().unwrap();
    assert!(output.status.success(), "as nobody: {script}: {}", String::from_utf8_lossy(&output.stderr));
    true
}

/// A mounted volume that others can reach.
fn open_bed() -> Bed {
    let bed = Bed::mounted();
    fs::set_permissions(bed.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(bed.plain(""), fs::Permissions::from_mode(0o777)).unwrap();
    bed
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn suid_and_sgid_are_cleared_by_who_may_not_give_them() {
    let bed = open_bed();
    let acts = [("appended", "echo x >> appended"), ("cut", ": > cut"), ("sized", "truncate -s 1 sized")];
    for (name, _) in acts {
        fs::write(bed.plain(name), "content").unwrap();
        fs::set_permissions(bed.plain(name), fs::Permissions::from_mode(0o6777)).unwrap();
        assert_eq!(mode(&bed.plain(name)), 0o6777);
    }
    for (name, act) in acts {
        if !as_nobody(&bed.plain(""), act) {
            return;
        }
        assert_eq!(mode(&bed.plain(name)), 0o777, "{act}");
    }
    // sgid without group execution is no privilege; a change of owner clears both all the same.
    fs::set_permissions(bed.plain("cut"), fs::Permissions::from_mode(0o6755)).unwrap();
    std::os::unix::fs::chown(bed.plain("cut"), Some(65534), Some(65534)).unwrap();
    assert_eq!(mode(&bed.plain("cut")), 0o755);
}

#[test]
fn files_belong_to_their_makers_and_modes_keep_others_out() {
    let bed = open_bed();
    fs::write(bed.plain("mine"), "secret").unwrap();
    fs::set_permissions(bed.plain("mine"), fs::Permissions::from_mode(0o600)).unwrap();
    if !as_nobody(
        &bed.plain(""),
        "umask 022; echo a > theirs; mkdir dir; ln -s theirs link; ! cat mine 2>/dev/null; ! rm -f dir/../mine/x \
         2>/dev/null; test \"$(stat -c '%u %g %a' theirs)\" = '65534 65534 644'; test \"$(stat -c %a dir)\" = 755",
    ) {
        return;
    }
    bed.remount();
    for name in ["theirs", "dir", "link"] {
        let stat = fs::symlink_metadata(bed.plain(name)).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (65534, 65534), "{name}");
    }
    assert_eq!(fs::metadata(bed.plain("mine")).unwrap().uid(), 0);
}

#[test]
fn hard_links_are_one_file() {
    let bed = Bed::mounted();
    fs::create_dir(bed.plain("dir")).unwrap();
    fs::write(bed.plain("one"), "content").unwrap();
    fs::hard_link(bed.plain("one"), bed.plain("dir/two")).unwrap();
    let check = |links: u64| {
        let (one, two) =
            (fs::metadata(bed.plain("one")).unwrap(), fs::metadata(bed.plain("dir/two")).unwrap());
        assert_eq!((one.ino(), one.nlink(), two.nlink()), (two.ino(), links, links));
    };
    check(2);
    OpenOptions::new().append(true).open(bed.plain("dir/two")).unwrap().write_all(b" and more").unwrap();
    assert_eq!(fs::read(bed.plain("one")).unwrap(), b"content and more");
    bed.remount();
    check(2);
    fs::hard_link(bed.plain("dir/two"), bed.plain("three")).unwrap();
    check(3);
    fs::remove_file(bed.plain("one")).unwrap();
    bed.remount();
    assert_eq!(fs::read(bed.plain("three")).unwrap(), b"content and more");
    assert_eq!(fs::metadata(bed.plain("three")).unwrap().nlink(), 2);
    assert_eq!(
        fs::hard_link(bed.plain("dir"), bed.plain("d")).unwrap_err().kind(),
        ErrorKind::PermissionDenied
    );
}

#[test]
fn renames_replace_exchange_and_spare() {
    let bed = Bed::mounted();
    for name in ["a", "b", "c"] {
        fs::write(bed.plain(name), name).unwrap();
    }
    let read = |name: &str| fs::read_to_string(bed.plain(name)).unwrap();
    let mut old = File::open(bed.plain("b")).unwrap();
    fs::rename(bed.plain("a"), bed.plain("b")).unwrap();
    assert_eq!(read("b"), "a");
    let mut held = String::new();
    old.read_to_string(&mut held).unwrap();
    assert_eq!(held, "b", "a handle lost its file when another took the name");
    drop(old);
    let with = |from: &str, to: &str, flags| renameat_with(CWD, bed.plain(from), CWD, bed.plain(to), flags);
    assert_eq!(with("b", "c", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    with("b", "d", RenameFlags::NOREPLACE).unwrap();
    with("c", "d", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((read("c"), read("d")), ("a".to_owned(), "c".to_owned()));

    fs::create_dir_all(bed.plain("full/inner")).unwrap();
    fs::write(bed.plain("full/inner/deep"), "deep").unwrap();
    fs::create_dir(bed.plain("empty")).unwrap();
    let error = |from: &str, to: &str| fs::rename(bed.plain(from), bed.plain(to)).unwrap_err().raw_os_error();
    assert_eq!(error("empty", "full"), Some(libc::ENOTEMPTY));
    assert_eq!(error("full", "full/inner/x"), Some(libc::EINVAL));
    assert_eq!(error("c", "empty"), Some(libc::EISDIR));
    assert_eq!(error("empty", "c"), Some(libc::ENOTDIR));
    with("full", "c", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((read("c/inner/deep"), read("full")), ("deep".to_owned(), "a".to_owned()));
    // Over an empty directory, and into another one.
    fs::rename(bed.plain("c"), bed.plain("empty")).unwrap();
    fs::rename(bed.plain("empty/inner"), bed.plain("moved")).unwrap();
    bed.remount();
    assert_eq!(read("moved/deep"), "deep");
    assert_eq!(sh(&bed.plain(""), "find . | sort"), ".\n./d\n./empty\n./full\n./moved\n./moved/deep\n");
}

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    let bed = Bed::mounted();
    let path = bed.plain("temporary");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all(&[1; 10_000]).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all(&[2; 10_000]).unwrap();
    file.sync_all().unwrap();
    file.seek(SeekFrom::Start(9_999)).unwrap();
    let mut around = [0; 2];
    file.read_exact(&mut around).unwrap();
    assert_eq!(around, [1, 2]);
    file.set_len(5).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5);
    // The name is free for another.
    fs::write(&path, "another").unwrap();
    drop(file);
    bed.remount();
    assert_eq!(fs::read(&path).unwrap(), b"another");
    fs::remove_file(&path).unwrap();
    bed.unmount();
    let left = fs::read_dir(bed.vault()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let left: BTreeSet<String> = left.collect();
    assert!(left.iter().all(|name| name.contains('.')), "left in the backing directory: {left:?}");
}

#[test]
fn extended_attributes_are_kept() {
    let bed = Bed::mounted();
    let get = |path: &Path, name: &str| {
        let mut value = vec![0; 70_000];
        rustix::fs::lgetxattr(path, name, &mut value[..]).map(|len| value[..len].to_vec())
    };
    fs::write(bed.plain("file"), "content").unwrap();
    fs::create_dir(bed.plain("dir")).unwrap();
    for path in [bed.plain("file"), bed.plain("dir")] {
        let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
        set("user.plain", b"value", XattrFlags::empty()).unwrap();
        set("user.empty", b"", XattrFlags::empty()).unwrap();
        set("user.binary", &[0, 255, 10, 0], XattrFlags::CREATE).unwrap();
        assert_eq!(set("user.binary", b"x", XattrFlags::CREATE), Err(Errno::EXIST));
        assert_eq!(set("user.other", b"x", XattrFlags::REPLACE), Err(Errno::NODATA));
        set("user.plain", b"changed", XattrFlags::REPLACE).unwrap();
    }
    bed.remount();
    for path in [bed.plain("file"), bed.plain("dir")] {
        assert_eq!(get(&path, "user.plain").unwrap(), b"changed");
        assert_eq!(get(&path, "user.empty").unwrap(), b"");
        assert_eq!(get(&path, "user.binary").unwrap(), [0, 255, 10, 0]);
        assert_eq!(get(&path, "user.absent"), Err(Errno::NODATA));
        let mut list = vec![0; 4096];
        let len = rustix::fs::listxattr(&path, &mut list[..]).unwrap();
        let names: BTreeSet<&[u8]> =
            list[..len].split(|b| *b == 0).filter(|n| n.starts_with(b"user.")).collect();
        let due: [&[u8]; 3] = [b"user.plain", b"user.empty", b"user.binary"];
        assert_eq!(names, due.into_iter().collect());
        rustix::fs::removexattr(&path, "user.plain").unwrap();
        assert_eq!(rustix::fs::removexattr(&path, "user.plain"), Err(Errno::NODATA));
    }
    assert_eq!(fs::read(bed.plain("file")).unwrap(), b"content");
    // The made-up attribute is read only.
    let made_up = rustix::fs::setxattr(bed.plain("file"), "user.kmsfs.envelope", b"x", XattrFlags::empty());
    assert!(made_up.is_err());
    assert!(get(&bed.plain("file"), "user.kmsfs.envelope").unwrap().starts_with(b"{"));
}

#[test]
fn appends_of_several_writers_do_not_overwrite_each_other() {
    let bed = Bed::mounted();
    let path = bed.plain("log");
    thread::scope(|scope| {
        for who in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut log = OpenOptions::new().append(true).create(true).open(path).unwrap();
                for line in 0..300 {
                    log.write_all(format!("{who} {line:0width$}\n", width = 1 + line % 50).as_bytes())
                        .unwrap();
                }
            });
        }
    });
    bed.remount();
    let text = fs::read_to_string(&path).unwrap();
    let lines: BTreeSet<(usize, usize)> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(who, line)| (who.parse().unwrap(), line.parse().unwrap()))
        .collect();
    assert_eq!(lines.len(), 4 * 300);
    assert_eq!(text.lines().count(), 4 * 300);
}

#[test]
fn neighbouring_pages_are_written_at_once_and_read_whole() {
    const PAGES: u64 = 64;
    let bed = Bed::mounted();
    let path = bed.plain("pages");
    fs::write(&path, vec![0; PAGES as usize * 4096]).unwrap();
    thread::scope(|scope| {
        for who in 0..4u8 {
            let path = &path;
            scope.spawn(move || {
                let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
                for round in 0..20u8 {
                    for page in (u64::from(who)..PAGES).step_by(4) {
                        let byte = who * 50 + round + 1;
                        file.write_all_at(&[byte; 4096], page * 4096).unwrap();
                        let mut back = [0; 4096];
                        file.read_exact_at(&mut back, page * 4096).unwrap();
                        assert!(back.iter().all(|b| *b == byte), "page {page} of writer {who}");
                    }
                    if round % 7 == 0 {
                        file.sync_data().unwrap();
                    }
                }
            });
        }
    });
    bed.remount();
    let content = fs::read(&path).unwrap();
    for (page, bytes) in content.chunks(4096).enumerate() {
        let due = (page % 4) as u8 * 50 + 20;
        assert!(bytes.iter().all(|b| *b == due), "page {page}");
    }
}

#[test]
fn a_large_directory_is_listed_whole_and_emptied_while_it_is_read() {
    let bed = Bed::mounted();
    let dir = bed.plain("many");
    fs::create_dir(&dir).unwrap();
    let due: BTreeSet<String> = (0..1500).map(|n| format!("entry number {n:05}")).collect();
    for name in &due {
        fs::write(dir.join(name), "").unwrap();
    }
    let listed = || -> BTreeSet<String> {
        fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(listed(), due);
    bed.remount();
    assert_eq!(listed(), due);
    assert_eq!(fs::remove_dir(&dir).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    for entry in fs::read_dir(&dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(listed(), BTreeSet::new());
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn times_survive_close_and_remount() {
    let bed = Bed::mounted();
    fs::write(bed.plain("file"), "content").unwrap();
    let past = std::time::UNIX_EPOCH + std::time::Duration::new(981_173_106, 789_000_001);
    {
        let mut file = OpenOptions::new().append(true).open(bed.plain("file")).unwrap();
        file.write_all(b" and more").unwrap();
        file.set_modified(past).unwrap();
        // The close finalises the file, and must not touch what was set.
    }
    assert_eq!(fs::metadata(bed.plain("file")).unwrap().modified().unwrap(), past);
    bed.remount();
    let stat = fs::metadata(bed.plain("file")).unwrap();
    assert_eq!((stat.modified().unwrap(), stat.len()), (past, 16));
}

#[test]
fn access_control_lists_work() {
    let bed = open_bed();
    fs::write(bed.plain("file"), "content\n").unwrap();
    fs::set_permissions(bed.plain("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let backing = Command::new("setfacl").args(["-m", "u:65533:r"]).arg(bed.dir()).output();
    if !backing.expect("setfacl is absent: apt-get install acl").status.success() {
        skipped(&format!("the filesystem of {} has no ACLs", bed.dir().display()));
        return;
    }
    sh(&bed.plain(""), "setfacl -m u:65534:r file");
    bed.remount();
    assert!(sh(&bed.plain(""), "getfacl -cn file").contains("user:65534:r--"));
    // A default ACL takes the umask's place.
    sh(&bed.plain(""), "mkdir dir plain; setfacl -d -m u:65534:rwx dir; umask 077; touch dir/new plain/new");
    assert!(sh(&bed.plain(""), "getfacl -cn dir/new").contains("mask::rw-"));
    assert_eq!(mode(&bed.plain("plain/new")), 0o600);
    as_nobody(&bed.plain(""), "test \"$(cat file)\" = content; ! echo x > file");
}

#[test]
fn special_files_and_odd_opens_are_what_they_should_be() {
    let bed = Bed::mounted();
    sh(&bed.plain(""), "mkfifo pipe; (echo through > pipe &); test \"$(cat pipe)\" = through");
    symlink("nowhere", bed.plain("dangling")).unwrap();
    assert_eq!(File::open(bed.plain("dangling")).unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(bed.plain("file"), "content").unwrap();
    let exclusive = OpenOptions::new().write(true).create_new(true).open(bed.plain("file"));
    assert_eq!(exclusive.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let as_directory = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(bed.plain("file"));
    assert_eq!(as_directory.unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
    assert_eq!(File::create(bed.plain("")).unwrap_err().raw_os_error(), Some(libc::EISDIR));
    let stat = rustix::fs::statvfs(bed.plain("")).unwrap();
    assert_eq!(stat.f_namemax, 255);
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(bed.plain("file"));
    let mut page = vec![0; 4096];
    // Either refused or right.
    if let Ok(len) = direct.and_then(|file| file.read_at(&mut page, 0)) {
        assert_eq!(&page[..len], b"content");
    }
    sh(&bed.plain(""), "fallocate -l 100000 room || true; truncate -s 0 room; rm -f room");
    bed.remount();
    assert!(sh(&bed.plain(""), "stat -c %F pipe").contains("fifo"));
}
