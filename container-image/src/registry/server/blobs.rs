//! Blobs: their bytes, and how they come in.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::address::Address;
use super::api::{
    Answer, Api, BAD_METHOD, BLOB_UNKNOWN, DIGEST_INVALID, Refusal, address, blob_key, blob_link,
    repository,
};
use super::files::Draft;
use super::http::{Body, Request, Response};
use super::lock;
use crate::Hasher;

/// A blob on its way in.
pub(super) struct Upload {
    repository: String,
    /// `None` once it was finished.
    draft: Option<Draft>,
    hasher: Hasher,
    touched: Instant,
}

impl Api {
    pub(super) fn blob(&self, request: &Request, name: &str, address: &Address) -> Answer {
        let link = blob_link(name, address);
        if !self.files.exists(&link)? {
            return Err(BLOB_UNKNOWN);
        }
        if request.method == "HEAD" {
            // Whoever asks may be about to push what refers to it.
            let _guard = self.files.share()?;
            self.files.touch(&link)?;
        }
        let Some((_, size)) = self.files.open(&blob_key(address), 0)? else {
            return Err(BLOB_UNKNOWN);
        };
        let range = request
            .header("range")
            .and_then(|text| parse_range(text, size));
        let (status, start, end) = match range {
            None => (200, 0, size),
            Some(Some((start, end))) => (206, start, end),
            Some(None) => {
                return Ok(
                    Response::new(416).with_header("Content-Range", format!("bytes */{size}"))
                );
            }
        };
        let Some((reader, _)) = self.files.open(&blob_key(address), start)? else {
            return Err(BLOB_UNKNOWN);
        };
        let mut response = Response::new(status)
            .with_header("Content-Type", "application/octet-stream")
            .with_header("Accept-Ranges", "bytes")
            .with_header("Docker-Content-Digest", address);
        if status == 206 {
            let range = format!("bytes {start}-{}/{size}", end - 1);
            response = response.with_header("Content-Range", range);
        }
        let length = end - start;
        response.body = Body {
            reader: Box::new(reader.take(length)),
            length: Some(length),
        };
        Ok(response)
    }

    pub(super) fn delete_blob(&self, name: &str, address: &Address) -> Answer {
        let link = blob_link(name, address);
        if !self.files.exists(&link)? {
            return Err(BLOB_UNKNOWN);
        }
        self.files.remove(&link)?;
        Ok(Response::new(202))
    }

    /// Starts an upload, or does without: the blob is mounted or comes in this request.
    pub(super) fn start(
        &self,
        request: &Request,
        name: &str,
        body: &mut dyn Read,
        may_mount: &dyn Fn(&str) -> bool,
    ) -> Answer {
        if let (Some(wanted), Some(from)) = (request.query("mount"), request.query("from")) {
            let (wanted, from) = (address(&wanted)?, repository(&from)?);
            let _guard = self.files.share()?;
            if may_mount(from) && self.files.exists(&blob_link(from, &wanted))? {
                self.files.put(&blob_link(name, &wanted), b"")?;
                return Ok(created(name, &wanted));
            }
        }
        let mut upload = Upload {
            repository: name.to_owned(),
            draft: Some(self.files.draft()?),
            hasher: Hasher::new(),
            touched: Instant::now(),
        };
        if let Some(wanted) = request.query("digest") {
            upload.append(body)?;
            return self.finish(&mut upload, name, &address(&wanted)?);
        }
        let mut uploads = lock(&self.uploads);
        // One that somebody is busy with is not idle.
        uploads.retain(|_, upload| {
            upload
                .try_lock()
                .map_or(true, |upload| upload.touched.elapsed() < MAX_IDLE)
        });
        if uploads.len() >= MAX_UPLOADS {
            return Err(Refusal::Code(
                429,
                "TOOMANYREQUESTS",
                "too many uploads are open",
            ));
        }
        let state = RandomState::new();
        let id = format!("{:016x}{:016x}", state.hash_one(0), state.hash_one(1));
        uploads.insert(id.clone(), Arc::new(Mutex::new(upload)));
        Ok(accepted(202, name, &id, 0))
    }

    pub(super) fn upload(
        &self,
        request: &Request,
        name: &str,
        id: &str,
        body: &mut dyn Read,
    ) -> Answer {
        let unknown = || Refusal::Code(404, "BLOB_UPLOAD_UNKNOWN", "there is no such upload");
        let upload = lock(&self.uploads).get(id).cloned().ok_or_else(unknown)?;
        let mut upload = lock(&upload);
        if upload.repository != name {
            return Err(unknown());
        }
        upload.touched = Instant::now();
        let size = upload.draft.as_ref().ok_or_else(unknown)?.size_bytes();
        let starts_at = request.header("content-range").map(|range| {
            range
                .split('-')
                .next()
                .and_then(|start| start.trim().parse::<u64>().ok())
        });
        if starts_at.is_some_and(|start| start != Some(size)) {
            return Ok(accepted(416, name, id, size));
        }
        match request.method.as_str() {
            "GET" => Ok(accepted(204, name, id, size)),
            "DELETE" => {
                lock(&self.uploads).remove(id);
                Ok(Response::new(204))
            }
            "PATCH" => {
                upload.append(body)?;
                let size = upload.draft.as_ref().map_or(0, Draft::size_bytes);
                Ok(accepted(202, name, id, size))
            }
            "PUT" => {
                let wanted = address(&request.query("digest").ok_or(DIGEST_INVALID)?)?;
                upload.append(body)?;
                lock(&self.uploads).remove(id);
                self.finish(&mut upload, name, &wanted)
            }
            _ => Err(BAD_METHOD),
        }
    }

    fn finish(&self, upload: &mut Upload, name: &str, wanted: &Address) -> Answer {
        let hasher = std::mem::take(&mut upload.hasher);
        let mut draft = upload.draft.take().ok_or(DIGEST_INVALID)?;
        let is_right = match wanted {
            Address::Sha256(digest) => hasher.finish() == *digest,
            Address::Sha512(_) => wanted.names(draft.reader()?)?,
        };
        if !is_right {
            return Err(DIGEST_INVALID);
        }
        let _guard = self.files.share()?;
        self.files.publish(draft, &blob_key(wanted))?;
        self.files.put(&blob_link(name, wanted), b"")?;
        Ok(created(name, wanted))
    }
}

impl Upload {
    fn append(&mut self, body: &mut dyn Read) -> io::Result<()> {
        let Some(draft) = &mut self.draft else {
            return Ok(());
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = body.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            draft.write_all(&buffer[..count])?;
            self.hasher.update(&buffer[..count]);
        }
    }
}

/// The bytes that a `Range` header asks for, as start and end; `Some(None)` if there are none, `None`
/// if it is to be ignored.
fn parse_range(text: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    if start.is_empty() {
        let count = end.parse::<u64>().ok()?.min(size);
        return Some((count > 0).then_some((size - count, size)));
    }
    let start = start.parse::<u64>().ok()?;
    let end = match end {
        "" => size,
        end => end.parse::<u64>().ok()?.saturating_add(1).min(size),
    };
    Some((start < end).then_some((start, end)))
}

fn created(name: &str, address: &Address) -> Response {
    Response::new(201)
        .with_header("Location", format!("/v2/{name}/blobs/{address}"))
        .with_header("Docker-Content-Digest", address)
}

fn accepted(status: u16, name: &str, id: &str, size: u64) -> Response {
    Response::new(status)
        .with_header("Location", format!("/v2/{name}/blobs/uploads/{id}"))
        .with_header("Docker-Upload-UUID", id)
        .with_header("Range", format!("0-{}", size.saturating_sub(1)))
}

const MAX_UPLOADS: usize = 1024;
/// After this time nobody will go on with an upload.
const MAX_IDLE: Duration = Duration::from_secs(3600);
const BUFFER_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let cases = [
            ("bytes=0-", Some(Some((0, 10)))),
            ("bytes=2-3", Some(Some((2, 4)))),
            ("bytes=2-99", Some(Some((2, 10)))),
            ("bytes=-3", Some(Some((7, 10)))),
            ("bytes=10-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=5-2", Some(None)),
            (
                "bytes=18446744073709551615-18446744073709551615",
                Some(None),
            ),
            ("bytes=a-", None),
            ("lines=0-", None),
            ("", None),
        ];
        for (text, range) in cases {
            assert_eq!(parse_range(text, 10), range, "{text}");
        }
    }
}
