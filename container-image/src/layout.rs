//! What all readers and writers of OCI image layouts know.
//!
//! # References
//! image-spec `image-layout.md`; image-spec `annotations.md`.

use crate::{Descriptor, Error, ErrorKind, Reference, Result, json};

/// The file that tells the version of a layout.
pub(crate) const LAYOUT_FILE: &str = "oci-layout";

/// What is in [`LAYOUT_FILE`].
pub(crate) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The file that lists the images.
pub(crate) const INDEX_FILE: &str = "index.json";

/// The annotation of an entry with the name of the image. Some write a tag alone.
pub(crate) const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// The annotation that Docker and containerd keep the full name in.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Checks the content of [`LAYOUT_FILE`].
///
/// # Errors
/// `InvalidLayout`, and those of JSON.
pub(crate) fn check_version(raw: &[u8]) -> Result<()> {
    let layout: serde_json::Value = json::parse(raw, "an image layout")?;
    if layout["imageLayoutVersion"] == "1.0.0" {
        return Ok(());
    }
    let doing = format!("read an image layout: want layout version 1.0.0, got {layout}");
    Err(Error::invalid("InvalidLayout", doing))
}

/// The names of an image that another program listed. A tag without a repository is no name.
pub(crate) fn names_of(entry: &Descriptor) -> Vec<Reference> {
    let full = entry.annotations.get(CONTAINERD_NAME);
    let name = entry.annotations.get(NAME_ANNOTATION);
    let name = name.filter(|name| name.contains(['/', ':']));
    let name = full.or(name).and_then(|name| name.parse().ok());
    name.into_iter().collect()
}

/// The entry whose annotation is `name`, or which has that digest; without a name the only one.
///
/// # Errors
/// `ImageNotFound`, `AmbiguousName`.
pub(crate) fn pick<'a>(entries: &'a [Descriptor], name: Option<&str>) -> Result<&'a Descriptor> {
    let called = |entry: &&Descriptor| {
        let Some(name) = name else { return true };
        let annotations = [NAME_ANNOTATION, CONTAINERD_NAME];
        let mut names = annotations
            .iter()
            .filter_map(|key| entry.annotations.get(*key));
        names.any(|known| known == name) || name == entry.digest.to_string()
    };
    let mut found = entries.iter().filter(called);
    let first = found.next().ok_or_else(|| not_found(name))?;
    match found.all(|entry| entry.digest == first.digest) {
        true => Ok(first),
        false => Err(ambiguous(name)),
    }
}

/// The error for a name that leads nowhere.
pub(crate) fn not_found(name: Option<&str>) -> Error {
    let doing = match name {
        Some(name) => format!("find image {name:?}"),
        None => "find an image: there is none".into(),
    };
    Error::new(ErrorKind::NotFound, "ImageNotFound", doing)
}

/// The error for a name that several images have, or none where there are several.
pub(crate) fn ambiguous(name: Option<&str>) -> Error {
    let name = name.unwrap_or("any");
    Error::invalid(
        "AmbiguousName",
        format!("find image {name:?}: there are several"),
    )
}

/// The entries that list an image under `names`, or without a name.
pub(crate) fn entries_of(root: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    let plain = || {
        let mut entry = Descriptor::new(root.media_type.clone(), root.digest, root.size_bytes);
        entry.platform.clone_from(&root.platform);
        entry
    };
    let tagged = names.iter().filter(|name| name.tag().is_some());
    let mut entries: Vec<_> = tagged
        .map(|name| {
            let mut entry = plain();
            for key in [NAME_ANNOTATION, CONTAINERD_NAME] {
                entry.annotations.insert(key.into(), name.to_string());
            }
            entry
        })
        .collect();
    if entries.is_empty() {
        entries.push(plain());
    }
    entries
}
