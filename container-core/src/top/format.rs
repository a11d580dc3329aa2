//! Which columns the options of `ps` ask for.

use super::columns::{self, Show};
use crate::{Error, ErrorKind, Result};

/// The columns with their titles, and whether threads have rows of their own.
pub(super) struct Format {
    pub(super) columns: Vec<(String, Show)>,
    pub(super) threads: bool,
}

#[derive(Default)]
struct Asked {
    full: bool,
    extra_full: bool,
    long: bool,
    jobs: bool,
    threads: bool,
    bsd: bool,
    bsd_user: bool,
    bsd_long: bool,
    bsd_jobs: bool,
    columns: Vec<String>,
}

impl Format {
    pub(super) fn parse(words: &[&str]) -> Result<Self> {
        let mut asked = Asked::default();
        let mut words = words.iter().copied().filter(|word| !word.is_empty());
        let mut any = false;
        while let Some(word) = words.next() {
            any = true;
            let (letters, unix) = match word.strip_prefix('-') {
                Some(letters) => (letters, true),
                None => (word, false),
            };
            if letters.starts_with('-') || letters.is_empty() {
                return Err(unknown(word));
            }
            asked.bsd |= !unix;
            for (at, letter) in letters.char_indices() {
                if letter == 'o' {
                    let rest = &letters[at + 1..];
                    let list = if rest.is_empty() {
                        words.next()
                    } else {
                        Some(rest)
                    };
                    let list = list.ok_or_else(|| unknown(word))?;
                    asked.columns.push(list.to_owned());
                    break;
                }
                asked.take(letter, unix).ok_or_else(|| unknown(word))?;
            }
        }
        asked.full |= !any;
        let threads = asked.threads;
        let columns = if asked.columns.is_empty() {
            let names = asked.names().split(' ').map(|name| titled(name, None));
            names.collect::<Result<_>>()?
        } else {
            let mut columns = Vec::new();
            for list in &asked.columns {
                columns.extend(listed(list)?);
            }
            columns
        };
        Ok(Self { columns, threads })
    }
}

impl Asked {
    /// Takes in a letter; nothing if it is not known.
    fn take(&mut self, letter: char, unix: bool) -> Option<()> {
        let flag = match (letter, unix) {
            // What selects processes, and how wide the output is, does not matter.
            ('e' | 'A' | 'a' | 'd' | 'w', true) | ('a' | 'x' | 'g' | 'w', false) => return Some(()),
            ('f', true) => &mut self.full,
            ('F', true) => &mut self.extra_full,
            ('l', true) => &mut self.long,
            ('j', true) => &mut self.jobs,
            ('L', true) => &mut self.threads,
            ('u', false) => &mut self.bsd_user,
            ('l', false) => &mut self.bsd_long,
            ('j', false) => &mut self.bsd_jobs,
            _ => return None,
        };
        *flag = true;
        Some(())
    }

    /// The names of the columns of the format.
    fn names(&self) -> &'static str {
        match self {
            Self { bsd_user: true, .. } => {
                "user pid %cpu %mem vsz rss tname stat start_time bsdtime COMMAND"
            }
            Self { bsd_long: true, .. } => {
                "f UID pid ppid priority ni vsz rss wchan stat tname bsdtime COMMAND"
            }
            Self { bsd_jobs: true, .. } => "ppid pid pgid sid tname tpgid stat UID bsdtime COMMAND",
            Self { bsd: true, .. } => "pid tname stat bsdtime COMMAND",
            Self {
                extra_full: true,
                threads: true,
                ..
            } => "USER_ID pid ppid lwp c nlwp sz rss psr stime tname time cmd",
            Self {
                extra_full: true, ..
            } => "USER_ID pid ppid c sz rss psr stime tname time cmd",
            Self {
                long: true,
                full: true,
                threads: true,
                ..
            } => "f s USER_ID pid ppid lwp c nlwp opri ni addr sz wchan stime tname time cmd",
            Self {
                long: true,
                full: true,
                ..
            } => "f s USER_ID pid ppid c opri ni addr sz wchan stime tname time cmd",
            Self {
                long: true,
                threads: true,
                ..
            } => "f s UID pid ppid lwp c opri ni addr sz wchan tname time ucmd",
            Self { long: true, .. } => "f s UID pid ppid c opri ni addr sz wchan tname time ucmd",
            Self {
                full: true,
                jobs: true,
                ..
            } => "USER_ID pid ppid pgid sid c stime tname time cmd",
            Self {
                full: true,
                threads: true,
                ..
            } => "USER_ID pid ppid lwp c nlwp stime tname time cmd",
            Self { full: true, .. } => "USER_ID pid ppid c stime tname time cmd",
            Self {
                jobs: true,
                threads: true,
                ..
            } => "pid pgid sid lwp tname time ucmd",
            Self { jobs: true, .. } => "pid pgid sid tname time ucmd",
            Self { threads: true, .. } => "pid lwp tname time ucmd",
            _ => "pid tname time ucmd",
        }
    }
}

/// The columns of `NAME,NAME=TITLE`: a title takes the rest of the word.
fn listed(list: &str) -> Result<Vec<(String, Show)>> {
    let (names, title) = match list.split_once('=') {
        Some((names, title)) => (names, Some(title)),
        None => (list, None),
    };
    let names: Vec<_> = names
        .split([',', ' '])
        .filter(|name| !name.is_empty())
        .collect();
    let columns = names
        .iter()
        .enumerate()
        .map(|(at, name)| titled(name, title.filter(|_| at + 1 == names.len())));
    columns.collect()
}

fn titled(name: &str, title: Option<&str>) -> Result<(String, Show)> {
    let (known, show) = columns::find(name).ok_or_else(|| {
        Error::invalid(
            "PsColumn",
            format!("show a column called {name:?} of processes"),
        )
    })?;
    Ok((title.map_or(known, str::to_owned), show))
}

fn unknown(word: &str) -> Error {
    let what = format!("show processes with the option {word:?} of ps");
    Error::new(ErrorKind::Unsupported, "PsOption", what)
}
