//! Other processes that a test needs: this program, executed again to play one role.
//!
//! A role is a test function that does nothing unless it is asked for by name.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::bundle::LIMIT;

/// Names the role to the program that is executed again.
const ROLE: &str = "CONTAINER_CORE_TEST_ROLE";

/// Begins the lines that are meant for the test, among those of the harness.
const LINE: &str = "says: ";

/// Whether this process is to play the role of the test function `name`.
pub(crate) fn plays(name: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|role| role == name)
}

/// The arguments and the variable with which this program plays the role.
pub(crate) fn arguments(name: &str) -> ([String; 4], String) {
    let arguments = ["--exact", name, "--nocapture", "--test-threads=1"].map(str::to_owned);
    (arguments, format!("{ROLE}={name}"))
}

/// This program in the role, with its output piped.
pub(crate) fn command(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(arguments(name).0)
        .env(ROLE, name)
        .stdout(Stdio::piped());
    command
}

/// Tells the test something.
#[expect(clippy::print_stdout, reason = "it is the way to talk to the test")]
pub(crate) fn say(what: impl std::fmt::Display) {
    println!("\n{LINE}{what}");
}

/// What a role has said, in all of its output.
pub(crate) fn said(output: &str) -> Vec<&str> {
    output
        .lines()
        .filter_map(|line| line.strip_prefix(LINE))
        .collect()
}

/// Waits for the next thing that a running role says.
pub(crate) fn hear(child: &mut Child) -> String {
    // A byte at a time: what is read ahead would be lost for the next call.
    let stdout = child.stdout.as_mut().expect("it is piped");
    let mut lines = BufReader::with_capacity(1, stdout.by_ref());
    loop {
        let mut line = String::new();
        let count = lines.read_line(&mut line).expect("read what the role says");
        assert!(count > 0, "the role ended without a word");
        if let Some(said) = line.trim_end().strip_prefix(LINE) {
            return said.to_owned();
        }
    }
}

/// Waits until `condition` holds, and fails if that takes too long.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
