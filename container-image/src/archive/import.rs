//! Images from flat archives.

use std::io::Read;

use crate::{History, Image, ImageEdit, Platform, Reference, Result, Store};

/// How to make an image of a flat archive.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Changes of the empty config, as instructions of Dockerfiles; see
    /// [`RunConfig::apply`](crate::RunConfig::apply).
    pub changes: Vec<String>,
    /// What the history says about it.
    pub message: Option<String>,
    /// When the image was made, as RFC 3339 text; by default it does not tell.
    pub created: Option<String>,
    /// For which platform it is; that of this host by default.
    pub platform: Option<Platform>,
    /// Its name. Without one it is kept until it is removed.
    pub name: Option<Reference>,
}

/// Makes an image of one layer out of an archive of files, plain or compressed, such as the export of
/// a container.
///
/// # Errors
/// `InvalidChange`, and those of reading layers. There is no image then.
pub fn import(input: impl Read + Send, store: &Store, options: &ImportOptions) -> Result<Image> {
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let step = History {
        created: options.created.clone(),
        comment: options.message.clone(),
        ..History::default()
    };
    let mut edit = ImageEdit::scratch(store, &platform)
        .append(input, step)
        .config(|config| config.created.clone_from(&options.created))
        .changes(&options.changes);
    edit = match &options.name {
        Some(name) => edit.name(name.clone()),
        None => edit.keep(),
    };
    edit.build()
        .map_err(|error| error.context("import an archive as an image"))
}
