//! gzip on all processors: blocks are compressed side by side and written one after the other as one
//! member. What comes out depends on the bytes and the level alone, not on how many processors there
//! are.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flate2::{Compress, Compression, Crc, FlushCompress};

/// Compresses what is written to it.
pub(super) struct ParallelGzip<W: Write> {
    output: W,
    level: u8,
    crc: Crc,
    block: Vec<u8>,
    /// The end of the block before, in which the next one finds repetitions.
    window: Vec<u8>,
    workers: Option<Workers>,
    /// Blocks under way, oldest first.
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
}

impl<W: Write> ParallelGzip<W> {
    pub(super) fn new(mut output: W, level: u8) -> io::Result<Self> {
        output.write_all(&HEADER)?;
        Ok(Self {
            output,
            level,
            crc: Crc::new(),
            block: Vec::new(),
            window: Vec::new(),
            workers: None,
            pending: VecDeque::new(),
        })
    }

    /// Writes what is left and gives the output back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        if self.pending.is_empty() {
            // No thread is worth its start for one small block.
            let last = self.take_block().compress()?;
            self.output.write_all(&last)?;
        } else {
            self.submit()?;
            while let Some(oldest) = self.pending.pop_front() {
                self.write(&oldest)?;
            }
        }
        self.output.write_all(&LAST_BLOCK)?;
        self.output.write_all(&self.crc.sum().to_le_bytes())?;
        self.output.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.output)
    }

    /// Hands the block to a worker; waits for the oldest one if enough are under way.
    fn submit(&mut self) -> io::Result<()> {
        let block = self.take_block();
        let workers = self.workers.get_or_insert_with(Workers::start);
        let most = 2 * workers.count;
        self.pending.push_back(workers.submit(block)?);
        if self.pending.len() >= most
            && let Some(oldest) = self.pending.pop_front()
        {
            self.write(&oldest)?;
        }
        Ok(())
    }

    fn take_block(&mut self) -> Block {
        let data = std::mem::take(&mut self.block);
        let window = data[data.len().saturating_sub(WINDOW_BYTES)..].to_vec();
        Block {
            level: self.level,
            window: std::mem::replace(&mut self.window, window),
            data,
        }
    }

    fn write(&mut self, compressed: &Receiver<io::Result<Vec<u8>>>) -> io::Result<()> {
        let compressed = compressed.recv().map_err(io::Error::other)??;
        self.output.write_all(&compressed)
    }
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.capacity() == 0 {
            self.block.reserve_exact(BLOCK_BYTES);
        }
        let count = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..count]);
        self.crc.update(&bytes[..count]);
        if self.block.len() == BLOCK_BYTES {
            self.submit()?;
        }
        Ok(count)
    }

    /// Does nothing: a block ends where it is full, whoever asks, so that the same bytes come out.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Block {
    level: u8,
    window: Vec<u8>,
    data: Vec<u8>,
}

impl Block {
    /// The block as deflate, ended at a byte but not the last one.
    fn compress(&self) -> io::Result<Vec<u8>> {
        let mut deflate = Compress::new(Compression::new(u32::from(self.level)), false);
        if !self.window.is_empty() {
            deflate
                .set_dictionary(&self.window)
                .map_err(io::Error::other)?;
        }
        let mut output = Vec::with_capacity(self.data.len() / 2 + SLACK_BYTES);
        let mut rest = &self.data[..];
        loop {
            let before = deflate.total_in();
            deflate
                .compress_vec(rest, &mut output, FlushCompress::Sync)
                .map_err(io::Error::other)?;
            let taken = usize::try_from(deflate.total_in() - before).unwrap_or(rest.len());
            rest = &rest[taken..];
            // Room that is left tells that everything has been written.
            if rest.is_empty() && output.len() < output.capacity() {
                return Ok(output);
            }
            output.reserve(SLACK_BYTES.max(rest.len() / 2));
        }
    }
}

type Job = (Block, Sender<io::Result<Vec<u8>>>);

/// Threads that end when this is dropped.
struct Workers {
    jobs: Sender<Job>,
    count: usize,
}

impl Workers {
    fn start() -> Self {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let count = workers();
        for _ in 0..count {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((block, result)) = next else { return };
                    // Who does not wait any more needs no result.
                    let _ = result.send(block.compress());
                }
            });
        }
        Self { jobs, count }
    }

    fn submit(&self, block: Block) -> io::Result<Receiver<io::Result<Vec<u8>>>> {
        let (sender, receiver) = channel();
        let sent = self.jobs.send((block, sender));
        sent.map_err(|_| io::Error::other("the threads that compress ended"))?;
        Ok(receiver)
    }
}

/// How many threads compress one layer.
pub(super) fn workers() -> usize {
    let there = thread::available_parallelism().map_or(1, NonZero::get);
    there.min(MAX_WORKERS)
}

/// More would need more memory than a layer is worth: two blocks each, and what comes out of them.
const MAX_WORKERS: usize = 8;

/// Large enough that the seams do not matter, small enough for many in memory.
const BLOCK_BYTES: usize = 512 << 10;

/// How far back deflate looks.
const WINDOW_BYTES: usize = 32 << 10;

/// Room for what does not compress, and for the end of a block.
const SLACK_BYTES: usize = 4 << 10;

/// Of a file without a name or time, made on any system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// An empty block that is the last one.
const LAST_BLOCK: [u8; 2] = [3, 0];

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::bufread::GzDecoder;

    use super::*;

    #[test]
    fn blocks_make_one_member_whatever_their_sizes() {
        let text = b"the same words again and again, and some others: ";
        let mut data: Vec<u8> = Vec::new();
        let mut state = 7_u64;
        while data.len() < 3 * BLOCK_BYTES + 1234 {
            data.extend_from_slice(text);
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            data.extend_from_slice(&state.to_le_bytes());
        }
        for size in [
            0,
            1,
            100,
            BLOCK_BYTES - 1,
            BLOCK_BYTES,
            BLOCK_BYTES + 1,
            data.len(),
        ] {
            let data = &data[..size];
            let whole = |step: usize| {
                let mut gzip = ParallelGzip::new(Vec::new(), 6).unwrap();
                data.chunks(step)
                    .for_each(|chunk| gzip.write_all(chunk).unwrap());
                gzip.finish().unwrap()
            };
            let bytes = whole(10_000);
            assert_eq!(bytes, whole(BLOCK_BYTES), "{size}");
            let mut plain = Vec::new();
            let mut reader = GzDecoder::new(&bytes[..]);
            reader.read_to_end(&mut plain).unwrap();
            assert_eq!(plain, data);
            assert!(reader.into_inner().is_empty());
        }
        // What does not compress does not grow much.
        let noise: Vec<u8> = (0..BLOCK_BYTES as u64)
            .map(|index| {
                index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7]
                    ^ (index >> 5).to_le_bytes()[0]
            })
            .collect();
        let mut gzip = ParallelGzip::new(Vec::new(), 1).unwrap();
        gzip.write_all(&noise).unwrap();
        assert!(gzip.finish().unwrap().len() < noise.len() + noise.len() / 100);
    }
}
