//! The names of blobs: digests, of SHA-256 or SHA-512.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256, Sha512};

use crate::Digest;

/// The digest by which a client names a blob.
///
/// Clients of this crate use SHA-256 alone; a registry keeps what others name by SHA-512, too. The spelling is
/// strict, so that a name can be part of a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Address {
    Sha256(Digest),
    /// In hexadecimal digits.
    Sha512(String),
}

impl Address {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let Some(hex) = text.strip_prefix("sha512:") else {
            return text.parse().ok().map(Self::Sha256);
        };
        let legal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (hex.len() == 128 && hex.bytes().all(legal)).then(|| Self::Sha512(hex.into()))
    }

    /// The digits alone; their number tells the algorithm.
    pub(super) fn hex(&self) -> String {
        match self {
            Self::Sha256(digest) => digest.hex(),
            Self::Sha512(hex) => hex.clone(),
        }
    }

    /// The address that these digits stand for.
    pub(super) fn of_hex(hex: &str) -> Option<Self> {
        let algorithm = if hex.len() == 64 { "sha256" } else { "sha512" };
        Self::parse(&format!("{algorithm}:{hex}"))
    }

    /// Whether it names what `source` has.
    pub(super) fn names(&self, mut source: impl Read) -> io::Result<bool> {
        match self {
            Self::Sha256(digest) => {
                let mut hasher = Sha256::new();
                io::copy(&mut source, &mut Sink(|bytes: &[u8]| hasher.update(bytes)))?;
                Ok(hex(&hasher.finalize()) == digest.hex())
            }
            Self::Sha512(wanted) => {
                let mut hasher = Sha512::new();
                io::copy(&mut source, &mut Sink(|bytes: &[u8]| hasher.update(bytes)))?;
                Ok(hex(&hasher.finalize()) == *wanted)
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => digest.fmt(f),
            Self::Sha512(hex) => write!(f, "sha512:{hex}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Gives what is written to a function.
struct Sink<F>(F);

impl<F: FnMut(&[u8])> io::Write for Sink<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling() {
        let short = format!("sha256:{}", "0a".repeat(32));
        let long = format!("sha512:{}", "0a".repeat(64));
        for text in [&short, &long] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), *text);
            assert_eq!(Address::of_hex(&address.hex()).unwrap().to_string(), *text);
        }
        for text in [
            "sha512:../../x",
            "sha512:",
            "md5:0123",
            &short[..70],
            &long[..134],
            &long.to_uppercase(),
            &short.replace("256", "512"),
        ] {
            assert!(Address::parse(text).is_none(), "{text}");
        }
        let empty = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                     47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";
        assert!(Address::parse(empty).unwrap().names(&b""[..]).unwrap());
        assert!(!Address::parse(empty).unwrap().names(&b"x"[..]).unwrap());
    }
}
