//! All arithmetic between plaintext offsets and pages (docs/format.md, "Size"). Pure.

/// Bytes of a page: the unit that is authenticated and written at once.
pub const PAGE: u64 = 4096;
/// Plaintext bytes of a block.
pub const BLOCK: u64 = 4064;
/// Largest plaintext size: its pages and the r-byte hole stay far below 2^63.
pub const MAX_SIZE: u64 = 1 << 61;

/// Blocks that hold `size` bytes.
pub fn blocks_for(size: u64) -> u64 {
    size.div_ceil(BLOCK)
}

/// Block of a plaintext offset.
pub fn block_of(offset: u64) -> u64 {
    offset / BLOCK
}

/// Where block `block` begins in the backing file.
pub fn page_offset(block: u64) -> u64 {
    PAGE * (1 + block)
}

/// Length of a backing file that ends with its last page, of `blocks` blocks.
pub fn page_end(blocks: u64) -> u64 {
    PAGE * (1 + blocks)
}

/// Plaintext bytes of `block` in a file of `size` bytes; `block` is one of its blocks.
pub fn block_len(size: u64, block: u64) -> u64 {
    (size - block * BLOCK).min(BLOCK)
}

/// st_size of a finalised file of `size` bytes.
pub fn stat_size(size: u64) -> u64 {
    page_end(blocks_for(size)) + size % BLOCK
}

/// Plaintext size that st_size stands for; None where no finalised file has such a size.
pub fn size_of_stat(st_size: u64) -> Option<u64> {
    let (blocks, r) = ((st_size / PAGE).checked_sub(1)?, st_size % PAGE);
    match (blocks, r) {
        (0, 0) => Some(0),
        (0, _) => None,
        (n, 0) => Some(n * BLOCK),
        (n, r) if r < BLOCK => Some((n - 1) * BLOCK + r),
        _ => None,
    }
}

/// Whole pages behind the header.
pub fn whole_blocks(st_size: u64) -> u64 {
    (st_size / PAGE).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_worked_sizes_of_the_format() {
        for (size, blocks, st_size) in [
            (0, 0, 4096),
            (1, 1, 8193),
            (4063, 1, 12255),
            (4064, 1, 8192),
            (4065, 2, 12289),
            (1 << 20, 259, 1_064_960 + 64),
        ] {
            assert_eq!((blocks_for(size), stat_size(size)), (blocks, st_size), "size {size}");
            assert_eq!(size_of_stat(st_size), Some(size));
        }
        for bad in [0, 1, 4095, 4097, 8191, 8192 + 4064, 8192 + 4095] {
            assert_eq!(size_of_stat(bad), None, "st_size {bad}");
        }
    }

    proptest! {
        #[test]
        fn sizes_are_inverses(size in 0..MAX_SIZE) {
            prop_assert_eq!(size_of_stat(stat_size(size)), Some(size));
        }

        #[test]
        fn every_accepted_st_size_comes_back(st_size in 0..MAX_SIZE) {
            if let Some(size) = size_of_stat(st_size) {
                prop_assert_eq!(stat_size(size), st_size);
            }
        }

        #[test]
        fn a_byte_lies_in_its_block(offset in 0..MAX_SIZE, more in 1..100_000u64) {
            let block = block_of(offset);
            let size = offset + more;
            prop_assert!(block * BLOCK <= offset && offset < (block + 1) * BLOCK);
            prop_assert!(block < blocks_for(size));
            prop_assert!(offset - block * BLOCK < block_len(size, block));
            prop_assert_eq!(page_offset(block) + PAGE, page_end(block + 1));
        }
    }
}
