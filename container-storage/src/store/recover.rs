//! Finishing or undoing what dead processes left.

use std::collections::HashSet;
use std::ffi::OsString;

use rustix::fs::FlockOperation;

use super::{Number, State, Store};
use crate::driver::Recovered;
use crate::{Error, ErrorKind, Result, tree};

impl Store {
    /// Does what the table of the module says.
    pub(crate) fn recover(&self) -> Result<Recovered> {
        let mut recovered = Recovered::default();
        let lock = self.lock(FlockOperation::LockExclusive)?;
        for name in self.names()? {
            let record = match self.read(&name) {
                Ok(record) => record,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(_) => {
                    recovered.broken.push(name);
                    continue;
                }
            };
            if record.state == State::Creating {
                let Some(slot) = self.try_claim(record.directory)? else {
                    continue; // Somebody alive is at it.
                };
                self.unlink_record(&name)?;
                if let Some(slot) = slot {
                    self.set_aside(slot.number)?;
                }
                recovered.undone.push(name);
            } else if !self.has_directory(&record)? {
                recovered.broken.push(name);
            } else if record.name != name {
                // We hold the store lock, so whoever was committing is dead.
                match self.rename_record(&name, &record.name) {
                    Ok(()) => recovered.finished.push(record.name),
                    Err(_) => recovered.broken.push(name),
                }
            }
        }
        recovered.swept = self.set_orphans_aside()?.len();
        drop(lock);
        self.sync_records()?;

        let mut errors = Vec::new();
        for name in tree::names(&self.removing)? {
            errors.extend(tree::remove(&self.removing, &name).err());
        }
        if errors.is_empty() {
            return Ok(recovered);
        }
        let doing = format!("delete what dead processes left in {:?}", self.path);
        Err(Error::new(ErrorKind::Cleanup, "Cleanup", doing).with_cleanup(errors))
    }

    /// Moves every directory away that no record names, if all records can be read.
    pub(super) fn set_orphans_aside(&self) -> Result<Vec<OsString>> {
        let mut used = HashSet::new();
        for name in self.names()? {
            match self.read(&name) {
                Ok(record) => {
                    used.insert(record.directory);
                    used.extend(record.lowers);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(_) => return Ok(Vec::new()),
            }
        }
        let mut moved = Vec::new();
        for name in tree::names(&self.directory)? {
            let Some(number) = Number::parse(&name).filter(|number| !used.contains(number)) else {
                continue;
            };
            if let Some(Some(slot)) = self.try_claim(number)? {
                moved.push(self.set_aside(slot.number)?);
            }
        }
        Ok(moved)
    }
}
