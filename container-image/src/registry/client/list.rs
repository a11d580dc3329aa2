//! Lists that come in pages: tags, repositories, referrers.

use std::collections::{HashSet, VecDeque};
use std::fmt;

use serde::Deserialize;

use super::request::{Access, Call, no_body};
use super::{Client, read_document};
use crate::registry::hosts::Need;
use crate::registry::referrer;
use crate::registry::transport::Response;
use crate::registry::url::Url;
use crate::{Descriptor, Digest, Document, Error, ErrorKind, MediaType, Reference, Result, json};

impl Client {
    /// The tags of the repository of `reference`, page by page as they are asked for.
    #[must_use]
    pub fn tags(&self, reference: &Reference) -> Names {
        let path = format!("{}/tags/list?n={PAGE}", reference.repository());
        let call = Call::of(reference, Access::Pull, "GET", path);
        Names::new(self, call, |page: Page| page.tags)
    }

    /// The repositories of `registry`, page by page as they are asked for. Not every registry tells.
    #[must_use]
    pub fn catalog(&self, registry: &str) -> Names {
        let call = Call {
            registry,
            scope: "registry:catalog:*".into(),
            method: "GET",
            path: format!("_catalog?n={PAGE}"),
            headers: Vec::new(),
            is_login: false,
        };
        Names::new(self, call, |page: Page| page.repositories)
    }

    /// The documents that have what `reference` names by digest as their subject: signatures, bills of
    /// materials and the like; with `artifact_type` only those of that type. Where the registry
    /// does not list them, the index with the tag `sha256-…` is read.
    ///
    /// # Errors
    /// `InvalidReference` without a digest; `TooManyReferrers` past ten thousand.
    pub fn referrers(
        &self,
        reference: &Reference,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let mut found = match self.listed_referrers(reference, artifact_type) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.tagged_referrers(reference)?
            }
            listed => listed?,
        };
        if let Some(wanted) = artifact_type {
            found.retain(|descriptor| referrer::artifact_type(descriptor) == Some(wanted));
        }
        Ok(found)
    }

    fn listed_referrers(
        &self,
        reference: &Reference,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let digest = subject(reference)?;
        let mut path = format!("{}/referrers/{digest}", reference.repository());
        if let Some(artifact_type) = artifact_type {
            path = format!("{path}?{}", Url::form(&[("artifactType", artifact_type)]));
        }
        let mut found = Vec::new();
        let mut next = Some(path);
        let mut seen = HashSet::new();
        while let Some(path) = next.take() {
            let mut call = Call::of(reference, Access::Pull, "GET", path);
            call.headers.push(("accept", MediaType::INDEX.to_string()));
            let (raw, more) = self.read(Need::Pull, &call, |url, mut response| {
                let more = next_page(url, &call.path, &response);
                Ok((read_document(&mut response, "a list of referrers")?, more))
            })?;
            match Document::parse(&raw, Some(&MediaType::INDEX))? {
                Document::Index(index) => found.extend_from_slice(index.manifests()),
                Document::Manifest(_) => {}
            }
            if found.len() > MAX_REFERRERS {
                let doing = format!("list the referrers of {reference}");
                return Err(Error::invalid("TooManyReferrers", doing));
            }
            next = more.filter(|more| seen.insert(more.clone()));
        }
        Ok(found)
    }

    fn tagged_referrers(&self, reference: &Reference) -> Result<Vec<Descriptor>> {
        let tag = reference.with_tag(&referrer::fallback_tag(subject(reference)?))?;
        match self.manifest(&tag) {
            Ok(Document::Index(index)) => Ok(index.manifests().to_vec()),
            Ok(Document::Manifest(_)) => Ok(Vec::new()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Adds to the referrers of `subject` in a registry that does not list them by itself.
    pub(super) fn note_referrer(&self, subject: &Reference, descriptor: Descriptor) -> Result<()> {
        let mut all = self.tagged_referrers(subject)?;
        if all.iter().any(|known| known.digest == descriptor.digest) {
            return Ok(());
        }
        all.push(descriptor);
        self.tag_referrers(subject, &all)
    }

    /// Takes `gone` from the referrers of `subject` in a registry that does not list them by itself.
    pub(super) fn forget_referrer(&self, subject: &Reference, gone: Digest) -> Result<()> {
        let mut all = self.tagged_referrers(subject)?;
        let before = all.len();
        all.retain(|known| known.digest != gone);
        if all.len() == before {
            return Ok(());
        }
        self.tag_referrers(subject, &all)
    }

    fn tag_referrers(&self, subject: &Reference, all: &[Descriptor]) -> Result<()> {
        let raw = referrer::index(all);
        json::check_size(raw.len() as u64, "a list of referrers")?;
        let tag = subject.with_tag(&referrer::fallback_tag(self::subject(subject)?))?;
        self.put_manifest(&tag, &MediaType::INDEX, &raw).map(|_| ())
    }
}

fn subject(reference: &Reference) -> Result<Digest> {
    reference.digest().ok_or_else(|| {
        let doing = format!("list the referrers of {reference}, which has no digest");
        Error::invalid("InvalidReference", doing)
    })
}

/// Names, fetched page by page. After an error it ends.
pub struct Names {
    client: Client,
    registry: String,
    scope: String,
    /// Path and query of the next page.
    next: Option<String>,
    seen: HashSet<String>,
    names_of: fn(Page) -> Option<Vec<String>>,
    page: VecDeque<String>,
}

impl Names {
    fn new(client: &Client, call: Call<'_>, names_of: fn(Page) -> Option<Vec<String>>) -> Self {
        Self {
            client: client.clone(),
            registry: call.registry.into(),
            scope: call.scope,
            next: Some(call.path),
            seen: HashSet::new(),
            names_of,
            page: VecDeque::new(),
        }
    }

    fn fetch(&mut self, path: String) -> Result<()> {
        let call = Call {
            registry: &self.registry,
            scope: self.scope.clone(),
            method: "GET",
            path,
            headers: Vec::new(),
            is_login: false,
        };
        // Mirrors know what was asked for before, not all there is.
        let (raw, next) = self
            .client
            .write(&call, &mut no_body, |url, mut response| {
                let next = next_page(url, &call.path, &response);
                Ok((read_document(&mut response, "a page of names")?, next))
            })?;
        let page: Page = json::parse(&raw, "a page of names")?;
        // A registry that leads in circles is followed once.
        self.next = next.filter(|next| self.seen.insert(next.clone()));
        self.page = (self.names_of)(page).unwrap_or_default().into();
        Ok(())
    }
}

impl Iterator for Names {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        loop {
            if let Some(name) = self.page.pop_front() {
                return Some(Ok(name));
            }
            let path = self.next.take()?;
            if let Err(error) = self.fetch(path) {
                return Some(Err(error));
            }
        }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
    repositories: Option<Vec<String>>,
}

/// Path and query of the page that follows the one at `url`, whose own are `path`, if it is in the
/// same place.
fn next_page(url: &Url, path: &str, response: &Response) -> Option<String> {
    let (target, parameters) = response
        .header("link")?
        .trim()
        .strip_prefix('<')?
        .split_once('>')?;
    let parameters = parameters.to_ascii_lowercase().replace(['"', ' '], "");
    let root = url.target.strip_suffix(path)?;
    let next = url.join(target).ok()?;
    let follows = next.same_origin(url) && parameters.split(';').any(|one| one == "rel=next");
    next.target
        .strip_prefix(root)
        .filter(|_| follows)
        .map(ToOwned::to_owned)
}

/// How many names to ask for at once: a page is far below the bound of documents then.
const PAGE: usize = 1000;
/// More than anybody attaches to an image.
const MAX_REFERRERS: usize = 10_000;
