//! The distribution specification, server side: who asks for what, and may he.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::ServerOptions;
use super::access::{Action, Authenticator, Authorizer};
use super::address::Address;
use super::blobs::Upload;
use super::files::Files;
use super::http::{Request, Response};
use crate::registry::base64;
use crate::{Error, Reference, Result};

pub(super) struct Api {
    pub(super) files: Files,
    pub(super) uploads: Mutex<HashMap<String, Arc<Mutex<Upload>>>>,
    authenticator: Option<Arc<dyn Authenticator>>,
    authorizer: Option<Arc<dyn Authorizer>>,
}

/// What answers a request, or refuses it.
pub(super) type Answer = Result<Response, Refusal>;

pub(super) enum Refusal {
    /// Status, code and message, as the specification has them.
    Code(u16, &'static str, &'static str),
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Api {
    pub(super) fn new(options: &ServerOptions) -> Result<Self> {
        let files = match &options.root {
            Some(root) => Files::in_directory(root).map_err(|error| {
                Error::os(format!("open the registry in {}", root.display()), error)
            })?,
            None => Files::in_memory(options.memory_bytes),
        };
        Ok(Self {
            files,
            uploads: Mutex::default(),
            authenticator: options.authenticator.clone(),
            authorizer: options.authorizer.clone(),
        })
    }

    pub(super) fn answer(&self, request: &Request, body: &mut dyn Read) -> Response {
        let answer = self
            .user(request)
            .and_then(|user| self.route(request, body, user.as_deref()));
        match answer {
            Ok(response) => response,
            Err(Refusal::Code(status, code, message)) => refuse(status, code, message),
            Err(Refusal::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
                refuse(413, "SIZE_INVALID", "no room is left")
            }
            Err(Refusal::Io(error)) => refuse(500, "UNKNOWN", &error.to_string()),
        }
    }

    /// Who asks; `None` for somebody who does not say.
    fn user(&self, request: &Request) -> Result<Option<String>, Refusal> {
        let (Some(authenticator), Some(header)) =
            (&self.authenticator, request.header("authorization"))
        else {
            return Ok(None);
        };
        let pair = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .and_then(|(_, pair)| base64::decode(pair.trim()))
            .and_then(|pair| String::from_utf8(pair).ok());
        let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
        match pair {
            Some((user, password)) if authenticator.knows(user, password) => {
                Ok(Some(user.to_owned()))
            }
            _ => Err(UNAUTHORIZED),
        }
    }

    /// Refuses what `user` may not do.
    fn check(
        &self,
        user: Option<&str>,
        repository: Option<&str>,
        action: Action,
    ) -> Result<(), Refusal> {
        if self.allows(user, repository, action) {
            return Ok(());
        }
        // Whoever did not say who he is may be allowed to when he does.
        match user {
            None if self.authenticator.is_some() => Err(UNAUTHORIZED),
            _ => Err(DENIED),
        }
    }

    pub(super) fn allows(
        &self,
        user: Option<&str>,
        repository: Option<&str>,
        action: Action,
    ) -> bool {
        match (&self.authorizer, &self.authenticator) {
            (Some(authorizer), _) => authorizer.allows(user, repository, action),
            (None, Some(_)) => user.is_some(),
            (None, None) => true,
        }
    }

    fn route(&self, request: &Request, body: &mut dyn Read, user: Option<&str>) -> Answer {
        let path = request.path().strip_prefix("/v2").ok_or(NOT_FOUND)?;
        let method = request.method.as_str();
        match path {
            // Clients ask here whether they have to say who they are.
            "" | "/" if user.is_none() && self.authenticator.is_some() => return Err(UNAUTHORIZED),
            "" | "/" => return Ok(json_response(&json!({}))),
            "/_catalog" => {
                self.check(user, None, Action::List)?;
                return self.catalog(request);
            }
            _ => {}
        }
        let path = path.strip_prefix('/').ok_or(NOT_FOUND)?;
        let (name, what) = Resource::split(path).ok_or(NOT_FOUND)?;
        let name = repository(name)?;
        let action = match (method, &what) {
            ("GET" | "HEAD", Resource::Upload(_)) => Action::Push,
            ("GET" | "HEAD", _) => Action::Pull,
            ("DELETE", Resource::Manifest(_) | Resource::Blob(_)) => Action::Delete,
            _ => Action::Push,
        };
        self.check(user, Some(name), action)?;
        match (method, what) {
            ("GET" | "HEAD", Resource::Tags) => self.tags(request, name),
            ("GET" | "HEAD", Resource::Manifest(reference)) => self.manifest(name, reference),
            ("PUT", Resource::Manifest(reference)) => {
                self.put_manifest(request, name, reference, body)
            }
            ("DELETE", Resource::Manifest(reference)) => self.delete_manifest(name, reference),
            ("GET" | "HEAD", Resource::Referrers(subject)) => {
                self.referrers(request, name, &address(subject)?)
            }
            ("GET" | "HEAD", Resource::Blob(digest)) => self.blob(request, name, &address(digest)?),
            ("DELETE", Resource::Blob(digest)) => self.delete_blob(name, &address(digest)?),
            ("POST", Resource::Upload("")) => {
                let may_mount = |from: &str| self.allows(user, Some(from), Action::Pull);
                self.start(request, name, body, &may_mount)
            }
            (_, Resource::Upload("")) => Err(BAD_METHOD),
            (_, Resource::Upload(id)) => self.upload(request, name, id, body),
            _ => Err(BAD_METHOD),
        }
    }
}

/// What a path names within a repository.
enum Resource<'a> {
    Tags,
    /// By tag or digest.
    Manifest(&'a str),
    Referrers(&'a str),
    Blob(&'a str),
    /// By its number; empty for a new one.
    Upload(&'a str),
}

impl<'a> Resource<'a> {
    /// The name of the repository, and what of it.
    fn split(path: &'a str) -> Option<(&'a str, Self)> {
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Some((name, Self::Tags));
        }
        let (rest, last) = path.rsplit_once('/')?;
        if let Some(name) = rest.strip_suffix("/manifests") {
            Some((name, Self::Manifest(last)))
        } else if let Some(name) = rest.strip_suffix("/referrers") {
            Some((name, Self::Referrers(last)))
        } else if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            Some((name, Self::Upload(last)))
        } else {
            let name = rest.strip_suffix("/blobs")?;
            let is_new = last == "uploads";
            Some((
                name,
                if is_new {
                    Self::Upload("")
                } else {
                    Self::Blob(last)
                },
            ))
        }
    }
}

fn refuse(status: u16, code: &str, message: &str) -> Response {
    let mut response = json_response(&json!({ "errors": [{ "code": code, "message": message }] }));
    response.status = status;
    if status == 401 {
        response = response.with_header("WWW-Authenticate", "Basic realm=\"registry\"");
    }
    response
}

pub(super) fn json_response(value: &serde_json::Value) -> Response {
    Response::new(200)
        .with_header("Content-Type", "application/json")
        .with_body(value.to_string().into_bytes())
}

/// Checks a name before it becomes part of a path.
pub(super) fn repository(name: &str) -> Result<&str, Refusal> {
    let valid = Reference::is_repository(name);
    valid.then_some(name).ok_or(Refusal::Code(
        400,
        "NAME_INVALID",
        "no name of a repository",
    ))
}

pub(super) fn address(text: &str) -> Result<Address, Refusal> {
    Address::parse(text).ok_or(DIGEST_INVALID)
}

pub(super) fn blob_key(address: &Address) -> String {
    format!("blobs/{}", address.hex())
}

pub(super) fn blob_link(name: &str, address: &Address) -> String {
    format!("repositories/{name}/_blobs/{}", address.hex())
}

pub(super) fn manifest_link(name: &str, address: &Address) -> String {
    format!("repositories/{name}/_manifests/{}", address.hex())
}

pub(super) const NOT_FOUND: Refusal = Refusal::Code(404, "UNSUPPORTED", "there is nothing here");
pub(super) const BAD_METHOD: Refusal = Refusal::Code(405, "UNSUPPORTED", "not with this method");
pub(super) const BLOB_UNKNOWN: Refusal =
    Refusal::Code(404, "BLOB_UNKNOWN", "there is no such blob");
pub(super) const DIGEST_INVALID: Refusal =
    Refusal::Code(400, "DIGEST_INVALID", "the digest is not right");
const UNAUTHORIZED: Refusal = Refusal::Code(401, "UNAUTHORIZED", "authentication required");
const DENIED: Refusal = Refusal::Code(403, "DENIED", "this is not allowed");
