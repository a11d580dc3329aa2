//! Terminals of containers and of what is executed in them.

use std::io::{Read, Write};

use container_core::oci_spec::runtime::{BoxBuilder, Spec};
use container_core::{CreateOptions, Launcher, Size};

use crate::support::bundle::{Bundle, LIMIT, edit_process, with_bundle};

/// A spec whose process is a shell in a terminal.
fn spec(bundle: &Bundle, script: &str) -> Spec {
    let mut spec = bundle.shell(script);
    edit_process(&mut spec, |process| {
        process.set_terminal(Some(true));
        let size = BoxBuilder::default().width(91_u64).height(17_u64).build();
        process.set_console_size(Some(size.expect("both sides")));
    });
    spec
}

/// Reads until `word` has come.
fn read_until(terminal: &mut impl Read, word: &str) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(word.as_bytes()) {
        let count = terminal.read(&mut byte).expect("read the terminal");
        let so_far = String::from_utf8_lossy(&text);
        assert!(count == 1, "the terminal ended after {so_far:?}");
        text.push(byte[0]);
    }
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn privileged_container_has_a_terminal_of_its_own() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let script = "tty; stty size; for n in 0 1 2; do readlink /proc/$$/fd/$n; done | uniq; \
            [ $(stat -c %t:%T /dev/console) = $(stat -c %t:%T $(tty)) ] && echo console; \
            trap 'stty size; echo resized' WINCH; trap 'echo interrupted; exit 5' INT; \
            echo ready; while :; do sleep 0.02; done";
        let mut options = CreateOptions::default();
        options.start_at_once = true;
        let mut container = launcher.create(&spec(bundle, script), options).unwrap();
        let mut terminal = container.take_terminal().unwrap().unwrap();
        assert!(container.take_terminal().unwrap().is_none());
        assert_eq!(
            terminal.size().unwrap(),
            Size {
                columns: 91,
                rows: 17
            }
        );
        let said = read_until(&mut terminal, "ready\r\n");
        assert_eq!(
            said,
            "/dev/pts/0\r\n17 91\r\n/dev/pts/0\r\nconsole\r\nready\r\n"
        );
        terminal
            .resize(Size {
                columns: 100,
                rows: 40,
            })
            .unwrap();
        assert_eq!(
            read_until(&mut terminal, "resized\r\n"),
            "40 100\r\nresized\r\n"
        );
        terminal.write_all(b"\x03").unwrap();
        assert_eq!(
            read_until(&mut terminal, "interrupted\r\n"),
            "^Cinterrupted\r\n"
        );
        let status = container.wait_timeout(LIMIT).unwrap().unwrap();
        assert_eq!(status.code(), 5);
        // The end of the terminal is the end of a file.
        let mut rest = Vec::new();
        terminal.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
    });
}
