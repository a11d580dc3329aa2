//! Where credentials are kept: `config.json` as Docker and Podman have it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::auth::{Credentials, Secret};
use super::base64;
use super::client::{Client, ClientOptions};
use super::helper::Helper;
use super::transport::Patience;
use crate::reference::DEFAULT_REGISTRY;
use crate::{Error, Result, json as documents};

/// The credentials of a user, in a file that other programs read and write too.
///
/// The file names credential helpers, for single registries (`credHelpers`) or all of them
/// (`credsStore`); what these keep is not in the file. Everything else in the file stays as it is.
///
/// # References
/// `docker login`; `containers-auth.json(5)`, of which entries for single repositories are not used.
#[derive(Clone, Debug)]
pub struct AuthFile {
    path: PathBuf,
    helpers: Option<Vec<PathBuf>>,
}

impl AuthFile {
    /// The credentials in the file at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            helpers: None,
        }
    }

    /// The file that Docker would use: in `$DOCKER_CONFIG`, or else in the home directory.
    #[must_use]
    pub fn of_docker() -> Option<Self> {
        let folder = match std::env::var_os("DOCKER_CONFIG") {
            Some(folder) if !folder.is_empty() => PathBuf::from(folder),
            _ => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
        };
        Some(Self::new(folder.join("config.json")))
    }

    /// Looks for credential helpers in these directories, and not in those of `$PATH`.
    #[must_use]
    pub fn with_helpers(self, folders: Vec<PathBuf>) -> Self {
        Self {
            helpers: Some(folders),
            ..self
        }
    }

    /// The credentials for `registry`, if there are any. May run a credential helper, and blocks until it
    /// has answered, a minute at most.
    ///
    /// # Errors
    /// `InvalidJson`, `InvalidAuth`; `NoHelper`, `InvalidHelper` and `HelperFailed` where a helper is
    /// named.
    pub fn credentials(&self, registry: &str) -> Result<Option<Credentials>> {
        self.find(registry, &Patience::default())
    }

    pub(super) fn find(&self, registry: &str, patience: &Patience) -> Result<Option<Credentials>> {
        let config = self.read()?;
        if let Some(helper) = self.helper(&config, registry)?
            && let Some(found) = helper.get(server_of(registry), patience)?
        {
            return Ok(Some(found));
        }
        match entry(&config, registry) {
            Some((key, entry)) => self.decode(key, entry),
            None => Ok(None),
        }
    }

    /// Asks `registry` whether it takes `credentials`, and keeps them if so: in the helper that the
    /// file names, or else in the file, which is for its owner alone then. Where the registry gives an
    /// identity token for a password, the token is kept and the password is not.
    ///
    /// # Errors
    /// `Unauthorized` if the registry refuses them, and those of [`Client::ping`]: nothing is kept then.
    /// Those of [`AuthFile::credentials`]; `Os`.
    pub fn login(
        &self,
        registry: &str,
        credentials: &Credentials,
        options: &ClientOptions,
    ) -> Result<()> {
        let doing = |error: Error| error.context(format!("log in to {registry}"));
        let client = Client::new(options.clone());
        let token = client.login(registry, credentials).map_err(doing)?;
        let kept = match token {
            Some(token) => Credentials(Secret::IdentityToken {
                username: credentials.username().into(),
                token,
            }),
            None => credentials.clone(),
        };
        self.keep(registry, &kept, &Patience::of(options))
            .map_err(doing)
    }

    fn keep(&self, registry: &str, kept: &Credentials, patience: &Patience) -> Result<()> {
        let entry = match self.helper(&self.read()?, registry)? {
            Some(helper) => {
                helper.store(server_of(registry), kept, patience)?;
                json!({})
            }
            None => encode(kept),
        };
        self.change(|config| {
            let key = key_of(config, registry);
            auths(config).insert(key, entry);
        })
    }

    /// Forgets the credentials for `registry`; done if there are none.
    ///
    /// # Errors
    /// Those of [`AuthFile::credentials`]; `Os`.
    pub fn logout(&self, registry: &str) -> Result<()> {
        let forget = || {
            let config = self.read()?;
            if let Some(helper) = self.helper(&config, registry)? {
                helper.erase(server_of(registry), &Patience::default())?;
            }
            if entry(&config, registry).is_none() {
                return Ok(());
            }
            self.change(|config| {
                auths(config).retain(|key, _| registry_of(key).as_deref() != Some(registry));
            })
        };
        forget().map_err(|error: Error| error.context(format!("log out of {registry}")))
    }

    fn helper(&self, config: &Map<String, Value>, registry: &str) -> Result<Option<Helper>> {
        let own = config.get("credHelpers").and_then(Value::as_object);
        let own = own.and_then(|helpers| {
            let mut helpers = helpers.iter();
            helpers.find_map(|(key, name)| {
                (registry_of(key).as_deref() == Some(registry)).then_some(name)
            })
        });
        let name = own.or(config.get("credsStore")).and_then(Value::as_str);
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let folders = self.helpers.clone().unwrap_or_else(|| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).collect()
        });
        Helper::find(name, &folders).map(Some)
    }

    fn decode(&self, key: &str, entry: &Map<String, Value>) -> Result<Option<Credentials>> {
        let text = |name| entry.get(name).and_then(Value::as_str).unwrap_or("");
        let (mut username, mut password) =
            (text("username").to_owned(), text("password").to_owned());
        if !text("auth").is_empty() {
            let pair = base64::decode(text("auth")).and_then(|pair| String::from_utf8(pair).ok());
            let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
            let Some((name, secret)) = pair else {
                let doing = format!("read \"auth\" of {key:?} in {}", self.path.display());
                return Err(Error::invalid("InvalidAuth", doing));
            };
            username = name.into();
            password = secret.trim_end_matches('\0').into();
        }
        Ok(if !text("identitytoken").is_empty() {
            let token = text("identitytoken").into();
            Some(Credentials(Secret::IdentityToken { username, token }))
        } else if !text("registrytoken").is_empty() {
            Some(Credentials::bearer_token(text("registrytoken")))
        } else if username.is_empty() {
            None
        } else {
            Some(Credentials::new(username, password))
        })
    }

    fn read(&self) -> Result<Map<String, Value>> {
        let what = self.path.display().to_string();
        let os = |error| Error::os(format!("read {what}"), error);
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(file) => {
                let mut file = file.take(documents::MAX_DOCUMENT_BYTES + 1);
                file.read_to_end(&mut bytes).map_err(os)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
            Err(error) => return Err(os(error)),
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Map::new());
        }
        documents::parse(&bytes, &what)
    }

    /// Replaces the file by what `change` makes of it, while nobody else of ours does.
    fn change(&self, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
        // What the path leads to is replaced, not a link to it.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let os = |error| Error::os(format!("write {}", path.display()), error);
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(os)?;
        let lock = File::open(folder).map_err(os)?;
        lock.lock().map_err(os)?;
        let mut config = self.read()?;
        let before = config.clone();
        change(&mut config);
        if config == before {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&config).expect("what was JSON is JSON");
        let draft = folder.join(format!(".config.json.{}", std::process::id()));
        let written = write_private(&draft, &text).and_then(|()| fs::rename(&draft, &path));
        if written.is_err() {
            // The first error counts.
            let _ = fs::remove_file(&draft);
        }
        written.and_then(|()| lock.sync_all()).map_err(os)
    }
}

fn write_private(path: &Path, text: &[u8]) -> std::io::Result<()> {
    // One that a killed program left has the mode that somebody else chose.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn encode(credentials: &Credentials) -> Value {
    let auth = |username: &str, password: &str| {
        base64::encode(format!("{username}:{password}").as_bytes())
    };
    match &credentials.0 {
        Secret::Password { username, password } => json!({ "auth": auth(username, password) }),
        Secret::IdentityToken { username, token } => {
            json!({ "auth": auth(username, ""), "identitytoken": token })
        }
        Secret::Bearer(token) => json!({ "registrytoken": token }),
    }
}

fn auths(config: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let auths = config.entry("auths").or_insert_with(|| json!({}));
    if !auths.is_object() {
        *auths = json!({});
    }
    auths.as_object_mut().expect("it was made one")
}

/// The entry for `registry`: the one with exactly its name, or else one whose key means it.
fn entry<'a>(
    config: &'a Map<String, Value>,
    registry: &str,
) -> Option<(&'a str, &'a Map<String, Value>)> {
    let auths = config.get("auths")?.as_object()?;
    let meaning = |key: &&String| registry_of(key).as_deref() == Some(registry);
    let key = auths
        .keys()
        .find(|key| *key == server_of(registry))
        .or_else(|| auths.keys().find(meaning))?;
    Some((key, auths[key].as_object()?))
}

/// Under which key the credentials for `registry` go: the one that is there, or else Docker's.
fn key_of(config: &Map<String, Value>, registry: &str) -> String {
    entry(config, registry)
        .map_or_else(|| server_of(registry).to_owned(), |(key, _)| key.to_owned())
}

/// What Docker calls `registry` in its files and to helpers.
fn server_of(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY {
        "https://index.docker.io/v1/"
    } else {
        registry
    }
}

/// The registry that a key of a `config.json` means: a host, with or without scheme and path of the API.
fn registry_of(key: &str) -> Option<String> {
    let (has_scheme, rest) = match key.split_once("://") {
        Some((_, rest)) => (true, rest),
        None => (false, key),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !has_scheme && !["", "v1", "v1/", "v2", "v2/"].contains(&path) {
        return None;
    }
    Some(match host {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.into(),
        host => host.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_registries() {
        for (key, registry) in [
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("docker.io", Some("docker.io")),
            (
                "registry.example.com:5000",
                Some("registry.example.com:5000"),
            ),
            ("https://quay.io", Some("quay.io")),
            ("quay.io/v1/", Some("quay.io")),
            ("quay.io/team", None),
        ] {
            assert_eq!(registry_of(key).as_deref(), registry, "{key}");
        }
    }
}
