//! The file system exerciser (`cargo install fsx`; scripts/test puts it into target/tools). More operations
//! with KMSFS_FSX_OPS, as scripts/soak does.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use crate::mounted::bed::Bed;

/// The program.
pub fn fsx() -> PathBuf {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/fsx");
    if beside.exists() { beside } else { PathBuf::from("fsx") }
}

#[test]
fn fsx_runs_clean() {
    let ops = env::var("KMSFS_FSX_OPS").unwrap_or_else(|_| "4000".to_owned());
    let bed = Bed::mounted();
    fs::write(
        bed.dir().join("fsx.toml"),
        "flen = 1000000\n[weights]\nclose_open = 1.0\ninvalidate = 1.0\nmapread = 3.0\nmapwrite = 3.0\nread = 5.0\n\
         write = 8.0\ntruncate = 3.0\nfsync = 1.0\nfdatasync = 1.0\nsendfile = 1.0\nposix_fadvise = 1.0\n\
         copy_file_range = 1.0\n",
    )
    .unwrap();
    for seed in ["1", "20261124", "77777"] {
        let mut command = Command::new(fsx());
        command.args(["-N", &ops, "-S", seed, "-f"]).arg(bed.dir().join("fsx.toml")).arg("-P").arg(bed.dir());
        let output = command.arg(bed.plain(format!("fsx-{seed}"))).output();
        let output = output.expect("fsx is absent: run scripts/test, or cargo install fsx");
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&text));
        bed.remount();
    }
}
