//! One page of content (docs/format.md, "Block").

use super::error::{Result, VolumeError};
use super::layout::{BLOCK, PAGE};
use crate::crypto::{AeadKey, CryptoError, Nonce};

const HEAD: usize = (PAGE - BLOCK) as usize;

/// What a page says of itself before it is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHead {
    /// Plaintext bytes that count, 1 to 4064.
    pub len: u16,
    /// Generation of the content key.
    pub generation: u16,
}

impl BlockHead {
    /// Reads the head of a page; a length no block has is damage.
    pub fn parse(page: &[u8]) -> Result<Self> {
        let (len, generation) = match page.get(28..32) {
            Some(&[a, b, c, d]) => (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])),
            _ => return Err(VolumeError::damaged("a block is shorter than its head")),
        };
        if len == 0 || u64::from(len) > BLOCK {
            return Err(VolumeError::damaged(format!("a block claims {len} bytes")));
        }
        Ok(Self { len, generation })
    }

    fn aad(self, block: u64) -> [u8; 12] {
        let mut aad = [0; 12];
        aad[..8].copy_from_slice(&block.to_le_bytes());
        aad[8..10].copy_from_slice(&self.len.to_le_bytes());
        aad[10..].copy_from_slice(&self.generation.to_le_bytes());
        aad
    }
}

/// Seals `plaintext` (1 to 4064 bytes; zeros follow it) as block `block` into `page`.
pub fn seal(
    key: &AeadKey,
    nonce: Nonce,
    block: u64,
    generation: u16,
    plaintext: &[u8],
    page: &mut [u8],
) -> std::result::Result<(), CryptoError> {
    debug_assert!(!plaintext.is_empty() && plaintext.len() <= BLOCK as usize && page.len() == PAGE as usize);
    let head = BlockHead { len: plaintext.len() as u16, generation };
    let (front, body) = page.split_at_mut(HEAD);
    let tag = if plaintext.len() == BLOCK as usize {
        key.seal(nonce, &head.aad(block), plaintext, body)?
    } else {
        let mut padded = [0; BLOCK as usize];
        padded[..plaintext.len()].copy_from_slice(plaintext);
        key.seal(nonce, &head.aad(block), &padded, body)?
    };
    front[..12].copy_from_slice(&nonce);
    front[12..28].copy_from_slice(&tag);
    front[28..30].copy_from_slice(&head.len.to_le_bytes());
    front[30..32].copy_from_slice(&generation.to_le_bytes());
    Ok(())
}

/// Opens a page into `plaintext` (4064 bytes, zeros behind the block's length). On an error it is zeroed.
pub fn open(key: &AeadKey, head: BlockHead, block: u64, page: &[u8], plaintext: &mut [u8]) -> Result<()> {
    let parts = page.split_first_chunk::<12>().and_then(|(nonce, rest)| {
        let (tag, rest) = rest.split_first_chunk::<16>()?;
        Some((*nonce, tag, rest.get(4..)?))
    });
    let Some((nonce, tag, body)) = parts else {
        return Err(VolumeError::damaged(format!("block {block} is cut")));
    };
    key.open(nonce, &head.aad(block), body, tag, plaintext)
        .map_err(|_| VolumeError::damaged(format!("block {block} does not authenticate")))
}
