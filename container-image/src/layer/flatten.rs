//! Flattening: the archives of several layers turned into one, without unpacking them.
//!
//! The layers are read twice. The first time, what they would unpack to is put together in memory,
//! without the contents of files. The second time, the contents of those files that are left are
//! written as they come by.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;

use super::compress::Decompressed;
use super::entry::{Entry, EntryKind, clean, show, split, to_path};
use super::pack::{Packed, Packer};
use super::reader::{Member, Reader, Segment};
use super::whiteout::{Meaning, meaning};
use super::{Limits, xattr};
use crate::{Error, Result};

/// Writes what `layers` archives, base first, have together into `packer`. `open` opens one of them,
/// the same each time.
///
/// Entries that are no files come first, parents before what is in them; files follow in the order of
/// the layers.
///
/// # Errors
/// Those of reading in [`unpack`](super::unpack()), and what writing fails with.
pub(crate) fn flatten<'a, W: Write>(
    layers: usize,
    open: &mut dyn FnMut(usize) -> Result<Decompressed<'a>>,
    mut packer: Packer<W>,
    limits: &Limits,
) -> Result<Packed> {
    let mut merge = Merge::new(limits.entries);
    for layer in 0..layers {
        merge.layer = layer;
        let mut tar = open(layer)?;
        let mut reader = Reader::new(&mut tar, limits.bytes);
        let mut ordinal = 0;
        while let Some(member) = reader.next()? {
            merge.apply(member.entry, (layer, ordinal))?;
            ordinal += 1;
        }
        reader.drain()?;
    }
    let files = merge.write_all_but_files(&mut packer)?;
    for layer in 0..layers {
        let mut tar = open(layer)?;
        let mut reader = Reader::new(&mut tar, limits.bytes);
        let mut ordinal = 0;
        while let Some(member) = reader.next()? {
            if let Some(inode) = files.get(&(layer, ordinal)) {
                merge.write_file(*inode, member, &mut reader, &mut packer)?;
            }
            ordinal += 1;
        }
    }
    Ok(packer.finish()?.0)
}

/// Which member of which layer.
type Place = (usize, u64);

/// What the layers so far would unpack to.
struct Merge {
    nodes: Vec<Node>,
    inodes: Vec<Inode>,
    /// The layer that is being read.
    layer: usize,
    limit: u64,
}

/// A name in a directory. Those that went stay in the list, but no directory has them.
struct Node {
    inode: usize,
    /// The layer that brought it, last.
    layer: usize,
    /// What is in it, if it is a directory.
    children: BTreeMap<Vec<u8>, usize>,
}

/// A file, which may have several names.
struct Inode {
    entry: Entry,
    /// Where its contents are.
    place: Place,
    /// Its paths, once all layers were read.
    paths: Vec<Vec<u8>>,
}

impl Merge {
    fn new(limit: u64) -> Self {
        let mut merge = Self {
            nodes: Vec::new(),
            inodes: Vec::new(),
            layer: 0,
            limit,
        };
        merge.implied_directory();
        merge
    }

    fn apply(&mut self, mut entry: Entry, place: Place) -> Result<()> {
        if self.nodes.len() as u64 >= self.limit {
            let doing = format!("put together more than {} files", self.limit);
            return Err(Error::invalid("LimitExceeded", doing));
        }
        entry.xattrs.retain(|(name, _)| xattr::is_portable(name));
        let path = clean(entry.path_bytes())?;
        match meaning(&path)? {
            Meaning::Nothing => Ok(()),
            Meaning::Opaque(directory) => {
                let directory = self.directory(directory)?;
                self.empty(directory);
                Ok(())
            }
            Meaning::Gone { parent, name } => {
                let parent = self.directory(parent)?;
                if let Some(node) = self.nodes[parent].children.get(name).copied()
                    && !self.keeps(node)
                {
                    self.nodes[parent].children.remove(name);
                }
                Ok(())
            }
            Meaning::File => self.add(&path, entry, place),
        }
    }

    fn add(&mut self, path: &[u8], entry: Entry, place: Place) -> Result<()> {
        let is_directory = entry.kind == EntryKind::Directory;
        if path.is_empty() {
            if !is_directory {
                let doing = "flatten the root entry: it is not a directory";
                return Err(Error::invalid("InvalidPath", doing));
            }
            self.inodes[0].entry = entry;
            return Ok(());
        }
        let (above, name) = split(path);
        let parent = self.directory(above)?;
        let there = self.nodes[parent].children.get(name).copied();
        if let Some(node) = there
            && is_directory
            && self.is_directory(node)
        {
            self.inodes[self.nodes[node].inode].entry = entry;
            self.nodes[node].layer = self.layer;
            return Ok(());
        }
        let inode = match &entry.kind {
            EntryKind::HardLink { target } => {
                self.target(path, target.as_os_str().as_bytes(), there)?
            }
            _ => {
                let paths = Vec::new();
                self.inodes.push(Inode {
                    entry,
                    place,
                    paths,
                });
                self.inodes.len() - 1
            }
        };
        self.put(parent, name, inode);
        Ok(())
    }

    fn put(&mut self, parent: usize, name: &[u8], inode: usize) -> usize {
        self.nodes.push(Node {
            inode,
            layer: self.layer,
            children: BTreeMap::new(),
        });
        let node = self.nodes.len() - 1;
        self.nodes[parent].children.insert(name.to_vec(), node);
        node
    }

    /// A directory that has no entry yet.
    fn implied_directory(&mut self) -> usize {
        self.inodes.push(Inode {
            entry: Entry::new("", EntryKind::Directory),
            place: (usize::MAX, 0),
            paths: Vec::new(),
        });
        self.nodes.push(Node {
            inode: self.inodes.len() - 1,
            layer: self.layer,
            children: BTreeMap::new(),
        });
        self.nodes.len() - 1
    }

    /// The directory `path`, by way of symbolic links, made where it is missing.
    fn directory(&mut self, path: &[u8]) -> Result<usize> {
        let mut todo: Vec<Vec<u8>> = components(path);
        let mut at = vec![0];
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                if at.len() > 1 {
                    at.pop();
                }
                continue;
            }
            let parent = at[at.len() - 1];
            let found = self.nodes[parent].children.get(&name).copied();
            let kind = found.map(|node| &self.inodes[self.nodes[node].inode].entry.kind);
            match (found, kind) {
                (Some(node), Some(EntryKind::Directory)) => at.push(node),
                (Some(_), Some(EntryKind::Symlink { target })) => {
                    links += 1;
                    if links > MAX_LINKS {
                        let doing = format!("resolve {}: too many symbolic links", show(path));
                        return Err(Error::invalid("InvalidLink", doing));
                    }
                    let target = target.as_os_str().as_bytes();
                    if target.starts_with(b"/") {
                        at.truncate(1);
                    }
                    todo.extend(components(target));
                }
                _ => {
                    // Nothing, or something that a directory takes the place of.
                    let made = self.implied_directory();
                    self.nodes[parent].children.insert(name, made);
                    at.push(made);
                }
            }
        }
        Ok(at[at.len() - 1])
    }

    /// The file that a hard link is another name of; not one that lies in what the link replaces.
    fn target(&self, link: &[u8], target: &[u8], replaced: Option<usize>) -> Result<usize> {
        let mut node = 0;
        for name in components(&clean(target)?).iter().rev() {
            match self.nodes[node].children.get(name) {
                Some(child) if replaced != Some(node) => node = *child,
                _ => {
                    node = 0;
                    break;
                }
            }
        }
        if self.is_directory(node) {
            let doing = format!(
                "link {} to {}: there is no such file",
                show(link),
                show(target)
            );
            return Err(Error::invalid("InvalidLink", doing));
        }
        Ok(self.nodes[node].inode)
    }

    fn is_directory(&self, node: usize) -> bool {
        self.inodes[self.nodes[node].inode].entry.kind == EntryKind::Directory
    }

    /// Takes what the layers below brought out of `directory`.
    fn empty(&mut self, directory: usize) {
        let mut children = std::mem::take(&mut self.nodes[directory].children);
        children.retain(|_, node| self.keeps(*node));
        self.nodes[directory].children = children;
    }

    /// Takes what the layers below brought out of `node`, and tells whether anything is left of it.
    fn keeps(&mut self, node: usize) -> bool {
        // The way down, to be gone back: no recursion on the depth of the tree.
        let mut order = vec![node];
        let mut next = 0;
        while next < order.len() {
            order.extend(self.nodes[order[next]].children.values());
            next += 1;
        }
        let mut gone = BTreeSet::new();
        for node in order.into_iter().rev() {
            let mut children = std::mem::take(&mut self.nodes[node].children);
            children.retain(|_, child| !gone.contains(child));
            if children.is_empty() && self.nodes[node].layer != self.layer {
                gone.insert(node);
            }
            self.nodes[node].children = children;
        }
        !gone.contains(&node)
    }

    /// Writes all but regular files and further names; gives the files by where their contents are.
    fn write_all_but_files<W: Write>(
        &mut self,
        packer: &mut Packer<W>,
    ) -> Result<BTreeMap<Place, usize>> {
        let mut files = BTreeMap::new();
        let mut todo = vec![(Vec::new(), 0)];
        while let Some((path, node)) = todo.pop() {
            let Node {
                inode, children, ..
            } = &self.nodes[node];
            for (name, child) in children.iter().rev() {
                let below = match path.is_empty() {
                    true => name.clone(),
                    false => [&path, &b"/"[..], name].concat(),
                };
                todo.push((below, *child));
            }
            let inode_index = *inode;
            let inode = &mut self.inodes[inode_index];
            match &inode.entry.kind {
                EntryKind::File { .. } => {
                    files.insert(inode.place, inode_index);
                }
                _ if inode.paths.is_empty() => {
                    inode.entry.path = to_path(&path);
                    packer.append(&inode.entry, &mut io::empty())?;
                }
                // Another name of a device or link.
                _ => packer.append(&link_to(inode, &path), &mut io::empty())?,
            }
            inode.paths.push(path);
        }
        Ok(files)
    }

    /// Writes a file with its contents, and its other names.
    fn write_file<W: Write>(
        &self,
        inode: usize,
        member: Member,
        reader: &mut Reader<'_>,
        packer: &mut Packer<W>,
    ) -> Result<()> {
        let inode = &self.inodes[inode];
        let mut entry = inode.entry.clone();
        entry.path = to_path(&inode.paths[0]);
        let mut contents = Contents::new(reader, member.segments);
        packer.append(&entry, &mut contents)?;
        for path in &inode.paths[1..] {
            packer.append(&link_to(inode, path), &mut io::empty())?;
        }
        Ok(())
    }
}

/// The entry of another name.
fn link_to(inode: &Inode, path: &[u8]) -> Entry {
    let kind = EntryKind::HardLink {
        target: to_path(&inode.paths[0]),
    };
    Entry {
        path: to_path(path),
        kind,
        xattrs: Vec::new(),
        ..inode.entry.clone()
    }
}

/// The components of a path, last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/');
    let names = names.filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(<[u8]>::to_vec).collect()
}

/// The contents of a member, with its holes as zeros.
struct Contents<'a, 'r> {
    reader: &'a mut Reader<'r>,
    /// What is left of the runs of data; none where the file is not sparse.
    segments: Option<std::vec::IntoIter<Segment>>,
    current: Segment,
    position: u64,
}

impl<'a, 'r> Contents<'a, 'r> {
    fn new(reader: &'a mut Reader<'r>, segments: Option<Vec<Segment>>) -> Self {
        let (mut segments, all) = match segments {
            Some(segments) => (Some(segments.into_iter()), 0),
            None => (None, u64::MAX),
        };
        let whole = Segment {
            offset: 0,
            size: all,
        };
        let current = segments.as_mut().and_then(Iterator::next).unwrap_or(whole);
        Self {
            reader,
            segments,
            current,
            position: 0,
        }
    }
}

impl Read for Contents<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.offset.saturating_add(self.current.size)
            && let Some(next) = self.segments.as_mut().and_then(Iterator::next)
        {
            self.current = next;
        }
        let room = buffer.len() as u64;
        let Segment { offset, size } = self.current;
        let end = offset.saturating_add(size);
        let count = if self.position < offset || self.position >= end {
            // A hole, or the one at the end; who reads knows how long the file is.
            let left = offset.checked_sub(self.position).filter(|left| *left > 0);
            let count = usize::try_from(room.min(left.unwrap_or(room))).unwrap_or(0);
            buffer[..count].fill(0);
            count
        } else {
            let bytes = self.reader.contents(room.min(end - self.position));
            let bytes = bytes.map_err(io::Error::other)?;
            buffer[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        };
        self.position += count as u64;
        Ok(count)
    }
}

/// How many symbolic links one path may lead through, as in the kernel.
const MAX_LINKS: usize = 40;
