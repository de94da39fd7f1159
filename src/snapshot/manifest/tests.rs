use proptest::prelude::*;

use super::*;

fn meta(kind: Kind, size: u64) -> Meta {
    let time = Time { sec: 5, nsec: 6 };
    Meta::new(&Stat {
        dev: 1,
        ino: 2,
        kind,
        perm: 0o644,
        nlink: 1,
        uid: 3,
        gid: 4,
        rdev: 0,
        size,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
    })
}

fn entry(depth: u32, name: &str, kind: Kind) -> Entry {
    let file = kind == Kind::File;
    let extents = vec![Extent { page: 0, pages: 2, pack: 0, pack_page: 3 }];
    Entry {
        depth,
        name: name.as_bytes().to_vec(),
        meta: meta(kind, if file { 8192 } else { 0 }),
        settled: true,
        target: if kind == Kind::Symlink { b"t".to_vec() } else { Vec::new() },
        xattrs: vec![(b"user.a".to_vec(), vec![1])],
        stored: file.then_some(Stored { extents, digest: [7; 32], key: Some(0) }),
    }
}

fn packs() -> Vec<Pack> {
    vec![Pack { id: Id([9; 16]), pages: 5 }]
}

fn write(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut records = Records::new(Vec::new(), Id([1; 16]))?;
    for entry in entries {
        records.push(entry)?;
    }
    records.finish()
}

fn read(bytes: &[u8]) -> Result<Vec<Entry>> {
    let packs = packs();
    let mut reader = Reader::new(bytes, Some(&packs))?;
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        out.push(*entry);
    }
    Ok(out)
}

fn tree() -> Vec<Entry> {
    vec![
        entry(0, "", Kind::Directory),
        entry(1, "a", Kind::Directory),
        entry(2, "x", Kind::File),
        entry(2, "y", Kind::Directory),
        entry(3, "deep", Kind::Fifo),
        entry(1, "b", Kind::Symlink),
        entry(1, "c", Kind::File),
    ]
}

#[test]
fn entries_come_back_in_order_with_their_paths() {
    let bytes = write(&tree()).unwrap();
    assert_eq!(read(&bytes).unwrap(), tree());
    let mut reader = Reader::new(&bytes[..], None).unwrap();
    let mut paths = Vec::new();
    while reader.next_entry().unwrap().is_some() {
        paths.push(
            reader
                .path()
                .iter()
                .map(|n| String::from_utf8_lossy(n).into_owned())
                .collect::<Vec<_>>()
                .join("/"),
        );
    }
    assert_eq!(paths, ["", "a", "a/x", "a/y", "a/y/deep", "b", "c"]);
}

#[test]
fn disorder_is_refused_by_writer_and_reader() {
    let root = || entry(0, "", Kind::Directory);
    let bad: [Vec<Entry>; 8] = [
        vec![entry(1, "a", Kind::File)],
        vec![entry(0, "", Kind::File)],
        vec![root(), root()],
        vec![root(), entry(2, "a", Kind::File)],
        vec![root(), entry(1, "b", Kind::File), entry(1, "a", Kind::File)],
        vec![root(), entry(1, "a", Kind::File), entry(1, "a", Kind::File)],
        vec![root(), entry(1, "a", Kind::File), entry(2, "b", Kind::File)],
        vec![root(), entry(1, "a/b", Kind::File)],
    ];
    for entries in bad {
        assert!(write(&entries).is_err(), "{entries:?}");
        // As somebody else might have written it.
        let mut records = Records::new(Vec::new(), Id([1; 16])).unwrap();
        for entry in &entries {
            records.put(&NewRecord::Entry(entry)).unwrap();
        }
        records.entries = entries.len() as u64;
        assert!(matches!(read(&records.finish().unwrap()), Err(SnapshotError::Damaged(_))), "{entries:?}");
    }
}

#[test]
fn senseless_entries_are_refused() {
    let with = |change: &dyn Fn(&mut Entry)| {
        let mut file = entry(1, "a", Kind::File);
        change(&mut file);
        read(&write(&[entry(0, "", Kind::Directory), file]).unwrap())
    };
    assert!(with(&|_| ()).is_ok());
    let stored = |e: &mut Entry, extents: &[(u64, u64, u32, u64)]| {
        let extents =
            extents.iter().map(|&(page, pages, pack, pack_page)| Extent { page, pages, pack, pack_page });
        e.stored.as_mut().unwrap().extents = extents.collect();
    };
    let changes: [&dyn Fn(&mut Entry); 12] = [
        &|e| e.meta.kind = 7,
        &|e| e.meta.perm = 0o10000,
        &|e| e.meta.mtime.1 = 1_000_000_000,
        &|e| e.stored = None,
        &|e| e.target = b"x".to_vec(),
        &|e| e.xattrs = vec![(b"b".to_vec(), vec![]), (b"a".to_vec(), vec![])],
        &|e| stored(e, &[(0, 0, 0, 0)]),
        &|e| stored(e, &[(1, 2, 0, 0)]),
        &|e| stored(e, &[(1, 1, 0, 0), (0, 1, 0, 1)]),
        &|e| stored(e, &[(0, 2, 1, 0)]),
        &|e| stored(e, &[(0, 2, 0, 4)]),
        &|e| stored(e, &[(0, 1, 0, u64::MAX)]),
    ];
    for (nth, change) in changes.iter().enumerate() {
        assert!(matches!(with(change), Err(SnapshotError::Damaged(_))), "change {nth}");
    }
}

#[test]
fn a_cut_or_longer_stream_is_no_manifest() {
    let bytes = write(&tree()).unwrap();
    for len in 0..bytes.len() {
        assert!(read(&bytes[..len]).is_err(), "cut at {len}");
    }
    assert!(read(&[&bytes[..], &[0]].concat()).is_err());
}

proptest! {
    /// Whatever bytes come: an error or entries in order, no panic, no memory beyond them.
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
    }

    #[test]
    fn changed_bytes_are_read_without_harm(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = write(&tree()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(entries) = read(&bytes) {
            prop_assert_eq!(entries.len(), tree().len());
        }
    }
}
