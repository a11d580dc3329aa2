//! A large blob in parts, of which several are on their way at once.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::blob::{PART_BYTES, Span};
use super::lock;

/// Reads a blob whose parts threads fetch ahead: as many threads as parts are on their way, and as many parts in
/// memory.
pub(super) struct Parts {
    shared: Arc<Shared>,
    current: Cursor<Vec<u8>>,
    number: u64,
    count: u64,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The first part, until a thread has taken it.
    first: Mutex<Option<Span>>,
}

#[derive(Default)]
struct State {
    /// The part that is fetched next.
    next: u64,
    /// The part that is read; those before it were.
    reading: u64,
    ready: BTreeMap<u64, io::Result<Vec<u8>>>,
    stopped: bool,
}

impl Parts {
    /// Fetches the parts of the blob of `whole` in `threads`; the request for the `first` part was answered.
    pub(super) fn start(whole: &Span, first: Span, threads: usize) -> Self {
        let count = whole.size.div_ceil(PART_BYTES);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            first: Mutex::new(Some(first)),
        });
        let threads = u64::try_from(threads).unwrap_or(u64::MAX).min(count);
        for _ in 0..threads {
            let (shared, whole) = (shared.clone(), whole.part(0));
            std::thread::spawn(move || {
                while let Some(number) = shared.take(count, threads) {
                    let first = if number == 0 {
                        lock(&shared.first).take()
                    } else {
                        None
                    };
                    let part = first.unwrap_or_else(|| whole.part(number));
                    let fetched = shared.fetch(part);
                    lock(&shared.state).ready.insert(number, fetched);
                    shared.changed.notify_all();
                }
            });
        }
        Self {
            shared,
            current: Cursor::default(),
            number: 0,
            count,
        }
    }
}

impl Shared {
    /// The number of the part to fetch next, once there is room for it.
    fn take(&self, count: u64, room: u64) -> Option<u64> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped || state.next == count {
                return None;
            }
            if state.next < state.reading + room {
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self.wait(state);
        }
    }

    fn fetch(&self, mut part: Span) -> io::Result<Vec<u8>> {
        let size = part.left();
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < size {
            if lock(&self.state).stopped {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let left = size - bytes.len() as u64;
            let count = part
                .by_ref()
                .take(left.min(SLICE_BYTES))
                .read_to_end(&mut bytes)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(bytes)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let woken = self.changed.wait(state);
        woken.unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.number == self.count {
                return Ok(count);
            }
            let mut state = lock(&self.shared.state);
            let bytes = loop {
                if let Some(ready) = state.ready.remove(&self.number) {
                    break ready?;
                }
                state = self.shared.wait(state);
            };
            self.current = Cursor::new(bytes);
            self.number += 1;
            state.reading = self.number;
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for Parts {
    /// Nobody waits for the threads: they end by themselves, with the next bytes or when their time is over.
    fn drop(&mut self) {
        lock(&self.shared.state).stopped = true;
        self.shared.changed.notify_all();
    }
}

/// After how many bytes a thread looks whether it is still needed.
const SLICE_BYTES: u64 = 256 << 10;
