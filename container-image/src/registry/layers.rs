//! Layers on their way: from a registry or the store, through hashing and decompression, into
//! directories.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};

use super::client::Client;
use super::pipe::{PipeWriter, pipe};
use super::progress::{Phase, Reporter};
use crate::layer::{self, UnpackOptions, Unpacked};
use crate::store::from_io;
use crate::{Digest, Error, ErrorKind, HashReader, Image, Layer, Lease, Reference, Result};

/// The result of a [`LayerSink`], with an error of whatever kind it has.
pub type SinkResult<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Keeps unpacked layers. Called from several threads at once.
///
/// For each layer: `prepare`, then either `commit` or `abort`. `commit` is called base first, and
/// only when size, digest and diff ID of the layer were right.
pub trait LayerSink: Send + Sync {
    /// Whether each layer is prepared only after its parent was committed.
    fn in_order(&self) -> bool;

    /// Gives the empty directory to unpack `layer` into, or `None` if the sink has it already.
    ///
    /// # Errors
    /// Any; the transfer ends then.
    fn prepare(&self, layer: &Layer) -> SinkResult<Option<UnpackTarget>>;

    /// Takes what was unpacked; the sink syncs it to disk before it records it.
    ///
    /// # Errors
    /// Any; the transfer ends then, and `abort` is called.
    fn commit(&self, layer: &Layer, unpacked: &Unpacked) -> SinkResult<()>;

    /// Drops what was prepared.
    fn abort(&self, layer: &Layer);
}

/// Where and how to unpack a layer.
#[derive(Debug)]
pub struct UnpackTarget {
    /// An empty directory.
    pub directory: OwnedFd,
    /// How to unpack.
    pub options: UnpackOptions,
}

/// Where blobs come from that are not in the store.
#[derive(Clone, Copy)]
pub(super) struct Remote<'a> {
    pub(super) client: &'a Client,
    pub(super) reference: &'a Reference,
    pub(super) lease: &'a Lease,
}

/// What it takes to bring the layers of an image in.
pub(super) struct Transfer<'a> {
    pub(super) image: &'a Image,
    pub(super) remote: Option<Remote<'a>>,
    pub(super) sink: Option<&'a dyn LayerSink>,
    pub(super) reporter: &'a Reporter,
    pub(super) concurrency: usize,
    pub(super) cancel: &'a AtomicBool,
}

impl Transfer<'_> {
    /// Brings all layers into the store and into the sink. Returns whether anything had to be done.
    pub(super) fn run(&self) -> Result<bool> {
        let stop = AtomicBool::new(false);
        for layer in self.image.layers() {
            self.tell(layer, Phase::Waiting, 0);
        }
        match self.sink {
            Some(sink) if sink.in_order() => {
                let mut worked = false;
                if self.remote.is_some() {
                    worked |= Transfer {
                        sink: None,
                        ..*self
                    }
                    .side_by_side(&stop)?;
                }
                Ok(Transfer {
                    remote: None,
                    concurrency: 1,
                    ..*self
                }
                .one_by_one(sink, &stop)?
                    || worked)
            }
            _ => self.side_by_side(&stop),
        }
    }

    /// Unpacks layer after layer from the store.
    fn one_by_one(&self, sink: &dyn LayerSink, stop: &AtomicBool) -> Result<bool> {
        let mut worked = false;
        for layer in self.image.layers() {
            if let Some(target) = sink.prepare(layer).map_err(|error| failed(layer, error))? {
                worked = true;
                let result = self
                    .unpack(layer, &target, |pipe| {
                        self.feed_from_store(layer, Some(pipe), stop)
                    })
                    .and_then(|unpacked| {
                        sink.commit(layer, &unpacked)
                            .map_err(|error| failed(layer, error))
                    });
                if let Err(error) = result {
                    sink.abort(layer);
                    return Err(error);
                }
            }
            self.tell(layer, Phase::Complete, layer.descriptor.size_bytes);
        }
        Ok(worked)
    }

    /// Works on several layers at once and commits them base first.
    fn side_by_side(&self, stop: &AtomicBool) -> Result<bool> {
        let layers = self.image.layers();
        let state = Shared::new(layers, stop);
        let mut failure = None;
        let mut worked = false;
        std::thread::scope(|scope| {
            let (sender, results) = channel();
            for _ in 0..self.concurrency.clamp(1, layers.len().max(1)) {
                let (sender, state) = (sender.clone(), &state);
                scope.spawn(move || {
                    while let Some(layer) = state.next(layers) {
                        let result = self.bring(layer, state);
                        let failed = result.is_err();
                        let gone = sender.send((layer.index, result)).is_err();
                        if failed || gone {
                            // After the error, so that it comes before those that it causes.
                            state.stop.store(true, Ordering::Relaxed);
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let mut done = BTreeMap::new();
            let mut next = 0;
            for (index, result) in results {
                match result {
                    Ok(outcome) => {
                        worked |= outcome.worked;
                        done.insert(index, outcome.unpacked);
                    }
                    Err(error) => {
                        // What follows from stopping is not what went wrong.
                        failure.get_or_insert(error);
                    }
                }
                while failure.is_none()
                    && let Some(unpacked) = done.remove(&next)
                {
                    if let Err(error) = self.commit(&layers[next], unpacked, &state) {
                        stop.store(true, Ordering::Relaxed);
                        failure = Some(error);
                    }
                    next += 1;
                }
            }
        });
        if let Some(sink) = self.sink {
            for index in state.prepared() {
                sink.abort(&layers[index]);
            }
        }
        failure.map_or(Ok(worked), Err)
    }

    /// Brings one layer into the store, and into a directory of the sink where it has none.
    fn bring(&self, layer: &Layer, state: &Shared<'_>) -> Result<Outcome> {
        self.check(state.stop)?;
        let target = match self.sink {
            Some(sink) => sink.prepare(layer).map_err(|error| failed(layer, error))?,
            None => None,
        };
        if target.is_some() {
            state.set_prepared(layer, true);
        }
        // The same blob may be several layers; it is fetched once.
        let turn = state.turns[&layer.descriptor.digest].lock();
        let _turn = turn.unwrap_or_else(PoisonError::into_inner);
        let stop = state.stop;
        let remote = match self.remote {
            Some(remote) if !self.is_whole(layer, remote, stop)? => Some(remote),
            _ => None,
        };
        let unpacked = match (remote, &target) {
            (Some(remote), Some(target)) => {
                let feed = |pipe| self.feed_from_registry(layer, remote, Some(pipe), stop);
                Some(self.unpack(layer, target, feed)?)
            }
            (Some(remote), None) => {
                self.feed_from_registry(layer, remote, None, stop)?;
                None
            }
            (None, Some(target)) => {
                let feed = |pipe| self.feed_from_store(layer, Some(pipe), stop);
                Some(self.unpack(layer, target, feed)?)
            }
            (None, None) => {
                self.tell(layer, Phase::Exists, layer.descriptor.size_bytes);
                None
            }
        };
        Ok(Outcome {
            worked: remote.is_some() || target.is_some(),
            unpacked,
        })
    }

    fn commit(&self, layer: &Layer, unpacked: Option<Unpacked>, state: &Shared<'_>) -> Result<()> {
        if let (Some(sink), Some(unpacked)) = (self.sink, unpacked) {
            sink.commit(layer, &unpacked)
                .map_err(|error| failed(layer, error))?;
            state.set_prepared(layer, false);
        }
        self.tell(layer, Phase::Complete, layer.descriptor.size_bytes);
        Ok(())
    }

    /// Whether the blob is in the store, with each of its bytes as it should be. A damaged one is
    /// fetched again.
    fn is_whole(&self, layer: &Layer, remote: Remote<'_>, stop: &AtomicBool) -> Result<bool> {
        let blob = &layer.descriptor;
        remote.lease.protect(blob.digest)?;
        if !self.image.store().contains(blob)? {
            return Ok(false);
        }
        match self.feed_from_store(layer, None, stop) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Integrity => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn feed_from_store(
        &self,
        layer: &Layer,
        pipe: Option<PipeWriter>,
        stop: &AtomicBool,
    ) -> Result<()> {
        let phase = pipe.is_some().then_some(Phase::Extracting);
        let mut blob = self.image.open_layer(layer)?;
        self.feed(layer, &mut blob, None, pipe, phase, stop)
    }

    fn feed_from_registry(
        &self,
        layer: &Layer,
        remote: Remote<'_>,
        pipe: Option<PipeWriter>,
        stop: &AtomicBool,
    ) -> Result<()> {
        let blob = &layer.descriptor;
        let mut ingest = remote.lease.ingest(blob)?;
        let mut stream = remote.client.blob(remote.reference, blob)?;
        let phase = Some(Phase::Downloading);
        self.feed(layer, &mut stream, Some(&mut ingest), pipe, phase, stop)?;
        ingest.commit(blob)?;
        self.tell(layer, Phase::Downloaded, blob.size_bytes);
        Ok(())
    }

    /// Reads `source` to its end, into the `ingest` and into the `pipe`.
    ///
    /// That nobody reads from the pipe any more is no reason to stop: whether the bytes are what
    /// they should be explains why they could not be unpacked, and a blob that is right is worth
    /// keeping.
    fn feed(
        &self,
        layer: &Layer,
        source: &mut dyn Read,
        mut ingest: Option<&mut dyn Write>,
        pipe: Option<PipeWriter>,
        phase: Option<Phase>,
        stop: &AtomicBool,
    ) -> Result<()> {
        let doing = || format!("bring layer {} in", layer.descriptor.digest);
        let mut writer = pipe.unwrap_or_else(|| super::pipe::pipe().0);
        let mut done = 0;
        loop {
            self.check(stop)?;
            let mut buffer = writer.buffer();
            let count = source
                .read(&mut buffer)
                .map_err(|error| from_io(&doing(), error))?;
            if count == 0 {
                writer.finish();
                return Ok(());
            }
            if let Some(ingest) = &mut ingest {
                let written = ingest.write_all(&buffer[..count]);
                written.map_err(|error| Error::os(doing(), error))?;
            }
            done += count as u64;
            writer.send(buffer, count);
            if let Some(phase) = phase {
                self.tell(layer, phase, done);
            }
        }
    }

    /// Unpacks what `feed` writes, in three threads: reading and hashing, decompressing, and
    /// hashing again and unpacking.
    fn unpack(
        &self,
        layer: &Layer,
        target: &UnpackTarget,
        feed: impl FnOnce(PipeWriter) -> Result<()>,
    ) -> Result<Unpacked> {
        let (compressed, compressed_end) = pipe();
        let (mut archive, archive_end) = pipe();
        std::thread::scope(|scope| {
            let inflating = scope.spawn(move || {
                let mut plain = layer::decompress(compressed_end)?;
                loop {
                    let mut buffer = archive.buffer();
                    let count = plain
                        .read(&mut buffer)
                        .map_err(|error| from_io("decompress the layer", error))?;
                    if count == 0 {
                        archive.finish();
                        return Ok(());
                    }
                    if !archive.send(buffer, count) {
                        return Ok(());
                    }
                }
            });
            let unpacking = scope.spawn(move || {
                let mut archive = HashReader::new(archive_end);
                let unpacked =
                    layer::unpack(&mut archive, target.directory.as_fd(), &target.options)?;
                std::io::copy(&mut archive, &mut std::io::sink())
                    .map_err(|error| from_io("read the end of the layer", error))?;
                let got = archive.into_parts().1.finish();
                if got != layer.diff_id {
                    let doing = format!("unpack layer {}", layer.descriptor.digest);
                    return Err(Error::mismatch("DiffIdMismatch", doing, layer.diff_id, got));
                }
                Ok(unpacked)
            });
            let fed = feed(compressed);
            let inflated: Result<()> = inflating.join().unwrap_or_else(panicked);
            let unpacked = unpacking.join().unwrap_or_else(panicked);
            // The first of them that failed made the others fail.
            let context =
                |error: Error| error.context(format!("unpack layer {}", layer.descriptor.digest));
            fed.and_then(|()| inflated.map_err(context))?;
            unpacked.map_err(context)
        })
    }

    fn check(&self, stop: &AtomicBool) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed) {
            return Err(Error::new(
                ErrorKind::Cancelled,
                "Cancelled",
                "bring layers in",
            ));
        }
        Ok(())
    }

    fn tell(&self, layer: &Layer, phase: Phase, done: u64) {
        self.reporter.tell(
            layer.descriptor.digest,
            phase,
            done,
            layer.descriptor.size_bytes,
        );
    }
}

impl fmt::Debug for Transfer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer")
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

struct Outcome {
    worked: bool,
    unpacked: Option<Unpacked>,
}

/// What the workers of one transfer share.
struct Shared<'a> {
    next: AtomicUsize,
    stop: &'a AtomicBool,
    turns: HashMap<Digest, Mutex<()>>,
    prepared: Mutex<BTreeSet<usize>>,
}

impl<'a> Shared<'a> {
    fn new(layers: &[Layer], stop: &'a AtomicBool) -> Self {
        let turns = layers
            .iter()
            .map(|layer| (layer.descriptor.digest, Mutex::new(())))
            .collect();
        Self {
            next: AtomicUsize::new(0),
            stop,
            turns,
            prepared: Mutex::default(),
        }
    }

    fn next<'l>(&self, layers: &'l [Layer]) -> Option<&'l Layer> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        layers.get(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn set_prepared(&self, layer: &Layer, prepared: bool) {
        let mut all = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if prepared {
            all.insert(layer.index);
        } else {
            all.remove(&layer.index);
        }
    }

    fn prepared(&self) -> BTreeSet<usize> {
        self.prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What a sink failed with; an error of this crate stays what it is.
fn failed(layer: &Layer, error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let doing = format!("keep layer {}", layer.descriptor.digest);
    match error.downcast::<Error>() {
        Ok(error) => error.context(doing),
        Err(error) => Error::new(ErrorKind::Internal, "SinkFailed", doing).with_source(error),
    }
}

fn panicked<T>(_: Box<dyn std::any::Any + Send>) -> Result<T> {
    Err(Error::new(
        ErrorKind::Internal,
        "Panicked",
        "unpack a layer",
    ))
}
