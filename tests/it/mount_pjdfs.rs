//! The POSIX test suite pjdfstest (`cargo install pjdfstest`; scripts/test puts it into target/tools): some four
//! hundred cases of what each system call may and must not do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::mounted::bed::{Bed, skipped};

#[test]
fn pjdfstest_finds_nothing() {
    let tool = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/pjdfstest");
    if !rustix::process::geteuid().is_root() {
        skipped("pjdfstest needs root");
        return;
    }
    let bed = Bed::mounted();
    for path in [bed.dir().to_owned(), bed.plain("")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let config = bed.dir().join("pjdfstest.toml");
    fs::write(
        &config,
        "[features]\nposix_fallocate = {}\nutime_now = {}\nutimensat = {}\nrename_ctime = {}\n\
         [settings]\nnaptime = 0.02\nallow_remount = false\nexpected_failures = []\n\
         [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n",
    )
    .unwrap();
    let output = Command::new(tool).arg("-c").arg(config).arg("-p").arg(bed.plain("")).output();
    let output = output
        .expect("pjdfstest is absent: run scripts/test, or cargo install --root target/tools pjdfstest");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("Summary: 0 failed"), "{text}");
}
