//! Faults on demand, to see how clients take them.

use std::io::{self, Read};
use std::sync::Mutex;

use super::http::{Body, Response};
use super::lock;

/// How an answer goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The connection is closed after this many bytes of the body.
    Cut(u64),
    /// The connection stays open and nothing more comes after this many bytes of the body.
    Stall(u64),
    /// Not even a status comes.
    Silence,
    /// The first byte of the body is another one.
    Alter,
    /// The body lacks its last byte, and says so.
    Short,
    /// The body has a byte more, and says so.
    Long,
    /// The body never ends.
    Endless,
    /// Another answer comes instead.
    Answer {
        /// The HTTP status.
        status: u16,
        /// Names and values.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
}

/// What remains to be done to a connection after an answer.
pub(super) enum Aftermath {
    None,
    Close,
    Hang,
}

impl Fault {
    /// Changes `response`; `None` keeps it back.
    pub(super) fn apply(self, mut response: Response) -> (Option<Response>, Aftermath) {
        let body = std::mem::replace(&mut response.body, Body::empty());
        let Body { reader, length } = body;
        let (reader, length, aftermath): (Box<dyn Read>, _, _) = match self {
            Self::Silence => return (None, Aftermath::Hang),
            Self::Answer {
                status,
                headers,
                body,
            } => {
                let mut answer = Response::new(status).with_body(body);
                answer.headers.extend(headers);
                return (Some(answer), Aftermath::None);
            }
            Self::Cut(bytes) => (Box::new(reader.take(bytes)), length, Aftermath::Close),
            Self::Stall(bytes) => (Box::new(reader.take(bytes)), length, Aftermath::Hang),
            Self::Alter => (Box::new(Altered(reader, true)), length, Aftermath::None),
            Self::Short => {
                let shorter = length.map(|length| length.saturating_sub(1));
                (
                    Box::new(reader.take(shorter.unwrap_or(0))),
                    shorter,
                    Aftermath::None,
                )
            }
            Self::Long => {
                let longer = length.map(|length| length + 1);
                (
                    Box::new(reader.chain(io::repeat(0).take(1))),
                    longer,
                    Aftermath::None,
                )
            }
            Self::Endless => (
                Box::new(reader.chain(io::repeat(b' '))),
                None,
                Aftermath::Close,
            ),
        };
        response.body = Body { reader, length };
        (Some(response), aftermath)
    }
}

/// The faults to come.
#[derive(Default)]
pub(super) struct Faults(Mutex<Vec<Rule>>);

struct Rule {
    method: String,
    part: String,
    times: usize,
    fault: Fault,
}

impl Faults {
    pub(super) fn add(&self, method: &str, part: &str, times: usize, fault: Fault) {
        lock(&self.0).push(Rule {
            method: method.into(),
            part: part.into(),
            times,
            fault,
        });
    }

    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// The fault that a request meets.
    pub(super) fn next(&self, method: &str, target: &str) -> Option<Fault> {
        let mut rules = lock(&self.0);
        let meets = |rule: &&mut Rule| {
            rule.times > 0 && rule.method == method && target.contains(&rule.part)
        };
        let rule = rules.iter_mut().find(meets)?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }
}

/// Changes the first byte.
struct Altered(Box<dyn Read>, bool);

impl Read for Altered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        if count > 0 && std::mem::take(&mut self.1) {
            buffer[0] ^= 1;
        }
        Ok(count)
    }
}
