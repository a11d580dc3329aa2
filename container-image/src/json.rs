//! JSON from strangers: bounded in size and depth, and with one meaning only.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::{Error, Result};

/// The greatest size in bytes of a manifest, index, config or page of tags.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Reads `bytes` as `what`, refusing oversized, too deep and ambiguous (duplicate keys) documents.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    let invalid = |error| Error::invalid("InvalidJson", format!("read {what}")).with_source(error);
    check_size(bytes.len() as u64, what)?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Strict { depth: MAX_DEPTH }
        .deserialize(&mut reader)
        .and_then(|()| reader.end())
        .map_err(invalid)?;
    serde_json::from_slice(bytes).map_err(invalid)
}

/// Refuses a document of more than [`MAX_DOCUMENT_BYTES`].
pub(crate) fn check_size(size_bytes: u64, what: &str) -> Result<()> {
    if size_bytes > MAX_DOCUMENT_BYTES {
        let doing = format!("read {what}: it has more than {MAX_DOCUMENT_BYTES} bytes");
        return Err(Error::invalid("DocumentTooLarge", doing));
    }
    Ok(())
}

/// Takes a JSON `null` for the default value, as Docker's documents need.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

const MAX_DEPTH: usize = 64;

/// Walks a document without keeping it; `depth` levels are left.
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        let depth = depth.ok_or_else(|| E::custom(format!("deeper than {MAX_DEPTH} levels")))?;
        Ok(Self { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self.deeper()?)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(self.deeper()?)?;
            if let Some(key) = seen.replace(key) {
                return Err(A::Error::custom(format!("the key {key:?} appears twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn documents_have_bounds_and_one_meaning() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse::<Value>(nested(64).as_bytes(), "x").is_ok());
        let bad = [
            nested(65),
            nested(100_000),
            r#"{"a":1,"a":2}"#.into(),
            r#"[{"b":{"c":0,"\u0063":0}}]"#.into(),
            "{} {}".into(),
            "{".into(),
            String::new(),
        ];
        for text in bad {
            let error = parse::<Value>(text.as_bytes(), "x").unwrap_err();
            assert_eq!(error.code(), "InvalidJson", "{text:.40}");
        }
        let large = vec![b' '; 1 + usize::try_from(MAX_DOCUMENT_BYTES).unwrap()];
        assert_eq!(
            parse::<Value>(&large, "x").unwrap_err().code(),
            "DocumentTooLarge"
        );
    }
}
