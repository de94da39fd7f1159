//! Recipients added and removed while the volume is used: inside a mount, and without one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kmsfs::crypto::asymmetric::{PairSpec, PrivateKey};
use kmsfs::kms::{KeyService, KeyState, KmsErrorKind};
use kmsfs::volume::descriptor::Descriptor;
use kmsfs::volume::disk::{Dir, RenameMode};
use kmsfs::volume::edk::{self, Change, Options, Report};
use kmsfs::volume::host::HostDir;
use kmsfs::volume::recipients::{OtherRegions, Recipient};
use kmsfs::volume::{NodeId, ROOT, Volume, VolumeError, VolumeOptions};
use serde_json::Value;

use crate::cli::json as answer;
use crate::fake::{FakeKms, KEY};
use crate::handles::{READ, READ_WRITE, Stop, content};
use crate::kms_kill::Dice;
use crate::model::options;
use crate::model::run::{CALLER, pattern};
use crate::mounted::bed::{Bed, KEY as BED_KEY, sh, wait_for};

const OPTIONS: Options = Options { keep_mtime: false, dry_run: false, threads: 2 };

struct Fixture {
    temp: tempfile::TempDir,
    home: Arc<FakeKms>,
    europe: Arc<FakeKms>,
}

impl Fixture {
    fn new() -> Self {
        let (temp, home) = (tempfile::tempdir().unwrap(), FakeKms::new());
        Volume::init(&*HostDir::open(temp.path()).unwrap(), &*home, KEY).unwrap();
        Self { temp, home, europe: FakeKms::in_region("eu-west-1") }
    }

    fn root(&self) -> Arc<dyn Dir> {
        HostDir::open(self.temp.path()).unwrap()
    }

    fn regions(&self) -> OtherRegions {
        let europe = self.europe.clone();
        OtherRegions::new(move |region| match region {
            "eu-west-1" => Ok(europe.clone()),
            _ => Err(VolumeError::Unsupported("another region")),
        })
    }

    fn open(&self) -> Volume {
        let options = VolumeOptions { pool: 16, regions: self.regions(), ..options() };
        Volume::open(self.root(), self.home.clone(), self.home.clone(), options).unwrap()
    }

    fn change(&self, volume: &Volume, change: &Change, options: &Options) -> Result<Report, VolumeError> {
        let here: Arc<dyn KeyService> = self.home.clone();
        volume.change_recipients(&here, &self.regions(), change, options, &|| true)
    }

    /// Files with a key, and how many of them a recipient has.
    fn counts(&self, name: &str) -> (u64, u64) {
        let found = edk::list(&self.root(), &[], 2).unwrap();
        assert_eq!(found.failed.count, 0, "{:?}", found.failed);
        (found.with_key, found.files.get(name).copied().unwrap_or(0))
    }

    /// What a recipient of the volume's region alone reads of files in the root.
    fn reads(&self, name: &str, file: &[u8]) -> Option<Vec<u8>> {
        let options =
            VolumeOptions { read_only: true, only: Some(name.to_owned()), ..VolumeOptions::default() };
        let volume = Volume::open(self.root(), self.home.clone(), self.home.clone(), options).ok()?;
        Some(content(&volume, ROOT, file))
    }
}

/// Under a recipient's key the recipient is none any more: after a third key nothing is wrapped for it, open and new files
/// included.
#[test]
fn a_recipient_under_whose_key_a_mount_brings_the_volume_is_none_any_more() {
    let fixture = Fixture::new();
    let volume = fixture.open();
    let create = |name: &[u8]| volume.create(CALLER, ROOT, name, 0o600, READ_WRITE).unwrap().1;
    let open = create(b"open");
    volume.write(open, 0, b"open", false).unwrap();
    volume.fsync(open, false).unwrap();
    let [second, far] = [fixture.home.arn("alias/second"), fixture.europe.arn("alias/far")];
    for name in [&second, &far] {
        fixture.change(&volume, &Change::Add(Recipient::kms(name.clone())), &OPTIONS).unwrap();
    }
    let names = || {
        let listed = Descriptor::read(&*fixture.root()).unwrap().recipients;
        listed.into_iter().map(|recipient| recipient.name).collect::<Vec<_>>()
    };
    let here: Arc<dyn KeyService> = fixture.home.clone();
    let rewrap = |key: &str, dry_run| {
        let options = kmsfs::volume::rewrap::Options {
            key_id: Some(key.to_owned()),
            below: Vec::new(),
            change_service: false,
            keep_mtime: true,
            dry_run,
            threads: 2,
        };
        let nowhere = |region: &str| panic!("nobody has a key in {region:?}");
        volume.rewrap(&here, &nowhere, &options, &|| true).unwrap()
    };
    let plan = rewrap("alias/second", true);
    assert_eq!((plan.rewrapped, plan.volume_key, names().len()), (1, true, 2));
    assert_eq!(rewrap("alias/second", false).rewrapped, 1);
    assert_eq!(names(), std::slice::from_ref(&far));
    assert!(!rewrap("alias/second", false).volume_key, "all is done");
    let new = create(b"under the second");
    volume.write(new, 0, b"new", false).unwrap();
    volume.release(new).unwrap();
    assert_eq!((fixture.counts(&second), fixture.counts(&far)), ((2, 2), (2, 2)));
    // As of any own key.
    let refused = fixture.change(&volume, &Change::Remove(second.clone()), &OPTIONS);
    assert!(matches!(refused, Err(VolumeError::Invalid(_))), "{refused:?}");
    assert_eq!(rewrap("alias/third", false).rewrapped, 2);
    let new = create(b"under the third");
    for handle in [open, new] {
        volume.write(handle, 0, b"more", false).unwrap();
        volume.release(handle).unwrap();
    }
    assert_eq!((fixture.counts(&second), fixture.counts(&far)), ((3, 0), (3, 3)));
    // It can become one again.
    fixture.change(&volume, &Change::Add(Recipient::kms(second.clone())), &OPTIONS).unwrap();
    assert_eq!((names(), fixture.counts(&second)), (vec![far, second.clone()], (3, 3)));
    volume.close().unwrap();
    assert_eq!(fixture.reads(&second, b"open").as_deref(), Some(&b"more"[..]));
    // The mount that comes after finds it so, too.
    fixture.open().close().unwrap();
}

#[test]
fn open_files_and_new_ones_are_wrapped_for_a_recipient_and_lose_it_again() {
    let fixture = Fixture::new();
    let volume = fixture.open();
    let create = |name: &[u8]| volume.create(CALLER, ROOT, name, 0o600, READ_WRITE).unwrap().1;
    for name in [&b"closed"[..], b"read"] {
        let handle = create(name);
        volume.write(handle, 0, name, false).unwrap();
        volume.release(handle).unwrap();
    }
    let node = volume.lookup(ROOT, b"read").unwrap().node;
    let read = volume.open_file(CALLER, node, READ).unwrap();
    let (written, empty) = (create(b"written"), create(b"empty"));
    volume.write(written, 0, b"written ", false).unwrap();
    volume.fsync(written, false).unwrap();
    let second = Recipient::kms(fixture.home.arn("alias/second"));
    let add = Change::Add(second.clone());

    let plan = fixture.change(&volume, &add, &Options { dry_run: true, ..OPTIONS }).unwrap();
    assert_eq!((plan.changed, plan.volume_key), (4, true));
    assert_eq!(fixture.counts(&second.name).1, 0);
    let report = fixture.change(&volume, &add, &OPTIONS).unwrap();
    assert_eq!((report.changed, report.already, report.failed.count, report.cut), (4, 0, 0, false));
    // Everything that is open goes on, and its finalising does not take the recipient away.
    volume.write(written, 8, b"more", false).unwrap();
    volume.write(empty, 0, b"no more", false).unwrap();
    assert_eq!(volume.read(read, 0, &mut [0; 4]).unwrap(), 4);
    let late = create(b"late");
    volume.write(late, 0, b"late", false).unwrap();
    for handle in [read, written, empty, late] {
        volume.release(handle).unwrap();
    }
    assert_eq!(fixture.counts(&second.name), (5, 5));
    let again = fixture.change(&volume, &add, &OPTIONS).unwrap();
    assert_eq!((again.changed, again.already, again.volume_key), (0, 5, false));
    volume.close().unwrap();
    for (name, text) in
        [(&b"closed"[..], &b"closed"[..]), (b"written", b"written more"), (b"empty", b"no more")]
    {
        assert_eq!(fixture.reads(&second.name, name).as_deref(), Some(text));
    }

    let volume = fixture.open();
    // What the mount itself opens by the recipient's key, it does not when that is gone: not inside a lease either.
    fixture.home.set_state(KEY, KeyState::Disabled);
    volume.tick();
    assert_eq!(content(&volume, ROOT, b"late"), b"late");
    fixture.home.set_state(KEY, KeyState::Enabled);
    volume.tick();
    let remove = Change::Remove(second.name.clone());
    let report = fixture.change(&volume, &remove, &OPTIONS).unwrap();
    assert_eq!((report.changed, report.volume_key), (5, true));
    let handle = volume.create(CALLER, ROOT, b"later", 0o600, READ_WRITE).unwrap().1;
    volume.write(handle, 0, b"later", false).unwrap();
    volume.release(handle).unwrap();
    assert_eq!(fixture.counts(&second.name), (6, 0));
    assert_eq!(Descriptor::read(&*fixture.root()).unwrap().recipients, []);
    fixture.home.set_state(KEY, KeyState::Disabled);
    let late = volume.lookup(ROOT, b"late").unwrap().node;
    let refused = volume.open_file(CALLER, late, READ);
    assert!(matches!(&refused, Err(VolumeError::Key(e)) if e.kind == KmsErrorKind::Disabled), "{refused:?}");
    fixture.home.set_state(KEY, KeyState::Enabled);
    volume.close().unwrap();
    assert_eq!(fixture.reads(&second.name, b"late"), None);
    assert_eq!(content(&fixture.open(), ROOT, b"late"), b"late");
}

#[test]
fn who_refuses_is_not_added_and_the_last_key_is_not_removed() {
    let fixture = Fixture::new();
    let volume = fixture.open();
    let (_, handle) = volume.create(CALLER, ROOT, b"file", 0o600, READ_WRITE).unwrap();
    volume.write(handle, 0, b"content", false).unwrap();
    volume.release(handle).unwrap();
    let before = Descriptor::read(&*fixture.root()).unwrap();
    let far = Recipient::kms(fixture.europe.arn("alias/far"));
    fixture.europe.set_state("alias/far", KeyState::Disabled);
    let refused = fixture.change(&volume, &Change::Add(far.clone()), &OPTIONS);
    assert!(matches!(refused, Err(VolumeError::Key(_))), "{refused:?}");
    for change in [Change::Remove(fixture.home.arn(KEY)), Change::Add(Recipient::kms(fixture.home.arn(KEY)))]
    {
        let refused = fixture.change(&volume, &change, &OPTIONS);
        assert!(matches!(refused, Err(VolumeError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(Descriptor::read(&*fixture.root()).unwrap(), before);
    // And who refuses later stops new files, in a mount that was made before he was added.
    fixture.europe.set_state("alias/far", KeyState::Enabled);
    fixture.change(&volume, &Change::Add(far.clone()), &OPTIONS).unwrap();
    fixture.europe.set_state("alias/far", KeyState::Disabled);
    let refused = volume.create(CALLER, ROOT, b"new", 0o600, READ_WRITE).map(drop);
    assert!(matches!(refused, Err(VolumeError::Key(_))), "{refused:?}");
    fixture.change(&volume, &Change::Remove(far.name.clone()), &OPTIONS).unwrap();
    volume.create(CALLER, ROOT, b"new", 0o600, READ_WRITE).unwrap();
    assert_eq!(fixture.counts(&far.name).1, 0);
    volume.close().unwrap();
}

/// A file gets another name whenever one is done with: the walk comes to an end all the same.
#[test]
fn it_ends_however_much_is_renamed() {
    let fixture = Fixture::new();
    let volume = fixture.open();
    for name in [&b"file"[..], b"turned"] {
        let (_, handle) = volume.create(CALLER, ROOT, name, 0o600, READ_WRITE).unwrap();
        volume.release(handle).unwrap();
    }
    let (seen, until) = (AtomicUsize::new(0), Instant::now() + Duration::from_secs(20));
    let turn = || {
        let mut names = [&b"turned"[..], b"turned again"];
        names.rotate_left(seen.fetch_add(1, Ordering::SeqCst) % 2);
        volume.rename(ROOT, names[0], ROOT, names[1], RenameMode::NoReplace).unwrap();
        Instant::now() < until
    };
    let here: Arc<dyn KeyService> = fixture.home.clone();
    let second = Recipient::kms(fixture.home.arn("alias/second"));
    let options = Options { threads: 1, ..OPTIONS };
    let add = Change::Add(second.clone());
    let report = volume.change_recipients(&here, &fixture.regions(), &add, &options, &turn).unwrap();
    assert!(!report.cut, "{report:?}");
    assert_eq!((report.changed, report.failed.count), (2, 0), "{:?}", report.failed);
    assert!(seen.into_inner() > 10);
    assert_eq!(fixture.counts(&second.name), (2, 2));
    volume.close().unwrap();
}

/// Files are created, written, renamed, linked and removed by threads that never stop while recipients come and go: not one file
/// stays behind, and none loses a byte.
#[test]
fn not_one_file_stays_behind_while_names_and_contents_change() {
    let fixture = Fixture::new();
    let volume = fixture.open();
    let dirs: Vec<NodeId> = (0..6)
        .map(|n| volume.mkdir(CALLER, ROOT, format!("dir {n}").as_bytes(), 0o700).unwrap().node)
        .collect();
    let name = |thread: usize, n: usize| format!("{thread} {n}").into_bytes();
    let bytes = |thread: usize, n: usize| pattern((thread * 1000 + n) as u64, 50 + n * 61);
    let (stop, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let places: Vec<Vec<Option<usize>>> = thread::scope(|scope| {
        let _stop = Stop(&stop);
        let threads: Vec<_> = (0..3usize)
            .map(|thread| {
                let (volume, dirs, stop, changes) = (&volume, &dirs, &stop, &changes);
                scope.spawn(move || {
                    let (mut dice, mut places) = (Dice(thread as u64 + 7), vec![None; 50]);
                    while !stop.load(Ordering::SeqCst) {
                        changes.fetch_add(1, Ordering::SeqCst);
                        let n = dice.below(places.len());
                        let (name, to) = (name(thread, n), dice.below(dirs.len()));
                        let Some(at) = places[n] else {
                            let made = volume.create(CALLER, dirs[to], &name, 0o600, READ_WRITE).unwrap();
                            volume.write(made.1, 0, &bytes(thread, n), false).unwrap();
                            volume.release(made.1).unwrap();
                            volume.forget(made.0.node, 1);
                            places[n] = Some(to);
                            continue;
                        };
                        let attr = volume.lookup(dirs[at], &name).unwrap();
                        match dice.below(8) {
                            0 => {
                                volume.unlink(dirs[at], &name).unwrap();
                                places[n] = None;
                            }
                            1 | 2 if at != to => {
                                volume.link(attr.node, dirs[to], &name).unwrap();
                                volume.unlink(dirs[at], &name).unwrap();
                                volume.forget(attr.node, 1);
                                places[n] = Some(to);
                            }
                            3 | 4 => {
                                let handle = volume.open_file(CALLER, attr.node, READ_WRITE).unwrap();
                                volume.write(handle, 0, &bytes(thread, n), false).unwrap();
                                volume.release(handle).unwrap();
                            }
                            _ => {
                                volume.rename(dirs[at], &name, dirs[to], &name, RenameMode::Replace).unwrap();
                                places[n] = Some(to);
                            }
                        }
                        volume.forget(attr.node, 1);
                    }
                    places
                })
            })
            .collect();
        let recipients = [fixture.home.arn("alias/second"), fixture.europe.arn("alias/far")];
        for round in 0..8 {
            let before = changes.load(Ordering::SeqCst);
            while changes.load(Ordering::SeqCst) < before + 120 {
                assert!(!threads.iter().any(|thread| thread.is_finished()), "a writer fell over");
                thread::sleep(Duration::from_millis(1));
            }
            let recipient = &recipients[round % 2];
            let added = round % 4 < 2;
            let change = match added {
                true => Change::Add(Recipient::kms(recipient.clone())),
                false => Change::Remove(recipient.clone()),
            };
            let report = fixture.change(&volume, &change, &OPTIONS).unwrap();
            assert_eq!(report.failed.count, 0, "{:?}", report.failed);
            // While writers go on, from now on for ever.
            let hold = volume.hold(Duration::from_secs(20)).unwrap();
            let (all, of) = fixture.counts(recipient);
            assert!(all > 10 && of == if added { all } else { 0 }, "round {round}: {of} of {all}");
            drop(hold);
        }
        stop.store(true, Ordering::SeqCst);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    volume.close().unwrap();
    let volume = fixture.open();
    for (thread, places) in places.iter().enumerate() {
        for (n, place) in places.iter().enumerate() {
            if let Some(at) = place {
                let dir = volume.lookup(ROOT, format!("dir {at}").as_bytes()).unwrap().node;
                assert_eq!(content(&volume, dir, &name(thread, n)), bytes(thread, n));
            }
        }
    }
    volume.close().unwrap();
}

// ---- on mounts

/// Numbers of files by whom their keys are wrapped for.
fn counts(bed: &Bed) -> Vec<(String, u64)> {
    let list = answer(bed, &["edk", "list", "--json", "vault"]);
    let keys = list["keys"].as_array().unwrap();
    let of = |key: &Value| (key["role"].as_str().unwrap().to_owned(), key["files"].as_u64().unwrap());
    let mut all: Vec<_> = keys.iter().map(of).collect();
    all.sort();
    all
}

fn digest(at: &Path) -> String {
    sh(at, "find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum")
}

fn bed(files: usize) -> Bed {
    let bed = Bed::with_own_key();
    bed.mount();
    sh(
        &bed.plain(""),
        &format!("for n in $(seq {files}); do mkdir -p d$((n % 7)); seq $n > d$((n % 7))/$n; done; sync"),
    );
    let key = PrivateKey::generate(PairSpec::Rsa2048).unwrap();
    fs::write(bed.dir().join("private.der"), key.to_bytes().unwrap().expose()).unwrap();
    fs::write(bed.dir().join("public.pem"), key.public_key().unwrap().to_pem().unwrap()).unwrap();
    bed
}

#[test]
fn a_mounted_volume_gets_and_loses_recipients() {
    let bed = bed(30);
    let open = File::options().create_new(true).read(true).write(true).open(bed.plain("open")).unwrap();
    open.write_all_at(b"before", 0).unwrap();
    open.sync_data().unwrap();
    let plan = answer(&bed, &["edk", "add", "plain", "--public-key", "public.pem", "--dry-run", "--json"]);
    assert_eq!((plan["changed"].as_u64(), plan["volume_key"].as_bool()), (Some(31), Some(true)));
    assert_eq!(counts(&bed), [("own".to_owned(), 31)]);
    let done = answer(&bed, &["edk", "add", "plain", "--public-key", "public.pem", "--json"]);
    assert_eq!((done["changed"].as_u64(), done["failed"]["count"].as_u64()), (Some(31), Some(0)));
    // A key of another region, whose key service the mount finds by itself for new files.
    bed.run(["--region", "eu-central-1", "init", "--new-key", "alias/europe", "other"]);
    let far = answer(&bed, &["--region", "eu-central-1", "key", "describe", "alias/europe", "--json"]);
    let far = far["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    bed.run(["edk", "add", "vault", "--key", &far]);
    open.write_all_at(b"after", 6).unwrap();
    drop(open);
    fs::write(bed.plain("late"), "late").unwrap();
    bed.run(["umount", "plain"]);
    bed.mount();
    let wanted = [("own", 32), ("recipient", 32), ("recipient, offline", 32)];
    assert_eq!(counts(&bed), wanted.map(|(role, files)| (role.to_owned(), files)));
    assert_eq!(fs::read(bed.plain("open")).unwrap(), b"beforeafter");

    let (code, error) = bed.refused_with(["edk", "remove", "plain", "--key", BED_KEY]);
    assert!(code == 2 && error.contains("own KMS key"), "{error}");
    let (code, error) = bed.refused_with(["edk", "add", "plain/d1", "--public-key", "public.pem"]);
    assert!(code == 2 && error.contains("part of a volume"), "{error}");
    let (code, error) =
        bed.refused_with(["--as", "nobody", "edk", "add", "plain", "--public-key", "public.pem"]);
    assert!(code == 3 && error.contains("nobody"), "{error}");
    bed.run(["edk", "remove", "plain", "--key", &far]);
    fs::write(bed.plain("later"), "later").unwrap();
    bed.run(["edk", "add", "plain", "--public-key", "public.pem"]);
    let before = digest(&bed.plain(""));
    bed.unmount();
    assert_eq!(counts(&bed), [("own".to_owned(), 33), ("recipient, offline".to_owned(), 33)]);
    fs::rename(bed.dir().join("home"), bed.dir().join("lost")).unwrap();
    bed.run(["recover", "vault", "out", "--private-key", "private.der"]);
    assert_eq!(digest(&bed.dir().join("out")), before);
}

/// The mount is killed at a random moment: what it left opens, and the same command does the rest. More rounds with
/// KMSFS_KILL_ROUNDS, as scripts/soak does.
#[test]
fn a_mount_that_is_killed_while_recipients_change_loses_nothing() {
    let rounds = std::env::var("KMSFS_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let files = 250;
    let bed = bed(files);
    let before = digest(&bed.plain(""));
    bed.unmount();
    let mut dice = Dice(std::process::id().into());
    let mut halfway = 0;
    for round in 0..rounds {
        let verb = if round % 2 == 0 { "add" } else { "remove" };
        let command = ["edk", verb, "plain", "--public-key", "public.pem"];
        let of =
            |bed: &Bed| counts(bed).iter().find(|(role, _)| role != "own").map_or(0, |(_, files)| *files);
        let mut daemon = bed.mount_in_foreground();
        let socket = bed.vault().join(".kmsfs/control");
        wait_for(Duration::from_secs(10), "the socket", || socket.exists());
        let wanted = 1 + dice.below(files - 50) as u64;
        let quiet = |mut command: std::process::Command| {
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let mut child = quiet(bed.command(command)).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() && Instant::now() < until {
            let there = bed.wrapped_for_others();
            if (if verb == "add" { there } else { files as u64 - there }) >= wanted {
                break;
            }
        }
        daemon.kill();
        child.wait().unwrap();
        bed.detach();
        let left = of(&bed);
        halfway += usize::from(left > 0 && left < files as u64);
        bed.mount();
        assert_eq!(digest(&bed.plain("")), before, "round {round}");
        let until = Instant::now() + Duration::from_secs(30);
        let wished = if verb == "add" { files as u64 } else { 0 };
        while of(&bed) != wished {
            let code = quiet(bed.command(command)).status().unwrap().code();
            assert!(
                matches!(code, Some(0 | 6)) && Instant::now() < until,
                "round {round}: exit code {code:?}"
            );
        }
        assert_eq!(digest(&bed.plain("")), before, "round {round}, gone on");
        bed.unmount();
    }
    assert!(halfway > 0, "no kill came in the middle");
}
