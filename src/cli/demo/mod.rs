//! `kmsfs demo`: the whole story on real files in a temporary home, by the very commands a user would type.
//! Each step is checked; the first that does not hold ends the demonstration with an error.

mod copies;
mod files;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};

use self::files::{copy_tree, dump, entries, find_backing, own_sources, read_tree};
use self::stage::{Stage, hold, print};
use super::error::CliError;

/// Tells the whole story on real files: mount, ciphertext, rotation, refusal, log, copies in another region and account, rewrapping, deletion
///
/// Everything happens in a temporary directory, which is removed at the end.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of real files to copy in [default: this repository, or files made for the purpose]
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// Keep the temporary directory, with its home and volume
    #[arg(long)]
    keep: bool,
}

/// What did not hold.
type Told<T> = Result<T, String>;

/// The KMS key of the story, by its alias.
const KEY: &str = "alias/vault";
/// Header pages and blocks of the format.
const PAGE: u64 = 4096;

/// Runs it.
pub fn run(args: &Args) -> super::error::Result<()> {
    let tell = || {
        let stage = Stage::new(args.keep)?;
        let files = match &args.files {
            Some(dir) => dir.canonicalize().map_err(|e| format!("{}: {e}", dir.display()))?,
            None => own_sources().map_or_else(|| files::make(&stage.path("originals")), Ok)?,
        };
        tell(&stage, &files)
    };
    tell().map_err(|what| CliError::Failed(format!("the demonstration ended: {what}")))
}

fn tell(stage: &Stage, files: &Path) -> Told<()> {
    stage.say(&format!("Everything happens in {}: nothing of yours is touched.", stage.path("").display()));
    make_and_fill(stage, files)?;
    let seen = side_by_side(stage)?;
    rotate(stage, &seen)?;
    refuse(stage, &seen)?;
    password(stage)?;
    log(stage)?;
    compare(stage, files)?;
    copies::tell(stage, files)?;
    rewrap(stage, &seen)?;
    deletion(stage, files)?;
    print("\nThat was the whole story. `kmsfs help` lists the verbs, README.md the first five minutes.");
    Ok(())
}

/// The file that the story looks at.
struct Seen {
    /// Below the stage.
    name: String,
    /// Its ciphertext.
    backing: PathBuf,
    /// Version of the key material that wraps its data key.
    material: String,
}

fn make_and_fill(stage: &Stage, files: &Path) -> Told<()> {
    stage.title("Make a volume")?;
    stage.say(
        "The first init also makes the key service's home: a root key, and with --new-key a KMS key of your own. \
         The volume's key is wrapped by that KMS key. (It warns that home and volume lie on one disk. Here they may.)",
    );
    stage.run(&["init", "--new-key", KEY, "vault"])?;
    stage.run(&["mount", "vault", "plain"])?;

    stage.title("Copy real files in")?;
    let copied = copy_tree(files, &stage.path("plain/files"))?;
    stage.say(&format!("Copied {copied} files from {}.", files.display()));
    stage.say("`plain/files` holds them as they are:");
    for name in entries(&stage.path("plain/files"))?.iter().filter(|n| !n.starts_with('.')).take(3) {
        stage.show(name);
    }
    let secret = entries(&stage.path("vault"))?.into_iter().find(|name| !name.contains('.'));
    let secret = secret.ok_or("the vault holds no encrypted name")?;
    stage.say("`vault` holds them so; this is the directory `files`:");
    for name in entries(&stage.path("vault").join(secret))?.iter().filter(|n| !n.contains('.')).take(3) {
        stage.show(name);
    }
    Ok(())
}

fn side_by_side(stage: &Stage) -> Told<Seen> {
    stage.title("Plaintext beside ciphertext")?;
    // The largest text is easy to tell from its ciphertext.
    let copied = read_tree(&stage.path("plain/files"))?;
    let texts = copied.iter().filter(|(_, content)| content.is_ascii() && !content.contains(&0));
    let largest = texts.max_by_key(|(_, content)| content.len());
    let (name, content) =
        largest.filter(|(_, content)| content.len() > 64).ok_or("no file is a text of more than 64 bytes")?;
    let name = format!("plain/files/{}", name.display());
    let (file_id, material) = envelope(stage, &name)?;
    let backing = find_backing(&stage.path("vault"), &file_id)?
        .ok_or("the file's ciphertext was not found in the vault")?;
    stage.say(&format!("{name}, its first bytes:"));
    dump(&stage.path(&name), 0)?;
    stage.say("The same file in the vault, first block (nonce, tag, length, ciphertext):");
    dump(&backing, PAGE)?;
    let cipher = fs::read(&backing).map_err(|e| e.to_string())?;
    let found =
        content.chunks_exact(16).take(200).any(|part| cipher.windows(16).any(|window| window == part));
    hold(!found, "nothing of the plaintext is found in the vault's file")?;

    stage.title("Look into one envelope")?;
    stage.say("Each file has a data key of its own, wrapped by the KMS key. This stands in its header:");
    stage.run(&["inspect", &name])?;
    Ok(Seen { name, backing, material })
}

fn rotate(stage: &Stage, seen: &Seen) -> Told<()> {
    stage.title("Rotate the KMS key")?;
    stage.say(
        "From now on, new material wraps the keys of new files. Old files open under the material they name. \
         Nothing is rewritten.",
    );
    let before = fs::read(&seen.backing).map_err(|e| e.to_string())?;
    stage.run(&["key", "rotate", KEY])?;
    let new = "plain/after-rotation.txt";
    stage.wait("a file under the new material", || {
        fs::write(stage.path(new), "written after the rotation\n").map_err(|e| e.to_string())?;
        let found = envelope(stage, new)?.1 != seen.material;
        if !found {
            fs::remove_file(stage.path(new)).map_err(|e| e.to_string())?;
        }
        Ok(found)
    })?;
    stage.show(&format!("old file's key material  {}", seen.material));
    stage.show(&format!("new file's key material  {}", envelope(stage, new)?.1));
    hold(envelope(stage, &seen.name)?.1 == seen.material, "the old file names its own key material")?;
    hold(fs::read(&seen.backing).is_ok_and(|now| now == before), "not one byte of the old file was rewritten")
}

fn refuse(stage: &Stage, seen: &Seen) -> Told<()> {
    stage.title("Disable the KMS key, and open a file")?;
    stage.run(&["key", "disable", KEY])?;
    let (refusal, after) = stage.refusal(&seen.name)?;
    stage.show(&format!("$ cat {}", seen.name));
    let words = refusal.to_string();
    let words = words.split(" (os error").next().unwrap_or_default();
    stage.show(&format!("cat: {}: {words}", seen.name));
    hold(
        refusal.raw_os_error() == Some(libc::ENOKEY),
        &format!("open() fails with ENOKEY, {} ms after the key was disabled", after.as_millis()),
    )?;

    stage.title("Enable it again")?;
    stage.run(&["key", "enable", KEY])?;
    stage.wait("the file to open again", || Ok(fs::read(stage.path(&seen.name)).is_ok()))?;
    hold(true, "the file opens again")
}

fn password(stage: &Stage) -> Told<()> {
    stage.title("A password needs no volume")?;
    stage.say("Up to 4096 bytes go through the key service itself, bound to an encryption context:");
    fs::write(stage.path("password"), "hunter2").map_err(|e| e.to_string())?;
    stage.run(&[
        "encrypt",
        "--key",
        KEY,
        "--context",
        "app=mail",
        "--base64",
        "--out",
        "password.blob",
        "password",
    ])?;
    let opened = stage.run(&["decrypt", "--context", "app=mail", "--base64", "password.blob"])?;
    hold(opened == "hunter2", "the password is the same")?;
    let refused = stage.fails(&["decrypt", "--context", "app=chat", "--base64", "password.blob"])?;
    hold(refused.contains("InvalidCiphertextException"), "under another context the same bytes open nothing")
}

fn log(stage: &Stage) -> Told<()> {
    stage.title("What the log says")?;
    stage.say("Every use of a key is an event, the refused ones too. Files appear by id, never by name.");
    stage.run(&["audit", "lookup", "--limit", "6"])?;
    stage.say("The refused ones alone:");
    stage.run(&["audit", "lookup", "--errors", "--limit", "4"])?;
    let errors = stage.quietly(&["audit", "lookup", "--errors", "--json"])?;
    hold(errors.contains("DisabledException"), "the refused open is in the log")?;
    stage.say("The events are chained: none can be changed or removed without showing.");
    stage.run(&["audit", "verify"])?;
    Ok(())
}

fn compare(stage: &Stage, files: &Path) -> Told<()> {
    stage.title("Unmount, mount again, compare every byte")?;
    stage.run(&["umount", "plain"])?;
    hold(entries(&stage.path("plain"))?.is_empty(), "nothing is seen without the mount")?;
    stage.run(&["mount", "vault", "plain"])?;
    let (now, then) = (read_tree(&stage.path("plain/files"))?, read_tree(files)?);
    let bytes: usize = then.values().map(Vec::len).sum();
    hold(now == then, &format!("{} files with {bytes} bytes are the same", then.len()))?;
    stage.run(&["umount", "plain"])?;
    Ok(())
}

fn rewrap(stage: &Stage, seen: &Seen) -> Told<()> {
    stage.title("Rewrap: all files under the current material")?;
    stage.say(
        "Rotation left the old files under the old material. Rewrapping brings every data key under the current one, \
         one page of each file, and no data is touched.",
    );
    let size = |path: &Path| fs::metadata(path).map(|found| found.len()).map_err(|e| e.to_string());
    let (content, before) = (fs::read(&seen.backing).map_err(|e| e.to_string())?, size(&seen.backing)?);
    stage.run(&["rewrap", "vault"])?;
    stage.run(&["inspect", "--summary", "vault"])?;
    let summary = stage.quietly(&["inspect", "--summary", "--json", "vault"])?;
    hold(!summary.contains(&seen.material), "no file is under the old material any more")?;
    let after = fs::read(&seen.backing).map_err(|e| e.to_string())?;
    let blocks = |bytes: &[u8]| bytes.get(PAGE as usize..).map(<[u8]>::to_vec);
    let same = size(&seen.backing)? == before && blocks(&after) == blocks(&content) && after != content;
    hold(same, "of the old file only the header was written")
}

fn deletion(stage: &Stage, files: &Path) -> Told<()> {
    stage.title("Delete the KMS key: what would be lost?")?;
    stage.say(
        "Whoever deletes a key shreds whatever is under it, in every copy. So first the home tells what that is, as far as it \
         knows, its own backups too: the key lives on in them.",
    );
    stage.run(&["home", "backup", "--with-root-keys", "backup"])?;
    stage.run(&["key", "dependents", KEY])?;
    let report = stage.quietly(&["key", "dependents", "--json", KEY])?;
    let report: serde_json::Value = serde_json::from_str(&report).map_err(|e| e.to_string())?;
    let lost = report["files_unreadable"].as_u64().unwrap_or_default();
    hold(lost > 0, &format!("all {lost} files of the vault hang on this key"))?;
    let refused = stage.fails(&["key", "schedule-deletion", "--pending-window-in-days", "7", KEY])?;
    hold(refused.contains("--yes"), "without a word it is not deleted")?;
    stage.run(&["key", "schedule-deletion", "--yes", "--pending-window-in-days", "7", KEY])?;
    let refused = stage.fails(&["mount", "vault", "plain"])?;
    hold(refused.contains("KMSInvalidStateException"), "the key cannot be used in the waiting period")?;

    stage.title("Think again")?;
    stage.say(
        "Within the waiting period the key can be kept. Afterwards its material is erased from the home.",
    );
    stage.run(&["key", "cancel-deletion", KEY])?;
    stage.run(&["key", "enable", KEY])?;
    stage.run(&["mount", "vault", "plain"])?;
    hold(read_tree(&stage.path("plain/files"))? == read_tree(files)?, "every file is there again")?;
    stage.run(&["umount", "plain"])?;
    Ok(())
}

/// File id and key material of a file, from `inspect --json`.
fn envelope(stage: &Stage, file: &str) -> Told<(String, String)> {
    let text = stage.quietly(&["inspect", "--json", file])?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| format!("`kmsfs inspect --json` printed no JSON: {e}"))?;
    let word = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let file_id = word(&json["file_id"]).ok_or("the envelope names no file id")?;
    let material =
        word(&json["data_keys"][0]["key_material_id"]).ok_or("the envelope names no key material")?;
    Ok((file_id, material))
}
