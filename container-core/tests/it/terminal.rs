//! Terminals of containers and of what is executed in them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use container_core::oci_spec::runtime::{BoxBuilder, Process, Spec};
use container_core::{
    Container, CreateOptions, ErrorKind, ExecOptions, Launcher, Size, Stdio, Supervision, Terminal,
};

use crate::support::bundle::{Bundle, LIMIT, edit_process, set_user, with_bundle};

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

/// A container without a terminal, and a process in a terminal to execute in it.
fn container_and_process(
    launcher: &Launcher,
    bundle: &Bundle,
    script: &str,
) -> (Container, Process) {
    let container = launcher.create(&bundle.spec(&["sleep", "600"]), CreateOptions::default());
    let container = container.expect("create a container");
    container.start().expect("start a container");
    let process = spec(bundle, script).process().clone();
    (container, process.expect("it has one"))
}

#[test]
fn privileged_executed_process_has_a_terminal_of_its_own() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let script = "tty; stty size; ls /dev/console 2>/dev/null; read line; echo got $line; \
            trap 'stty size; exit 6' WINCH; echo ready; while :; do sleep 0.02; done";
        let (container, process) = container_and_process(&launcher, bundle, script);
        let mut first = launcher
            .exec(&container, &process, ExecOptions::default())
            .unwrap();
        let mut second = launcher
            .exec(&container, &process, ExecOptions::default())
            .unwrap();
        for (number, process) in [(0, &mut first), (1, &mut second)] {
            let mut terminal = process.take_terminal().unwrap().unwrap();
            let said = read_until(&mut terminal, "17 91\r\n");
            assert_eq!(said, format!("/dev/pts/{number}\r\n17 91\r\n"));
            terminal.write_all(b"a line\n").unwrap();
            let said = read_until(&mut terminal, "ready\r\n");
            assert_eq!(said, "a line\r\ngot a line\r\nready\r\n");
            terminal
                .resize(Size {
                    columns: 80,
                    rows: 24,
                })
                .unwrap();
            assert_eq!(read_until(&mut terminal, "80\r\n"), "24 80\r\n");
            let status = process.wait_timeout(LIMIT).unwrap().unwrap();
            assert_eq!(status.code(), 6);
        }
    });
}

#[test]
fn privileged_terminal_belongs_to_the_user_of_the_process() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let script = "stat -c '%u %a' $(tty); echo mine > $(tty); exec 3<>/dev/tty && echo open";
        let mut spec = spec(bundle, script);
        set_user(&mut spec, 1000, 1000);
        let mut container = launcher.create(&spec, CreateOptions::default()).unwrap();
        let mut terminal = container.take_terminal().unwrap().unwrap();
        container.start().unwrap();
        let said = read_until(&mut terminal, "open\r\n");
        assert_eq!(said, "1000 620\r\nmine\r\nopen\r\n");
    });
}

#[test]
fn privileged_terminal_goes_to_a_console_socket() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let receive = |socket: UnixStream| {
            let mut bytes = [0; 64];
            let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
            let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
            use std::os::fd::AsRawFd;
            let flags = nix::sys::socket::MsgFlags::empty();
            let message = nix::sys::socket::recvmsg::<()>(
                socket.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                flags,
            )
            .unwrap();
            let mut found = message.cmsgs().unwrap();
            let Some(nix::sys::socket::ControlMessageOwned::ScmRights(rights)) = found.next()
            else {
                panic!("no descriptor came");
            };
            crate::support::sys::own(rights[0])
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut options = CreateOptions::default();
        options.console_socket = Some(theirs.into());
        let mut container = launcher.create(&spec(bundle, "tty"), options).unwrap();
        assert!(container.take_terminal().unwrap().is_none());
        let mut terminal = Terminal::from_fd(receive(ours)).unwrap();
        container.start().unwrap();
        assert_eq!(read_until(&mut terminal, "\n"), "/dev/pts/0\r\n");
        assert!(container.wait().unwrap().success());

        let (container, process) = container_and_process(&launcher, bundle, "tty");
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut options = ExecOptions::default();
        options.console_socket = Some(theirs.into());
        options.supervision = Supervision::Detached;
        launcher.exec(&container, &process, options).unwrap();
        let mut terminal = Terminal::from_fd(receive(ours)).unwrap();
        assert_eq!(read_until(&mut terminal, "\n"), "/dev/pts/0\r\n");
    });
}

#[test]
fn privileged_terminal_and_what_contradicts_it_is_refused() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let socket = || Some(UnixStream::pair().unwrap().0.into());
        let mut options = CreateOptions::default();
        options.console_socket = socket();
        let error = launcher
            .create(&bundle.spec(&["true"]), options)
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::InvalidInput, "NoTerminal")
        );
        let mut options = CreateOptions::default();
        options.stdio[1] = Stdio::Piped;
        let error = launcher.create(&spec(bundle, "true"), options).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::InvalidInput, "StreamsAndTerminal")
        );
        let mut spec = spec(bundle, "true");
        edit_process(&mut spec, |process| {
            let size = BoxBuilder::default()
                .width(70_000_u64)
                .height(1_u64)
                .build();
            process.set_console_size(Some(size.unwrap()));
        });
        let error = launcher
            .create(&spec, CreateOptions::default())
            .unwrap_err();
        assert_eq!(error.code(), "InvalidSpec");
        let error = Terminal::from_fd(fs::File::open("/dev/null").unwrap().into()).unwrap_err();
        assert_eq!(error.code(), "NoTerminal");
    });
}

/// The container's root puts something else where the terminals of its devpts come from.
#[test]
fn privileged_terminals_come_from_the_devpts_of_the_kernel_only() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        // The image brings the directory, and no devpts is mounted there.
        let pts = bundle.root().join("dev/pts");
        fs::create_dir_all(&pts).unwrap();
        let mut spec = spec(bundle, "tty");
        let mut mounts = spec.mounts().clone().unwrap();
        mounts.retain(|mount| !mount.destination().starts_with("/dev"));
        spec.set_mounts(Some(mounts));
        let try_it = || {
            let mut options = CreateOptions::default();
            options.start_at_once = true;
            let mut container = launcher.create(&spec, options)?;
            container.wait_running()?;
            container.take_terminal()
        };
        let forgeries: [&dyn Fn(); 4] = [
            &|| (),
            &|| fs::write(pts.join("ptmx"), "").unwrap(),
            &|| std::os::unix::fs::symlink("/dev/ptmx", pts.join("ptmx")).unwrap(),
            &|| {
                use nix::sys::stat::{Mode, SFlag, makedev, mknod};
                // Of the right number, but not in a devpts.
                mknod(
                    &pts.join("ptmx"),
                    SFlag::S_IFCHR,
                    Mode::empty(),
                    makedev(5, 2),
                )
                .unwrap();
            },
        ];
        for forge in forgeries {
            forge();
            let error = try_it().unwrap_err();
            assert!(error.report().starts_with("open a terminal"), "{error:?}");
            let _ = fs::remove_file(pts.join("ptmx"));
        }
    });
}
