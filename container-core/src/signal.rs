//! Signals by name and number.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// A signal that can be sent to a process.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(i32);

/// Names and numbers (`signal(7)`), without the `SIG` in front.
const NAMES: [(&str, i32); 32] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
    ("IOT", libc::SIGIOT),
];

/// The first and the last real-time signal as programs number them.
const REAL_TIME: (i32, i32) = (34, 64);

impl Signal {
    /// Asks a process to end.
    pub const TERM: Self = Self(libc::SIGTERM);
    /// Ends a process.
    pub const KILL: Self = Self(libc::SIGKILL);
    /// What a terminal sends on Ctrl-C.
    pub const INT: Self = Self(libc::SIGINT);
    /// By custom: read your configuration again.
    pub const HUP: Self = Self(libc::SIGHUP);
    /// The first of the two without a meaning of their own.
    pub const USR1: Self = Self(libc::SIGUSR1);

    /// The signal of this number, 1 to 64.
    ///
    /// # Errors
    /// `InvalidInput` (`InvalidSignal`) for any other number.
    pub fn from_number(number: i32) -> Result<Self> {
        if (1..=REAL_TIME.1).contains(&number) {
            return Ok(Self(number));
        }
        Err(invalid(&number.to_string()))
    }

    /// The number of the signal.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

/// Reads `TERM`, `SIGTERM`, `term`, `15`, `RTMIN+1` and `SIGRTMAX-1`.
impl FromStr for Signal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = text.parse().map_err(|_| invalid(text))?;
            return Self::from_number(number);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        let (first, last) = REAL_TIME;
        let offset = |text: &str| text.parse::<u8>().ok().map(i32::from);
        let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(""), _) => Some(first),
            (_, Some("")) => Some(last),
            (Some(rest), _) => rest.strip_prefix('+').and_then(offset).map(|n| first + n),
            (_, Some(rest)) => rest.strip_prefix('-').and_then(offset).map(|n| last - n),
            _ => None,
        };
        match number {
            Some(number) if (first..=last).contains(&number) => Ok(Self(number)),
            _ => Err(invalid(text)),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None if self.0 >= REAL_TIME.0 => write!(f, "SIGRTMIN+{}", self.0 - REAL_TIME.0),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn invalid(text: &str) -> Error {
    Error::invalid("InvalidSignal", format!("{text:?} is not a signal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGKILL", 9),
            ("int", 2),
            ("1", 1),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGIOT", 6),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for text in [
            "",
            "0",
            "65",
            "-1",
            "TERMINATE",
            "RTMIN+40",
            "RTMAX-99",
            "99999999999",
        ] {
            assert_eq!(
                text.parse::<Signal>().unwrap_err().code(),
                "InvalidSignal",
                "{text}"
            );
        }
    }
}
