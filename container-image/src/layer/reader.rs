//! Reading archives: ustar, PAX, GNU, star and V7, as one stream and without a step back.
//!
//! Where readers are known to differ, this one does as Go's `archive/tar`, on which the other
//! container engines stand: PAX sizes win over those of the header, links and directories have no
//! contents whatever their header claims, and global PAX headers have no effect.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;

use super::entry::{Entry, EntryKind, Timestamp, show, to_path};
use crate::store::from_io;
use crate::{Error, ErrorKind, Result};

/// Reads an archive member by member.
pub(super) struct Reader<'a> {
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
pub(super) struct Member {
    pub(super) entry: Entry,
    /// Where the stored bytes of a sparse file belong, in order; `None` for plain files.
    pub(super) segments: Option<Vec<Segment>>,
}

/// A run of stored bytes in a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl<'a> Reader<'a> {
    /// A reader that fails with `LimitExceeded` after `limit` bytes.
    pub(super) fn new(input: &'a mut dyn Read, limit: u64) -> Self {
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
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
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
    pub(super) fn contents(&mut self, at_most: u64) -> Result<&[u8]> {
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
    pub(super) fn drain(&mut self) -> Result<()> {
        loop {
            (self.start, self.end) = (0, 0);
            if !self.fill()? {
                return Ok(());
            }
        }
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

/// A header block whose checksum is right.
struct Header([u8; BLOCK_BYTES]);

/// Where a number is in a header.
type Field = std::ops::Range<usize>;

const MODE: Field = 100..108;
const UID: Field = 108..116;
const GID: Field = 116..124;
const SIZE: Field = 124..136;
const MTIME: Field = 136..148;
const CHECKSUM: Field = 148..156;
const MAJOR: Field = 329..337;
const MINOR: Field = 337..345;
const REAL_SIZE: Field = 483..495;

impl Header {
    fn new(block: [u8; BLOCK_BYTES]) -> Result<Self> {
        let want = octal(&block[CHECKSUM]).ok_or_else(|| bad("checksum"))?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, byte) in block.iter().enumerate() {
            let byte = if CHECKSUM.contains(&index) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        // Some old writers took the bytes as signed.
        match i64::try_from(want) {
            Ok(want) if want == unsigned || want == signed => Ok(Self(block)),
            _ => Err(bad("checksum")),
        }
    }

    fn type_flag(&self) -> u8 {
        self.0[156]
    }

    fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    fn is_ustar(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    fn path(&self) -> Vec<u8> {
        let prefix = match self.is_ustar() {
            // star keeps times in the last bytes of the field.
            true if self.0.ends_with(b"tar\0") => &self.0[345..476],
            true => &self.0[345..500],
            false => &[],
        };
        let (prefix, name) = (until_nul(prefix), until_nul(&self.0[..100]));
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    fn link(&self) -> &[u8] {
        until_nul(&self.0[157..257])
    }

    fn mode(&self) -> Result<u32> {
        let bits = self.signed(MODE)?.cast_unsigned() & 0o7777;
        Ok(u32::try_from(bits).unwrap_or(0))
    }

    fn mtime(&self) -> Result<i64> {
        self.signed(MTIME)
    }

    fn size(&self) -> Result<u64> {
        self.number(SIZE)
    }

    fn real_size(&self) -> Result<u64> {
        self.number(REAL_SIZE)
    }

    fn device(&self) -> Result<(u32, u32)> {
        if !self.is_gnu() && !self.is_ustar() {
            return Ok((0, 0));
        }
        let part = |field| {
            let number = self.number(field)?;
            u32::try_from(number).map_err(|_| bad("device number"))
        };
        Ok((part(MAJOR)?, part(MINOR)?))
    }

    fn number(&self, field: Field) -> Result<u64> {
        u64::try_from(self.signed(field)?).map_err(|_| bad("negative number"))
    }

    fn signed(&self, field: Field) -> Result<i64> {
        numeric(&self.0[field]).ok_or_else(|| bad("number"))
    }
}

/// The records of an extended header; the last one of a name counts, empty ones do not.
#[derive(Default)]
struct Records(HashMap<Vec<u8>, Vec<u8>>);

impl Records {
    fn parse(mut bytes: &[u8]) -> Result<Self> {
        let mut records = HashMap::new();
        let mut sparse: Vec<u8> = Vec::new();
        let mut sparse_numbers = 0_usize;
        while !bytes.is_empty() {
            let (key, value, rest) = split_record(bytes).ok_or_else(|| bad("PAX record"))?;
            bytes = rest;
            // Sparse format 0.0 repeats two records; they become the one of format 0.1.
            let turn = match key {
                b"GNU.sparse.offset" => Some(0),
                b"GNU.sparse.numbytes" => Some(1),
                _ => None,
            };
            let Some(turn) = turn else {
                records.insert(key.to_vec(), value.to_vec());
                continue;
            };
            if sparse_numbers % 2 != turn || value.contains(&b',') {
                return Err(bad("sparse map"));
            }
            if sparse_numbers > 0 {
                sparse.push(b',');
            }
            sparse.extend_from_slice(value);
            sparse_numbers += 1;
        }
        if sparse_numbers > 0 {
            records.insert(b"GNU.sparse.map".to_vec(), sparse);
        }
        Ok(Self(records))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, key: &str) -> Option<&[u8]> {
        self.0
            .get(key.as_bytes())
            .map(Vec::as_slice)
            .filter(|value| !value.is_empty())
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        let number = |text| decimal(text).ok_or_else(|| bad("number in a PAX record"));
        self.get(key).map(number).transpose()
    }

    /// The extended attributes, sorted.
    fn xattrs(&self) -> Vec<(OsString, Vec<u8>)> {
        let attribute = |(key, value): (&Vec<u8>, &Vec<u8>)| {
            let name = key.strip_prefix(XATTR_PREFIX.as_bytes())?;
            Some((OsString::from_vec(name.to_vec()), value.clone()))
        };
        let mut xattrs: Vec<_> = self.0.iter().filter_map(attribute).collect();
        xattrs.sort();
        xattrs
    }
}

/// Splits `length key=value\n` off, as (key, value, rest).
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes
        .iter()
        .take(MAX_DIGITS)
        .position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    let has_nul = match key {
        b"path" | b"linkpath" | b"uname" | b"gname" | b"GNU.sparse.name" => value.contains(&0),
        _ => key.contains(&0),
    };
    (!key.is_empty() && !has_nul).then_some((key, value, rest))
}

/// Seconds with an optional fraction, of which nanoseconds are kept.
fn parse_time(text: &[u8]) -> Result<Timestamp> {
    let invalid = || bad("time in a PAX record");
    let dot = text
        .iter()
        .position(|byte| *byte == b'.')
        .unwrap_or(text.len());
    let (whole, fraction) = (&text[..dot], text.get(dot + 1..).unwrap_or(b""));
    let (negative, digits) = match whole.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, whole),
    };
    let magnitude = decimal(digits).and_then(|number| i64::try_from(number).ok());
    let seconds = magnitude.ok_or_else(invalid)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(invalid());
    }
    let digit = |index: usize| {
        fraction
            .get(index)
            .map_or(0, |digit| u32::from(digit - b'0'))
    };
    let nanoseconds = (0..9).fold(0, |sum, index| sum * 10 + digit(index));
    Ok(match (negative, nanoseconds) {
        (false, _) => Timestamp {
            seconds,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanoseconds,
        },
        (true, _) => Timestamp {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
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
    if numbers.len() % 2 != 0 {
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

/// A number of a header: octal text, or a binary number marked by its first bit.
fn numeric(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return i64::try_from(octal(field)?).ok();
    }
    let start = if first & 0x40 == 0 {
        i128::from(first & 0x7f)
    } else {
        i128::from(first) - 256
    };
    let value = field[1..]
        .iter()
        .fold(start, |value, byte| value << 8 | i128::from(*byte));
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<u64> {
    let is_padding = |byte: &u8| *byte == b' ' || *byte == 0;
    let Some(start) = field.iter().position(|byte| !is_padding(byte)) else {
        return Some(0);
    };
    let end = field.iter().rposition(|byte| !is_padding(byte))?;
    until_nul(&field[start..=end])
        .iter()
        .try_fold(0_u64, |value, digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
            _ => None,
        })
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(bytes)
}

fn bad(what: &str) -> Error {
    Error::invalid("InvalidArchive", format!("read the archive: bad {what}"))
}

fn truncated(doing: &str) -> Error {
    let doing = format!("{doing}: the archive ends too early");
    Error::new(ErrorKind::Integrity, "TruncatedArchive", doing)
}

fn too_many_segments() -> Error {
    let doing = format!("read a sparse file of more than {MAX_SEGMENTS} segments");
    Error::invalid("LimitExceeded", doing)
}

/// What precedes the names of extended attributes in PAX records.
pub(super) const XATTR_PREFIX: &str = "SCHILY.xattr.";

/// The unit of archives.
pub(super) const BLOCK_BYTES: usize = 512;

/// Large enough that most files are in it whole, small enough for the cache of a core.
const BUFFER_BYTES: usize = 256 << 10;

/// The largest extended header or long name.
const MAX_SPECIAL_BYTES: u64 = 1 << 20;

/// How many runs of data a sparse file may have; the bound of Go's reader.
const MAX_SEGMENTS: usize = 1 << 20;

/// As many digits as the largest number has.
const MAX_DIGITS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_headers() {
        let cases: [(&[u8], Option<i64>); 10] = [
            (b"0000644\0", Some(0o644)),
            (b"  644 \0 ", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"", None),
            (b"0000008\0", None),
            (b"-1\0", None),
            (b"\x80\0\0\0\0\0\0\x01", Some(1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
        ];
        for (field, want) in cases {
            assert_eq!(numeric(field), want, "{field:?}");
        }
    }

    #[test]
    fn times_of_records() {
        let time = |seconds, nanoseconds| {
            Some(Timestamp {
                seconds,
                nanoseconds,
            })
        };
        let cases = [
            ("0", time(0, 0)),
            ("1350244992.023960108", time(1_350_244_992, 23_960_108)),
            ("1.5", time(1, 500_000_000)),
            ("1.0000000009", time(1, 0)),
            ("-1", time(-1, 0)),
            ("-0.5", time(-1, 500_000_000)),
            ("-1.25", time(-2, 750_000_000)),
            ("1.", time(1, 0)),
            (".5", None),
            ("", None),
            ("1.5x", None),
            ("9223372036854775808", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_time(text.as_bytes()).ok(), want, "{text:?}");
        }
    }

    #[test]
    fn records_that_break_the_rules_are_refused() {
        let good = Records::parse(b"9 path=a\n20 SCHILY.xattr.u=\0\n").unwrap();
        assert_eq!(good.get("path"), Some(&b"a"[..]));
        assert_eq!(good.xattrs(), [("u".into(), vec![0])]);
        let cases: [&[u8]; 9] = [
            b"9 path=a",
            b"8 path=a\n",
            b"10 path=a\n",
            b"0 path=a\n",
            b"path=a\n",
            b"4 =\n",
            b"7 path\n",
            b"9 path=\0\n",
            b"99999999999999999999999 path=a\n",
        ];
        for case in cases {
            assert!(Records::parse(case).is_err(), "{case:?}");
        }
    }
}
