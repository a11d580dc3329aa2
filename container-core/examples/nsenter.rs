//! `nsenter(1)` on the library: runs a program in namespaces of other processes.
//!
//! ```text
//! cargo run -p container-core --example nsenter -- --target 4711 --net --uts ip address
//! cargo run -p container-core --example nsenter -- -t 4711 -a
//! ```

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "a program for the terminal"
)]

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use container_core::oci_spec::runtime::LinuxNamespaceType::{
    Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts,
};
use container_core::{Error, Launcher, Nsenter, Process, Size, Terminal};
use rustix::io::dup;
use rustix::termios::{self, OptionalActions, Termios};

const USAGE: &str = "usage: nsenter [options] [program [argument...]]
 -a, --all                  enter all namespaces
 -t, --target PID           the process to take namespaces from
 -m, --mount[=FILE]         -u, --uts[=FILE]     -i, --ipc[=FILE]   -n, --net[=FILE]
 -p, --pid[=FILE]           -C, --cgroup[=FILE]  -U, --user[=FILE]  -T, --time[=FILE]
 -S, --setuid UID           -G, --setgid GID     --preserve-credentials
 -r, --root[=DIR]           -w, --wd[=DIR]       -W, --wdns DIR
 -e, --env                  take over the environment of the target
 -c, --join-cgroup          join the cgroups of the target
 -F, --no-fork              do not fork before executing the program
 -Z, --follow-context       take over the SELinux context of the target
 -h, --help                 -V, --version";

fn main() {
    let entered = match parse(std::env::args_os().skip(1).collect()) {
        Ok(entered) => entered,
        Err(what) => fail(&what, 1),
    };
    // Whoever types needs a terminal whose signals reach the program, and that is one of its own.
    let typing = io::stdin().is_terminal() && io::stdout().is_terminal();
    let entered = if typing { entered.terminal() } else { entered };
    match run(entered, typing) {
        Ok(code) => std::process::exit(code),
        Err(error) => fail(&error.report(), exit_code(&error)),
    }
}

fn run(entered: Nsenter, typing: bool) -> Result<i32, Error> {
    let launcher = Launcher::new();
    let mut process = entered.spawn(&launcher)?;
    if !typing {
        return Ok(process.wait()?.code());
    }
    let outside = raw();
    let code = match process.take_terminal()? {
        Some(terminal) => connect(terminal, &process),
        None => process.wait().map(|status| status.code()),
    };
    if let Some(outside) = outside {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &outside);
    }
    code
}

/// Passes on what is typed, what is written, and the size, until the process ends.
fn connect(mut terminal: Terminal, process: &Process) -> Result<i32, Error> {
    if let (Ok(keys), Ok(sizes)) = (dup(&terminal), dup(&terminal)) {
        std::thread::spawn(move || io::copy(&mut io::stdin(), &mut std::fs::File::from(keys)));
        let sizes = Terminal::from_fd(sizes)?;
        std::thread::spawn(move || follow_size(&sizes));
    }
    let mut bytes = [0; 4096];
    // It ends with the last process that has it open.
    while let Ok(count @ 1..) = terminal.read(&mut bytes) {
        let mut stdout = io::stdout();
        if stdout
            .write_all(&bytes[..count])
            .and_then(|()| stdout.flush())
            .is_err()
        {
            break;
        }
    }
    Ok(process.wait()?.code())
}

/// Without a signal handler, which a library would not have either.
fn follow_size(inside: &Terminal) {
    let mut last = None;
    loop {
        let size = termios::tcgetwinsize(io::stdout()).ok().map(|size| Size {
            columns: size.ws_col,
            rows: size.ws_row,
        });
        if let Some(size) = size.filter(|_| size != last) {
            let _ = inside.resize(size);
            last = Some(size);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Has all keys passed on as they are; gives how the terminal was before.
fn raw() -> Option<Termios> {
    let before = termios::tcgetattr(io::stdin()).ok()?;
    let mut raw = before.clone();
    raw.make_raw();
    termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
    Some(before)
}

/// Reads the options up to the first word that is none.
fn parse(words: Vec<OsString>) -> Result<Nsenter, String> {
    let mut words = words.into_iter();
    let mut entered = Nsenter::new();
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        if bytes == b"--" {
            break;
        }
        if let Some(long) = bytes.strip_prefix(b"--") {
            let (name, value) = match long.iter().position(|byte| *byte == b'=') {
                Some(at) => (&long[..at], Some(owned(&long[at + 1..]))),
                None => (long, None),
            };
            let name = String::from_utf8_lossy(name).into_owned();
            let short = short(&name).ok_or(format!("unrecognized option '--{name}'"))?;
            let value = match value {
                None if TAKES_VALUE.contains(short) => words.next(),
                value => value,
            };
            entered = apply(entered, short, value)?;
        } else if bytes.len() > 1 && bytes[0] == b'-' {
            let mut rest = &bytes[1..];
            while let [letter, after @ ..] = rest {
                let letter = char::from(*letter);
                let takes = TAKES_VALUE.contains(letter);
                let value = match (takes || MAY_TAKE_VALUE.contains(letter), after) {
                    (true, [_, ..]) => Some(owned(after)),
                    (true, []) if takes => words.next(),
                    _ => None,
                };
                rest = if takes || value.is_some() { &[] } else { after };
                entered = apply(entered, letter, value)?;
            }
        } else {
            return Ok(entered.command(word, words));
        }
    }
    match words.next() {
        Some(program) => Ok(entered.command(program, words)),
        None => Ok(entered),
    }
}

const TAKES_VALUE: &str = "tSGW";
const MAY_TAKE_VALUE: &str = "muinpCUTrw";

fn owned(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

fn short(name: &str) -> Option<char> {
    Some(match name {
        "all" => 'a',
        "target" => 't',
        "mount" => 'm',
        "uts" => 'u',
        "ipc" => 'i',
        "net" => 'n',
        "pid" => 'p',
        "cgroup" => 'C',
        "user" => 'U',
        "time" => 'T',
        "setuid" => 'S',
        "setgid" => 'G',
        "preserve-credentials" => 'P',
        "root" => 'r',
        "wd" => 'w',
        "wdns" => 'W',
        "env" => 'e',
        "no-fork" => 'F',
        "join-cgroup" => 'c',
        "follow-context" => 'Z',
        "help" => 'h',
        "version" => 'V',
        _ => return None,
    })
}

fn apply(entered: Nsenter, option: char, value: Option<OsString>) -> Result<Nsenter, String> {
    let number = |what: &str| -> Result<u32, String> {
        let value = value.as_deref().unwrap_or(OsStr::new(""));
        let number = value.to_str().and_then(|value| value.parse().ok());
        number.ok_or(format!("failed to parse {what}: {value:?}"))
    };
    let namespace = match option {
        'm' => Some(Mount),
        'u' => Some(Uts),
        'i' => Some(Ipc),
        'n' => Some(Network),
        'p' => Some(Pid),
        'C' => Some(Cgroup),
        'U' => Some(User),
        'T' => Some(Time),
        _ => None,
    };
    if let Some(kind) = namespace {
        return Ok(match value {
            Some(file) => entered.namespace_at(kind, file),
            None => entered.namespace(kind),
        });
    }
    Ok(match option {
        't' => entered.target(number("pid")?.cast_signed()),
        'a' => entered.all(),
        'S' => entered.uid(number("uid")?),
        'G' => entered.gid(number("gid")?),
        'P' => entered.preserve_credentials(),
        'r' => match value {
            Some(directory) => entered.root_at(directory),
            None => entered.root(),
        },
        'w' => match value {
            Some(directory) => entered.directory_at(directory),
            None => entered.directory(),
        },
        'W' => entered.directory_inside(value.unwrap_or_default()),
        'e' => entered.environment_of_target(),
        'c' => entered.join_cgroup(),
        'F' => entered.no_fork(),
        'Z' => entered.follow_context(),
        'h' => {
            println!("{USAGE}");
            std::process::exit(0)
        }
        'V' => {
            println!("nsenter from container-core {}", env!("CARGO_PKG_VERSION"));
            std::process::exit(0)
        }
        _ => return Err(format!("invalid option -- '{option}'")),
    })
}

fn fail(what: &str, code: i32) -> ! {
    eprintln!("nsenter: {what}");
    std::process::exit(code)
}

/// As `nsenter(1)`: 127 for a program that is not there, 126 for one that cannot be executed.
fn exit_code(error: &Error) -> i32 {
    match error.code() {
        "CommandNotFound" => 127,
        "CommandNotExecutable" => 126,
        _ => 1,
    }
}
