//! The step that gives the process a terminal.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{self, OpenTreeFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process;
use rustix::pty::{self, OpenptFlags};
use rustix::termios::{self, Winsize};

use super::program::open_root;
use super::{At, Walk, Walker};
use crate::plan::place::{IN_ROOT, Make, open_or_make, resolve};
use crate::plan::step::{Call, Place, Slot};
use crate::plan::tree::{CLONE, attach};
use crate::terminal::{MULTIPLEXER, is_multiplexer};

impl Walker<'_> {
    pub(super) fn open_terminal(
        &mut self,
        socket: Slot,
        size: Option<(u16, u16)>,
        console: Option<&Place>,
    ) -> Walk {
        let there;
        let root = match &self.root {
            Some(root) => root.as_fd(),
            None => {
                there = open_root()?;
                there.as_fd()
            }
        };
        // What is there may be the container's work by now, and to open a device can be to use it.
        let how = IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let looks = OFlags::PATH | OFlags::CLOEXEC;
        let opens = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        check(resolve(root, c"dev/pts/ptmx", looks, how)?.as_fd())?;
        let master = resolve(root, c"dev/pts/ptmx", opens, how)?;
        check(master.as_fd())?;
        fs::fcntl_setfl(&master, OFlags::RDWR).at(Call::Ioctl)?;
        pty::unlockpt(&master).at(Call::Ioctl)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = pty::ioctl_tiocgptpeer(&master, flags).at(Call::Ioctl)?;
        if let Some((columns, rows)) = size {
            let size = Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            termios::tcsetwinsize(&master, size).at(Call::Ioctl)?;
        }
        process::ioctl_tiocsctty(&slave).at(Call::Ioctl)?;
        if let Some(place) = console {
            let (base, _) = self.below(place)?;
            let at = open_or_make(base, &place.path, Make::File)?;
            let flags = CLONE | OpenTreeFlags::AT_EMPTY_PATH;
            let tree = mount::open_tree(&slave, c"", flags).at(Call::OpenTree)?;
            attach(tree.as_fd(), at.as_fd())?;
        }
        send(self.prepared.descriptor(socket)?, master.as_fd())?;
        self.terminal = Some(slave);
        Ok(())
    }
}

fn check(file: BorrowedFd<'_>) -> Walk {
    match is_multiplexer(file).at(Call::Stat)? {
        true => Ok(()),
        false => Err(Errno::NOTTY).at(Call::Verify),
    }
}

fn send(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Walk {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [master];
    // There is room for one.
    let _ = control.push(SendAncillaryMessage::ScmRights(&descriptors));
    // Whoever receives it may show the name; a message of nothing carries no descriptor.
    let name = [IoSlice::new(MULTIPLEXER)];
    sendmsg(socket, &name, &mut control, SendFlags::NOSIGNAL)
        .at(Call::Sendmsg)
        .map(drop)
}
