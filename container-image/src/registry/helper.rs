//! Docker's credential helpers: programs that keep passwords in a key ring or get them from a cloud.
//!
//! They are among the few programs that this crate runs: `docker-credential-NAME` from `PATH`, where
//! `NAME` stands in the user's own `config.json`.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use super::auth::{Credentials, Secret};
use super::transport::Patience;
use crate::{Error, ErrorKind, Result};

/// One helper.
#[derive(Debug)]
pub(super) struct Helper {
    program: PathBuf,
}

impl Helper {
    /// Finds the helper called `name` in `folders`.
    pub(super) fn find(name: &str, folders: &[PathBuf]) -> Result<Self> {
        let program = format!("docker-credential-{name}");
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if name.is_empty() || !name.bytes().all(legal) {
            let doing = format!("use the credential helper {name:?}, whose name is none");
            return Err(Error::invalid("InvalidHelper", doing));
        }
        // A relative folder would be looked up wherever the caller happens to be.
        let mut paths = folders.iter().filter(|folder| folder.is_absolute());
        let found = paths.find_map(|folder| {
            let path = folder.join(&program);
            is_program(&path).then_some(path)
        });
        let program = found.ok_or_else(|| {
            let doing = format!("use {program}: there is no such program in PATH");
            Error::new(ErrorKind::Unsupported, "NoHelper", doing)
        })?;
        Ok(Self { program })
    }

    pub(super) fn get(&self, server: &str, patience: &Patience) -> Result<Option<Credentials>> {
        let (success, output) = self.run("get", server.as_bytes(), patience)?;
        if !success {
            let text = String::from_utf8_lossy(&output);
            if text.trim() == NOT_FOUND {
                return Ok(None);
            }
            return Err(self.failed("get", &text));
        }
        let entry: Entry = serde_json::from_slice(&output)
            .map_err(|_| self.failed("get", "its answer is not the JSON of a helper"))?;
        if entry.username.is_empty() && entry.secret.is_empty() {
            return Ok(None);
        }
        Ok(Some(if entry.username == TOKEN_USER {
            Credentials::identity_token(entry.secret)
        } else {
            Credentials::new(entry.username, entry.secret)
        }))
    }

    pub(super) fn store(
        &self,
        server: &str,
        credentials: &Credentials,
        patience: &Patience,
    ) -> Result<()> {
        let (username, secret) = match &credentials.0 {
            Secret::Password { username, password } => (username.as_str(), password),
            Secret::IdentityToken { token, .. } | Secret::Bearer(token) => (TOKEN_USER, token),
        };
        let entry = Entry {
            server: server.into(),
            username: username.into(),
            secret: secret.clone(),
        };
        let input = serde_json::to_vec(&entry).expect("three texts are JSON");
        match self.run("store", &input, patience)? {
            (true, _) => Ok(()),
            (false, output) => Err(self.failed("store", &String::from_utf8_lossy(&output))),
        }
    }

    /// Forgets what there is for `server`; done if there is nothing.
    pub(super) fn erase(&self, server: &str, patience: &Patience) -> Result<()> {
        let (success, output) = self.run("erase", server.as_bytes(), patience)?;
        let text = String::from_utf8_lossy(&output);
        if success || text.trim() == NOT_FOUND {
            return Ok(());
        }
        Err(self.failed("erase", &text))
    }

    /// Runs the helper; gives whether it succeeded, and what it printed.
    fn run(&self, verb: &str, input: &[u8], patience: &Patience) -> Result<(bool, Vec<u8>)> {
        let doing = || format!("run {} {verb}", self.program.display());
        let os = |error: std::io::Error| Error::os(doing(), error);
        // A file and not a pipe: a helper that does not read must not raise SIGPIPE in the caller.
        let file = rustix::fs::memfd_create("container-image-helper", MemfdFlags::CLOEXEC);
        let mut file = File::from(file.map_err(|error| os(error.into()))?);
        file.write_all(input)
            .and_then(|()| file.rewind())
            .map_err(os)?;
        let child = Command::new(&self.program)
            .arg(verb)
            .stdin(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(os)?;
        let mut child = Running(child);
        let end = Instant::now() + PATIENCE;
        let mut output = Vec::new();
        if let Some(mut stdout) = child.0.stdout.take() {
            let mut buffer = [0; 4096];
            loop {
                let left = end.saturating_duration_since(Instant::now());
                patience.wait(&stdout, PollFlags::IN, left)?;
                match stdout.read(&mut buffer).map_err(os)? {
                    0 => break,
                    count => output.extend_from_slice(&buffer[..count]),
                }
                if output.len() > MAX_OUTPUT_BYTES {
                    return Err(self.failed(verb, "its answer has no end"));
                }
            }
        }
        loop {
            if let Some(status) = child.0.try_wait().map_err(os)? {
                return Ok((status.success(), output));
            }
            if Instant::now() > end {
                return Err(self.failed(verb, "it does not end"));
            }
            patience.sleep(Duration::from_millis(5))?;
        }
    }

    fn failed(&self, verb: &str, why: &str) -> Error {
        let legal = |c: &char| !c.is_control();
        let why: String = why
            .trim()
            .chars()
            .filter(legal)
            .take(MAX_WHY_CHARS)
            .collect();
        let doing = format!("run {} {verb}: {why}", self.program.display());
        Error::new(ErrorKind::Internal, "HelperFailed", doing)
    }
}

/// A helper that is ended with whoever waits for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            // It may end by itself in this moment.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What helpers print, and are given to store.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "ServerURL", default)]
    server: String,
    username: String,
    secret: String,
}

/// The user's name where the secret is an identity token.
const TOKEN_USER: &str = "<token>";
const NOT_FOUND: &str = "credentials not found in native keychain";
/// Long enough for somebody to unlock a key ring.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_OUTPUT_BYTES: usize = 1 << 20;
const MAX_WHY_CHARS: usize = 200;
