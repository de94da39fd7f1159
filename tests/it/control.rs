//! The control socket of a mount, and the volume held still: through it, and without a mount.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kmsfs::volume::disk::Change;
use kmsfs::volume::host::HostDir;
use kmsfs::volume::{ROOT, SetAttr, Volume, VolumeError, VolumeOptions};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use serde_json::{Value, json};

use crate::fake::{FakeKms, KEY};
use crate::handles::{READ, READ_WRITE};
use crate::kms_kill::Dice;
use crate::model::options;
use crate::model::run::CALLER;
use crate::mounted::bed::{Bed, sh, skipped, wait_for};

/// One connection, and the volume that is meant.
pub struct Asker(BufReader<UnixStream>, Value);

impl Asker {
    pub fn new(bed: &Bed) -> Self {
        let stream = UnixStream::connect(bed.vault().join(".kmsfs/control")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let descriptor: Value =
            serde_json::from_slice(&fs::read(bed.vault().join("kmsfs.json")).unwrap()).unwrap();
        let directory = fs::metadata(bed.vault()).unwrap();
        let which =
            json!({"id": descriptor["volume_id"], "device": directory.dev(), "inode": directory.ino()});
        Self(BufReader::new(stream), which)
    }

    /// A request as a line.
    pub fn line(&self, request: &Value) -> String {
        json!({"version": 2, "volume": self.1, "request": request}).to_string()
    }

    pub fn say(&mut self, line: &str) {
        match self.0.get_mut().write_all(format!("{line}\n").as_bytes()) {
            // Its answer is there already.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            said => said.unwrap(),
        }
    }

    /// None when the connection has ended.
    pub fn hear(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).unwrap();
        (read > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    pub fn ask(&mut self, request: &Value) -> Value {
        self.say(&self.line(request));
        self.hear().unwrap()
    }

    fn hold(bed: &Bed, seconds: u64) -> (Self, Value) {
        let mut asker = Self::new(bed);
        let answer = asker.ask(&json!({"verb": "hold", "seconds": seconds}));
        assert_eq!(answer["answer"], "result", "{answer}");
        (asker, answer["result"].clone())
    }
}

/// Everything in a backing directory but the times of access and the mount's own lock and socket.
fn tree(dir: &Path) -> BTreeMap<String, String> {
    let list = sh(
        dir,
        "find . ! -path './.kmsfs/control' -printf '%p|%y|%m|%s|%T@|%C@|%n|%l\\n'; \
         find . -type f -print0 | xargs -0 sha256sum",
    );
    list.lines().map(|line| (line.to_owned(), String::new())).collect()
}

/// A copy of the backing tree with the marker of a hold.
fn copy(bed: &Bed, state: &Value, name: &str) {
    sh(bed.dir(), &format!("rm -rf {name}; cp -a vault {name}; rm {name}/.kmsfs/control"));
    let marker: Vec<u8> = serde_json::from_value(state["marker"].clone()).unwrap();
    fs::write(bed.dir().join(name).join(".kmsfs/epoch"), marker).unwrap();
}

#[test]
fn what_programs_wrote_is_in_a_copy_that_is_made_while_the_volume_is_held() {
    let bed = Bed::mounted();
    sh(bed.dir(), "seq 1 300000 > source; mkdir tree; for n in $(seq 40); do seq $n 2000 > tree/$n; done");
    // Not synced; the page cache of the kernel has all of it.
    sh(bed.dir(), "cp source plain/copied; cp -r tree plain/tree");
    // Written through a mapping.
    let mapped = sh(
        bed.dir(),
        "python3 - <<'END'\nimport mmap\nf = open('plain/mapped', 'w+b')\nf.truncate(50000)\nm = mmap.mmap(f.fileno(), 50000)\n\
         m[100:105] = b'hello'\nm[49990:49995] = b'world'\nprint('done')\nEND",
    );
    assert_eq!(mapped, "done\n");
    // Open for writing: synced, and written to again. No program is started between this and the hold: a copy of the
    // descriptor would be closed there, and closing has the kernel write back.
    let open = File::options().create_new(true).read(true).write(true).open(bed.plain("open")).unwrap();
    open.write_all_at(&[b'a'; 10_000], 0).unwrap();
    open.sync_data().unwrap();
    open.write_all_at(&[b'b'; 7000], 5000).unwrap();

    let (mut held, state) = Asker::hold(&bed, 60);
    let first = tree(&bed.vault());
    // Writers wait, and nothing moves behind their backs; reading goes on while a thread is left for it.
    let (written, path) = (Arc::new(AtomicBool::new(false)), bed.plain("late"));
    let writer = thread::spawn({
        let written = written.clone();
        move || {
            fs::write(path, "late").unwrap();
            written.store(true, Ordering::SeqCst);
        }
    });
    thread::sleep(Duration::from_millis(300));
    assert_eq!(fs::read(bed.plain("copied")).unwrap(), fs::read(bed.dir().join("source")).unwrap());
    copy(&bed, &state, "clone");
    assert_eq!(tree(&bed.vault()), first);
    assert_eq!(held.ask(&json!({"verb": "still"})), json!({"answer": "result", "result": null}));
    assert!(!written.load(Ordering::SeqCst));
    assert_eq!(held.ask(&json!({"verb": "release"})), json!({"answer": "result", "result": null}));
    assert_eq!(held.hear(), None);
    writer.join().unwrap();

    // A file that was finalised meanwhile is written to again.
    open.write_all_at(b"again", 20_000).unwrap();
    drop(open);
    bed.remount();
    let mut wanted = vec![b'a'; 5000];
    wanted.extend([b'b'; 7000]);
    let mut now = wanted.clone();
    now.resize(20_000, 0);
    now.extend(b"again");
    assert_eq!(fs::read(bed.plain("open")).unwrap(), now);
    assert_eq!(fs::read(bed.plain("late")).unwrap(), b"late");
    bed.unmount();

    let status = bed.run(["status", "clone"]);
    assert!(status.contains("closed cleanly"), "{status}");
    bed.run(["mount", "--read-only", "clone", "plain"]);
    sh(bed.dir(), "cmp source plain/copied; diff -r tree plain/tree; test ! -e plain/late");
    assert_eq!(fs::read(bed.plain("open")).unwrap(), wanted);
    let mapped = fs::read(bed.plain("mapped")).unwrap();
    assert_eq!(
        (mapped.len(), &mapped[100..105], &mapped[49_990..49_995]),
        (50_000, &b"hello"[..], &b"world"[..])
    );
    bed.unmount();
}

#[test]
fn a_command_finds_the_volume_held_and_is_told_when_it_took_too_long() {
    let bed = Bed::new();
    let (code, error) = bed.refused_with(["hold", "vault", "true"]);
    assert!(code == 1 && error.contains("not mounted"), "{error}");
    bed.mount();
    fs::write(bed.plain("file"), "content").unwrap();
    bed.run(["hold", "plain", "cp", "-a", "vault", "clone"]);
    assert_eq!(bed.command(["hold", "vault", "sh", "-c", "exit 7"]).status().unwrap().code(), Some(7));
    let (code, error) = bed.refused_with(["hold", "vault", "./absent"]);
    assert!(code == 1 && error.contains("./absent"), "{error}");
    // The first writer ends the wait when the time is over.
    let begun = Instant::now();
    let mut child = bed.command(["hold", "--limit", "1", "vault", "sleep", "3"]);
    let output = thread::scope(|scope| {
        let held = scope.spawn(|| child.output().unwrap());
        thread::sleep(Duration::from_millis(500));
        fs::write(bed.plain("file"), "changed").unwrap();
        assert!(begun.elapsed() < Duration::from_secs(3));
        held.join().unwrap()
    });
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(6) && error.contains("held still for 1 seconds"), "{error}");
    // A mount that only reads has nothing to hold.
    bed.unmount();
    bed.run(["mount", "--read-only", "vault", "plain"]);
    assert_eq!(bed.refused_with(["hold", "vault", "true"]).0, 1);
}

#[test]
fn the_socket_is_the_owners_alone_goes_with_the_mount_and_replaces_a_dead_ones() {
    let bed = Bed::new();
    let socket = bed.vault().join(".kmsfs/control");
    let mut daemon = bed.mount_in_foreground();
    wait_for(Duration::from_secs(10), "the socket", || socket.exists());
    let made = fs::symlink_metadata(&socket).unwrap();
    assert!(made.file_type().is_socket());
    assert_eq!(made.permissions().mode() & 0o777, 0o600);
    let mut first = Asker::new(&bed);
    let status = first.ask(&json!({"verb": "status"}));
    assert_eq!(status["result"]["region"], "us-east-1", "{status}");
    assert_eq!(first.hear(), None);
    daemon.kill();
    bed.detach();
    assert!(socket.exists());
    assert!(UnixStream::connect(&socket).is_err());
    // One that was killed before its socket had its name.
    let unnamed = bed.vault().join(".kmsfs/tmp.AAAAAAAAAAAAAAAAAAAAAA");
    drop(UnixListener::bind(&unnamed).unwrap());
    bed.mount();
    assert!(!unnamed.exists());
    assert_eq!(Asker::new(&bed).ask(&json!({"verb": "status"}))["answer"], "result");
    bed.unmount();
    assert!(!socket.exists());
}

/// Serves a socket where a mount would, by a thread with this effective user id: to each line it gives the answer.
fn pretend(bed: &Bed, uid: u32, answer: impl Fn(&mut UnixStream) + Send + 'static) {
    let private = File::open(bed.vault().join(".kmsfs")).unwrap();
    let _ = fs::remove_file(bed.vault().join(".kmsfs/control"));
    let (ready, wait) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let path = format!("/proc/self/fd/{}/control", private.as_raw_fd());
        bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        let [real, saved] = [rustix::process::getuid(), rustix::process::geteuid()];
        // The kernel notes who listens. It is this thread's id alone.
        set_thread_res_uid(real, Uid::from_raw(uid), saved).unwrap();
        listen(&socket, 4).unwrap();
        set_thread_res_uid(real, saved, saved).unwrap();
        ready.send(()).unwrap();
        // Ends with the process.
        for stream in UnixListener::from(socket).incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(stream);
            while lines.read_line(&mut String::new()).is_ok_and(|read| read > 0) {
                answer(lines.get_mut());
            }
        }
    });
    wait.recv().unwrap();
}

/// A hold that is none.
fn lie(bed: &Bed) -> impl Fn(&mut UnixStream) + Send + 'static {
    let volume: Value = serde_json::from_slice(&fs::read(bed.vault().join("kmsfs.json")).unwrap()).unwrap();
    let held =
        json!({"volume_id": volume["volume_id"], "epoch": 1, "now": {"sec": 1, "nsec": 0}, "marker": []});
    let line = format!("{}\n", json!({"answer": "result", "result": held}));
    move |stream| {
        let _ = stream.write_all(line.as_bytes());
    }
}

#[test]
fn a_hold_is_believed_of_nobody_else_than_who_may_know() {
    const OTHER: u32 = 12_345;
    let bed = Bed::new();
    // Of oneself it is.
    pretend(&bed, rustix::process::geteuid().as_raw(), lie(&bed));
    assert!(bed.command(["hold", "vault", "touch", "held"]).status().unwrap().code() == Some(0));
    assert!(bed.dir().join("held").exists());
    if !rustix::process::geteuid().is_root() {
        skipped("only root can act as another user");
        return;
    }
    pretend(&bed, OTHER, lie(&bed));
    fs::remove_file(bed.dir().join("held")).unwrap();
    let refused = |args: &[&str]| {
        let (code, error) = bed.refused_with(args);
        assert!(
            code == 1 && error.contains("uid 12345") && error.contains("not believed"),
            "{args:?}: {error}"
        );
    };
    refused(&["hold", "vault", "touch", "held"]);
    refused(&["snapshot", "create", "vault"]);
    refused(&["rewrap", "vault"]);
    assert!(!bed.dir().join("held").exists());
    assert!(!bed.vault().join(".kmsfs/snapshots/snapshots").exists());
    // A descriptor that he put into the directory of somebody else makes him no owner.
    std::os::unix::fs::chown(bed.vault().join("kmsfs.json"), Some(OTHER), None).unwrap();
    refused(&["hold", "vault", "touch", "held"]);
    // His own volume is his.
    std::os::unix::fs::chown(bed.vault(), Some(OTHER), None).unwrap();
    bed.run(["hold", "vault", "touch", "held"]);
    assert!(bed.dir().join("held").exists());
}

#[test]
fn an_answer_without_end_is_not_read_to_it() {
    let bed = Bed::new();
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    pretend(&bed, rustix::process::geteuid().as_raw(), move |stream| {
        for _ in 0..256 {
            if stream.write_all(&[b'x'; 1 << 16]).is_err() {
                break;
            }
            count.fetch_add(1 << 16, Ordering::SeqCst);
        }
        let _ = stream.shutdown(std::net::Shutdown::Both);
    });
    let (code, error) = bed.refused_with(["hold", "vault", "true"]);
    assert!(code == 1 && error.contains("over 1048576 bytes"), "{error}");
    assert!(written.load(Ordering::SeqCst) < 4 << 20);
}

/// Neither by a link to the socket, nor by one to the private directory, nor by a descriptor that says the other's id: what
/// was meant for one volume would be done to another.
#[test]
fn a_socket_that_leads_to_another_volumes_mount_does_nothing_there() {
    let bed = Bed::mounted();
    sh(
        bed.dir(),
        "mkdir other point; openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out private.pem",
    );
    sh(bed.dir(), "openssl pkey -in private.pem -pubout -out public.pem; echo kept > plain/file");
    bed.run(["init", "other"]);
    bed.run(["mount", "other", "point"]);
    sh(bed.dir(), "echo other > point/file");
    bed.run(["umount", "point"]);
    bed.run(["key", "create", "--alias", "alias/new"]);
    // The one name that both volumes have is that of no file.
    let file = |volume: &str| {
        sh(bed.dir(), &format!("find {volume} -type f ! -name kmsfs.json ! -path '*/.kmsfs/*'"))
            .trim()
            .to_owned()
    };
    let (theirs, ours) = (file("vault"), file("other"));
    fs::rename(bed.dir().join(&ours), bed.dir().join("other").join(Path::new(&theirs).file_name().unwrap()))
        .unwrap();
    let ours = file("other");
    let state = || {
        sh(
            bed.dir(),
            r"find vault -path vault/.kmsfs -prune -o -type f -printf '%T@ %C@ ' -exec sha256sum {} +",
        )
    };
    let before = state();
    let refused = |how: &str| {
        for args in [
            &["hold", "other", "touch", "held"][..],
            &["snapshot", "create", "other"],
            &["rewrap", "other"],
            &["rewrap", "--key", "alias/new", &ours],
            &["edk", "add", "other", "--public-key", "public.pem"],
            &["edk", "remove", "other", "--key", "arn:aws:kms:us-east-1:000000000000:key/none"],
            &["shred", "--yes", &ours],
        ] {
            let (code, error) = bed.refused_with(args);
            assert!(code == 1 && error.contains("another volume's mount"), "{how}, {args:?}: {error}");
            assert_eq!(state(), before, "{how}, {args:?}");
        }
        assert!(!bed.dir().join("held").exists() && bed.dir().join(&ours).exists());
    };
    let socket = bed.dir().join("other/.kmsfs/control");
    std::os::unix::fs::symlink(bed.vault().join(".kmsfs/control"), &socket).unwrap();
    refused("a link");
    fs::remove_file(&socket).unwrap();
    fs::hard_link(bed.vault().join(".kmsfs/control"), &socket).unwrap();
    refused("a hard link");
    // As if it were the other volume: whoever can write there can say so.
    fs::rename(bed.dir().join("other/kmsfs.json"), bed.dir().join("kept.json")).unwrap();
    fs::copy(bed.vault().join("kmsfs.json"), bed.dir().join("other/kmsfs.json")).unwrap();
    refused("a descriptor");
    fs::rename(bed.dir().join("kept.json"), bed.dir().join("other/kmsfs.json")).unwrap();
    fs::remove_file(&socket).unwrap();
    fs::rename(bed.dir().join("other/.kmsfs"), bed.dir().join("aside")).unwrap();
    std::os::unix::fs::symlink(bed.vault().join(".kmsfs"), bed.dir().join("other/.kmsfs")).unwrap();
    assert_eq!(bed.refused_with(["hold", "other", "true"]).0, 1);
    assert_eq!(bed.refused_with(["rewrap", "other"]).0, 1);
    assert_eq!(state(), before);
    // The volume that is mounted is asked as ever, also by another name of its directory.
    std::os::unix::fs::symlink(bed.vault(), bed.dir().join("named")).unwrap();
    bed.run(["rewrap", "--key", "alias/new", "named"]);
    assert_ne!(state(), before);
}

#[test]
fn what_is_no_request_gets_an_error_and_the_mount_goes_on() {
    let bed = Bed::mounted();
    let usage = |line: &str, says: &str| {
        let mut asker = Asker::new(&bed);
        asker.say(line);
        let answer = asker.hear().unwrap();
        assert_eq!(
            (&answer["answer"], &answer["kind"]),
            (&json!("error"), &json!("usage")),
            "{line}: {answer}"
        );
        assert!(answer["message"].as_str().unwrap().contains(says), "{line}: {answer}");
        assert_eq!(asker.hear(), None);
    };
    usage("", "understand");
    usage("rubbish", "understand");
    usage("{}", "understand");
    usage("[[[[[[[[", "understand");
    usage(&"[".repeat(60_000), "understand");
    usage(r#"{"version":1,"request":{"verb":"status"}}"#, "version 1");
    usage(r#"{"version":3}"#, "version 3");
    usage(r#"{"version":2,"request":{"verb":"status"}}"#, "volume");
    usage(r#"{"version":2,"volume":"","request":{"verb":"status"}}"#, "understand");
    let asker = Asker::new(&bed);
    usage(&asker.line(&json!({"verb": "fly"})), "fly");
    usage(&asker.line(&json!({"verb": "hold", "seconds": 0})), "seconds");
    usage(&asker.line(&json!({"verb": "hold", "seconds": -1})), "understand");
    usage(&asker.line(&json!({"verb": "status", "more": 1})), "more");
    usage(&asker.line(&json!({"verb": "still"})), "still");
    // Too long, and more of it than is read.
    let mut asker = Asker::new(&bed);
    let _ = asker.0.get_mut().write_all(&vec![b'x'; 300_000]);
    let mut answer = Vec::new();
    let _ = asker.0.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(br#"{"answer":"error","kind":"usage""#));
    // In pieces, and closed in the middle.
    let mut asker = Asker::new(&bed);
    let line = asker.line(&json!({"verb": "status"})) + "\n";
    for piece in line.as_bytes().chunks(line.len() / 3 + 1) {
        asker.0.get_mut().write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(asker.hear().unwrap()["answer"], "result");
    let mut asker = Asker::new(&bed);
    asker.0.get_mut().write_all(b"{\"version\":2").unwrap();
    drop(asker);
    // One hold at a time; who is gone holds nothing.
    let (held, _) = Asker::hold(&bed, 600);
    let busy = Asker::new(&bed).ask(&json!({"verb": "hold", "seconds": 5}));
    assert_eq!((&busy["answer"], &busy["kind"]), (&json!("error"), &json!("busy")), "{busy}");
    drop(held);
    fs::write(bed.plain("file"), "content").unwrap();
    // Rubbish ends a hold.
    let (mut held, _) = Asker::hold(&bed, 600);
    held.say("rubbish");
    assert_eq!(held.hear().unwrap()["kind"], "usage");
    // Neither a hold nor many idle connections keep a mount from going.
    let idle: Vec<_> = (0..30).map(|_| Asker::new(&bed)).collect();
    let (mut held, _) = {
        wait_for(Duration::from_secs(20), "room", || {
            Asker::new(&bed).ask(&json!({"verb": "status"}))["answer"] == "result"
        });
        Asker::hold(&bed, 600)
    };
    bed.unmount();
    assert_eq!(held.hear().map(|a| a["answer"].clone()).unwrap_or(json!("error")), "error");
    drop(idle);
}

// ---- without a mount

/// What one writer does to its file: a list of changes with what the file holds after each.
struct Script {
    ops: Vec<(u64, Vec<u8>, bool)>,
    states: Vec<Vec<u8>>,
    begun: AtomicUsize,
    ended: AtomicUsize,
}

impl Script {
    fn new(seed: u64, len: usize) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (mut ops, mut states) = (Vec::new(), vec![Vec::new()]);
        for n in 0..len {
            let mut state = states[n].clone();
            let offset = dice.below(30_000);
            let cut = dice.below(5) == 0;
            let data = vec![n as u8 | 1; if cut { 0 } else { 1 + dice.below(9000) }];
            if cut {
                state.resize(offset, 0);
            } else {
                state.resize(state.len().max(offset + data.len()), 0);
                state[offset..offset + data.len()].copy_from_slice(&data);
            }
            ops.push((offset as u64, data, dice.below(6) == 0));
            states.push(state);
        }
        Self { ops, states, begun: AtomicUsize::new(0), ended: AtomicUsize::new(0) }
    }

    /// Writes, and now and then opens the file anew.
    fn run(&self, volume: &Volume, name: &[u8], stop: &AtomicBool) {
        let (attr, mut handle) = volume.create(CALLER, ROOT, name, 0o600, READ_WRITE).unwrap();
        for (n, (offset, data, reopen)) in self.ops.iter().enumerate() {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            self.begun.store(n + 1, Ordering::SeqCst);
            if data.is_empty() {
                let set = SetAttr { size: Some(*offset), change: Change::default(), kill_priv: false };
                volume.setattr(CALLER, attr.node, Some(handle), &set).unwrap();
            } else {
                volume.write(handle, *offset, data, false).unwrap();
            }
            self.ended.store(n + 1, Ordering::SeqCst);
            if *reopen {
                volume.fsync(handle, true).unwrap();
                volume.release(handle).unwrap();
                handle = volume.open_file(CALLER, attr.node, READ_WRITE).unwrap();
            }
        }
        volume.release(handle).unwrap();
    }
}

fn read_all(volume: &Volume, name: &[u8]) -> Vec<u8> {
    let attr = volume.lookup(ROOT, name).unwrap();
    let handle = volume.open_file(CALLER, attr.node, READ).unwrap();
    let mut content = vec![0; attr.stat.size as usize + 1];
    let read = volume.read(handle, 0, &mut content).unwrap();
    content.truncate(read);
    volume.release(handle).unwrap();
    content
}

#[test]
fn a_held_volume_stands_still_and_is_whole_under_writers_that_never_stop() {
    for seed in 0..4u64 {
        let temp = tempfile::tempdir().unwrap();
        let (here, there) = (temp.path().join("vault"), temp.path().join("clone"));
        fs::create_dir(&here).unwrap();
        let kms = FakeKms::new();
        Volume::init(&*HostDir::open(&here).unwrap(), &*kms, KEY).unwrap();
        let open = |path: &Path, options: VolumeOptions| {
            Volume::open(HostDir::open(path).unwrap(), kms.clone(), kms.clone(), options).unwrap()
        };
        let volume = open(&here, options());
        let scripts: Vec<_> = (0..3).map(|n| Script::new(seed * 100 + n, 4000)).collect();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for (n, script) in scripts.iter().enumerate() {
                let (volume, stop) = (&volume, &stop);
                scope.spawn(move || script.run(volume, format!("file {n}").as_bytes(), stop));
            }
            // Names come and go as well.
            let (volume, stop) = (&volume, &stop);
            scope.spawn(move || {
                for n in 0.. {
                    let name = format!("dir {}", n % 7);
                    let _ = volume.mkdir(CALLER, ROOT, name.as_bytes(), 0o700);
                    let _ = volume.rename(
                        ROOT,
                        name.as_bytes(),
                        ROOT,
                        format!("dir {}", n % 5).as_bytes(),
                        kmsfs::volume::disk::RenameMode::Replace,
                    );
                    let _ = volume.rmdir(ROOT, format!("dir {}", n % 3).as_bytes());
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                }
            });
            let mut dice = Dice(seed + 77);
            for _ in 0..6 {
                thread::sleep(Duration::from_millis(5 + dice.below(60) as u64));
                let hold = volume.hold(Duration::from_secs(20)).unwrap();
                let bounds: Vec<_> = scripts
                    .iter()
                    .map(|s| (s.ended.load(Ordering::SeqCst), s.begun.load(Ordering::SeqCst)))
                    .collect();
                let first = tree(&here);
                let _ = fs::remove_dir_all(&there);
                sh(temp.path(), "cp -a vault clone");
                let copied = tree(&here);
                assert_eq!(first, copied);
                let still = hold.still.clone();
                drop(hold);
                fs::write(there.join(".kmsfs/epoch"), &still.marker).unwrap();
                let clone = open(&there, VolumeOptions { read_only: true, ..options() });
                assert!(clone.status().mending.is_empty());
                assert_eq!(clone.status().epoch, still.epoch);
                for (n, script) in scripts.iter().enumerate() {
                    let name = format!("file {n}");
                    if bounds[n].1 == 0 {
                        continue;
                    }
                    let found = read_all(&clone, name.as_bytes());
                    let fits = (bounds[n].0..=bounds[n].1).any(|at| script.states[at] == found);
                    assert!(fits, "seed {seed}: {name} is not as it was after change {:?}", bounds[n]);
                }
            }
            stop.store(true, Ordering::SeqCst);
        });
        for (n, script) in scripts.iter().enumerate() {
            let ended = script.ended.load(Ordering::SeqCst);
            assert!(ended > 0, "a writer did nothing");
            assert_eq!(read_all(&volume, format!("file {n}").as_bytes()), script.states[ended]);
        }
        volume.close().unwrap();
    }
}

#[test]
fn a_hold_waits_for_mending_and_a_read_only_volume_has_none() {
    let temp = tempfile::tempdir().unwrap();
    let kms = FakeKms::new();
    Volume::init(&*HostDir::open(temp.path()).unwrap(), &*kms, KEY).unwrap();
    let open = |options| {
        Volume::open(HostDir::open(temp.path()).unwrap(), kms.clone(), kms.clone(), options).unwrap()
    };
    // As a kill leaves it.
    drop(open(options()));
    let volume = open(options());
    assert!(matches!(volume.hold(Duration::from_millis(10)).err(), Some(VolumeError::NotSettled)));
    volume.mend().unwrap();
    drop(volume.hold(Duration::from_millis(10)).unwrap());
    volume.close().unwrap();
    drop(volume);
    let reader = open(VolumeOptions { read_only: true, ..options() });
    assert!(matches!(reader.hold(Duration::from_millis(10)).err(), Some(VolumeError::ReadOnly)));
}
