//! `kmsfs snapshot copy`: under keys of another region, on volumes that were filled and are read through mounts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kmsfs::crypto::mac;
use kmsfs::kms::{Caller, Kms, KmsOptions, Session};
use kmsfs::snapshot::create::{self, Ends, Options, Unmounted};
use kmsfs::snapshot::depot::{Depot, DirDepot, pack_path};
use kmsfs::snapshot::descriptor::Descriptor;
use kmsfs::snapshot::{Opened, Snapshot};
use kmsfs::volume::descriptor as volume_descriptor;
use kmsfs::volume::disk::{Kind, Time};
use kmsfs::volume::host::HostDir;
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};

use crate::cli::json;
use crate::mounted::bed::{Bed, KEY};

const OWN: &str = "000000000000";
const HERE: &str = "us-east-1";
const THERE: &str = "eu-west-1";

pub fn session(bed: &Bed, account: &str, region: &str) -> Session {
    let account: kmsfs::iam::AccountId = account.parse().unwrap();
    let kms = Kms::open(&bed.dir().join("home"), KmsOptions::new(account.clone())).unwrap();
    kms.session(Caller::root(account), &region.parse().unwrap()).unwrap()
}

pub fn depot(path: &Path) -> Arc<dyn Depot> {
    Arc::new(DirDepot::create(path).unwrap())
}

/// Takes a snapshot of the bed's volume, which is not mounted, in the depot `snaps`.
pub fn take(bed: &Bed, account: &str, name: &str) {
    let session = session(bed, account, HERE);
    let root = HostDir::open(&bed.vault()).unwrap();
    let scratch = HostDir::open(bed.dir()).unwrap();
    let ends = Ends {
        root: &root,
        depot: &depot(&bed.dir().join("snaps")),
        scratch: &*scratch,
        service: &session,
        ledger: &session,
    };
    let now = Time { sec: 1_800_000_000, nsec: 0 };
    let options = Options::new(name.to_owned(), account.to_owned(), now);
    create::create(&ends, &Unmounted::new(&*root).unwrap(), &options, &|_| ()).unwrap();
}

/// Writes a snapshot's tree out as a volume, with nothing but what the snapshot holds.
pub fn write_out(depot: &Arc<dyn Depot>, name: &str, session: &Session, to: &Path) -> Descriptor {
    let Opened { descriptor, volume, manifest, .. } =
        Snapshot::find(depot.clone(), name).unwrap().open(session).unwrap();
    fs::create_dir(to).unwrap();
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut entries = manifest.entries().unwrap();
    while let Some(entry) = entries.next_entry().unwrap() {
        let mut path = to.to_owned();
        path.extend(entries.path().iter().map(|name| std::ffi::OsStr::from_bytes(name)));
        match entry.meta.kind() {
            Kind::Directory if entry.depth == 0 => {}
            Kind::Directory => fs::create_dir(&path).unwrap(),
            Kind::Symlink => symlink(std::ffi::OsStr::from_bytes(&entry.target), &path).unwrap(),
            Kind::File => {
                let object = (entry.meta.dev, entry.meta.ino);
                if entry.meta.nlink > 1
                    && let Some(first) = links.get(&object)
                {
                    fs::hard_link(first, &path).unwrap();
                    continue;
                }
                links.insert(object, path.clone());
                let file = fs::File::create(&path).unwrap();
                for extent in &entry.stored.as_ref().unwrap().extents {
                    let mut pages = vec![0; extent.pages as usize * 4096];
                    let pack = pack_path(&descriptor.packs[extent.pack as usize].id.0);
                    assert_eq!(
                        depot.read_at(&pack, extent.pack_page * 4096, &mut pages).unwrap(),
                        pages.len()
                    );
                    file.write_all_at(&pages, extent.page * 4096).unwrap();
                }
                file.set_len(entry.meta.size).unwrap();
            }
            Kind::Fifo => drop(std::process::Command::new("mkfifo").arg(&path).status().unwrap()),
            kind => panic!("{kind:?}"),
        }
        for (name, value) in &entry.xattrs {
            lsetxattr(&path, name.as_slice(), value, XattrFlags::empty()).unwrap();
        }
        if entry.meta.kind() != Kind::Symlink {
            fs::set_permissions(&path, fs::Permissions::from_mode(entry.meta.perm)).unwrap();
        }
    }
    let keys = descriptor.wrapped_keys().unwrap();
    let described = volume_descriptor::Descriptor::new(&volume, descriptor.region.clone(), Vec::new(), keys);
    fs::write(to.join("kmsfs.json"), described.encode().unwrap()).unwrap();
    fs::create_dir_all(to.join(".kmsfs")).unwrap();
    fs::write(to.join(".kmsfs/lock"), b"").unwrap();
    fs::write(to.join(".kmsfs/epoch"), hex::decode(&descriptor.epoch).unwrap()).unwrap();
    descriptor
}

/// What a tree shows: of each path kind, mode, size, names, target, content and attributes.
pub fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    fn look(root: &Path, at: &Path, out: &mut BTreeMap<PathBuf, String>) {
        let stat = fs::symlink_metadata(at).unwrap();
        let mut text = format!("{:o} {}", stat.mode(), stat.nlink() * u64::from(!stat.is_dir()));
        if stat.is_symlink() {
            text += &format!(" -> {:?}", fs::read_link(at).unwrap());
        } else if stat.is_file() {
            text += &format!(" {} {}", stat.size(), hex::encode(mac::sha256(&[&fs::read(at).unwrap()])));
        }
        let mut names = vec![0; 1 << 16];
        let len = if stat.is_symlink() { 0 } else { llistxattr(at, &mut names).unwrap() };
        for name in names[..len].split(|b| *b == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0; 1 << 16];
            let len = lgetxattr(at, name, &mut value).unwrap();
            text += &format!(" {}={}", String::from_utf8_lossy(name), hex::encode(&value[..len]));
        }
        out.insert(at.strip_prefix(root).unwrap().to_owned(), text);
        if stat.is_dir() {
            let mut below: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect();
            below.sort();
            for path in below {
                look(root, &path, out);
            }
        }
    }
    let mut out = BTreeMap::new();
    look(root, root, &mut out);
    out
}

/// What a volume shows through a mount that is made for it.
pub fn seen(bed: &Bed, volume: &Path, args: &[&str]) -> BTreeMap<PathBuf, String> {
    let point = bed.plain("");
    let mut mount: Vec<std::ffi::OsString> = args.iter().map(Into::into).collect();
    mount.extend(["mount".into(), "--read-only".into(), volume.into(), point.clone().into()]);
    bed.run(&mount);
    let picture = picture(&point);
    bed.unmount();
    picture
}

/// Something of every kind, and `files` small files.
pub fn fill(plain: &Path, files: usize) {
    let deep = plain.join("a").join("b c").join("ü");
    fs::create_dir_all(&deep).unwrap();
    for n in 0..files {
        let dir = plain.join(format!("dir {}", n % 7));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("file {n}")), format!("content of {n}\n").repeat(n % 300)).unwrap();
    }
    fs::write(
        plain.join("large"),
        (0..3_000_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect::<Vec<_>>(),
    )
    .unwrap();
    let sparse = fs::File::create(plain.join("sparse")).unwrap();
    sparse.write_all_at(b"middle", 2_000_000).unwrap();
    sparse.write_all_at(b"end", 5_000_000).unwrap();
    drop(sparse);
    let long = |c: &str| c.repeat(220);
    fs::create_dir(plain.join(long("D"))).unwrap();
    fs::write(plain.join(long("D")).join(long("f")), b"long in long").unwrap();
    fs::write(plain.join(long("f")), b"long").unwrap();
    fs::hard_link(plain.join("large"), deep.join("other name")).unwrap();
    fs::hard_link(plain.join("large"), plain.join("a").join(long("h"))).unwrap();
    symlink("../somewhere", deep.join("link")).unwrap();
    symlink("x".repeat(4000), plain.join("a").join("long link")).unwrap();
    symlink("y/".repeat(1500), plain.join(long("l"))).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(plain.join("fifo")).status().unwrap().success());
    for (path, name, value) in [
        (plain.join("large"), "user.mime", &b"application/x"[..]),
        (deep.clone(), "user.of.a.directory", &[7; 300]),
        (plain.to_owned(), "user.of.the.root", b""),
    ] {
        lsetxattr(&path, name, value, XattrFlags::empty()).unwrap();
    }
    fs::set_permissions(plain.join("sparse"), fs::Permissions::from_mode(0o440)).unwrap();
}

/// A bed whose volume, under a key of its own, was filled and snapshotted as `s`; and what it shows.
pub fn bed(files: usize) -> (Bed, BTreeMap<PathBuf, String>) {
    let bed = Bed::with_own_key();
    bed.mount();
    fill(&bed.plain(""), files);
    bed.unmount();
    let shown = seen(&bed, &bed.vault(), &[]);
    take(&bed, OWN, "s");
    (bed, shown)
}

/// Names of a depot's packs: those that stand, and those that snapshots name.
fn packs(depot: &Arc<dyn Depot>) -> (BTreeSet<String>, BTreeSet<String>) {
    let named = depot.list("snapshots").unwrap().into_iter().flat_map(|name| {
        Snapshot::find(depot.clone(), &name)
            .unwrap()
            .descriptor
            .packs
            .into_iter()
            .map(|pack| pack.id.to_string())
    });
    (depot.list("packs").unwrap().into_iter().collect(), named.collect())
}

#[test]
fn a_copy_in_another_region_shows_the_same_and_opens_there_alone() {
    let (bed, shown) = bed(120);
    let done = json(&bed, &["snapshot", "copy", "s", "--in", "snaps", "--to", THERE, "--json"]);
    assert_eq!((done["name"].as_str(), done["region"].as_str()), (Some("s-eu-west-1"), Some(THERE)));
    let depot = depot(&bed.dir().join("snaps"));
    let there = session(&bed, OWN, THERE);
    let copy = write_out(&depot, "s-eu-west-1", &there, &bed.dir().join("copy"));
    let old = Snapshot::find(depot.clone(), "s").unwrap().descriptor;
    let origin = copy.copied_from.as_ref().unwrap();
    assert_eq!((origin.id, &*origin.region, origin.encrypted_again), (old.snapshot_id, HERE, true));
    assert_ne!(copy.volume_id, old.volume_id);
    assert_eq!(copy.counts.files, old.counts.files);
    assert_eq!(copy.keys.len(), 1);
    assert!(copy.keys[0].key_arns[0].starts_with("arn:aws:kms:eu-west-1:"), "{:?}", copy.keys);
    bed.run(["--region", THERE, "snapshot", "verify", "--deep", "s-eu-west-1", "--in", "snaps"]);
    let (standing, named) = packs(&depot);
    assert_eq!(standing, named);
    assert_eq!(depot.list("snapshots/s-eu-west-1").unwrap(), ["manifest", "snapshot.json"]);

    let in_copy = seen(&bed, &bed.dir().join("copy"), &["--region", THERE]);
    assert_eq!(in_copy, shown);
    // Nothing of the old ciphertext is in the new: no page begins as one there, no name is one there.
    let pages = |descriptor: &Descriptor| -> BTreeSet<Vec<u8>> {
        let packs = descriptor
            .packs
            .iter()
            .map(|pack| fs::read(bed.dir().join("snaps/packs").join(pack.id.to_string())));
        packs
            .flat_map(|pack| pack.unwrap().chunks(4096).map(|page| page[..64].to_vec()).collect::<Vec<_>>())
            .collect()
    };
    assert!(pages(&old).is_disjoint(&pages(&copy)));

    // Neither region opens the other's, as it is or with its files changed by hand.
    let (code, words) = bed.refused_with(["--region", HERE, "mount", "copy", "plain"]);
    assert!(code == 5 && words.contains("belongs to region eu-west-1"), "{words}");
    let (code, words) = bed.refused_with(["--region", THERE, "mount", "vault", "plain"]);
    assert!(code == 5 && words.contains("belongs to region us-east-1"), "{words}");
    for (volume, own, other) in [("copy", THERE, HERE), ("vault", HERE, THERE)] {
        let path = bed.dir().join(volume).join("kmsfs.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(
            &path,
            text.replace(&format!("\"region\": \"{own}\""), &format!("\"region\": \"{other}\"")),
        )
        .unwrap();
        let (code, words) = bed.refused_with(["--region", other, "mount", volume, "plain"]);
        assert!(code == 3 || code == 5, "{code} {words}");
        let moved =
            fs::read_to_string(&path).unwrap().replace(&format!("kms:{own}:"), &format!("kms:{other}:"));
        fs::write(&path, moved).unwrap();
        let (code, words) = bed.refused_with(["--region", other, "mount", volume, "plain"]);
        assert!(code == 3, "{code} {words}");
        fs::write(&path, text).unwrap();
    }
    // What the copy needs of the old region is nothing.
    bed.run(["key", "disable", KEY]);
    assert_eq!(seen(&bed, &bed.dir().join("copy"), &["--region", THERE]), shown);
    let events = json(&bed, &["--region", THERE, "audit", "lookup", "--event", "CopySnapshot", "--json"]);
    assert_eq!(events["Events"].as_array().unwrap().len(), 1);
    assert_eq!(bed.refused_with(["snapshot", "copy", "s", "--in", "snaps", "--to", THERE]).0, 2);
}

#[test]
fn a_rewrapped_copy_keeps_its_keys_and_a_key_that_is_named_is_used() {
    let (bed, shown) = bed(30);
    let mut command =
        bed.command(["snapshot", "copy", "snaps/snapshots/s", "--to", HERE, "--rewrap", "--name", "r"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(warned.contains("keeps the volume key and the data keys"), "{warned}");
    let depot = depot(&bed.dir().join("snaps"));
    let copy = write_out(&depot, "r", &session(&bed, OWN, HERE), &bed.dir().join("copy"));
    let old = Snapshot::find(depot.clone(), "s").unwrap().descriptor;
    assert_eq!(copy.volume_id, old.volume_id);
    assert!(!copy.copied_from.unwrap().encrypted_again);
    assert_ne!(copy.keys[0].key_arns, old.keys[0].key_arns);
    bed.run(["key", "disable", KEY]);
    assert_eq!(seen(&bed, &bed.dir().join("copy"), &[]), shown);
    bed.run(["key", "enable", KEY]);

    // A copy of the copy, to a depot of its own, in a region with a key of one's own.
    bed.run(["--region", THERE, "init", "other"]);
    bed.run(["--region", THERE, "key", "create", "--alias", "alias/mine"]);
    fs::create_dir(bed.dir().join("elsewhere")).unwrap();
    let to = ["--to", THERE, "--key", "alias/mine", "--dest", "elsewhere", "--name", "second"];
    bed.run([&["snapshot", "copy", "r", "--in", "snaps"][..], &to].concat());
    let elsewhere = self::depot(&bed.dir().join("elsewhere"));
    write_out(&elsewhere, "second", &session(&bed, OWN, THERE), &bed.dir().join("second"));
    fs::remove_dir_all(bed.dir().join("snaps")).unwrap();
    assert_eq!(seen(&bed, &bed.dir().join("second"), &["--region", THERE]), shown);
    bed.run(["--region", THERE, "key", "disable", "alias/mine"]);
    let (code, words) = bed.refused_with(["--region", THERE, "mount", "second", "plain"]);
    assert!(code == 3 && words.contains("DisabledException"), "{words}");
}

#[test]
fn a_damaged_snapshot_is_not_copied_and_a_copy_that_was_begun_is_not_mixed_up() {
    let (bed, shown) = bed(10);
    let depot = depot(&bed.dir().join("snaps"));
    let pack = Snapshot::find(depot.clone(), "s").unwrap().descriptor.packs[0].id.to_string();
    let path = bed.dir().join("snaps/packs").join(pack);
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    let at = good.len() / 2;
    bad[at] ^= 1;
    fs::write(&path, &bad).unwrap();
    let copy = ["snapshot", "copy", "s", "--in", "snaps", "--to", THERE, "--unit", "1"];
    let (code, words) = bed.refused_with(copy);
    assert!(
        code == 7 && words.contains("does not authenticate") && words.contains("snapshot \"s\""),
        "{words}"
    );
    assert!(Snapshot::find(depot.clone(), "s-eu-west-1").is_err_and(|e| e.is_not_found()));
    // Under its name another copy cannot be begun; what it has is left for it, or is taken away.
    let (code, words) = bed.refused_with([&copy[..], &["--rewrap"]].concat());
    assert!(code == 2 && words.contains("was begun as \"s-eu-west-1\""), "{words}");
    bed.run([&copy[..], &["--abandon"]].concat());
    let (standing, named) = packs(&depot);
    assert_eq!(standing, named);
    assert_eq!(depot.list("snapshots").unwrap(), ["s"]);
    fs::write(&path, &good).unwrap();
    bed.run(copy);
    write_out(&depot, "s-eu-west-1", &session(&bed, OWN, THERE), &bed.dir().join("copy"));
    assert_eq!(seen(&bed, &bed.dir().join("copy"), &["--region", THERE]), shown);
}

/// When a copy is killed.
#[derive(Debug, Clone, Copy)]
enum Aim {
    /// So long after its start.
    Moment(Duration),
    /// As soon as so many of its units stand.
    Units(usize),
}

/// Runs a copy that is to be killed; false if it ended before, and well.
fn killed(mut copy: Command, aim: Aim, standing: &dyn Fn() -> usize) -> bool {
    let mut child = copy.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        let now = match aim {
            Aim::Moment(after) => begun.elapsed() >= after,
            Aim::Units(units) => standing() >= units,
        };
        if now {
            child.kill().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let status = child.wait().unwrap();
    assert!(status.success() || status.signal() == Some(9), "{aim:?}: {status}");
    !status.success()
}

/// Copies are killed early, in their middle and at their end; the last call goes on with exactly what stands.
fn kill_rounds(rounds: usize) {
    let bed = Bed::with_own_key();
    bed.mount();
    fill(&bed.plain(""), 200);
    for n in 0..24 {
        // Each is a unit by itself.
        let content = (0..1_100_000u32).map(|at| (at.wrapping_mul(at + n) >> 9) as u8);
        fs::write(bed.plain(format!("unit {n}")), content.collect::<Vec<_>>()).unwrap();
    }
    bed.unmount();
    let shown = seen(&bed, &bed.vault(), &[]);
    take(&bed, OWN, "s");
    let depot = depot(&bed.dir().join("snaps"));
    let copy = |name: &str, more: &[&str]| {
        let args = ["snapshot", "copy", "s", "--in", "snaps", "--to", THERE, "--unit", "1", "--threads", "2"];
        bed.command(args.iter().chain(&["--name", name]).chain(more))
    };
    // Units that were copied, and that stood.
    let done = |name: &str| -> (usize, usize) {
        let output = copy(name, &["--json"]).output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        let done: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let count = |what: &str| done["report"][what].as_u64().unwrap() as usize;
        (count("copied"), count("stood"))
    };
    // How long one takes that nobody kills, and of how many units it is. (Another may be of one more or less: the order
    // follows from the new names.)
    let begun = Instant::now();
    let (units, _) = done("w");
    let whole = begun.elapsed();
    assert!(units > 20, "only {units} units");
    let (mut kills, mut resumed) = (0, 0);
    for round in 0..rounds {
        let name = format!("c{round}");
        let at = bed.dir().join("snaps/snapshots").join(&name);
        let standing = || {
            let names = fs::read_dir(&at).into_iter().flatten().flatten().map(|entry| entry.file_name());
            names.filter(|name| name.as_bytes().starts_with(b"part-")).count()
        };
        let moment = whole * (5 + (round as u32 * 37) % 55) / 100;
        let aims = match round % 2 {
            0 => [Aim::Moment(moment), Aim::Units(1 + round % 5), Aim::Units(units / 2)],
            _ => [Aim::Units(units / 3), Aim::Moment(moment / 2), Aim::Units(units - 2)],
        };
        let mut whole_copy = false;
        for aim in aims {
            let before = standing();
            whole_copy = !killed(copy(&name, &[]), aim, &standing);
            if whole_copy {
                break;
            }
            kills += 1;
            if Snapshot::find(depot.clone(), &name).is_ok() {
                // It was killed between its end and the sweeping, which the next call does.
                assert_eq!(copy(&name, &[]).output().unwrap().status.code(), Some(2));
                whole_copy = true;
                break;
            }
            assert!(standing() >= before, "round {round}, {aim:?}: {} units of {before} stand", standing());
        }
        if !whole_copy {
            let before = standing();
            assert_eq!(done(&name).1, before, "round {round}");
            resumed += before;
        }
        let there = session(&bed, OWN, THERE);
        write_out(&depot, &name, &there, &bed.dir().join(&name));
        assert_eq!(seen(&bed, &bed.dir().join(&name), &["--region", THERE]), shown, "round {round}");
        assert_eq!(depot.list(&format!("snapshots/{name}")).unwrap(), ["manifest", "snapshot.json"]);
        let (standing, named) = packs(&depot);
        assert_eq!(standing, named, "round {round}");
        for entry in fs::read_dir(bed.dir().join("snaps/packs")).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(!name.as_bytes().starts_with(b"tmp."), "round {round}: {name:?}");
        }
        fs::remove_dir_all(bed.dir().join(&name)).unwrap();
    }
    println!("{kills} kills; {resumed} of some {} units stood in the last calls", units * rounds);
    assert!(kills >= rounds, "only {kills} kills in {rounds} rounds");
    assert!(resumed > 0, "no call went on with what stood");
}

#[test]
fn a_copy_that_is_killed_goes_on() {
    kill_rounds(std::env::var("KMSFS_KILL_ROUNDS").map_or(3, |n| n.parse().unwrap()));
}
