//! What a crash can leave, one state after the other.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// A store in which a dead process leaves things.
struct Fixture {
    place: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path(), "test", false).unwrap();
        let fixture = Self { place, store };
        fixture.active("base");
        fixture
            .store
            .commit("base", "base", None, true, |_| Ok(()))
            .unwrap();
        fixture
    }

    fn active(&self, name: &str) -> Record {
        self.on(name, None)
    }

    fn on(&self, name: &str, parent: Option<&str>) -> Record {
        let make = |slot: &Slot<'_>, _: &Record| slot.make_directory(FILES, Mode::RWXU).map(drop);
        self.store
            .create(name, SnapshotKind::Active, parent, make)
            .unwrap()
    }

    fn path(&self, below: &str) -> PathBuf {
        self.place.path().join("test").join(below)
    }

    fn write(&self, name: &str, record: &Record) {
        let document = serde_json::to_vec(record).unwrap();
        fs::write(self.path(RECORDS).join(name), document).unwrap();
    }

    /// The directories of snapshots.
    fn directories(&self) -> usize {
        let names = tree::names(&self.store.directory).unwrap();
        names
            .iter()
            .filter(|name| Number::parse(name).is_some())
            .count()
    }

    fn kinds(&self) -> Vec<(String, SnapshotKind)> {
        let mut kinds = Vec::new();
        let mut visit = |info: Info| {
            kinds.push((info.name, info.kind));
            Ok(())
        };
        self.store.list(&mut visit).unwrap();
        kinds
    }

    /// Nothing but `base` is left, and all works.
    fn is_clean(&self) {
        assert_eq!(self.kinds(), [("base".to_owned(), SnapshotKind::Committed)]);
        assert_eq!(self.directories(), 1);
        assert!(tree::names(&self.store.removing).unwrap().is_empty());
        self.on("after", Some("base"));
        self.store.remove("after").unwrap();
        assert_eq!(self.store.recover().unwrap(), Recovered::default());
    }
}

use crate::driver::Recovered;

#[test]
fn a_directory_without_a_record_is_deleted() {
    let fixture = Fixture::new();
    let orphan = fixture.path("abc123");
    fs::create_dir_all(orphan.join("fs/deep/er")).unwrap();
    fs::write(orphan.join("record"), "half").unwrap();
    assert_eq!(fixture.store.recover().unwrap().swept, 1);
    fixture.is_clean();
}

#[test]
fn a_directory_that_somebody_is_making_is_left_alone() {
    let fixture = Fixture::new();
    let (slot, _) = fixture
        .store
        .begin("new", SnapshotKind::Active, Some("base"))
        .unwrap();
    assert_eq!(fixture.store.recover().unwrap(), Recovered::default());
    assert_eq!(fixture.directories(), 2);
    drop(slot);
    assert_eq!(fixture.store.recover().unwrap().swept, 1);
    fixture.is_clean();
}

#[test]
fn a_half_made_copy_is_undone() {
    let fixture = Fixture::new();
    let mut record = fixture.on("copy", Some("base"));
    record.state = State::Creating;
    fixture.write("copy", &record);
    assert_eq!(
        fixture.kinds()[1],
        ("copy".to_owned(), SnapshotKind::Broken)
    );
    assert_eq!(fixture.store.get("copy").unwrap_err().code(), "Incomplete");
    assert_eq!(fixture.store.recover().unwrap().undone, ["copy"]);
    fixture.is_clean();
}

#[test]
fn a_copy_that_somebody_is_making_is_neither_listed_nor_removed() {
    let fixture = Fixture::new();
    let fill = |_: &Slot<'_>, record: &mut Record| {
        assert_eq!(fixture.kinds().len(), 1);
        assert_eq!(
            fixture.store.remove("copy").unwrap_err().kind(),
            ErrorKind::Busy
        );
        assert_eq!(
            fixture.store.remove("base").unwrap_err().code(),
            "HasChildren"
        );
        assert_eq!(fixture.store.recover().unwrap(), Recovered::default());
        assert_eq!(record.state, State::Ready);
        Ok(())
    };
    fixture
        .store
        .create_slowly("copy", SnapshotKind::Active, Some("base"), fill)
        .unwrap();
    fixture.store.remove("copy").unwrap();
    fixture.is_clean();
}

#[test]
fn a_failed_copy_leaves_nothing() {
    let fixture = Fixture::new();
    let fail = |slot: &Slot<'_>, _: &mut Record| {
        slot.make_directory(FILES, Mode::RWXU)?;
        Err(Error::os("copy", Errno::NOSPC))
    };
    let error = fixture
        .store
        .create_slowly("copy", SnapshotKind::Active, None, fail)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Os(Errno::NOSPC.raw_os_error()));
    assert!(error.cleanup_errors().is_empty());
    fixture.is_clean();
}

#[test]
fn a_commit_between_its_two_steps_is_finished() {
    let fixture = Fixture::new();
    let mut record = fixture.on("key", Some("base"));
    record.kind = SnapshotKind::Committed;
    record.name = "layer".to_owned();
    fixture.write("key", &record);
    assert_eq!(fixture.store.get("key").unwrap_err().code(), "Incomplete");
    assert_eq!(fixture.store.recover().unwrap().finished, ["layer"]);
    assert_eq!(fixture.store.get("layer").unwrap(), record);
    fixture.store.remove("layer").unwrap();
    fixture.is_clean();
}

#[test]
fn a_commit_between_its_two_steps_can_be_removed() {
    let fixture = Fixture::new();
    let mut record = fixture.active("key");
    record.kind = SnapshotKind::Committed;
    record.name = "layer".to_owned();
    fixture.write("key", &record);
    fixture.store.remove("key").unwrap();
    fixture.is_clean();
}

#[test]
fn an_interrupted_removal_is_finished() {
    let fixture = Fixture::new();
    fixture.active("one");
    fs::remove_file(fixture.path("records/one")).unwrap();
    fs::create_dir_all(fixture.path("removing/77/fs/d")).unwrap();
    assert_eq!(fixture.store.recover().unwrap().swept, 1);
    fixture.is_clean();
}

#[test]
fn damaged_records_are_set_aside_and_spoil_nothing() {
    for damage in [
        &b""[..],
        b"{\"version\":1",
        b"null",
        b"{\"version\":99}",
        b"\xff\xfe",
    ] {
        let fixture = Fixture::new();
        let mut whole = fs::read(fixture.path("records/base")).unwrap();
        fixture.on("broken", Some("base"));
        fixture.on("good", Some("base"));
        fs::write(fixture.path("records/broken"), damage).unwrap();
        assert_eq!(fixture.store.recover().unwrap().broken, ["broken"]);
        assert_eq!(
            fixture.directories(),
            3,
            "the data are kept while nobody knows whose they are"
        );
        assert_eq!(
            fixture.kinds()[1],
            ("broken".to_owned(), SnapshotKind::Broken)
        );
        assert_eq!(fixture.store.get("broken").unwrap_err().code(), BROKEN);
        fixture.store.get("good").unwrap();
        fixture.on("more", Some("base"));
        fixture.store.remove("broken").unwrap();
        assert_eq!(fixture.directories(), 3);
        // Half of a record that others are built on: they go on, and it goes after them.
        whole.truncate(whole.len() / 2);
        fs::write(fixture.path("records/base"), &whole).unwrap();
        fixture.store.get("good").unwrap();
        assert_eq!(
            fixture.store.remove("base").unwrap_err().code(),
            "HasChildren"
        );
        for name in ["good", "more", "base"] {
            fixture.store.remove(name).unwrap();
        }
        assert_eq!((fixture.directories(), fixture.kinds().len()), (0, 0));
    }
}

#[test]
fn records_that_are_no_plain_files_are_broken() {
    let fixture = Fixture::new();
    std::os::unix::fs::symlink("/etc/passwd", fixture.path("records/link")).unwrap();
    fs::write(fixture.path("records/huge"), vec![b' '; MAX_RECORD + 1]).unwrap();
    assert_eq!(fixture.store.recover().unwrap().broken, ["huge", "link"]);
    for name in ["huge", "link"] {
        fixture.store.remove(name).unwrap();
    }
    fixture.is_clean();
}

#[test]
fn a_record_without_its_directory_is_broken_and_removable() {
    let fixture = Fixture::new();
    let record = fixture.on("gone", Some("base"));
    fs::remove_dir_all(fixture.path(&record.directory.to_string())).unwrap();
    assert_eq!(
        fixture.kinds()[1],
        ("gone".to_owned(), SnapshotKind::Broken)
    );
    assert_eq!(fixture.store.recover().unwrap().broken, ["gone"]);
    fixture.store.remove("gone").unwrap();
    fixture.is_clean();
}

#[test]
fn a_parent_that_goes_meanwhile_is_noticed() {
    let fixture = Fixture::new();
    let make = |_: &Slot<'_>, _: &Record| fixture.store.remove("base");
    let error = fixture
        .store
        .create("late", SnapshotKind::Active, Some("base"), make)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!((fixture.directories(), fixture.kinds().len()), (0, 0));
}

#[test]
fn the_store_is_for_its_owner_only() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("a/b");
    fs::create_dir_all(root.join("test")).unwrap();
    fs::set_permissions(root.join("test"), PermissionsExt::from_mode(0o755)).unwrap();
    Store::open(&root, "test", true).unwrap();
    for path in ["test", "test/records", "test/removing"] {
        let mode = fs::metadata(root.join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{path}");
    }
}

#[test]
fn numbers_are_read_as_they_are_written() {
    for number in [0, 1, 0xabc, u32::MAX] {
        let text = Number(number).to_string();
        assert_eq!(Number::parse(OsStr::new(&text)), Some(Number(number)));
    }
    for bad in [
        "",
        "00",
        "0a",
        "+1",
        "A",
        "lock",
        "records",
        "123456789",
        "-1",
    ] {
        assert_eq!(Number::parse(OsStr::new(bad)), None, "{bad}");
    }
}
