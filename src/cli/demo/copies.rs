//! Of `kmsfs demo`: a snapshot, its copy in another region, and one in another account.

use std::path::Path;

use super::files::read_tree;
use super::stage::{Stage, hold};
use super::{KEY, Told};

const HERE: &str = "us-east-1";
const THERE: &str = "eu-west-1";
const OTHER: &str = "222222222222";

/// Takes a snapshot of the unmounted vault, and copies it. `files` is what was copied into the vault.
pub fn tell(stage: &Stage, files: &Path) -> Told<()> {
    stage.title("A snapshot, and its copy in another region")?;
    stage.say(
        "A snapshot captures the encrypted tree at one moment; no file's key is needed. A copy for another region is \
         encrypted again, under new data keys of a key there.",
    );
    stage.run(&["snapshot", "create", "vault", "--name", "monday", "--to", "snapshots"])?;
    let copy = ["snapshot", "copy", "monday", "--in", "snapshots", "--to", THERE, "--dest"];
    stage.run(&[&copy[..], &["far"]].concat())?;
    stage.run(&[&in_far(&["snapshot", "restore"]), &["far-vault"][..]].concat())?;
    let refused = stage.fails(&["--region", HERE, "mount", "far-vault", "plain"])?;
    hold(refused.contains(THERE), "keys of the first region do not open it")?;
    stage.run(&["--region", THERE, "mount", "far-vault", "plain"])?;
    hold(
        read_tree(&stage.path("plain/files"))? == read_tree(files)?,
        "the same files, under a key of the other region",
    )?;
    stage.run(&["umount", "plain"])?;

    stage.title("Another account wants a copy")?;
    stage.say(
        "Its own keys it has; the snapshot's key belongs to the first account, whose policy must let it in.",
    );
    let them = format!("arn:aws:iam::{OTHER}:root");
    let theirs = ["--as", &*them];
    let refused = stage.fails(&[&theirs[..], &copy, &["theirs"]].concat())?;
    hold(refused.contains("AccessDenied"), "without a word of the key's policy it is refused")?;
    stage.say("The owner tells the key's policy to let them in, for this volume's keys alone:");
    let share = ["snapshot", "share", "monday", "--in", "snapshots"];
    stage.run(&[&["--account", OTHER][..], &share, &["--apply"]].concat())?;
    stage.run(&[&theirs[..], &copy, &["theirs"]].concat())?;
    stage.say("Both accounts' logs have it. The key's owner reads who used the key:");
    stage.run(&["audit", "lookup", "--event", "Decrypt", "--limit", "3"])?;
    let seen = stage.quietly(&["audit", "lookup", "--event", "Decrypt", "--limit", "3", "--json"])?;
    hold(seen.contains(OTHER), "the other account's calls are in the log of the key's owner")?;
    stage.say(&format!("{KEY} may be closed to them again: their copy is under their own key."));
    Ok(())
}

fn in_far<'a>(verb: &[&'a str]) -> Vec<&'a str> {
    [&["--region", THERE], verb, &["monday-eu-west-1", "--in", "far"]].concat()
}
