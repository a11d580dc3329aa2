//! A request on its way: to the hosts of a registry in turn, with what they want to see, along
//! redirects, and once more where that may help.

use std::io::{self, Read};
use std::sync::Arc;

use super::{Client, lock};
use crate::registry::auth::{
    Authorization, Bearer, Challenge, Credentials, Secret, may_know_credentials, read_token,
};
use crate::registry::error::RegistryError;
use crate::registry::hosts::{self, Host, Need};
use crate::registry::proxy;
use crate::registry::tls::system_authorities;
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
    /// Whether it would like an identity token.
    pub(super) is_login: bool,
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
            is_login: false,
        }
    }

    /// The call that only asks whether we may.
    pub(super) fn ping(registry: &'a str) -> Self {
        Self {
            registry,
            scope: String::new(),
            method: "GET",
            path: String::new(),
            headers: Vec::new(),
            is_login: false,
        }
    }
}

/// Gives the body of a request anew for each time that it is sent.
pub(super) type BodySource<'a> = dyn FnMut() -> Result<SizedBody> + 'a;

/// A body and its length, if there is one.
type SizedBody = Option<(Box<dyn Read>, u64)>;

pub(super) fn no_body() -> Result<SizedBody> {
    Ok(None)
}

pub(super) fn bytes_body(bytes: &[u8]) -> impl FnMut() -> Result<SizedBody> {
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
        let hosts = self.hosts(call.registry)?;
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
        let hosts = self.hosts(call.registry)?;
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
            let mut extra: &[_] = &[];
            if url.same_origin(&base) {
                extra = host.headers();
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
                extra,
            };
            let response = match body()? {
                Some((mut reader, size)) => self.send(host, &head, Some((&mut *reader, size)))?,
                None => self.send(host, &head, None)?,
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
        let credentials = self.credentials(host.name())?;
        if let Some(Credentials(Secret::Bearer(token))) = &credentials {
            return Ok(Some(Authorization::lasting(format!("Bearer {token}"))));
        }
        let challenges: Vec<_> = response
            .headers("www-authenticate")
            .filter_map(Challenge::parse)
            .collect();
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer(bearer) => Some(bearer),
            Challenge::Basic => None,
        });
        if let Some(bearer) = bearer {
            return self.token(host, base, call, bearer, credentials).map(Some);
        }
        let basic = credentials.filter(|_| challenges.contains(&Challenge::Basic));
        let header = basic.and_then(|credentials| credentials.basic());
        Ok(header.map(Authorization::lasting))
    }

    /// Asks the token server that a registry named.
    fn token(
        &self,
        host: &Host,
        base: &Url,
        call: &Call<'_>,
        bearer: &Bearer,
        credentials: Option<Credentials>,
    ) -> Result<Authorization> {
        let realm = Url::parse(&bearer.realm)?;
        self.check_http(base, &realm)?;
        let named = self.0.options.token_servers.get(host.name());
        let trusted = may_know_credentials(base, &realm, named.map(String::as_str));
        let withheld = credentials.is_some() && !trusted;
        let credentials = credentials.filter(|_| trusted);

        let mut fields = Vec::new();
        if let Some(service) = &bearer.service {
            fields.push(("service", service.as_str()));
        }
        let scope = bearer.scope.as_ref().unwrap_or(&call.scope);
        let response = if let Some(Credentials(Secret::IdentityToken { token, .. })) = &credentials
        {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("refresh_token", token),
                ("scope", scope),
            ]);
            let form = Url::form(&fields);
            let form_type = "application/x-www-form-urlencoded".to_owned();
            let head = Head {
                method: "POST",
                url: &realm,
                headers: vec![("content-type", form_type)],
                extra: &[],
            };
            self.send(host, &head, Some((&mut form.as_bytes(), form.len() as u64)))?
        } else {
            let username = credentials.as_ref().map_or("", Credentials::username);
            if !username.is_empty() {
                fields.push(("account", username));
            }
            if call.is_login {
                fields.extend([("client_id", CLIENT_ID), ("offline_token", "true")]);
            }
            let scopes = scope.split(' ').filter(|scope| !scope.is_empty());
            fields.extend(scopes.map(|scope| ("scope", scope)));
            let url = fields.iter().fold(realm.clone(), |url, (key, value)| {
                url.with_query(key, value)
            });
            let basic = credentials.as_ref().and_then(Credentials::basic);
            let head = Head {
                method: "GET",
                url: &url,
                headers: basic
                    .map(|basic| ("authorization", basic))
                    .into_iter()
                    .collect(),
                extra: &[],
            };
            self.send(host, &head, None)?
        };
        read_answer(&realm, response).map_err(|error| {
            if !withheld {
                return error;
            }
            error.context(format!(
                "get a token for {} anonymously: its credentials are not for {}, unless that is \
                 named as its token server",
                host.name(),
                realm.host()
            ))
        })
    }

    /// Who we are to a host; asked for when it wants to know.
    fn credentials(&self, name: &str) -> Result<Option<Credentials>> {
        let options = &self.0.options;
        if let Some(known) = lock(&self.0.credentials).get(name) {
            return Ok(known.clone());
        }
        let found = match (options.credentials.get(name), &options.auth_file) {
            (Some(credentials), _) => Some(credentials.clone()),
            (None, Some(file)) => file.find(name, &self.0.patience)?,
            (None, None) => None,
        };
        lock(&self.0.credentials).insert(name.to_owned(), found.clone());
        Ok(found)
    }

    /// Sends a request to `host`, or where it sent us.
    fn send(&self, host: &Host, head: &Head<'_>, payload: Payload<'_>) -> Result<Response> {
        let settings = host.trust.is_some() || host.dial_timeout.is_some();
        let http = if settings && head.url.authority == host.url(true).authority {
            match host.http.get() {
                Some(http) => http.clone(),
                None => {
                    let http = self.connections(head.url, Some(host))?;
                    host.http.get_or_init(|| Arc::new(http)).clone()
                }
            }
        } else {
            let key = (head.url.https, head.url.authority.clone());
            let known = lock(&self.0.http).get(&key).cloned();
            match known {
                Some(http) => http,
                None => {
                    let http = Arc::new(self.connections(head.url, None)?);
                    lock(&self.0.http).entry(key).or_insert(http).clone()
                }
            }
        };
        http.send(head, payload)
    }

    /// Connections to where `url` is, as the settings of `host` say if there is one.
    fn connections(&self, url: &Url, host: Option<&Host>) -> Result<Http> {
        let inner = &self.0;
        let authority = &url.authority;
        let mut trust = match host.and_then(|host| host.trust.clone()) {
            Some(trust) => trust,
            None => hosts::trust_of(authority, &inner.options)?,
        };
        trust.anybody |= self.is_insecure(authority);
        let system = || inner.authorities.get_or_init(system_authorities).as_slice();
        let tls = trust.config(authority, if trust.anybody { &[] } else { system() })?;
        let proxy = match inner.proxies.of(url) {
            Some(proxy) => {
                let name = proxy::authority(proxy);
                let trust = hosts::trust_of(name, &inner.options)?;
                Some((proxy, trust.config(name, system())?))
            }
            None => None,
        };
        let mut patience = inner.patience.clone();
        if let Some(timeout) = host.and_then(|host| host.dial_timeout) {
            patience.connect = timeout;
        }
        Http::new(&patience, tls, proxy)
    }

    /// Refuses plain HTTP to anybody who may not use it, and to this machine's own services when
    /// somebody elsewhere sends us there.
    fn check_http(&self, base: &Url, url: &Url) -> Result<()> {
        let near = is_loopback(base.host()) && is_loopback(url.host());
        // Whether the registry itself may be talked to like this was decided when its root was found.
        if url.https || near || url.same_origin(base) || self.0.options.is_listed(&url.authority) {
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
        is_loopback(host_of(authority)) || self.0.options.is_listed(authority)
    }

    fn hosts(&self, registry: &str) -> Result<Arc<[Host]>> {
        let mut hosts = lock(&self.0.hosts);
        if let Some(known) = hosts.get(registry) {
            return Ok(known.clone());
        }
        let found: Arc<[Host]> = hosts::of(registry, &self.0.options)?.into();
        hosts.insert(registry.to_owned(), found.clone());
        Ok(found)
    }

    /// The root of a host's API. Only one that may be insecure is asked whether it talks TLS.
    fn base(&self, host: &Host) -> Result<Url> {
        if let Some(base) = host.base() {
            return Ok(base.clone());
        }
        let mut base = host.url(true);
        if self.is_insecure(&base.authority) {
            let probe = |base: &Url| {
                let head = Head {
                    method: "GET",
                    url: base,
                    headers: Vec::new(),
                    extra: &[],
                };
                self.send(host, &head, None)
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

/// Reads what a token server answered.
fn read_answer(realm: &Url, mut response: Response) -> Result<Authorization> {
    if response.status != 200 {
        return Err(RegistryError::read("ask", realm, response));
    }
    let mut answer = Vec::new();
    response
        .body
        .by_ref()
        .take(MAX_TOKEN_BYTES + 1)
        .read_to_end(&mut answer)
        .map_err(|error| from_io("read a token", error))?;
    if answer.len() as u64 > MAX_TOKEN_BYTES {
        let doing = format!("read a token of {realm}: it has more than {MAX_TOKEN_BYTES} bytes");
        return Err(Error::invalid("DocumentTooLarge", doing));
    }
    read_token(&answer)
}

fn no_host(call: &Call<'_>) -> Error {
    let doing = format!(
        "{} at {}: none of its configured hosts may do that",
        call.method, call.registry
    );
    Error::new(ErrorKind::Unsupported, "NoHost", doing)
}

/// What we call ourselves to token servers.
const CLIENT_ID: &str = "container-image";
const MAX_REDIRECTS: u32 = 5;
const MAX_TOKEN_BYTES: u64 = 1 << 20;
