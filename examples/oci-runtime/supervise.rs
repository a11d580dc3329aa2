//! What a program in the foreground does: pass on signals and the terminal, and wait.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use container_engine::container_core::{
    Container, ExitStatus, Process, Result, Signal, Size, Terminal,
};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// How long what a process has written to its terminal may take to be shown once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The first process of a container, or another one.
pub(crate) trait Child: AsFd {
    fn try_wait(&self) -> Result<Option<ExitStatus>>;
    fn kill(&self, signal: Signal) -> Result<()>;
}

impl Child for Container {
    fn try_wait(&self) -> Result<Option<ExitStatus>> {
        Container::try_wait(self)
    }

    fn kill(&self, signal: Signal) -> Result<()> {
        Container::kill(self, signal)
    }
}

impl Child for Process {
    fn try_wait(&self) -> Result<Option<ExitStatus>> {
        Process::try_wait(self)
    }

    fn kill(&self, signal: Signal) -> Result<()> {
        Process::kill(self, signal)
    }
}

/// This program, as long as a child runs.
pub(crate) struct Foreground {
    signals: SignalFd,
}

impl Foreground {
    /// Holds back all signals from now on, so that none is lost; to be called before there are threads.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let all = SigSet::all();
        all.thread_block().context("hold back signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&all, flags).context("listen for signals")?;
        Ok(Self { signals })
    }

    /// Passes on signals, and what is typed and shown, until `child` ends.
    pub(crate) fn follow(
        self,
        child: &impl Child,
        terminal: Option<Terminal>,
    ) -> anyhow::Result<ExitStatus> {
        let screen = terminal.map(Screen::connect).transpose()?;
        loop {
            if let Some(status) = child.try_wait()? {
                if let Some(screen) = screen {
                    screen.finish();
                }
                return Ok(status);
            }
            wait_for([child.as_fd(), self.signals.as_fd()])?;
            while let Some(signal) = self.signals.read_signal().context("read a signal")? {
                let number = i32::try_from(signal.ssi_signo)?;
                match (number, &screen) {
                    (libc::SIGCHLD | libc::SIGURG, _) => {}
                    (libc::SIGWINCH, Some(screen)) => screen.resize(),
                    _ => child.kill(Signal::from_number(number)?)?,
                }
            }
        }
    }
}

/// Blocks until one of `files` can be read.
fn wait_for(files: [BorrowedFd<'_>; 2]) -> anyhow::Result<()> {
    let mut waits = files.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
    match poll(&mut waits, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno).context("wait for the process"),
    }
}

/// What was typed before the terminal became raw: whole lines, as an end of input among them would be
/// a byte of its own later.
#[derive(Default)]
struct Early {
    typed: Vec<u8>,
    ended: bool,
}

impl Early {
    fn read(&mut self) -> io::Result<()> {
        let stdin = io::stdin();
        let mut line = [0; 4096];
        while !self.ended {
            let mut wait = [PollFd::new(&stdin, PollFlags::IN)];
            if poll(&mut wait, Some(&Timespec::default()))? == 0 {
                return Ok(());
            }
            // Not through the buffer of `io::stdin`, which would read on.
            let count = rustix::io::read(&stdin, &mut line)?;
            self.typed.extend(&line[..count]);
            self.ended = count == 0;
        }
        Ok(())
    }
}

/// The terminal of a process on the one of this program, if that has one.
struct Screen {
    terminal: Arc<Terminal>,
    /// Closed when all has been shown.
    shown: Receiver<()>,
    /// How our own terminal was before.
    before: Option<Termios>,
}

impl Screen {
    fn connect(terminal: Terminal) -> anyhow::Result<Self> {
        let mut inner = tcgetattr(&terminal).context("look at the terminal of the process")?;
        inner.output_modes.remove(OutputModes::ONLCR);
        tcsetattr(&terminal, OptionalActions::Now, &inner)
            .context("set the terminal of the process")?;
        let terminal = Arc::new(terminal);
        let before = tcgetattr(io::stdin()).ok();
        let mut early = Early::default();
        if let Some(mut raw) = before.clone() {
            early.read().context("read what was typed before")?;
            raw.make_raw();
            // Ours begins the lines anew, so that what is redirected has the program's own ends of lines.
            raw.output_modes.insert(OutputModes::OPOST);
            tcsetattr(io::stdin(), OptionalActions::Now, &raw).context("set the terminal")?;
        }
        let (show, shown) = mpsc::channel();
        let (output, input) = (terminal.clone(), terminal.clone());
        thread::spawn(move || {
            // Held until the end, which is what is waited for.
            let _show: mpsc::Sender<()> = show;
            let mut stdout = io::stdout();
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = (&*output).read(&mut buffer) {
                if stdout
                    .write_all(&buffer[..count])
                    .and_then(|()| stdout.flush())
                    .is_err()
                {
                    return;
                }
            }
        });
        thread::spawn(move || {
            (&*input).write_all(&early.typed)?;
            match early.ended {
                true => Ok(0),
                false => io::copy(&mut io::stdin(), &mut &*input),
            }
        });
        let screen = Self {
            terminal,
            shown,
            before,
        };
        screen.resize();
        Ok(screen)
    }

    fn resize(&self) {
        let size = tcgetwinsize(io::stdin());
        if let Some(size) = size.ok().filter(|size| size.ws_col > 0) {
            // A process that has ended needs no size.
            let _ = self.terminal.resize(Size {
                columns: size.ws_col,
                rows: size.ws_row,
            });
        }
    }

    fn finish(self) {
        // Something else of the container may have the terminal open for long.
        let _ = self.shown.recv_timeout(LAST_WORDS);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// The exit code of a process as this program's own.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    ExitCode::from(u8::try_from(status.code() & 0xff).unwrap_or(u8::MAX))
}

/// Writes the number of a process to a file that is never seen empty.
pub(crate) fn write_pid(path: &Path, pid: i32) -> anyhow::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(
        path.file_name()
            .with_context(|| format!("write {path:?}"))?,
    );
    let temporary = path.with_file_name(name);
    fs::write(&temporary, pid.to_string()).with_context(|| format!("write {temporary:?}"))?;
    fs::rename(&temporary, path).with_context(|| format!("write {path:?}"))
}
