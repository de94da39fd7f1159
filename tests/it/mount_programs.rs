//! Real programs on a real mount, and again after unmount and remount.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::mounted::bed::{Bed, sh};

/// Crates of cargo's registry, whole, until there are some thousand files.
fn real_sources() -> Vec<PathBuf> {
    fn count(dir: &Path) -> usize {
        let entries = fs::read_dir(dir).unwrap().flatten();
        entries.map(|e| if e.file_type().unwrap().is_dir() { count(&e.path()) } else { 1 }).sum()
    }
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap()).join(".cargo"));
    let indexes = fs::read_dir(home.join("registry/src")).expect("cargo's registry has no sources");
    let mut crates: Vec<PathBuf> = indexes
        .flatten()
        .flat_map(|index| fs::read_dir(index.path()).unwrap().flatten())
        .map(|e| e.path())
        .collect();
    crates.sort();
    // The largest is a hundred megabytes by itself.
    crates.retain(|path| !path.file_name().unwrap().to_string_lossy().starts_with("aws-lc-sys"));
    let mut files = 0;
    let chosen: Vec<PathBuf> = crates
        .into_iter()
        .take_while(|path| {
            let wanted = files < 3000;
            files += count(path);
            wanted
        })
        .collect();
    assert!(files >= 2000, "cargo's registry has only {files} files");
    chosen
}

#[test]
fn a_tar_of_real_files_is_extracted_and_compares() {
    let bed = Bed::mounted();
    let original = bed.dir().join("original");
    fs::create_dir(&original).unwrap();
    for source in real_sources() {
        sh(&original, &format!("cp -a '{}' .", source.display()));
    }
    sh(
        bed.dir(),
        "tar -C original --format=posix -cf sources.tar .
         tar -C plain -xf sources.tar
         diff -r original plain",
    );
    bed.remount();
    // Content, then modes, owners, times and links.
    sh(
        bed.dir(),
        "diff -r original plain
         list() { (cd $1; find . -mindepth 1 -printf '%P %y %m %U %G %T@ %l\\n' | sort); }
         diff <(list original) <(list plain) | head -n 20 > differences
         test ! -s differences || { cat differences; exit 1; }
         tar -C plain -df sources.tar
         rm -r plain/*
         test -z \"$(ls -A plain)\"",
    );
}

#[test]
fn git_works() {
    let bed = Bed::mounted();
    let plain = bed.plain("");
    sh(
        &plain,
        "export HOME=$PWD/.. GIT_CONFIG_NOSYSTEM=1
         git init -q -b main work
         cd work
         git config user.name t
         git config user.email t@example.org
         for i in $(seq 200); do mkdir -p d$((i % 17)); seq $i $((i * 7)) > d$((i % 17))/f$i; done
         git add .
         git commit -qm one
         for i in $(seq 1 3 200); do echo more >> d$((i % 17))/f$i; done
         git mv d3 moved
         ln -s moved/f3 link
         git add .
         git commit -qam two
         cd ..
         git clone -q --local work copy
         cd copy
         git gc -q --aggressive --prune=now
         git fsck --full --strict
         test \"$(git rev-parse HEAD)\" = \"$(git -C ../work rev-parse HEAD)\"
         git checkout -q HEAD~1
         git checkout -q main
         test -z \"$(git status --porcelain)\"",
    );
    bed.remount();
    sh(
        &plain,
        "export HOME=$PWD/..
         for r in work copy; do git -C $r fsck --full --strict; test -z \"$(git -C $r status --porcelain)\"; done
         diff -r -x .git work copy",
    );
}

#[test]
fn sqlite_keeps_its_integrity_under_load() {
    let bed = Bed::mounted();
    let load = |mode: &str| {
        format!(
            "sqlite3 {mode}.db 'PRAGMA journal_mode={mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, w, b BLOB);' > /dev/null
             for w in 1 2; do
               (for i in $(seq 40); do
                  echo 'PRAGMA busy_timeout=60000; BEGIN IMMEDIATE;'
                  echo \"INSERT INTO t(w, b) SELECT $w, randomblob(1 + abs(random()) % 3000) FROM generate_series(1, 20);\"
                  echo 'UPDATE t SET b = randomblob(700) WHERE id % 13 = '$((i % 13))';'
                  echo 'DELETE FROM t WHERE id % 97 = '$i'; COMMIT;'
                done) | sqlite3 -bail {mode}.db > /dev/null &
               pids[w]=$!
             done
             wait ${{pids[1]}}; wait ${{pids[2]}}
             sqlite3 {mode}.db 'SELECT count(*) > 100 FROM t' 'PRAGMA integrity_check'"
        )
    };
    for mode in ["delete", "wal"] {
        assert_eq!(sh(&bed.plain(""), &load(mode)), "1\nok\n", "journal_mode={mode}");
    }
    bed.remount();
    for mode in ["delete", "wal"] {
        let check = format!("sqlite3 {mode}.db 'PRAGMA integrity_check' 'VACUUM' 'PRAGMA integrity_check'");
        assert_eq!(sh(&bed.plain(""), &check), "ok\nok\n");
    }
}

#[test]
fn rsync_finds_nothing_to_do_the_second_time() {
    let bed = Bed::mounted();
    fs::create_dir(bed.dir().join("from")).unwrap();
    sh(
        &bed.dir().join("from"),
        "mkdir -p a/b c; seq 100000 > a/big; echo hello > a/b/small; : > c/empty
         ln a/big c/hardlink; ln -s ../a/big c/symlink; ln -s nowhere dangling; mkfifo c/fifo
         chmod 4751 a/b/small; chmod 1777 c; touch -d '2001-02-03 04:05:06.789 UTC' a/big a/b c/empty
         truncate -s 3000000 c/sparse; echo end >> c/sparse",
    );
    let clean = |from: &str, to: &str| {
        let left = sh(bed.dir(), &format!("rsync -aHn --itemize-changes --checksum --delete {from}/ {to}/"));
        assert_eq!(left, "", "rsync from {from} to {to} still finds work");
    };
    sh(bed.dir(), "rsync -aH from/ plain/");
    clean("from", "plain");
    bed.remount();
    clean("from", "plain");
    sh(bed.dir(), "mkdir back; rsync -aH plain/ back/; test back/a/big -ef back/c/hardlink");
    clean("plain", "back");
    clean("from", "back");
    assert_eq!(sh(bed.dir(), "cat plain/a/b/small; readlink plain/c/symlink"), "hello\n../a/big\n");
}

#[test]
fn a_c_program_is_built_and_runs() {
    let bed = Bed::mounted();
    sh(
        &bed.plain(""),
        r#"printf '#include <stdio.h>\n#include "two.h"\nint main(void) { printf("%%d\\n", two() * 21); return 0; }\n' > one.c
           printf '#include "two.h"\nint two(void) { return 2; }\n' > two.c
           echo 'int two(void);' > two.h
           gcc -O1 -g -c one.c -o one.o
           gcc -O1 -g -c two.c -o two.o
           ar rcs libtwo.a two.o
           gcc one.o -L. -ltwo -o program"#,
    );
    assert_eq!(sh(&bed.plain(""), "./program"), "42\n");
    bed.remount();
    assert_eq!(sh(&bed.plain(""), "./program; strip program; ./program"), "42\n42\n");
}
