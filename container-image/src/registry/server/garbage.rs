//! Garbage: blobs that nothing needs any more.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::address::Address;
use super::api::{Api, blob_key, blob_link, manifest_link};
use super::manifests::subject_of;
use super::parts::Parts;
use crate::{Error, Result};

/// How to collect garbage.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GarbageOptions {
    /// What was sent, mounted or asked for within this time stays, as somebody may be about to push the
    /// manifest that needs it. It has to be longer than any push.
    pub grace: Duration,
    /// Whether manifests go that no tag leads to.
    pub untagged: bool,
    /// Whether to find only, and remove nothing.
    pub dry_run: bool,
}

impl Default for GarbageOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(24 * 3600),
            untagged: false,
            dry_run: false,
        }
    }
}

/// What was collected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Garbage {
    /// The digests of the blobs, manifests included.
    pub blobs: Vec<String>,
    /// Their sizes together.
    pub size_bytes: u64,
    /// How many unfinished uploads were given up.
    pub uploads: usize,
}

impl Api {
    /// Marks what is needed, then removes the rest, while nobody adds.
    ///
    /// A repository has a blob as long as there is a link for it. Links go that no manifest of the repository
    /// needs, then blobs without a link anywhere; both only if nobody touched them for the time of grace.
    pub(super) fn collect(&self, options: &GarbageOptions) -> Result<Garbage> {
        let doing = |error| Error::os("collect the garbage of a registry", error);
        let before = SystemTime::now().checked_sub(options.grace);
        let before = before.unwrap_or(SystemTime::UNIX_EPOCH);
        self.sweep(before, options).map_err(doing)
    }

    fn sweep(&self, before: SystemTime, options: &GarbageOptions) -> std::io::Result<Garbage> {
        let is_old = |key: &str| -> std::io::Result<Option<u64>> {
            let found = self.files.modified(key)?;
            Ok(found.and_then(|(at, size)| (at <= before).then_some(size)))
        };
        let _guard = self.files.close()?;
        let mut linked = BTreeSet::new();
        for name in self.files.repositories()? {
            let (manifests, blobs) = self.mark(&name, options.untagged)?;
            for address in self.addresses(&format!("repositories/{name}/_manifests"))? {
                let link = manifest_link(&name, &address);
                if manifests.contains(&address) || is_old(&link)?.is_none() {
                    linked.insert(address);
                } else if !options.dry_run {
                    self.forget_manifest(&name, &address)?;
                }
            }
            for address in self.addresses(&format!("repositories/{name}/_blobs"))? {
                let link = blob_link(&name, &address);
                if blobs.contains(&address) || is_old(&link)?.is_none() {
                    linked.insert(address);
                } else if !options.dry_run {
                    self.files.remove(&link)?;
                }
            }
        }
        let mut garbage = Garbage::default();
        for address in self.addresses("blobs")? {
            if linked.contains(&address) {
                continue;
            }
            let key = blob_key(&address);
            let Some(size) = is_old(&key)? else { continue };
            garbage.blobs.push(address.to_string());
            garbage.size_bytes += size;
            if !options.dry_run {
                self.files.remove(&key)?;
            }
        }
        // What a server that was killed left behind.
        for key in self.files.list("uploads")? {
            if is_old(&key)?.is_some() {
                garbage.uploads += 1;
                if !options.dry_run {
                    self.files.remove(&key)?;
                }
            }
        }
        Ok(garbage)
    }

    /// The manifests of a repository that stay, and the blobs that they need.
    fn mark(
        &self,
        name: &str,
        untagged: bool,
    ) -> std::io::Result<(BTreeSet<Address>, BTreeSet<Address>)> {
        let all = self.addresses(&format!("repositories/{name}/_manifests"))?;
        let mut waiting = all.clone();
        if untagged {
            waiting.clear();
            for key in self.files.list(&format!("repositories/{name}/_tags"))? {
                let text = self.files.read(&key)?.unwrap_or_default();
                waiting.extend(Address::parse(&String::from_utf8_lossy(&text)));
            }
        }
        let mut subjects = Vec::new();
        for address in &all {
            let raw = self.files.read(&blob_key(address))?.unwrap_or_default();
            if let Some((subject, _)) = subject_of(&raw) {
                subjects.push((subject, address.clone()));
            }
        }
        let (mut manifests, mut blobs) = (BTreeSet::new(), BTreeSet::new());
        while let Some(address) = waiting.pop() {
            if !manifests.insert(address.clone()) {
                continue;
            }
            let raw = self.files.read(&blob_key(&address))?.unwrap_or_default();
            if let Some(parts) = Parts::of(&raw, None) {
                blobs.extend(parts.blobs.into_iter().map(|part| part.address));
                waiting.extend(parts.manifests.into_iter().map(|part| part.address));
            }
            // What is about something that stays, stays.
            let referrers = subjects.iter().filter(|(subject, _)| *subject == address);
            waiting.extend(referrers.map(|(_, referrer)| referrer.clone()));
        }
        Ok((manifests, blobs))
    }

    /// What the names of the files in `folder` stand for.
    fn addresses(&self, folder: &str) -> std::io::Result<Vec<Address>> {
        let keys = self.files.list(folder)?;
        let hex = keys.iter().filter_map(|key| key.rsplit('/').next());
        Ok(hex.filter_map(Address::of_hex).collect())
    }
}
