//! Where a registry keeps its files: a directory, or memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use super::lock;

/// Keeps files by key: a relative path of harmless components.
pub(super) enum Files {
    Directory(PathBuf),
    Memory {
        files: Mutex<BTreeMap<String, Kept>>,
        room: Arc<Room>,
        gate: RwLock<()>,
    },
}

/// A file in memory.
#[derive(Clone)]
pub(super) struct Kept {
    bytes: Arc<[u8]>,
    modified: SystemTime,
}

impl Kept {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: bytes.into(),
            modified: SystemTime::now(),
        }
    }
}

/// Holds the gate between those who add and those who sweep, other programs on the same directory included.
pub(super) enum Guard<'a> {
    /// The lock goes with the file.
    File {
        _file: File,
    },
    Shared {
        _guard: RwLockReadGuard<'a, ()>,
    },
    Exclusive {
        _guard: RwLockWriteGuard<'a, ()>,
    },
}

/// A file that nobody can see yet.
pub(super) enum Draft {
    Directory {
        file: File,
        path: PathBuf,
        size: u64,
    },
    Memory {
        bytes: Vec<u8>,
        room: Arc<Room>,
    },
}

impl Files {
    pub(super) fn in_directory(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root.join("uploads"))?;
        Ok(Self::Directory(root.to_owned()))
    }

    pub(super) fn in_memory(limit: u64) -> Self {
        Self::Memory {
            files: Mutex::default(),
            room: Arc::new(Room(AtomicU64::new(limit))),
            gate: RwLock::default(),
        }
    }

    /// Keeps sweepers out, while something is added that refers to what is there.
    pub(super) fn share(&self) -> io::Result<Guard<'_>> {
        match self {
            Self::Directory(root) => {
                let file = gate(root)?;
                file.lock_shared()?;
                Ok(Guard::File { _file: file })
            }
            Self::Memory { gate, .. } => {
                let _guard = gate.read().unwrap_or_else(PoisonError::into_inner);
                Ok(Guard::Shared { _guard })
            }
        }
    }

    /// Keeps everybody else out who adds or sweeps.
    pub(super) fn close(&self) -> io::Result<Guard<'_>> {
        match self {
            Self::Directory(root) => {
                let file = gate(root)?;
                file.lock()?;
                Ok(Guard::File { _file: file })
            }
            Self::Memory { gate, .. } => {
                let _guard = gate.write().unwrap_or_else(PoisonError::into_inner);
                Ok(Guard::Exclusive { _guard })
            }
        }
    }

    /// When a file was put or touched last, and its size; `None` if there is none.
    pub(super) fn modified(&self, key: &str) -> io::Result<Option<(SystemTime, u64)>> {
        match self {
            Self::Directory(root) => match fs::metadata(root.join(key)) {
                Ok(meta) => Ok(Some((meta.modified()?, meta.len()))),
                Err(error) if is_missing(&error) => Ok(None),
                Err(error) => Err(error),
            },
            Self::Memory { files, .. } => Ok(lock(files)
                .get(key)
                .map(|kept| (kept.modified, kept.bytes.len() as u64))),
        }
    }

    /// Makes a file as good as new; tells whether it is there.
    pub(super) fn touch(&self, key: &str) -> io::Result<bool> {
        match self {
            Self::Directory(root) => match File::options().write(true).open(root.join(key)) {
                Ok(file) => file.set_modified(SystemTime::now()).map(|()| true),
                Err(error) if is_missing(&error) => Ok(false),
                Err(error) => Err(error),
            },
            Self::Memory { files, .. } => {
                let mut files = lock(files);
                let kept = files.get_mut(key);
                Ok(kept.map(|kept| kept.modified = SystemTime::now()).is_some())
            }
        }
    }

    /// The sorted names of all repositories.
    pub(super) fn repositories(&self) -> io::Result<Vec<String>> {
        let keys = self.list("repositories")?;
        let mut names: Vec<String> = keys
            .iter()
            .filter_map(|key| key.strip_prefix("repositories/"))
            .filter_map(|key| key.split_once("/_").map(|(name, _)| name.to_owned()))
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Opens a file at `offset`, with its whole size.
    pub(super) fn open(&self, key: &str, offset: u64) -> io::Result<Option<(Box<dyn Read>, u64)>> {
        match self {
            Self::Directory(root) => {
                let mut file = match File::open(root.join(key)) {
                    Ok(file) => file,
                    Err(error) if is_missing(&error) => return Ok(None),
                    Err(error) => return Err(error),
                };
                let meta = file.metadata()?;
                if !meta.is_file() {
                    return Ok(None);
                }
                file.seek(SeekFrom::Start(offset))?;
                Ok(Some((Box::new(file), meta.len())))
            }
            Self::Memory { files, .. } => {
                let Some(kept) = lock(files).get(key).cloned() else {
                    return Ok(None);
                };
                let size = kept.bytes.len() as u64;
                let mut cursor = Cursor::new(kept.bytes);
                cursor.set_position(offset);
                Ok(Some((Box::new(cursor), size)))
            }
        }
    }

    pub(super) fn read(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        let Some((reader, _)) = self.open(key, 0)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        reader
            .take(crate::json::MAX_DOCUMENT_BYTES)
            .read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    pub(super) fn exists(&self, key: &str) -> io::Result<bool> {
        Ok(self.open(key, 0)?.is_some())
    }

    pub(super) fn draft(&self) -> io::Result<Draft> {
        match self {
            Self::Directory(root) => {
                let name = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
                let path = root.join("uploads").join(name);
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&path)?;
                Ok(Draft::Directory {
                    file,
                    path,
                    size: 0,
                })
            }
            Self::Memory { room, .. } => Ok(Draft::Memory {
                bytes: Vec::new(),
                room: room.clone(),
            }),
        }
    }

    /// Makes a draft visible under `key`.
    pub(super) fn publish(&self, mut draft: Draft, key: &str) -> io::Result<()> {
        match (self, &mut draft) {
            (Self::Directory(root), Draft::Directory { file, path, .. }) => {
                file.sync_all()?;
                let target = root.join(key);
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent)?;
                    fs::rename(path, &target)?;
                    File::open(parent)?.sync_all()?;
                }
                Ok(())
            }
            (Self::Memory { files, .. }, Draft::Memory { bytes, room }) => {
                let kept = Kept::new(std::mem::take(bytes));
                if let Some(before) = lock(files).insert(key.to_owned(), kept) {
                    room.free(before.bytes.len());
                }
                Ok(())
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    pub(super) fn put(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let mut draft = self.draft()?;
        draft.write_all(bytes)?;
        self.publish(draft, key)
    }

    /// Removes a file; succeeds if there is none.
    pub(super) fn remove(&self, key: &str) -> io::Result<()> {
        match self {
            Self::Directory(root) => match fs::remove_file(root.join(key)) {
                Err(error) if !is_missing(&error) => Err(error),
                _ => Ok(()),
            },
            Self::Memory { files, room, .. } => {
                if let Some(before) = lock(files).remove(key) {
                    room.free(before.bytes.len());
                }
                Ok(())
            }
        }
    }

    /// The sorted keys below `folder`, at any depth.
    pub(super) fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        match self {
            Self::Directory(root) => {
                let mut keys = Vec::new();
                let mut folders = vec![folder.to_owned()];
                while let Some(folder) = folders.pop() {
                    let entries = match fs::read_dir(root.join(&folder)) {
                        Ok(entries) => entries,
                        Err(error) if is_missing(&error) => continue,
                        Err(error) => return Err(error),
                    };
                    for entry in entries {
                        let entry = entry?;
                        let Some(name) = entry.file_name().to_str().map(ToOwned::to_owned) else {
                            continue;
                        };
                        let key = format!("{folder}/{name}");
                        let list = if entry.file_type()?.is_dir() {
                            &mut folders
                        } else {
                            &mut keys
                        };
                        list.push(key);
                    }
                }
                keys.sort();
                Ok(keys)
            }
            Self::Memory { files, .. } => {
                let start = format!("{folder}/");
                let files = lock(files);
                let below = files.range(start.clone()..).map(|(key, _)| key);
                Ok(below
                    .take_while(|key| key.starts_with(&start))
                    .cloned()
                    .collect())
            }
        }
    }
}

fn gate(root: &Path) -> io::Result<File> {
    let mut options = File::options();
    options
        .create(true)
        .truncate(false)
        .write(true)
        .open(root.join("lock"))
}

impl Draft {
    /// Reads what was written.
    pub(super) fn reader(&mut self) -> io::Result<Box<dyn Read + '_>> {
        match self {
            Self::Directory { file, .. } => {
                file.rewind()?;
                Ok(Box::new(file))
            }
            Self::Memory { bytes, .. } => Ok(Box::new(&bytes[..])),
        }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        match self {
            Self::Directory { size, .. } => *size,
            Self::Memory { bytes, .. } => bytes.len() as u64,
        }
    }
}

impl Write for Draft {
    fn write(&mut self, input: &[u8]) -> io::Result<usize> {
        match self {
            Self::Directory { file, size, .. } => {
                let count = file.write(input)?;
                *size += count as u64;
                Ok(count)
            }
            Self::Memory { bytes, room } => {
                room.take(input.len())?;
                bytes.extend_from_slice(input);
                Ok(input.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        match self {
            // Gone already if it was published.
            Self::Directory { path, .. } => drop(fs::remove_file(path)),
            Self::Memory { bytes, room } => room.free(bytes.len()),
        }
    }
}

/// How many bytes may still be kept in memory, drafts included.
pub(super) struct Room(AtomicU64);

impl Room {
    fn take(&self, count: usize) -> io::Result<()> {
        let less = |left: u64| left.checked_sub(count as u64);
        match self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn free(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// A file in the place of a folder is as good as nothing.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_given_back() {
        let files = Files::in_memory(10);
        files.put("a", b"12345").unwrap();
        files.put("a", b"12345").unwrap();
        let mut draft = files.draft().unwrap();
        draft.write_all(b"12345").unwrap();
        let full = files.put("b", b"1").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        drop(draft);
        files.put("b", b"12345").unwrap();
        files.remove("a").unwrap();
        files.put("c", b"12345").unwrap();
        assert_eq!(files.list("x").unwrap(), Vec::<String>::new());
    }
}
