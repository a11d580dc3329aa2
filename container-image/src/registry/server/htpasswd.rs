//! Users and their passwords as `htpasswd -B` writes them.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use super::access::Authenticator;
use super::lock;
use crate::{Digest, Error, Result};

/// The users in a file of lines `user:hash`, with hashes of bcrypt.
pub struct Htpasswd {
    users: BTreeMap<String, String>,
    /// Pairs that were found right: bcrypt is slow on purpose, and every request brings its password.
    right: Mutex<HashSet<Digest>>,
}

impl Htpasswd {
    /// Reads the file at `path` once.
    ///
    /// # Errors
    /// `Os`, and those of [`Htpasswd::parse`].
    pub fn open(path: &Path) -> Result<Self> {
        let doing = || format!("read the users in {}", path.display());
        let text = fs::read_to_string(path).map_err(|error| Error::os(doing(), error))?;
        Self::parse(&text).map_err(|error| error.context(doing()))
    }

    /// Reads lines of `user:hash`; empty lines and those that begin with `#` count for nothing.
    ///
    /// # Errors
    /// `InvalidHtpasswd`, with the line; also for hashes of others than bcrypt, which are too weak or not
    /// known here.
    pub fn parse(text: &str) -> Result<Self> {
        let mut users = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let pair = text.split_once(':').filter(|(user, hash)| {
                let bcrypt = ["$2a$", "$2b$", "$2y$"];
                !user.is_empty() && bcrypt.iter().any(|start| hash.starts_with(start))
            });
            let Some((user, hash)) = pair else {
                let doing = format!("read line {line}: want user:hash, as `htpasswd -B` writes it");
                return Err(Error::invalid("InvalidHtpasswd", doing));
            };
            users.insert(user.to_owned(), hash.to_owned());
        }
        Ok(Self {
            users,
            right: Mutex::default(),
        })
    }
}

impl Authenticator for Htpasswd {
    fn knows(&self, username: &str, password: &str) -> bool {
        // Somebody unknown takes as long as somebody with a wrong password.
        let hash = self.users.get(username).map_or(NOBODY, String::as_str);
        let pair = Digest::of(format!("{username}\0{password}\0{hash}"));
        if lock(&self.right).contains(&pair) {
            return true;
        }
        let is_right = bcrypt::verify(password, hash).unwrap_or(false);
        let is_right = is_right && self.users.contains_key(username);
        if is_right {
            let mut right = lock(&self.right);
            if right.len() >= MAX_RIGHT {
                right.clear();
            }
            right.insert(pair);
        }
        is_right
    }
}

impl fmt::Debug for Htpasswd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Htpasswd")
            .field("users", &self.users.len())
            .finish_non_exhaustive()
    }
}

/// The hash of nobody's password.
const NOBODY: &str = "$2y$05$abcdefghijklmnopqrstuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu";
const MAX_RIGHT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_their_bcrypt_hashes() {
        // `htpasswd -nbB -C 4 user secret`
        let hash = bcrypt::hash_with_salt("secret", 4, *b"0123456789abcdef").unwrap();
        let text = format!(
            "# users\n\nuser:{}\n",
            hash.format_for_version(bcrypt::Version::TwoY)
        );
        let users = Htpasswd::parse(&text).unwrap();
        for _ in 0..2 {
            assert!(users.knows("user", "secret"));
            assert!(!users.knows("user", "Secret"));
            assert!(!users.knows("nobody", "secret"));
            assert!(!users.knows("", ""));
        }
        for text in ["user", ":x", "user:plain", "user:{SHA}x", "user:$apr1$x"] {
            let error = Htpasswd::parse(&format!("#\n{text}")).unwrap_err();
            assert_eq!(error.code(), "InvalidHtpasswd");
            assert!(error.to_string().contains("line 2"), "{error}");
        }
    }
}
