//! Images of nothing in particular, to try things out with.

use std::io::{self, Read};

use crate::layer::{Compression, Entry, EntryKind, Packer};
use crate::{History, Image, ImageEdit, Platform, Result, Store};

/// Makes an image of `layers` layers, each with one file of `layer_bytes` bytes that do not compress,
/// and no name. The same seed gives the same image.
///
/// # Errors
/// Those of the store.
pub fn random(store: &Store, seed: u64, layers: usize, layer_bytes: u64) -> Result<Image> {
    let mut edit = ImageEdit::scratch(store, &Platform::host());
    for layer in 0..layers {
        let path = format!("random-{seed}-{layer}");
        let mut noise = Noise::new(seed, layer as u64);
        let step = History {
            created_by: Some(format!("random {seed} {layer}")),
            ..History::default()
        };
        edit = edit.append_packed(
            move |output| {
                let mut packer = Packer::new(output, Compression::Gzip(1))?;
                let kind = EntryKind::File {
                    size_bytes: layer_bytes,
                };
                packer.append(&Entry::new(path, kind), &mut noise)?;
                Ok(packer.finish()?.0)
            },
            step,
        );
    }
    edit.build()
}

/// Numbers without end, by xorshift.
struct Noise(u64);

impl Noise {
    fn new(seed: u64, layer: u64) -> Self {
        let state =
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ layer.wrapping_mul(0xd134_2543_de82_ef95);
        Self(state | 1)
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
        Ok(buffer.len())
    }
}
