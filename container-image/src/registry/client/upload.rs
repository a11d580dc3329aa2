//! Blobs on their way there.

use std::io::{self, Read};

use super::Client;
use super::request::{Access, BodySource, Call, bytes_body};
use crate::registry::error::RegistryError;
use crate::registry::transport::Response;
use crate::registry::url::Url;
use crate::store::from_io;
use crate::{Descriptor, Digest, Reference, Result};

impl Client {
    /// Brings a blob into the repository of `reference`: the registry takes it over from its repository
    /// `from`, or else it is sent. Tells whether it was sent. `open` gives the bytes from the start, each
    /// time that they are needed.
    ///
    /// # Errors
    /// Those of `open` and of every call; the registry forgets what was sent in part.
    pub fn put_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        mut from: Option<&str>,
        open: &mut dyn FnMut() -> Result<Box<dyn Read>>,
    ) -> Result<bool> {
        let chunk = self.0.options.chunk_bytes;
        self.retry(|| {
            let from = from.take().map(|from| (blob.digest, from));
            let Some(place) = self.start_upload(reference, from)? else {
                return Ok(false);
            };
            let upload = Upload {
                client: self,
                reference,
                blob,
            };
            match chunk {
                Some(chunk) if chunk < blob.size_bytes => upload.in_chunks(place, chunk, open)?,
                _ => upload.finish(&place, &mut || Ok(Some((open()?, blob.size_bytes))))?,
            }
            Ok(true)
        })
    }

    /// The place to upload a blob to; `None` if it was mounted from another repository.
    fn start_upload(
        &self,
        reference: &Reference,
        mount: Option<(Digest, &str)>,
    ) -> Result<Option<Place>> {
        let path = format!("{}/blobs/uploads/", reference.repository());
        let mut call = Call::of(reference, Access::Push, "POST", path);
        if let Some((digest, from)) = mount {
            let query = Url::form(&[("mount", &digest.to_string()), ("from", from)]);
            call.path = format!("{}?{query}", call.path);
            call.scope.push_str(&format!(" repository:{from}:pull"));
        }
        let (url, response) = self.write_once(&call, None, &mut bytes_body(&[]))?;
        match (response.status, response.header("location")) {
            (201, _) if mount.is_some() => Ok(None),
            (202, Some(location)) => Ok(Some(Place {
                url: url.join(location)?,
                min_chunk: response
                    .header("oci-chunk-min-length")
                    .and_then(|text| text.trim().parse().ok())
                    .unwrap_or(0),
            })),
            _ => Err(RegistryError::read("POST", &url, response)),
        }
    }
}

/// Where a registry takes a blob.
struct Place {
    url: Url,
    /// The least that a chunk must have, but for the last one.
    min_chunk: u64,
}

struct Upload<'a> {
    client: &'a Client,
    reference: &'a Reference,
    blob: &'a Descriptor,
}

impl Upload<'_> {
    /// Sends what is left of the blob, and names it.
    fn finish(&self, place: &Place, body: &mut BodySource<'_>) -> Result<()> {
        let url = place
            .url
            .with_query("digest", &self.blob.digest.to_string());
        let call = self.call("PUT");
        let (url, response) = self.client.write_once(&call, Some(&url), body)?;
        match response.status {
            200..=299 => Ok(()),
            _ => Err(RegistryError::read("PUT", &url, response)),
        }
    }

    /// Sends the blob in pieces, asking how far it got where one of them fails.
    fn in_chunks(
        &self,
        mut place: Place,
        chunk: u64,
        open: &mut dyn FnMut() -> Result<Box<dyn Read>>,
    ) -> Result<()> {
        let size = self.blob.size_bytes;
        let chunk = chunk.max(place.min_chunk).max(1);
        let mut sent = 0;
        let mut failures = 0;
        while sent < size {
            let end = size.min(sent + chunk);
            match self.patch(&place, sent, end, open) {
                Ok(url) => {
                    place.url = url;
                    sent = end;
                    failures = 0;
                }
                Err(error) => {
                    failures += 1;
                    let inner = &self.client.0;
                    inner.options.retry.wait(&inner.patience, failures, error)?;
                    (place.url, sent) = self.progress(&place)?;
                }
            }
        }
        self.finish(&place, &mut bytes_body(&[]))
    }

    /// Sends the bytes from `start` up to `end`; gives where the next ones go.
    fn patch(
        &self,
        place: &Place,
        start: u64,
        end: u64,
        open: &mut dyn FnMut() -> Result<Box<dyn Read>>,
    ) -> Result<Url> {
        let mut call = self.call("PATCH");
        let range = format!("{start}-{}", end - 1);
        call.headers.push(("content-range", range));
        let mut body = || {
            let mut blob = open()?;
            io::copy(&mut blob.by_ref().take(start), &mut io::sink())
                .map_err(|error| from_io("skip what was sent", error))?;
            let part: Box<dyn Read> = Box::new(blob.take(end - start));
            Ok(Some((part, end - start)))
        };
        let (url, response) = self.client.write_once(&call, Some(&place.url), &mut body)?;
        match response.status {
            200..=299 => next(&url, &response),
            _ => Err(RegistryError::read("PATCH", &url, response)),
        }
    }

    /// Asks how many bytes of the upload arrived, and where the next ones go.
    fn progress(&self, place: &Place) -> Result<(Url, u64)> {
        let call = self.call("GET");
        self.client.retry(|| {
            let mut body = || Ok(None);
            let (url, response) = self.client.write_once(&call, Some(&place.url), &mut body)?;
            if response.status != 204 {
                return Err(RegistryError::read("GET", &url, response));
            }
            let last = response
                .header("range")
                .and_then(|range| range.rsplit('-').next()?.trim().parse::<u64>().ok());
            // `0-0` may be one byte or none; the first byte is then sent again, from the start.
            let sent = last.filter(|last| *last > 0).map_or(0, |last| last + 1);
            Ok((next(&url, &response)?, sent.min(self.blob.size_bytes)))
        })
    }

    fn call(&self, method: &'static str) -> Call<'_> {
        let mut call = Call::of(self.reference, Access::Push, method, String::new());
        if method != "GET" {
            let octets = "application/octet-stream".to_owned();
            call.headers.push(("content-type", octets));
        }
        call
    }
}

/// Where the registry wants the next request of an upload.
fn next(url: &Url, response: &Response) -> Result<Url> {
    match response.header("location") {
        Some(location) => url.join(location),
        None => Ok(url.clone()),
    }
}
