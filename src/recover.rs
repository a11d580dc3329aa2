//! Finds what programs that died left behind, and finishes or removes it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use container_core::cgroup::{Cgroup, CgroupPath};
use container_storage::SnapshotKind;

use crate::lower::Doing;
use crate::state::{self, DOCUMENT, Directory, Record};
use crate::{Engine, Error, ErrorKind, Result, container};

/// What [`Engine::recover`] found and did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Recovered {
    /// The IDs of containers that went with their programs, now removed.
    pub removed: Vec<String>,
    /// Directories of containers whose record cannot be read, where they lie now.
    pub broken: Vec<PathBuf>,
}

pub(crate) fn recover(engine: &Engine) -> Result<Recovered> {
    let mut recovered = Recovered::default();
    let mut errors = Vec::new();
    let mut alive = HashSet::new();
    let inner = engine.inner();
    for base in [inner.run.join("containers"), inner.root.join("containers")] {
        for path in state::entries(&base)? {
            let Some(id) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let result = recover_container(engine, id, &path, &mut recovered, &mut alive);
            errors.extend(result.err());
        }
    }
    errors.extend(remove_orphans(engine).err());
    if let Some(networks) = &inner.networks {
        let swept = networks.recover(&|id| alive.contains(id));
        errors.extend(swept.doing(|| "recover the networks".into()).err());
    }
    errors.extend(
        inner
            .driver
            .recover()
            .doing(|| "recover the snapshots".into())
            .err(),
    );
    if errors.is_empty() {
        return Ok(recovered);
    }
    let what = "clean up what programs that died left behind";
    Err(Error::new(ErrorKind::Cleanup, "Cleanup", what).with_cleanup(errors))
}

/// Looks at one directory of a container; whose is alive goes to `alive`.
fn recover_container(
    engine: &Engine,
    id: &str,
    path: &Path,
    recovered: &mut Recovered,
    alive: &mut HashSet<String>,
) -> Result<()> {
    let directory = match Directory::try_lock(path) {
        Ok(Some(directory)) => directory,
        // A living program has it.
        Ok(None) => {
            alive.insert(id.to_owned());
            return Ok(());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let runs = container_core::Container::open(&engine.run_directory(id), None).is_ok();
    if runs {
        alive.insert(id.to_owned());
        return Ok(());
    }
    let kept = path.starts_with(engine.kept_directory(""));
    match state::read::<Record>(&path.join(DOCUMENT)) {
        Ok(Some(record)) if record.ephemeral || !kept => {
            end_group(engine, id)?;
            container::discard(engine, &record, &directory)?;
            recovered.removed.push(id.to_owned());
            Ok(())
        }
        // One that stays; its monitor may have been killed, and then its processes with it.
        Ok(Some(_)) => end_group(engine, id),
        // Nothing was made yet, or only the run directory of one that stays.
        Ok(None) if kept => directory.remove(),
        Ok(None) => {
            if !engine.kept_directory(id).exists() {
                directory.remove()?;
            }
            Ok(())
        }
        Err(_) => {
            let aside = engine.inner().root.join("broken");
            state::make_directory(&aside)?;
            let aside = aside.join(id);
            state::remove_tree(&aside)?;
            std::fs::rename(path, &aside).doing(|| format!("set {path:?} aside"))?;
            recovered.broken.push(aside);
            Ok(())
        }
    }
}

/// Kills what is left in the cgroup of a container whose monitor is dead, and removes the group.
fn end_group(engine: &Engine, id: &str) -> Result<()> {
    let doing = || format!("remove the cgroup of container {id}");
    let path = CgroupPath::new(&engine.cgroup_path(id)).doing(doing)?;
    match Cgroup::open(&path) {
        Ok(group) => group.kill_all().and_then(|()| group.remove()).doing(doing),
        Err(error) if error.kind() == container_core::ErrorKind::NotFound => Ok(()),
        // A host that gives no groups to this user has none of ours either.
        Err(error) if error.code() == "CgroupUnavailable" => Ok(()),
        Err(error) => Err(error).doing(doing),
    }
}

/// Removes writable layers without a container: the records of some are lost at every boot.
fn remove_orphans(engine: &Engine) -> Result<()> {
    let driver = &engine.inner().driver;
    // A container is recorded before its layer is made, so what is listed first and has no record
    // afterwards is nobody's.
    let mut orphans = Vec::new();
    driver
        .list(&mut |info| {
            if info.kind == SnapshotKind::Active && is_container_id(&info.name) {
                orphans.push(info.name);
            }
            Ok(())
        })
        .doing(|| "list the snapshots".into())?;
    for id in orphans {
        let directories = [engine.run_directory(&id), engine.kept_directory(&id)];
        if directories.iter().all(|directory| !directory.exists()) {
            driver
                .remove(&id)
                .doing(|| format!("remove the orphaned layer {id}"))?;
        }
    }
    Ok(())
}

fn is_container_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
