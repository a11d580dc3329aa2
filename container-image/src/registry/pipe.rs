//! A bounded pipe between two threads that hands over buffers instead of copying them.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// A pipe that holds [`DEPTH`] buffers of [`BUFFER_BYTES`].
pub(super) fn pipe() -> (PipeWriter, PipeReader) {
    let (full, incoming) = sync_channel(DEPTH);
    let (spent, empty) = channel();
    let chunk = Chunk {
        buffer: Vec::new(),
        filled: 0,
    };
    let reader = PipeReader {
        incoming,
        spent,
        chunk,
        position: 0,
        ended: false,
    };
    let writer = PipeWriter {
        full,
        empty,
        spare: None,
    };
    (writer, reader)
}

/// The end that is filled. Dropping it without [`PipeWriter::finish`] makes the reader fail.
pub(super) struct PipeWriter {
    full: SyncSender<Chunk>,
    empty: Receiver<Vec<u8>>,
    /// The buffer that nobody wanted.
    spare: Option<Vec<u8>>,
}

impl PipeWriter {
    /// A buffer to fill.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        let used = self.spare.take().or_else(|| self.empty.try_recv().ok());
        used.unwrap_or_else(|| vec![0; BUFFER_BYTES])
    }

    /// Sends the first `filled` bytes of `buffer`, waiting for room. Tells whether anybody reads.
    pub(super) fn send(&mut self, buffer: Vec<u8>, filled: usize) -> bool {
        if filled == 0 {
            self.spare = Some(buffer);
            return true;
        }
        match self.full.send(Chunk { buffer, filled }) {
            Ok(()) => true,
            Err(refused) => {
                self.spare = Some(refused.0.buffer);
                false
            }
        }
    }

    /// Tells the reader that all has been sent.
    pub(super) fn finish(self) {
        // A reader that has gone needs no end.
        let _ = self.full.send(Chunk {
            buffer: Vec::new(),
            filled: 0,
        });
    }
}

/// The end that is read.
pub(super) struct PipeReader {
    incoming: Receiver<Chunk>,
    spent: Sender<Vec<u8>>,
    chunk: Chunk,
    position: usize,
    ended: bool,
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.chunk.filled && !self.ended {
            let next = self.incoming.recv().map_err(|_| {
                io::Error::new(
                    io::ErrorKind::BrokenPipe,
                    "the source of the layer broke off",
                )
            })?;
            self.ended = next.filled == 0;
            let spent = std::mem::replace(&mut self.chunk, next);
            self.position = 0;
            if !spent.buffer.is_empty() {
                // A writer that has gone needs no buffers.
                let _ = self.spent.send(spent.buffer);
            }
        }
        let rest = &self.chunk.buffer[self.position..self.chunk.filled];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Ok(count)
    }
}

struct Chunk {
    buffer: Vec<u8>,
    /// 0 marks the end.
    filled: usize,
}

const BUFFER_BYTES: usize = 256 << 10;
const DEPTH: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_only_an_announced_end_is_one() {
        let (mut writer, mut reader) = pipe();
        let sender = std::thread::spawn(move || {
            for byte in 0..100_u8 {
                let mut buffer = writer.buffer();
                buffer[..3].fill(byte);
                assert!(writer.send(buffer, 3));
            }
            writer.finish();
        });
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        sender.join().unwrap();
        assert_eq!(
            bytes,
            (0..100).flat_map(|byte| [byte; 3]).collect::<Vec<u8>>()
        );

        let (mut writer, mut reader) = pipe();
        let buffer = writer.buffer();
        assert!(writer.send(buffer, 1));
        drop(writer);
        assert!(reader.read_to_end(&mut bytes).is_err());
    }
}
