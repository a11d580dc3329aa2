//! The example that everybody tries first.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use super::{PLAIN_USER, be_plain_user, example, text};
use crate::support::isolate::{Place, isolated};

/// What the host and the container see, by fact.
type Table = BTreeMap<String, [String; 2]>;

/// Runs the example to its end and reads its table.
fn table(command: &mut Command) -> Table {
    let output = command.output().expect("run the example");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", text(&output.stderr));
    let mut table = Table::new();
    for line in said
        .lines()
        .skip_while(|line| !line.trim_end().ends_with("container"))
        .skip(1)
    {
        // Columns of 22 and 34 characters.
        let (Some(fact), Some(values)) = (line.get(..22), line.get(22..)) else {
            break;
        };
        let split = values
            .char_indices()
            .nth(34)
            .map_or(values.len(), |(index, _)| index);
        let (host, container) = values.split_at(split);
        table.insert(
            fact.trim().into(),
            [host.trim().into(), container.trim().into()],
        );
    }
    table
}

fn temporary_directory_is_empty(place: &Place, dir: &str) {
    let left = fs::read_dir(place.dir().join(dir)).expect("list").count();
    assert_eq!(left, 0, "in {dir}");
}

#[test]
fn privileged_quickstart_shows_host_and_container() {
    isolated(|place| {
        fs::create_dir(place.dir().join("tmp")).expect("make a directory");
        let mut command = Command::new(example("quickstart"));
        let table = table(command.env("TMPDIR", place.dir().join("tmp")));
        let [_, pid] = &table["process id"];
        assert_eq!(pid, "1");
        assert_eq!(table["processes it can see"][1], "1");
        assert_eq!(table["user id"], ["0", "0"]);
        assert_eq!(table["host name"][1], "quickstart");
        assert_eq!(table["memory limit"][1], "64 MiB");
        assert_eq!(table["capabilities"][1], "14 of 41");
        let [host, container] = &table["addresses"];
        assert!(
            container.split(' ').any(|address| address == "172.17.0.2"),
            "{container}"
        );
        assert!(!host.contains("172.17.0.2"), "{host}");
        temporary_directory_is_empty(place, "tmp");
    });
}

#[test]
fn privileged_quickstart_does_for_a_plain_user_what_it_can() {
    isolated(|place| {
        // Where it was built may be closed to others.
        let program = place.dir().join("quickstart");
        fs::copy(example("quickstart"), &program).expect("copy the example");
        let mut command = Command::new(program);
        be_plain_user(place, &mut command);
        let table = table(&mut command);
        assert_eq!(table["process id"][1], "1");
        assert_eq!(table["user id"], [PLAIN_USER.to_string().as_str(), "0"]);
        assert_eq!(table["host name"][1], "quickstart");
        assert_eq!(table["addresses"][1], "127.0.0.1");
        temporary_directory_is_empty(place, "user/tmp");
    });
}
