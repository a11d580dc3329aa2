//! Finds what programs that died left behind, and finishes or removes it.

use std::path::{Path, PathBuf};

use container_core::cgroup::{Cgroup, CgroupPath};
use container_storage::SnapshotKind;

use crate::lower::Doing;
use crate::pull::FILLING;
use crate::state::{self, DOCUMENT, Directory, ParentLock, Record};
use crate::{Engine, Error, ErrorKind, Result, container};

/// The file below the run directory that says that the cgroup parent is ours to remove.
const CLAIM: &str = "cgroup.json";

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
    let inner = engine.inner();
    for base in [engine.run_directory(""), engine.kept_directory("")] {
        for path in state::entries(&base)? {
            errors.extend(recover_container(engine, &base, &path, &mut recovered).err());
        }
    }
    errors.extend(remove_orphans(engine).err());
    errors.extend(remove_cgroup_parent(engine).err());
    if let Some(networks) = &inner.networks {
        let swept = networks.recover(&|id| is_alive(engine, id));
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

/// Whether a living program has the container, or it has a process.
fn is_alive(engine: &Engine, id: &str) -> bool {
    let directories = [engine.run_directory(id), engine.kept_directory(id)];
    let locked = |path: &PathBuf| matches!(Directory::try_lock(path), Ok(None));
    directories.iter().any(locked) || has_process(engine, id)
}

fn has_process(engine: &Engine, id: &str) -> bool {
    container_core::Container::open(&engine.run_directory(id), None).is_ok()
}

/// Looks at one directory of a container, `path` in `base`.
fn recover_container(
    engine: &Engine,
    base: &Path,
    path: &Path,
    recovered: &mut Recovered,
) -> Result<()> {
    let Some(id) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(());
    };
    let parent = ParentLock::exclusive(base)?;
    let directory = match Directory::try_lock(path) {
        Ok(Some(directory)) => directory,
        // A living program has it.
        Ok(None) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    drop(parent);
    if has_process(engine, id) {
        return Ok(());
    }
    let kept = base == engine.kept_directory("");
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
        Ok(None) if kept || !engine.kept_directory(id).exists() => directory.remove(),
        Ok(None) => Ok(()),
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

/// Notes that the cgroup parent is ours to remove, unless it is there already: then it is the host's.
pub(crate) fn claim_cgroup_parent(engine: &Engine) -> Result<()> {
    let claim = engine.inner().run.join(CLAIM);
    // Others may be opening the same directories.
    let _parent = ParentLock::exclusive(&engine.run_directory(""))?;
    if claim.exists() || matches!(cgroup_parent(engine), Ok(Some(_))) {
        return Ok(());
    }
    state::write(&claim, &engine.inner().cgroup_parent, false)
}

/// Removes the cgroup parent if it is ours and empty. Whoever is about to use it makes it anew.
fn remove_cgroup_parent(engine: &Engine) -> Result<()> {
    let claimed: Option<String> = state::read(&engine.inner().run.join(CLAIM))?;
    if claimed.as_ref() != Some(&engine.inner().cgroup_parent) {
        return Ok(());
    }
    match cgroup_parent(engine)? {
        Some(group) => group
            .remove_if_empty()
            .doing(|| "remove the cgroup parent".into()),
        None => Ok(()),
    }
}

fn cgroup_parent(engine: &Engine) -> Result<Option<Cgroup>> {
    let doing = || "find the cgroup parent".into();
    let path = CgroupPath::new(&engine.inner().cgroup_parent).doing(doing)?;
    match Cgroup::open(&path) {
        Ok(group) => Ok(Some(group)),
        Err(error) if error.kind() == container_core::ErrorKind::NotFound => Ok(None),
        Err(error) if error.code() == "CgroupUnavailable" => Ok(None),
        Err(error) => Err(error).doing(doing),
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

/// Removes writable layers without a container, whose records may have been lost at a boot, and
/// layers that nobody is unpacking any more.
fn remove_orphans(engine: &Engine) -> Result<()> {
    let driver = &engine.inner().driver;
    // Nobody can begin to unpack anything before the list is made.
    let lease = engine.lease_file()?;
    let nobody_unpacks = lease.try_lock().is_ok();
    let mut actives = Vec::new();
    driver
        .list(&mut |info| {
            if info.kind == SnapshotKind::Active {
                actives.push(info.name);
            }
            Ok(())
        })
        .doing(|| "list the snapshots".into())?;
    for name in actives {
        // A container is recorded before its layer is made, so what was listed and has no record by
        // now is nobody's.
        let recorded = || {
            let directories = [engine.run_directory(&name), engine.kept_directory(&name)];
            directories.iter().any(|directory| directory.exists())
        };
        let orphan = if name.starts_with(FILLING) {
            nobody_unpacks
        } else {
            is_container_id(&name) && !recorded()
        };
        if orphan {
            driver
                .remove(&name)
                .doing(|| format!("remove the orphaned layer {name}"))?;
        }
    }
    Ok(())
}

fn is_container_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
