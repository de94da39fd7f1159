//! The volume root and the tree: descriptor, epoch marker, directories, names, links, attributes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::file::read_file;
use super::primitives::*;
use super::{Context, Entry, Node, Result, Unwrap};

/// The subkeys of the volume key.
pub struct Keys {
    pub volume_id: [u8; 16],
    pub names: [u8; 64],
    pub symlinks: [u8; 64],
    pub xattr_names: [u8; 64],
    pub xattr_values: [u8; 32],
    pub descriptor: [u8; 32],
    pub epoch: [u8; 32],
    pub file_salt: [u8; 32],
}

impl Keys {
    pub fn derive(volume_key: &[u8; 32], volume_id: [u8; 16]) -> Self {
        fn sub<const N: usize>(key: &[u8; 32], id: &[u8; 16], label: &str) -> [u8; N] {
            hkdf(key, id, label.as_bytes())
        }
        let id = &volume_id;
        Self {
            volume_id,
            names: sub(volume_key, id, "kmsfs/1 names"),
            symlinks: sub(volume_key, id, "kmsfs/1 symlink targets"),
            xattr_names: sub(volume_key, id, "kmsfs/1 xattr names"),
            xattr_values: sub(volume_key, id, "kmsfs/1 xattr values"),
            descriptor: sub(volume_key, id, "kmsfs/1 descriptor"),
            epoch: sub(volume_key, id, "kmsfs/1 epoch"),
            file_salt: sub(volume_key, id, "kmsfs/1 file salt"),
        }
    }
}

/// What the epoch marker excuses.
pub struct Epochs {
    /// Numbers of unclean epochs.
    unclean: Vec<u64>,
    /// Starts of those whose files are not all mended.
    unmended: Vec<(i64, u32)>,
}

impl Epochs {
    pub fn excuse_time(&self, ctime: (i64, u32)) -> bool {
        self.unmended.iter().any(|start| ctime >= *start)
    }

    pub fn excuse_header(&self, epoch: u64) -> bool {
        self.unclean.contains(&epoch)
    }
}

pub struct Volume<'a> {
    pub root: &'a Path,
    pub keys: Keys,
    pub epochs: Epochs,
    pub unwrap: Unwrap<'a>,
}

pub fn open<'a>(root: &'a Path, unwrap: Unwrap<'a>) -> Result<Volume<'a>> {
    let text = fs::read(root.join("kmsfs.json")).map_err(|e| format!("kmsfs.json: {e}"))?;
    let keys = descriptor(&text, unwrap)?;
    let marker = fs::read(root.join(".kmsfs/epoch")).map_err(|e| format!(".kmsfs/epoch: {e}"))?;
    let epochs = epoch(&marker, &keys)?;
    Ok(Volume { root, keys, epochs, unwrap })
}

fn descriptor(text: &[u8], unwrap: Unwrap) -> Result<Keys> {
    let json: serde_json::Value = serde_json::from_slice(text).map_err(|e| format!("kmsfs.json: {e}"))?;
    let bad = |what: &str| format!("kmsfs.json: {what}");
    let object = json.as_object().ok_or_else(|| bad("no object"))?;
    let mut known = vec!["format", "features", "volume_id", "region", "volume_keys", "mac"];
    let features: Vec<&str> =
        json["features"].as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
    let with_recipients = features.last() == Some(&"recipients");
    let others = &features[..features.len() - usize::from(with_recipients)];
    let listed = json["features"].as_array().is_some_and(|list| list.len() == features.len());
    if json["format"] != 1 || !listed || !matches!(others, [] | ["aws-kms"]) {
        return Err(bad("unknown format or feature"));
    }
    if with_recipients {
        known.push("recipients");
    }
    if object.len() != known.len() || known.iter().any(|member| !object.contains_key(*member)) {
        return Err(bad("members missing or unknown"));
    }
    let string =
        |value: &serde_json::Value| value.as_str().map(str::to_owned).ok_or_else(|| bad("no string"));
    let volume_id: [u8; 16] = unhex(&string(&json["volume_id"])?)?;
    let region = string(&json["region"])?;
    let mut context = Context::new();
    context.insert("kmsfs:purpose".to_owned(), "volume".to_owned());
    context.insert("kmsfs:volume".to_owned(), hex::encode(volume_id));
    let wrapped = json["volume_keys"].as_array().ok_or_else(|| bad("no volume keys"))?;
    if !(1..=4).contains(&wrapped.len()) {
        return Err(bad("not one to four volume keys"));
    }
    let mut refusals = String::new();
    for key in wrapped {
        let (arn, blob) = (string(&key["key_arn"])?, unbase64(&string(&key["ciphertext"])?)?);
        match unwrap(&context, &arn, &blob) {
            Err(why) => refusals += &format!("; {arn}: {why}"),
            Ok(volume_key) => {
                let keys = Keys::derive(&volume_key, volume_id);
                let mut message = b"kmsfs descriptor".to_vec();
                message.extend(1u32.to_le_bytes());
                let put = |bytes: &[u8], message: &mut Vec<u8>| {
                    message.extend((bytes.len() as u32).to_le_bytes());
                    message.extend(bytes);
                };
                message.extend((features.len() as u32).to_le_bytes());
                for name in &features {
                    put(name.as_bytes(), &mut message);
                }
                message.extend(volume_id);
                put(region.as_bytes(), &mut message);
                let recipients = json["recipients"].as_array().cloned().unwrap_or_default();
                if with_recipients {
                    message.extend((recipients.len() as u32).to_le_bytes());
                }
                for recipient in recipients {
                    put(string(&recipient["name"])?.as_bytes(), &mut message);
                    let public = recipient.get("public_key").map(string).transpose()?.unwrap_or_default();
                    put(&unbase64(&public)?, &mut message);
                }
                let right = hmac(&keys.descriptor, &message) == unhex::<32>(&string(&json["mac"])?)?;
                return if right { Ok(keys) } else { Err(bad("MAC")) };
            }
        }
    }
    Err(format!("no volume key could be unwrapped{refusals}"))
}

fn epoch(marker: &[u8], keys: &Keys) -> Result<Epochs> {
    let bad = |what: &str| format!(".kmsfs/epoch: {what}");
    if marker.len() < 72 || &marker[..8] != b"KMSFSEPO" || u16_at(marker, 8) != 1 {
        return Err(bad("not a marker of version 1"));
    }
    let listed = u32_at(marker, 12) as usize;
    let (body, mac) = marker.split_at(marker.len() - 32);
    if body.len() != 40 + 24 * listed {
        return Err(bad("length"));
    }
    if hmac(&keys.epoch, &[&keys.volume_id[..], body].concat()) != mac {
        return Err(bad("MAC"));
    }
    let start = |at: usize| (u64_at(body, at) as i64, u32_at(body, at + 8));
    let mut epochs = Epochs { unclean: Vec::new(), unmended: Vec::new() };
    for at in (0..listed).map(|i| 40 + 24 * i) {
        epochs.unclean.push(u64_at(body, at));
        if u32_at(body, at + 20) == 0 {
            epochs.unmended.push(start(at + 8));
        }
    }
    match u16_at(body, 10) {
        1 => {}
        // Nobody runs it, so it ended uncleanly.
        0 => {
            epochs.unclean.push(u64_at(body, 16));
            epochs.unmended.push(start(24));
        }
        _ => return Err(bad("state")),
    }
    Ok(epochs)
}

impl Volume<'_> {
    /// All entries below a directory, and the directory's own attributes under its path.
    pub fn walk(&self, dir: &Path, path: &[u8], out: &mut Vec<Entry>) {
        let entry = |path: &[u8], node| Entry { path: path.to_vec(), node, xattrs: BTreeMap::new() };
        let id = match directory_id(dir) {
            Ok(id) => id,
            Err(why) => return out.push(entry(path, Err(why))),
        };
        let (xattrs, why) = self.xattrs(dir, &id);
        let node = why.map_or(Ok(Node::Directory), Err);
        out.push(Entry { path: path.to_vec(), node, xattrs });
        let mut names: Vec<Vec<u8>> = match fs::read_dir(dir) {
            Ok(entries) => entries.flatten().map(|e| e.file_name().into_vec()).collect(),
            Err(e) => return out.push(entry(path, Err(e.to_string()))),
        };
        names.sort();
        for stored in names {
            if self.is_own(&stored, path.is_empty()) {
                continue;
            }
            let backing = dir.join(OsStr::from_bytes(&stored));
            match self.name(dir, &id, &stored) {
                Ok(name) => {
                    let full = if path.is_empty() { name } else { [path, b"/", &name].concat() };
                    self.object(&backing, &full, out);
                }
                Err(why) => {
                    let full = [path, b"/?", &stored].concat();
                    out.push(entry(&full, Err(why)));
                }
            }
        }
    }

    /// What is no entry: the volume's own files, links of long names, what a crash left.
    fn is_own(&self, stored: &[u8], root: bool) -> bool {
        stored == b"kmsfs.dir"
            || stored.starts_with(b"tmp.")
            || (stored.starts_with(b"long.") && stored.ends_with(b".name"))
            || (root && (stored == b"kmsfs.json" || stored == b".kmsfs"))
    }

    fn name(&self, dir: &Path, id: &[u8; 16], stored: &[u8]) -> Result<Vec<u8>> {
        let full = if stored.starts_with(b"long.") {
            let link = dir.join(OsStr::from_bytes(&[stored, b".name"].concat()));
            let full = target(&link)?;
            if full.len() <= 255 || stored != [b"long.", &base64url(&sha256(&full))[..]].concat() {
                return Err("long name: its link is another's".to_owned());
            }
            full
        } else {
            stored.to_vec()
        };
        let sealed = unbase64url(&full)?;
        let name = siv_open(&self.keys.names, &[id], &sealed).ok_or("name: does not authenticate")?;
        let fits = (1..=255).contains(&name.len()) && !name.contains(&b'/') && !name.contains(&0);
        if fits && name != b"." && name != b".." { Ok(name) } else { Err("name: is none".to_owned()) }
    }

    fn object(&self, backing: &PathBuf, path: &[u8], out: &mut Vec<Entry>) {
        let mut xattrs = BTreeMap::new();
        let node = (|| {
            let stat = fs::symlink_metadata(backing).map_err(|e| e.to_string())?;
            let kind = stat.file_type();
            if kind.is_symlink() {
                return Ok(Some(Node::Symlink(self.symlink(backing)?)));
            }
            if kind.is_dir() {
                return Ok(None);
            }
            if kind.is_file() {
                let ctime = (stat.ctime(), stat.ctime_nsec() as u32);
                let (content, id) = read_file(self, backing, self.epochs.excuse_time(ctime))?;
                let (found, why) = match id {
                    Some(id) => self.xattrs(backing, &id),
                    None => (BTreeMap::new(), None),
                };
                xattrs = found;
                return why.map_or(Ok(Some(Node::File(content))), Err);
            }
            let special =
                kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device();
            if special { Ok(Some(Node::Special)) } else { Err("unknown kind".to_owned()) }
        })();
        match node {
            Ok(None) => self.walk(backing, path, out),
            Ok(Some(node)) => out.push(Entry { path: path.to_vec(), node: Ok(node), xattrs }),
            Err(why) => out.push(Entry { path: path.to_vec(), node: Err(why), xattrs }),
        }
    }

    fn symlink(&self, backing: &Path) -> Result<Vec<u8>> {
        let mut text = target(backing)?;
        if let Some(id) = text.strip_prefix(b"over.") {
            let links = self.root.join(".kmsfs/links");
            let mut whole = Vec::new();
            for piece in 0.. {
                let name = [id, format!(".{piece}").as_bytes()].concat();
                let part = target(&links.join(OsStr::from_bytes(&name)))?;
                whole.extend_from_slice(&part);
                if part.len() != 4000 {
                    break;
                }
            }
            text = whole;
        }
        let bytes = unbase64url(&text)?;
        let (nonce, sealed) = bytes.split_at_checked(16).ok_or("symlink: too short")?;
        siv_open(&self.keys.symlinks, &[nonce], sealed)
            .ok_or_else(|| "symlink: does not authenticate".to_owned())
    }

    /// The encrypted attributes of a file or directory, and the first that does not open.
    fn xattrs(&self, backing: &Path, owner: &[u8; 16]) -> (BTreeMap<Vec<u8>, Vec<u8>>, Option<String>) {
        let mut found = BTreeMap::new();
        let mut failure = None;
        for (stored, value) in super::xattr::all(backing) {
            let Some(text) = stored.strip_prefix(b"user.kmsfs.") else { continue };
            let opened = unbase64url(text).ok().and_then(|sealed| {
                // No associated data: no string, not an empty one.
                let name = siv_open(&self.keys.xattr_names, &[], &sealed)?;
                let key: [u8; 32] = hkdf(&self.keys.xattr_values, owner, b"kmsfs/1 xattr values");
                let (nonce, rest) = value.split_at_checked(12)?;
                let (tag, sealed) = rest.split_at_checked(16)?;
                let plain = gcm_open(&key, nonce, tag, &[&owner[..], &name].concat(), sealed)?;
                Some((name, plain))
            });
            match opened {
                Some((name, plain)) => {
                    found.insert(name, plain);
                }
                None => failure = Some("xattr: does not authenticate".to_owned()),
            }
        }
        (found, failure)
    }
}

fn directory_id(dir: &Path) -> Result<[u8; 16]> {
    let text = target(&dir.join("kmsfs.dir")).map_err(|e| format!("directory id: {e}"))?;
    unbase64url(&text)?.try_into().map_err(|_| "directory id: not 16 bytes".to_owned())
}

fn target(link: &Path) -> Result<Vec<u8>> {
    let target = fs::read_link(link).map_err(|e| e.to_string())?;
    Ok(target.into_os_string().into_vec())
}
