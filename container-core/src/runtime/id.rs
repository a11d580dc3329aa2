//! What a container may be called.

use crate::{Error, Result};

/// Checks that `id` is one plain name: letters, digits, `_`, `+`, `-` and `.`, as other runtimes have it.
pub(super) fn check_id(id: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if matches!(id, "" | "." | "..") || id.len() > MAX_LENGTH || !id.bytes().all(plain) {
        return Err(Error::invalid(
            "InvalidName",
            format!("name a container {:?}", Shortened(id)),
        ));
    }
    Ok(())
}

/// `NAME_MAX` of Linux: an id is the name of a directory.
const MAX_LENGTH: usize = 255;

/// Keeps a message readable, whatever it is about.
struct Shortened<'a>(&'a str);

impl std::fmt::Debug for Shortened<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.char_indices().nth(MAX_LENGTH) {
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_ids() {
        let longest = "x".repeat(255);
        for id in ["a", "web-1", ".hidden", "a..b", "A_b+c.d-e", &longest] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        let long = "x".repeat(300);
        for id in [
            "", ".", "..", "a/b", "/a", "../a", "a\0b", "a b", "a\n", "~1-1", "ä", &long,
        ] {
            assert_eq!(check_id(id).unwrap_err().code(), "InvalidName", "{id:?}");
        }
    }
}
