//! Header blocks and PAX records, read from bytes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::entry::Timestamp;
use crate::{Error, Result};

/// A header block whose checksum is right.
pub(super) struct Header(pub(super) [u8; BLOCK_BYTES]);

/// Where a number is in a header.
type Field = std::ops::Range<usize>;

const MODE: Field = 100..108;
pub(super) const UID: Field = 108..116;
pub(super) const GID: Field = 116..124;
const SIZE: Field = 124..136;
const MTIME: Field = 136..148;
const CHECKSUM: Field = 148..156;
const MAJOR: Field = 329..337;
const MINOR: Field = 337..345;
const REAL_SIZE: Field = 483..495;

impl Header {
    pub(super) fn new(block: [u8; BLOCK_BYTES]) -> Result<Self> {
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

    pub(super) fn type_flag(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    fn is_ustar(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    pub(super) fn path(&self) -> Vec<u8> {
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

    pub(super) fn link(&self) -> &[u8] {
        until_nul(&self.0[157..257])
    }

    pub(super) fn mode(&self) -> Result<u32> {
        let bits = self.signed(MODE)?.cast_unsigned() & 0o7777;
        Ok(u32::try_from(bits).unwrap_or(0))
    }

    pub(super) fn mtime(&self) -> Result<i64> {
        self.signed(MTIME)
    }

    pub(super) fn size(&self) -> Result<u64> {
        self.number(SIZE)
    }

    pub(super) fn real_size(&self) -> Result<u64> {
        self.number(REAL_SIZE)
    }

    pub(super) fn device(&self) -> Result<(u32, u32)> {
        if !self.is_gnu() && !self.is_ustar() {
            return Ok((0, 0));
        }
        let part = |field| {
            let number = self.number(field)?;
            u32::try_from(number).map_err(|_| bad("device number"))
        };
        Ok((part(MAJOR)?, part(MINOR)?))
    }

    pub(super) fn number(&self, field: Field) -> Result<u64> {
        u64::try_from(self.signed(field)?).map_err(|_| bad("negative number"))
    }

    fn signed(&self, field: Field) -> Result<i64> {
        numeric(&self.0[field]).ok_or_else(|| bad("number"))
    }
}

/// The records of an extended header; the last one of a name counts, empty ones do not.
#[derive(Default)]
pub(super) struct Records(HashMap<Vec<u8>, Vec<u8>>);

impl Records {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self> {
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

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        self.0
            .get(key.as_bytes())
            .map(Vec::as_slice)
            .filter(|value| !value.is_empty())
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>> {
        let number = |text| decimal(text).ok_or_else(|| bad("number in a PAX record"));
        self.get(key).map(number).transpose()
    }

    /// The extended attributes, sorted.
    pub(super) fn xattrs(&self) -> Vec<(OsString, Vec<u8>)> {
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
pub(super) fn parse_time(text: &[u8]) -> Result<Timestamp> {
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

/// A number of a header: octal text, or a binary number marked by its first bit.
pub(super) fn numeric(field: &[u8]) -> Option<i64> {
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

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(bytes)
}

pub(super) fn bad(what: &str) -> Error {
    Error::invalid("InvalidArchive", format!("read the archive: bad {what}"))
}

/// What precedes the names of extended attributes in PAX records.
pub(super) const XATTR_PREFIX: &str = "SCHILY.xattr.";

/// The unit of archives.
pub(super) const BLOCK_BYTES: usize = 512;

/// As many digits as the largest number has.
pub(super) const MAX_DIGITS: usize = 20;

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
            b"11 path=a\n",
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
