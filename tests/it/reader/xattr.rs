//! Extended attributes of one object, not following a link.

use std::path::Path;

/// Names and values; none where the filesystem has none.
pub fn all(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0u8; 64 << 10];
    let Ok(len) = rustix::fs::llistxattr(path, list.as_mut_slice()) else { return Vec::new() };
    list[..len]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| {
            let mut value = vec![0u8; 64 << 10];
            let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
            value.truncate(len);
            Some((name.to_vec(), value))
        })
        .collect()
}
