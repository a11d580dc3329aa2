//! A request on its way: to the hosts of a registry in turn, with what they want to see, along
//! redirects, and once more where that may help.

use std::io::{self, Read};

use super::{Client, lock};
use crate::registry::auth::{Authorization, Challenge, may_know_credentials, read_token};
use crate::registry::error::RegistryError;
use crate::registry::hosts::{self, Host, Need};
use crate::registry::transport::{Head, Http, Payload, Response};
use crate::registry::url::{Url, host_of, is_loopback};
use crate::store::from_io;
use crate::{Error, ErrorKind, Reference, Result};

/// A request, whichever host will answer it.
pub(super) struct Call<'a> {
    pub(super) registry: &'a str,
    /// What it needs to be allowed to, in the words of token servers.
    pub(super) scope: String,
    pub(super) method: &'static str,
    /// Path and query below the root of the API.
    pub(super) path: String,
    pub(super) headers: Vec<(&'static str, String)>,
}

/// What a request wants to do, as far as authorization is concerned.
#[derive(Clone, Copy)]
pub(super) enum Access {
    Pull,
    Push,
    Delete,
}

impl<'a> Call<'a> {
    pub(super) fn of(
        reference: &'a Reference,
        access: Access,
        method: &'static str,
        path: String,
    ) -> Self {
        let actions = match access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
            Access::Delete => "delete",
        };
        Self {
            registry: reference.registry(),
            scope: format!("repository:{}:{actions}", reference.repository()),
            method,
            path,
            headers: Vec::new(),
        }
    }
}

/// Gives the body of a request anew for each time that it is sent.
pub(super) type BodySource<'a> = dyn FnMut() -> Result<Option<(Box<dyn Read>, u64)>> + 'a;

pub(super) fn no_body() -> Result<Option<(Box<dyn Read>, u64)>> {
    Ok(None)
}

pub(super) fn bytes_body(bytes: &[u8]) -> impl FnMut() -> Result<Option<(Box<dyn Read>, u64)>> {
    move || {
        let reader: Box<dyn Read> = Box::new(io::Cursor::new(bytes.to_vec()));
        Ok(Some((reader, bytes.len() as u64)))
    }
}

impl Client {
    pub(crate) fn retry<T>(&self, request: impl FnMut() -> Result<T>) -> Result<T> {
        self.0.options.retry.run(&self.0.patience, request)
    }

    /// Gets something from the first host of a registry that has it, and again where that may help.
    pub(super) fn read<T>(
        &self,
        need: Need,
        call: &Call<'_>,
        mut take: impl FnMut(&Url, Response) -> Result<T>,
    ) -> Result<T> {
        self.retry(|| self.read_once(need, call, &mut take))
    }

    /// Asks the hosts of a registry in turn until one gives what `take` can use. `take` gets only
    /// answers that bring something.
    pub(super) fn read_once<T>(
        &self,
        need: Need,
        call: &Call<'_>,
        mut take: impl FnMut(&Url, Response) -> Result<T>,
    ) -> Result<T> {
        let hosts = self.hosts(call.registry);
        let mut ask = |host: &Host| {
            let url = self.base(host)?.below(&call.path);
            let response = self.exchange(host, call, &url, &mut no_body)?;
            match response.status {
                200 | 206 => take(&url, response),
                _ => Err(RegistryError::read(call.method, &url, response)),
            }
        };
        let mut refused: Vec<String> = Vec::new();
        for host in hosts.iter().filter(|host| host.serves(need)) {
            if !host.is_mirror() {
                return ask(host).map_err(|error| {
                    if refused.is_empty() {
                        return error;
                    }
                    let mirrors = refused.join("; ");
                    error.context(format!("ask {} itself, after {mirrors}", call.registry))
                });
            }
            if host.is_resting() {
                continue;
            }
            match ask(host) {
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => {
                    host.note(&error);
                    refused.push(format!("mirror {host} failed ({})", error.report()));
                }
                answer => return answer,
            }
        }
        Err(no_host(call))
    }

    /// Sends to the host of a registry that takes changes; `take` gets only answers of success.
    pub(super) fn write<T>(
        &self,
        call: &Call<'_>,
        body: &mut BodySource<'_>,
        mut take: impl FnMut(&Url, Response) -> Result<T>,
    ) -> Result<T> {
        self.retry(|| {
            let (url, response) = self.write_once(call, None, body)?;
            match response.status {
                200..=299 => take(&url, response),
                _ => Err(RegistryError::read(call.method, &url, response)),
            }
        })
    }

    /// Sends once to the host that takes changes: to `place`, where the registry sent us there.
    pub(super) fn write_once(
        &self,
        call: &Call<'_>,
        place: Option<&Url>,
        body: &mut BodySource<'_>,
    ) -> Result<(Url, Response)> {
        let hosts = self.hosts(call.registry);
        let host = hosts.iter().find(|host| host.serves(Need::Push));
        let host = host.ok_or_else(|| no_host(call))?;
        let url = match place {
            Some(place) => place.clone(),
            None => self.base(host)?.below(&call.path),
        };
        let response = self.exchange(host, call, &url, body)?;
        Ok((url, response))
    }

    /// Sends one request with the authorization that it needs, and follows redirects of GET and HEAD.
    fn exchange(
        &self,
        host: &Host,
        call: &Call<'_>,
        url: &Url,
        body: &mut BodySource<'_>,
    ) -> Result<Response> {
        let base = self.base(host)?;
        let key = (base.authority.clone(), call.scope.clone());
        let mut url = url.clone();
        let mut asked = false;
        let mut redirects = 0;
        loop {
            self.check_http(&base, &url)?;
            let mut headers = call.headers.clone();
            if url.same_origin(&base) {
                let mut known = lock(&self.0.authorizations);
                known.retain(|_, authorization| authorization.is_fresh());
                if let Some(authorization) = known.get(&key) {
                    headers.push(("authorization", authorization.header.clone()));
                }
            }
            let head = Head {
                method: call.method,
                url: &url,
                headers,
            };
            let response = match body()? {
                Some((mut reader, size)) => self.send(&head, Some((&mut *reader, size)))?,
                None => self.send(&head, None)?,
            };
            match (response.status, call.method) {
                (401, _) if !asked && url.same_origin(&base) => {
                    let Some(authorization) = self.authorize(host, &base, call, &response)? else {
                        return Ok(response);
                    };
                    lock(&self.0.authorizations).insert(key.clone(), authorization);
                    asked = true;
                }
                (301 | 302 | 303 | 307 | 308, "GET" | "HEAD") if redirects < MAX_REDIRECTS => {
                    let Some(location) = response.header("location") else {
                        return Ok(response);
                    };
                    url = url.join(location)?;
                    redirects += 1;
                }
                _ => return Ok(response),
            }
        }
    }

    /// Answers a challenge; `None` if there is no answer.
    fn authorize(
        &self,
        host: &Host,
        base: &Url,
        call: &Call<'_>,
        response: &Response,
    ) -> Result<Option<Authorization>> {
        let credentials = self.0.options.credentials.get(host.name());
        let challenges: Vec<_> = response
            .headers("www-authenticate")
            .filter_map(Challenge::parse)
            .collect();
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => Some((realm, service, scope)),
            Challenge::Basic => None,
        });
        let Some((realm, service, wanted)) = bearer else {
            let basic = challenges.contains(&Challenge::Basic);
            let basic = credentials.filter(|_| basic);
            return Ok(basic.map(|credentials| Authorization::lasting(credentials.basic())));
        };
        let mut url = Url::parse(realm)?;
        self.check_http(base, &url)?;
        if let Some(service) = service {
            url = url.with_query("service", service);
        }
        let wanted = wanted.as_ref().unwrap_or(&call.scope);
        for scope in wanted.split(' ').filter(|scope| !scope.is_empty()) {
            url = url.with_query("scope", scope);
        }
        let mut headers = Vec::new();
        if let Some(credentials) = credentials
            && may_know_credentials(base, &url)
        {
            headers.push(("authorization", credentials.basic()));
        }
        let head = Head {
            method: "GET",
            url: &url,
            headers,
        };
        let mut response = self.send(&head, None)?;
        if response.status != 200 {
            return Err(RegistryError::read("GET", &url, response));
        }
        let mut body = Vec::new();
        let limit = response
            .body
            .by_ref()
            .take(MAX_TOKEN_BYTES)
            .read_to_end(&mut body);
        limit.map_err(|error| from_io("read a token", error))?;
        Ok(Some(read_token(&body)?))
    }

    fn send(&self, head: &Head<'_>, payload: Payload<'_>) -> Result<Response> {
        let insecure = self.is_insecure(&head.url.authority);
        let (http, verify) = if insecure {
            (&self.0.unverified, false)
        } else {
            (&self.0.verified, true)
        };
        http.get_or_init(|| Http::new(&self.0.patience, verify))
            .send(head, payload)
    }

    /// Refuses plain HTTP to anybody who may not use it, and to this machine's own services when
    /// somebody elsewhere sends us there.
    fn check_http(&self, base: &Url, url: &Url) -> Result<()> {
        let near = is_loopback(base.host()) && is_loopback(url.host());
        if url.https || near || self.is_listed(&url.authority) {
            return Ok(());
        }
        let doing = format!(
            "talk plain HTTP to {}, which is not listed as insecure",
            url.authority
        );
        Err(Error::new(
            ErrorKind::PermissionDenied,
            "InsecureRegistry",
            doing,
        ))
    }

    fn is_insecure(&self, authority: &str) -> bool {
        is_loopback(host_of(authority)) || self.is_listed(authority)
    }

    fn is_listed(&self, authority: &str) -> bool {
        self.0
            .options
            .insecure
            .iter()
            .any(|entry| entry.eq_ignore_ascii_case(authority))
    }

    fn hosts(&self, registry: &str) -> std::sync::Arc<[Host]> {
        let mut hosts = lock(&self.0.hosts);
        if let Some(known) = hosts.get(registry) {
            return known.clone();
        }
        let found: std::sync::Arc<[Host]> = hosts::of(registry).into();
        hosts.insert(registry.to_owned(), found.clone());
        found
    }

    /// The root of a host's API. Only one that may be insecure is asked whether it talks TLS.
    fn base(&self, host: &Host) -> Result<Url> {
        if let Some(base) = host.base() {
            return Ok(base.clone());
        }
        let mut base = host.url(true);
        if self.is_insecure(&base.authority) {
            let probe = |base: &Url| {
                self.send(
                    &Head {
                        method: "GET",
                        url: base,
                        headers: Vec::new(),
                    },
                    None,
                )
            };
            match self.retry(|| match probe(&base) {
                // Whatever does not talk TLS at all breaks off at once.
                Err(error) if error.code() == "TlsFailed" || error.code() == "ConnectionLost" => {
                    let plain = host.url(false);
                    probe(&plain).map(|_| plain)
                }
                answer => answer.map(|_| base.clone()),
            }) {
                Ok(answered) => base = answered,
                Err(error) => return Err(error.context(format!("reach registry {}", host.name()))),
            }
        }
        Ok(host.set_base(base))
    }
}

fn no_host(call: &Call<'_>) -> Error {
    let doing = format!(
        "{} at {}: none of its configured hosts may do that",
        call.method, call.registry
    );
    Error::new(ErrorKind::Unsupported, "NoHost", doing)
}

const MAX_REDIRECTS: u32 = 5;
const MAX_TOKEN_BYTES: u64 = 1 << 20;
