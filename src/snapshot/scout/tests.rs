use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::*;
use crate::volume::disk::Time;
use crate::volume::host::HostDir;

/// What a walk shows: `+` and a path for a directory, its end, and a path for the rest.
fn walked(top: &Path, mode: Mode, left_out: &BTreeSet<&str>) -> Vec<String> {
    let root = HostDir::open(top).unwrap();
    let clock = Clock::ask(&*root, Time::default()).unwrap();
    let (mut seen, mut path) = (Vec::new(), Vec::new());
    let text = |name: Vec<u8>| String::from_utf8(name).unwrap();
    Scout { mode, clock: &clock }
        .run(&root, &mut |found| {
            match found {
                Found::Entry { dir, name, stat, .. } => {
                    assert_eq!(dir.stat_at(&name).unwrap(), *stat);
                    path.push(text(name));
                    seen.push(path.join("/"));
                    path.pop();
                }
                Found::Down { dir, name, stat, .. } => {
                    assert_eq!(dir.stat().unwrap().ino, stat.ino);
                    path.push(text(name));
                    let joined = path.join("/");
                    let taken = !left_out.contains(&joined[..]);
                    seen.push(format!("+{joined}"));
                    if !taken {
                        path.pop();
                    }
                    return Ok(taken);
                }
                Found::Up => {
                    path.pop();
                    seen.push("up".to_owned());
                }
            }
            Ok(true)
        })
        .unwrap();
    assert!(path.is_empty());
    seen
}

/// The same, step by step.
fn due(top: &Path, below: &str, left_out: &BTreeSet<&str>, seen: &mut Vec<String>) {
    let mut names: Vec<_> = fs::read_dir(top.join(below)).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    for name in names {
        let name = name.to_str().unwrap();
        let taken = match below {
            "" => name != "kmsfs.json" && !name.starts_with("tmp."),
            ".kmsfs" => name == "links",
            _ => !name.starts_with("tmp."),
        };
        if !taken {
            continue;
        }
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        if !top.join(&path).is_dir() {
            seen.push(path);
            continue;
        }
        seen.push(format!("+{path}"));
        if !left_out.contains(&path[..]) {
            due(top, &path, left_out, seen);
            seen.push("up".to_owned());
        }
    }
}

fn file(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, b"").unwrap();
}

/// Large directories, many small ones, deep ones, and those with something of each.
fn tree() -> tempfile::TempDir {
    let top = tempfile::tempdir().unwrap();
    let at = |path: String| top.path().join(path);
    for path in ["kmsfs.json", "tmp.x", ".kmsfs/control", ".kmsfs/links/l", ".kmsfs/other/o", "empty/tmp.y"] {
        file(&at(path.to_owned()));
    }
    for n in 0..NAMES + 10 {
        file(&at(format!("large/{n:x}")));
    }
    for n in 0..2 * BATCH + 10 {
        match n % 50 {
            0 => file(&at(format!("mixed/{n:x}/in"))),
            1 => fs::create_dir_all(at(format!("mixed/{n:x}"))).unwrap(),
            _ => file(&at(format!("mixed/{n:x}"))),
        }
    }
    for n in 0..5 * DIRS {
        for m in 0..n % 4 {
            file(&at(format!("many/{n}/{m}")));
            file(&at(format!("many/{n}/{m}.d/{m}")));
        }
        fs::create_dir_all(at(format!("many/{n}"))).unwrap();
    }
    let mut deep = "deep".to_owned();
    for n in 0..2 * LEVELS {
        for beside in ["a", "b", "d", "e"] {
            file(&at(format!("{deep}/{beside}/{n}")));
        }
        deep += "/c";
    }
    top
}

#[test]
fn everything_is_found_in_order() {
    let top = tree();
    for left_out in [vec![], vec!["many/7", "many/8", "deep/c/c", "mixed/32", "large", ".kmsfs/links"]] {
        let left_out = BTreeSet::from_iter(left_out);
        let mut expected = Vec::new();
        due(top.path(), "", &left_out, &mut expected);
        assert!(expected.len() > 2 * BATCH);
        for mode in [Mode::Held, Mode::Live] {
            assert_eq!(walked(top.path(), mode, &left_out), expected);
        }
    }
}

#[test]
fn a_reader_that_fails_ends_the_walk() {
    let top = tree();
    let root = HostDir::open(top.path()).unwrap();
    let clock = Clock::ask(&*root, Time::default()).unwrap();
    let mut left = 1500;
    let ended = Scout { mode: Mode::Held, clock: &clock }.run(&root, &mut |_| {
        left -= 1;
        if left == 0 { Err(SnapshotError::Refused("enough".to_owned())) } else { Ok(true) }
    });
    assert!(matches!(ended, Err(SnapshotError::Refused(why)) if why == "enough"));
    assert_eq!(left, 0);
}

/// Where the tree changes, what has gone is left out; where it stands still that is an error.
#[test]
fn what_goes_under_a_walk_is_left_out_or_told() {
    for mode in [Mode::Live, Mode::Held] {
        let top = tree();
        let root = HostDir::open(top.path()).unwrap();
        let clock = Clock::ask(&*root, Time::default()).unwrap();
        let mut seen = 0;
        let ended = Scout { mode, clock: &clock }.run(&root, &mut |found| {
            if matches!(&found, Found::Down { name, .. } if name == b"deep") {
                // Behind the names that were looked at ahead.
                fs::remove_dir_all(top.path().join("mixed")).unwrap();
                fs::remove_dir_all(top.path().join("many/39")).unwrap();
                fs::remove_dir_all(top.path().join("deep").join("c/".repeat(2 * LEVELS - 2))).unwrap();
            }
            seen += 1;
            Ok(true)
        });
        match mode {
            Mode::Live => assert!(ended.is_ok() && seen > NAMES),
            Mode::Held => {
                assert!(matches!(ended, Err(SnapshotError::Volume(_) | SnapshotError::Depot { .. })))
            }
        }
    }
}

#[test]
fn a_job_is_done_once_by_whoever_comes_first() {
    let done = Mutex::new(Vec::new());
    let done = &done;
    let crew = Crew::default();
    let jobs: Vec<_> = (0..1000)
        .map(|n| {
            crew.give(move || {
                done.lock().push(n);
                n
            })
        })
        .collect();
    thread::scope(|scope| {
        let dismissal = Dismissal(&crew);
        for _ in 0..CREW {
            scope.spawn(|| crew.work());
        }
        for (n, job) in jobs.iter().enumerate() {
            assert_eq!(job.result(&crew), n);
        }
        drop(dismissal);
    });
    let mut done = done.lock().clone();
    done.sort_unstable();
    assert_eq!(done, (0..1000).collect::<Vec<_>>());
}

#[test]
fn jobs_that_the_walk_has_begun_do_not_pile_up() {
    let crew = Crew::default();
    for n in 0..10 * WAITING {
        assert_eq!(crew.give(move || n).result(&crew), n);
    }
    assert!(crew.orders.lock().jobs.len() <= 2 * WAITING);
}
