//! What the encoders of `kmsfs::volume` write, the independent reader opens: names short and long, files of
//! every size at which a block begins or ends, links short and long, an attribute.

use super::{Context, Node, Result, read_volume};
use kmsfs::crypto::{Secret, aead};
use kmsfs::volume::disk::Time;
use kmsfs::volume::{block, descriptor, epoch, header, keys, layout, names};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

fn unwrap(c: &Context, _: &str, b: &[u8]) -> Result<[u8; 32]> {
    let id = hex::encode([0xabu8; 16]);
    let due: Context = if b == b"V" {
        keys::volume_context(&[0xab; 16])
    } else {
        keys::file_context(&[0xab; 16], &[0xcd; 16])
    };
    assert_eq!(*c, due);
    assert_eq!(c["kmsfs:volume"], id);
    if b == b"V" { Ok([1; 32]) } else { Ok([2; 32]) }
}

#[test]
fn kmsfs_encoders_open() {
    let dir = tempfile::tempdir().unwrap();
    let at = |n: &[u8]| dir.path().join(OsStr::from_bytes(n));
    let lnk = |t: &[u8], n: &[u8]| symlink(OsStr::from_bytes(t), at(n)).unwrap();
    let vk = keys::VolumeKeys::derive(&keys::VolumeKey(Secret::new([1; 32])), [0xab; 16]).unwrap();
    let wrapped = |b: &[u8]| header::WrappedKey { key_arn: "arn:x".into(), ciphertext: b.to_vec() };
    let d = descriptor::Descriptor::new(
        &vk,
        "us-east-1".into(),
        vec![descriptor::Feature::AwsKms],
        vec![wrapped(b"V")],
    );
    fs::write(at(b"kmsfs.json"), d.encode().unwrap()).unwrap();
    fs::create_dir_all(dir.path().join(".kmsfs/links")).unwrap();
    let e = epoch::Epoch {
        number: 9,
        start: Time { sec: -5, nsec: 7 },
        clean: true,
        unclean: vec![epoch::Unclean { number: 3, start: Time { sec: 1, nsec: 2 }, mended: true }],
    };
    fs::write(dir.path().join(".kmsfs/epoch"), e.encode(&vk)).unwrap();
    let id = names::new_dir_id().unwrap();
    lnk(&names::encode_dir_id(&id), b"kmsfs.dir");
    let fk = keys::FileKeys::derive(keys::DataKey(Secret::new([2; 32])), &vk, &[0xcd; 16]).unwrap();
    let mut due = vec![(b"".to_vec(), Node::Directory)];
    for (size, len) in [(0usize, 10usize), (1, 175), (4063, 176), (4064, 255), (4065, 30), (100_000, 31)] {
        let name = vec![b'a' + (len % 26) as u8; len];
        let content: Vec<u8> = (0..size).map(|i| (i * 7 % 253) as u8).collect();
        let h = header::Header {
            flags: 0,
            generation: 2,
            used: 1,
            file_id: [0xcd; 16],
            size: size as u64,
            epoch: 9,
            commitment: *fk.commitment(),
            keys: vec![wrapped(b"F")],
        };
        let mut bytes = h.encode(&fk).unwrap().to_vec();
        let mut run = aead::NonceRun::start().unwrap();
        for (i, p) in content.chunks(4064).enumerate() {
            let mut page = vec![0; 4096];
            let g = (i % 3) as u16;
            block::seal(&fk.content(g).unwrap(), run.take(), i as u64, g, p, &mut page).unwrap();
            bytes.extend(page);
        }
        bytes.resize(layout::stat_size(size as u64) as usize, 0);
        let s = vk.encode_name(&id, &name).unwrap();
        fs::write(at(&s.entry), bytes).unwrap();
        if len == 30 {
            let n = vk.encode_xattr_name(b"user.mime").unwrap();
            let v = vk.seal_xattr(&[0xcd; 16], b"user.mime", b"text/plain").unwrap();
            rustix::fs::setxattr(at(&s.entry), &n[..], &v, rustix::fs::XattrFlags::empty()).unwrap();
        }
        if let Some((l, t)) = s.long {
            lnk(&t, &l);
        }
        due.push((name, Node::File(content)));
    }
    for len in [1usize, 3000, 4095] {
        let t = vk.encode_target(&vec![b't'; len]).unwrap();
        for (n, piece) in &t.overflow {
            lnk(piece, &[b".kmsfs/links/", &n[..]].concat());
        }
        let name = format!("zlink{len}").into_bytes();
        lnk(&t.target, &vk.encode_name(&id, &name).unwrap().entry);
        due.push((name, Node::Symlink(vec![b't'; len])));
    }
    due.sort_by(|a, b| a.0.cmp(&b.0));
    let found = read_volume(dir.path(), &unwrap).unwrap();
    assert_eq!(found.len(), due.len());
    for (f, d) in found.iter().zip(&due) {
        assert_eq!(f.path, d.0);
        assert!(
            f.node == Ok(d.1.clone()),
            "{:?} {:?}",
            String::from_utf8_lossy(&f.path),
            f.node.as_ref().err()
        );
    }
    let x: Vec<_> = found.iter().flat_map(|e| &e.xattrs).collect();
    assert_eq!(x, [(&b"user.mime".to_vec(), &b"text/plain".to_vec())]);
}
