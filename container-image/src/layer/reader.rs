//! Reading archives: ustar, PAX, GNU, star and V7, as one stream and without a step back.
//!
//! Where readers are known to differ, this one does as Go's `archive/tar`, on which the other
//! container engines stand: PAX sizes win over those of the header, links and directories have no
//! contents whatever their header claims, and global PAX headers have no effect.

use std::io::{self, Read};

use super::entry::{Entry, EntryKind, Timestamp, show, to_path};
use super::header::{
    BLOCK_BYTES, GID, Header, MAX_DIGITS, Records, UID, bad, decimal, numeric, parse_time,
    until_nul,
};
use crate::store::from_io;
use crate::{Error, ErrorKind, Result};

/// Reads an archive member by member.
pub(crate) struct Reader<'a> {
    input: &'a mut dyn Read,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes that were read from the input, and how many there may be.
    total: u64,
    limit: u64,
    /// Contents of the current member that were not taken yet, and the padding behind them.
    remaining: u64,
    padding: u64,
}

/// An entry with what only reading needs.
pub(crate) struct Member {
    pub(crate) entry: Entry,
    /// Where the stored bytes of a sparse file belong, in order; `None` for plain files.
    pub(crate) segments: Option<Vec<Segment>>,
}

/// A run of stored bytes in a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

impl<'a> Reader<'a> {
    /// A reader that fails with `LimitExceeded` after `limit` bytes.
    pub(crate) fn new(input: &'a mut dyn Read, limit: u64) -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self {
            input,
            buffer,
            start: 0,
            end: 0,
            total: 0,
            limit,
            remaining: 0,
            padding: 0,
        }
    }

    /// The next member, or `None` at the end. What was not taken of the one before is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        let mut records = Records::default();
        let mut long_name = None;
        let mut long_link = None;
        loop {
            self.skip_contents()?;
            let Some(header) = self.header()? else {
                return match (records.is_empty(), &long_name, &long_link) {
                    (true, None, None) => Ok(None),
                    _ => Err(truncated("read the archive: the last header is missing")),
                };
            };
            let size = header.size()?;
            match header.type_flag() {
                b'x' => {
                    let bytes = self.special(size)?;
                    records = Records::parse(&bytes)?;
                }
                b'g' => {
                    let bytes = self.special(size)?;
                    Records::parse(&bytes)?;
                }
                b'L' => long_name = Some(self.special_name(size)?),
                b'K' => long_link = Some(self.special_name(size)?),
                _ => {
                    return self
                        .member(&header, &records, long_name, long_link)
                        .map(Some);
                }
            }
        }
    }

    /// Takes up to `at_most` bytes of the contents; empty when there are no more.
    pub(crate) fn contents(&mut self, at_most: u64) -> Result<&[u8]> {
        let wanted = self.remaining.min(at_most);
        if wanted == 0 {
            return Ok(&[]);
        }
        if self.start == self.end && !self.fill()? {
            return Err(truncated("read the contents of a file"));
        }
        let there = self.end - self.start;
        let count = usize::try_from(wanted).unwrap_or(there).min(there);
        let from = self.start;
        self.start += count;
        self.remaining -= count as u64;
        Ok(&self.buffer[from..from + count])
    }

    /// Reads what follows the archive, to the end of the input.
    pub(crate) fn drain(&mut self) -> Result<()> {
        loop {
            (self.start, self.end) = (0, 0);
            if !self.fill()? {
                return Ok(());
            }
        }
    }

    /// How many bytes were read from the input.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total
    }

    fn member(
        &mut self,
        header: &Header,
        records: &Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Member> {
        let mut path = long_name
            .or_else(|| records.get("path").map(<[u8]>::to_vec))
            .unwrap_or_else(|| header.path());
        let link = long_link
            .or_else(|| records.get("linkpath").map(<[u8]>::to_vec))
            .unwrap_or_else(|| header.link().to_vec());
        let device = || header.device();
        let mut kind = match header.type_flag() {
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File { size_bytes: 0 },
            b'1' => EntryKind::HardLink {
                target: to_path(&link),
            },
            b'2' => EntryKind::Symlink {
                target: to_path(&link),
            },
            b'3' => device().map(|(major, minor)| EntryKind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let flag = char::from(other);
                let doing = format!("read entry {}: type {flag:?} is not supported", show(&path));
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "UnsupportedEntry",
                    doing,
                ));
            }
        };
        let mut segments = None;
        if let EntryKind::File { size_bytes } = &mut kind {
            let stored = records.number("size")?.map_or_else(|| header.size(), Ok)?;
            self.start_contents(stored);
            *size_bytes = stored;
            let sparse = match header.type_flag() {
                b'S' => Some((header.real_size()?, self.old_sparse_map(header)?)),
                _ => self.pax_sparse_map(records, stored)?,
            };
            if let Some((real_size, map)) = sparse {
                check_sparse_map(&map, real_size, self.remaining)?;
                *size_bytes = real_size;
                segments = Some(map);
                if let Some(name) = records.get("GNU.sparse.name") {
                    path = name.to_vec();
                }
            }
        }
        let entry = Entry {
            path: to_path(&path),
            kind,
            mode: header.mode()?,
            uid: records
                .number("uid")?
                .map_or_else(|| header.number(UID), Ok)
                .and_then(to_id)?,
            gid: records
                .number("gid")?
                .map_or_else(|| header.number(GID), Ok)
                .and_then(to_id)?,
            mtime: match records.get("mtime") {
                Some(text) => parse_time(text)?,
                None => Timestamp {
                    seconds: header.mtime()?,
                    nanoseconds: 0,
                },
            },
            xattrs: records.xattrs(),
        };
        Ok(Member { entry, segments })
    }

    fn start_contents(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK_BYTES as u64;
    }

    fn skip_contents(&mut self) -> Result<()> {
        self.remaining = self
            .remaining
            .checked_add(self.padding)
            .ok_or_else(|| bad("size"))?;
        self.padding = 0;
        while self.remaining > 0 {
            self.contents(u64::MAX)?;
        }
        Ok(())
    }

    /// The next header, `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block.iter().any(|byte| *byte != 0) {
            return Header::new(block).map(Some);
        }
        match self.block()? {
            Some(block) if block.iter().any(|byte| *byte != 0) => Err(bad("end of archive")),
            _ => Ok(None),
        }
    }

    /// The contents of a header that describes the next one.
    fn special(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_SPECIAL_BYTES {
            let doing = format!("read an extended header of {size} bytes");
            return Err(Error::invalid("LimitExceeded", doing));
        }
        self.start_contents(size);
        let mut bytes = Vec::new();
        while self.remaining > 0 {
            bytes.extend_from_slice(self.contents(u64::MAX)?);
        }
        Ok(bytes)
    }

    /// A GNU long name, which ends at its first NUL.
    fn special_name(&mut self, size: u64) -> Result<Vec<u8>> {
        Ok(until_nul(&self.special(size)?).to_vec())
    }

    /// The map of GNU's first sparse format: in the header and in blocks behind it.
    fn old_sparse_map(&mut self, header: &Header) -> Result<Vec<Segment>> {
        if !header.is_gnu() {
            return Err(bad("sparse header"));
        }
        let mut map = Vec::new();
        let mut extended = sparse_entries(&header.0[386..482], &mut map)? && header.0[482] != 0;
        while extended {
            let block = self
                .block()?
                .ok_or_else(|| truncated("read a sparse map"))?;
            extended = sparse_entries(&block[..504], &mut map)? && block[504] != 0;
        }
        Ok(map)
    }

    /// The real size and the map of the three sparse formats that GNU tar writes into PAX headers.
    fn pax_sparse_map(
        &mut self,
        records: &Records,
        stored: u64,
    ) -> Result<Option<(u64, Vec<Segment>)>> {
        let version = (
            records.get("GNU.sparse.major"),
            records.get("GNU.sparse.minor"),
        );
        let in_contents = match version {
            (None, None) if records.get("GNU.sparse.map").is_none() => return Ok(None),
            (None, None) | (Some(b"0"), Some(b"0" | b"1")) => false,
            (Some(b"1"), Some(b"0")) => true,
            _ => {
                let doing = "read a sparse file: unknown version of the format";
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "UnsupportedEntry",
                    doing,
                ));
            }
        };
        let real_size = match records.number("GNU.sparse.size")? {
            Some(size) => Some(size),
            None => records.number("GNU.sparse.realsize")?,
        };
        let map = if in_contents {
            self.sparse_map_in_contents()?
        } else {
            let text = records.get("GNU.sparse.map").unwrap_or(b"");
            let mut numbers = Vec::new();
            for number in text
                .split(|byte| *byte == b',')
                .filter(|_| !text.is_empty())
            {
                numbers.push(decimal(number).ok_or_else(|| bad("sparse map"))?);
            }
            if records.number("GNU.sparse.numblocks")? != Some(numbers.len() as u64 / 2) {
                return Err(bad("sparse map"));
            }
            to_segments(&numbers)?
        };
        Ok(Some((real_size.unwrap_or(stored), map)))
    }

    /// The map of PAX sparse format 1.0: lines of numbers, padded to whole blocks.
    fn sparse_map_in_contents(&mut self) -> Result<Vec<Segment>> {
        let mut numbers = Vec::new();
        let mut wanted = None;
        let (mut digits, mut taken) = (Vec::new(), 0_u64);
        while wanted.is_none_or(|wanted| (numbers.len() as u64) < wanted) {
            let byte = *self.contents(1)?.first().ok_or_else(|| bad("sparse map"))?;
            taken += 1;
            if byte != b'\n' {
                digits.push(byte);
                if digits.len() > MAX_DIGITS {
                    return Err(bad("sparse map"));
                }
                continue;
            }
            let number = decimal(&digits).ok_or_else(|| bad("sparse map"))?;
            digits.clear();
            if wanted.is_some() {
                numbers.push(number);
            } else if number <= MAX_SEGMENTS as u64 {
                wanted = Some(number * 2);
            } else {
                return Err(too_many_segments());
            }
        }
        let mut padding = taken.wrapping_neg() % BLOCK_BYTES as u64;
        while padding > 0 {
            let skipped = self.contents(padding)?.len() as u64;
            if skipped == 0 {
                return Err(bad("sparse map"));
            }
            padding -= skipped;
        }
        to_segments(&numbers)
    }

    /// One whole block, or `None` at the end of the input.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>> {
        while self.end - self.start < BLOCK_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if !self.fill()? {
                return match self.end {
                    0 => Ok(None),
                    _ => Err(truncated("read a header")),
                };
            }
        }
        let mut block = [0; BLOCK_BYTES];
        block.copy_from_slice(&self.buffer[self.start..self.start + BLOCK_BYTES]);
        self.start += BLOCK_BYTES;
        Ok(Some(block))
    }

    /// Reads on behind what the buffer holds; false at the end of the input.
    fn fill(&mut self) -> Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    self.total += count as u64;
                    if self.total > self.limit {
                        let doing = format!("read an archive of more than {} bytes", self.limit);
                        return Err(Error::invalid("LimitExceeded", doing));
                    }
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(from_io("read the archive", error)),
            }
        }
    }
}

/// Reads entries of GNU's first sparse format; false when the list ends before the space does.
fn sparse_entries(bytes: &[u8], map: &mut Vec<Segment>) -> Result<bool> {
    for entry in bytes.chunks_exact(24) {
        if entry[0] == 0 {
            return Ok(false);
        }
        let number = |bytes| {
            let number = numeric(bytes).and_then(|number| u64::try_from(number).ok());
            number.ok_or_else(|| bad("sparse map"))
        };
        map.push(Segment {
            offset: number(&entry[..12])?,
            size: number(&entry[12..])?,
        });
    }
    match map.len() <= MAX_SEGMENTS {
        true => Ok(true),
        false => Err(too_many_segments()),
    }
}

fn to_segments(numbers: &[u64]) -> Result<Vec<Segment>> {
    if !numbers.len().is_multiple_of(2) {
        return Err(bad("sparse map"));
    }
    let pairs = numbers.chunks_exact(2);
    Ok(pairs
        .map(|pair| Segment {
            offset: pair[0],
            size: pair[1],
        })
        .collect())
}

/// Whether the map is in order, inside the file and of as many bytes as are stored.
fn check_sparse_map(map: &[Segment], real_size: u64, stored: u64) -> Result<()> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for segment in map {
        if segment.offset < end {
            return Err(bad("sparse map"));
        }
        end = segment
            .offset
            .checked_add(segment.size)
            .ok_or_else(|| bad("sparse map"))?;
        sum += segment.size;
    }
    match end <= real_size && sum == stored && i64::try_from(real_size).is_ok() {
        true => Ok(()),
        false => Err(bad("sparse map")),
    }
}

fn to_id(number: u64) -> Result<u32> {
    // The last number means "leave as it is" to the kernel.
    let id = u32::try_from(number).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| bad("user or group number"))
}

fn truncated(doing: &str) -> Error {
    let doing = format!("{doing}: the archive ends too early");
    Error::new(ErrorKind::Integrity, "TruncatedArchive", doing)
}

fn too_many_segments() -> Error {
    let doing = format!("read a sparse file of more than {MAX_SEGMENTS} segments");
    Error::invalid("LimitExceeded", doing)
}

/// Large enough that most files are in it whole, small enough for the cache of a core.
const BUFFER_BYTES: usize = 256 << 10;

/// The largest extended header or long name.
const MAX_SPECIAL_BYTES: u64 = 1 << 20;

/// How many runs of data a sparse file may have; the bound of Go's reader.
const MAX_SEGMENTS: usize = 1 << 20;
