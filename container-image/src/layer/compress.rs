//! Compression: told by content when reading, chosen when writing.

use std::fmt;
use std::io::{self, BufReader, Read, Write};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::gzip::{ParallelGzip, workers};
use crate::store::from_io;
use crate::{Error, ErrorKind, MediaType, Result};

/// How the bytes of a layer are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, from level 1 (fast) to 9 (small).
    Gzip(u8),
    /// Zstandard, from level 1 (fast) to 22 (small).
    Zstd(u8),
}

impl Compression {
    /// The OCI media type of a layer compressed so.
    #[must_use]
    pub fn media_type(self) -> MediaType {
        match self {
            Self::None => MediaType::LAYER,
            Self::Gzip(_) => MediaType::LAYER_GZIP,
            Self::Zstd(_) => MediaType::LAYER_ZSTD,
        }
    }
}

impl Default for Compression {
    /// gzip at level 6, which every reader of images understands.
    fn default() -> Self {
        Self::Gzip(6)
    }
}

/// Decompresses `reader`, which is gzip, Zstandard, bzip2, xz or plain, as its first bytes tell.
///
/// Several members or frames after one another are read as one. Blocks while `reader` does. Memory is
/// bounded: some hundred KiB for gzip, a few MiB for bzip2, and what the window takes for Zstandard
/// (128 MiB at most) and xz (80 MiB at most).
///
/// # Errors
/// `UnsupportedCompression` (kind `Unsupported`), naming the format; and what `reader` fails with.
pub fn decompress<'a>(reader: impl Read + Send + 'a) -> Result<Decompressed<'a>> {
    let mut reader = Counted {
        inner: Box::new(reader),
        bytes: 0,
    };
    let mut head = Vec::with_capacity(MAGIC_BYTES);
    let read = (&mut reader)
        .take(MAGIC_BYTES as u64)
        .read_to_end(&mut head);
    read.map_err(|error| from_io("read the layer", error))?;
    let decoder = Decoder::new(&head.clone(), io::Cursor::new(head).chain(reader))?;
    Ok(Decompressed {
        decoder,
        produced: 0,
        ratio: DEFAULT_RATIO,
    })
}

/// The plain bytes of a layer, as [`decompress`] gives them.
///
/// Reading fails with `LimitExceeded` when the bytes are more than a thousand times those read from
/// the source.
pub struct Decompressed<'a> {
    decoder: Decoder<'a>,
    /// How many plain bytes came out so far.
    produced: u64,
    ratio: u64,
}

impl Decompressed<'_> {
    /// The media type of a layer that is compressed like this; `None` where OCI has none.
    #[must_use]
    pub fn media_type(&self) -> Option<MediaType> {
        match self.decoder {
            Decoder::Plain(_) => Some(MediaType::LAYER),
            Decoder::Gzip(_) => Some(MediaType::LAYER_GZIP),
            Decoder::Zstd(_) => Some(MediaType::LAYER_ZSTD),
            Decoder::Bzip2(_) | Decoder::Xz(_) => None,
        }
    }

    /// Allows `ratio` times as many plain bytes as compressed ones, instead of 1000.
    #[must_use]
    pub fn limit_ratio(mut self, ratio: u64) -> Self {
        self.ratio = ratio;
        self
    }
}

impl Read for Decompressed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer).map_err(damaged)?;
        self.produced += count as u64;
        let consumed = self.decoder.consumed();
        if self.produced
            > consumed
                .saturating_mul(self.ratio)
                .saturating_add(RATIO_SLACK_BYTES)
        {
            let doing = format!(
                "decompress a layer: more than {} bytes for each read",
                self.ratio
            );
            return Err(io::Error::other(Error::invalid("LimitExceeded", doing)));
        }
        Ok(count)
    }
}

impl fmt::Debug for Decompressed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressed")
            .field("produced", &self.produced)
            .finish_non_exhaustive()
    }
}

/// Compresses what is written to it.
pub(super) enum Compressor<W: Write> {
    Plain(W),
    Gzip(ParallelGzip<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    pub(super) fn new(output: W, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(output),
            Compression::Gzip(level) => Self::Gzip(ParallelGzip::new(output, level.clamp(1, 9))?),
            Compression::Zstd(level) => {
                let mut encoder = zstd::Encoder::new(output, i32::from(level.clamp(1, 22)))?;
                // From one thread on the bytes do not depend on how many there are.
                encoder.multithread(u32::try_from(workers()).unwrap_or(1))?;
                encoder.set_parameter(zstd::zstd_safe::CParameter::JobSize(ZSTD_JOB_BYTES))?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Writes what is left and gives the output back.
    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(output) => Ok(output),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(output) => output.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(output) => output.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// Names an error that the decompressor itself found; those of the source stay what they are.
fn damaged(error: io::Error) -> io::Error {
    let own = error.get_ref().is_some_and(|inner| inner.is::<Error>());
    if own || error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted {
        return error;
    }
    let damaged = Error::new(
        ErrorKind::Integrity,
        "DamagedCompression",
        "decompress a layer",
    );
    io::Error::other(damaged.with_source(error))
}

type Source<'a> = io::Chain<io::Cursor<Vec<u8>>, Counted<'a>>;

enum Decoder<'a> {
    Plain(Source<'a>),
    Gzip(Box<MultiGzDecoder<BufReader<Source<'a>>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<Source<'a>>>>),
    Bzip2(Box<MultiBzDecoder<BufReader<Source<'a>>>>),
    Xz(Box<XzReader<BufReader<Source<'a>>>>),
}

impl<'a> Decoder<'a> {
    fn new(head: &[u8], source: Source<'a>) -> Result<Self> {
        let unsupported = |name: &str| {
            let doing = format!("decompress a layer: {name} is not supported");
            Err(Error::new(
                ErrorKind::Unsupported,
                "UnsupportedCompression",
                doing,
            ))
        };
        let buffered = |source| BufReader::with_capacity(BUFFER_BYTES, source);
        match head {
            [0x1f, 0x8b, ..] => {
                let decoder = MultiGzDecoder::new(buffered(source));
                Ok(Self::Gzip(Box::new(decoder)))
            }
            // A frame, or one of the frames that carry no data.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let decoder = zstd::Decoder::with_buffer(buffered(source))
                    .map_err(|error| Error::os("make a zstd decoder", error))?;
                Ok(Self::Zstd(Box::new(decoder)))
            }
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => {
                let decoder = MultiBzDecoder::new(buffered(source));
                Ok(Self::Bzip2(Box::new(decoder)))
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
                let decoder = XzReader::new_mem_limit(buffered(source), true, XZ_MEMORY_KIB);
                Ok(Self::Xz(Box::new(decoder)))
            }
            [0x5d, 0, 0, ..] => unsupported("lzma"),
            [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4"),
            [b'L', b'Z', b'I', b'P', ..] => unsupported("lzip"),
            [0x1f, 0x9d, ..] => unsupported("compress"),
            _ => Ok(Self::Plain(source)),
        }
    }

    /// How many bytes were read from the source so far.
    fn consumed(&self) -> u64 {
        let source = match self {
            Self::Plain(source) => source,
            Self::Gzip(decoder) => decoder.get_ref().get_ref(),
            Self::Zstd(decoder) => decoder.get_ref().get_ref(),
            Self::Bzip2(decoder) => decoder.get_ref().get_ref(),
            Self::Xz(decoder) => decoder.inner().get_ref(),
        };
        source.get_ref().1.bytes
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::Bzip2(decoder) => decoder.read(buffer),
            Self::Xz(decoder) => decoder.read(buffer),
        }
    }
}

struct Counted<'a> {
    inner: Box<dyn Read + Send + 'a>,
    bytes: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Large enough for every magic number.
const MAGIC_BYTES: usize = 6;

const BUFFER_BYTES: usize = 128 << 10;

/// What one thread compresses at a time; by default it is four times as much, and as much memory.
const ZSTD_JOB_BYTES: u32 = 2 << 20;

/// What `xz -9` needs, and some more.
const XZ_MEMORY_KIB: u32 = 80 << 10;

/// How many plain bytes there may be for each compressed one; deflate cannot go beyond 1032.
const DEFAULT_RATIO: u64 = 1000;

/// As many plain bytes are allowed whatever the ratio, so that small layers are never refused.
const RATIO_SLACK_BYTES: u64 = 1 << 20;
