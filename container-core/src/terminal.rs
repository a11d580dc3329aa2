//! Terminals of processes: the side of them that is outside of the container.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{fstat, fstatfs, major, minor};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};

use crate::{Error, ErrorKind, Result};

/// What is sent along with a terminal.
pub(crate) const MULTIPLEXER: &[u8] = b"/dev/ptmx";

/// `DEVPTS_SUPER_MAGIC` of `linux/magic.h`.
const DEVPTS: i64 = 0x1cd1;

/// The numbers of `/dev/ptmx` (kernel `Documentation/admin-guide/devices.txt`).
const PTMX: (u32, u32) = (5, 2);

/// The outer side of a process's terminal: what it writes is read here, what is written here are its
/// keys.
///
/// Reading ends with the last process that has the inner side open. The descriptor blocks; it may be
/// duplicated and be made non-blocking for a reactor.
#[derive(Debug)]
pub struct Terminal(File);

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Terminal {
    /// Receives one over `socket`.
    pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Self> {
        let failed = |errno| Error::os("receive the terminal of a process", errno);
        let mut bytes = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        loop {
            let parts = &mut [IoSliceMut::new(&mut bytes)];
            match recvmsg(socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                result => break result.map(drop).map_err(failed)?,
            }
        }
        let received = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        let Some(master) = received else {
            let what = "receive the terminal of a process, which ended before it had one";
            return Err(Error::new(ErrorKind::InvalidState, "NoTerminal", what));
        };
        Self::from_fd(master)
    }

    /// Takes a terminal that was received over a console socket.
    ///
    /// # Errors
    /// `InvalidInput` (`NoTerminal`) if `master` is anything else than the master of a pseudo-terminal.
    pub fn from_fd(master: OwnedFd) -> Result<Self> {
        match is_multiplexer(master.as_fd()) {
            Ok(true) => Ok(Self(master.into())),
            Ok(false) => {
                let what = "use a descriptor as a terminal, which it is not";
                Err(Error::invalid("NoTerminal", what))
            }
            Err(errno) => Err(Error::os("look at a terminal", errno)),
        }
    }

    /// Changes the size; the foreground processes get SIGWINCH.
    ///
    /// # Errors
    /// `Os` if the kernel refuses.
    pub fn resize(&self, size: Size) -> Result<()> {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.0, size).map_err(|errno| Error::os("resize a terminal", errno))
    }

    /// The size.
    ///
    /// # Errors
    /// `Os` if the kernel refuses.
    pub fn size(&self) -> Result<Size> {
        let size = tcgetwinsize(&self.0)
            .map_err(|errno| Error::os("read the size of a terminal", errno))?;
        Ok(Size {
            columns: size.ws_col,
            rows: size.ws_row,
        })
    }
}

impl Read for Terminal {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Read for &Terminal {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (&self.0).read(buffer) {
            // What the kernel says when nobody has the other side open any more.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            result => result,
        }
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Terminal> for OwnedFd {
    fn from(terminal: Terminal) -> Self {
        terminal.0.into()
    }
}

/// Whether `file` is the multiplexer of a devpts, which is what the master of a terminal is, too.
pub(crate) fn is_multiplexer(file: BorrowedFd<'_>) -> std::result::Result<bool, Errno> {
    let device = fstat(file)?.st_rdev;
    #[allow(
        clippy::unnecessary_cast,
        reason = "of another type on other architectures"
    )]
    let kind = fstatfs(file)?.f_type as i64;
    Ok(kind == DEVPTS && (major(device), minor(device)) == PTMX)
}
