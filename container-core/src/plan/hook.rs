//! Hooks: programs of the caller that run at certain points of a container's life.

use std::ffi::CString;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

use oci_spec::runtime;
use serde::{Deserialize, Serialize};

use super::compile::c_string;
use crate::{Error, ErrorKind, Result};

/// When hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

/// The hooks of one stage, and what they are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HookSet {
    pub(crate) stage: Stage,
    pub(crate) hooks: Vec<Hook>,
    /// The state of the container as JSON, up to the process id, and from there on.
    pub(crate) state: [Vec<u8>; 2],
    /// The working directory of hooks that run outside of the container.
    pub(crate) bundle: CString,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hook {
    pub(crate) path: CString,
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    /// In seconds.
    pub(crate) timeout: Option<u32>,
}

/// A hook that did not do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HookFailure {
    pub(crate) stage: Stage,
    /// Its place among those of its stage.
    pub(crate) at: u16,
    pub(crate) end: HookEnd,
    /// The beginning of what it wrote to its standard output and error.
    pub(crate) output: Vec<u8>,
}

/// How a hook failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HookEnd {
    Code(i32),
    Signal(i32),
    TimedOut,
    /// It was not needed any more: whom the container belongs to has gone.
    Stopped,
    /// It could not be executed.
    NotRun(i32),
}

/// How much is kept of the output of a hook that fails.
pub(crate) const MAX_OUTPUT: usize = 1024;

impl Stage {
    /// All of them in their order.
    const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// What the container is while they run.
    fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }

    fn of(self, hooks: &runtime::Hooks) -> &[runtime::Hook] {
        match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        }
        .as_deref()
        .unwrap_or_default()
    }
}

impl HookEnd {
    /// As one number: what it is in the upper half.
    pub(crate) fn to_number(self) -> i32 {
        let (kind, value) = match self {
            Self::Code(code) => (0, code),
            Self::Signal(signal) => (1, signal),
            Self::TimedOut => (2, 0),
            Self::Stopped => (3, 0),
            Self::NotRun(errno) => (4, errno),
        };
        kind << 16 | value & 0xffff
    }

    pub(crate) fn from_number(number: i32) -> Option<Self> {
        let value = number & 0xffff;
        Some(match number >> 16 {
            0 => Self::Code(value),
            1 => Self::Signal(value),
            2 => Self::TimedOut,
            3 => Self::Stopped,
            4 => Self::NotRun(value),
            _ => return None,
        })
    }
}

impl HookSet {
    /// The hooks of `spec` for the container `id`, those of stages without any left out.
    pub(crate) fn all(spec: &runtime::Spec, bundle: &Path, id: Option<&str>) -> Result<Vec<Self>> {
        let mut sets = Vec::new();
        for stage in Stage::ALL {
            sets.extend(Self::of(spec, stage, bundle, id)?);
        }
        Ok(sets)
    }

    /// Those of one stage, if there are any.
    pub(crate) fn of(
        spec: &runtime::Spec,
        stage: Stage,
        bundle: &Path,
        id: Option<&str>,
    ) -> Result<Option<Self>> {
        let hooks = spec.hooks().as_ref().map(|hooks| stage.of(hooks));
        let hooks = hooks.unwrap_or_default();
        if hooks.is_empty() {
            return Ok(None);
        }
        let id = id.ok_or_else(|| {
            let what = "hooks are told the id of the container, and it has none";
            Error::invalid("NoId", what)
        })?;
        // Those that run as the program will have its environment, unless they have one of their own.
        let process = spec.process().as_ref();
        let inherited = process.filter(|_| stage == Stage::StartContainer);
        let inherited = inherited.and_then(|process| process.env().as_deref());
        Ok(Some(Self {
            stage,
            hooks: hooks
                .iter()
                .map(|hook| Hook::read(stage, hook, inherited.unwrap_or_default()))
                .collect::<Result<_>>()?,
            state: state(spec, stage, bundle, id),
            bundle: c_string("the bundle", bundle.as_os_str().to_owned())?,
        }))
    }

    /// With a state that tells the process id.
    pub(crate) fn with_pid(mut self, pid: i32) -> Self {
        self.state[0].extend(pid.to_string().bytes());
        self
    }

    /// The error for the failure of one of these.
    pub(crate) fn failure(&self, failure: &HookFailure) -> Error {
        let path = self.hooks.get(usize::from(failure.at));
        let path = path.map(|hook| hook.path.to_string_lossy().into_owned());
        let path = path.unwrap_or_default();
        let what = format!("run the {} hook {path:?}", self.stage);
        let output = String::from_utf8_lossy(&failure.output);
        let why = match failure.end {
            HookEnd::NotRun(errno) => {
                let source = std::io::Error::from_raw_os_error(errno);
                return Error::os("execve", source)
                    .context(what)
                    .with_code("HookFailed");
            }
            HookEnd::Code(code) => format!("it ended with exit code {code}"),
            HookEnd::Signal(signal) => format!("signal {signal} ended it"),
            HookEnd::TimedOut => "it was killed at its time limit".to_owned(),
            HookEnd::Stopped => "it was killed, as nobody waits for the container".to_owned(),
        };
        let (kind, code) = match failure.end {
            HookEnd::TimedOut => (ErrorKind::TimedOut, "HookTimedOut"),
            _ => (ErrorKind::InvalidState, "HookFailed"),
        };
        let said = match output.trim_end() {
            "" => String::new(),
            output => format!(", after it wrote {output:?}"),
        };
        Error::new(kind, code, format!("{what}: {why}{said}"))
    }
}

impl Hook {
    fn read(stage: Stage, hook: &runtime::Hook, inherited: &[String]) -> Result<Self> {
        let path = hook.path();
        let invalid = |why: &str| {
            let what = format!("{stage} hook {path:?}: {why}");
            Err(Error::invalid("InvalidHook", what))
        };
        if !path.is_absolute() {
            return invalid("its path is not absolute");
        }
        let timeout = match hook.timeout() {
            None => None,
            Some(seconds) => match u32::try_from(seconds) {
                Ok(seconds @ 1..) => Some(seconds),
                _ => return invalid("its timeout is no number of seconds above 0"),
            },
        };
        let path = c_string("a hook's path", path.as_os_str().to_owned())?;
        let strings = |what: &str, texts: &[String]| {
            let texts = texts.iter();
            texts
                .map(|text| c_string(what, text.as_str()))
                .collect::<Result<Vec<_>>>()
        };
        let mut arguments = strings("a hook's args", hook.args().as_deref().unwrap_or_default())?;
        if arguments.is_empty() {
            arguments.push(path.clone());
        }
        Ok(Self {
            path,
            arguments,
            environment: strings("a hook's env", hook.env().as_deref().unwrap_or(inherited))?,
            timeout,
        })
    }
}

/// The state that hooks of this stage read from their standard input, in front of the process id and
/// after it.
///
/// # References
/// runtime-spec `runtime.md#state`.
pub(crate) fn state(spec: &runtime::Spec, stage: Stage, bundle: &Path, id: &str) -> [Vec<u8>; 2] {
    let json = |value: serde_json::Value| value.to_string();
    let (version, id) = (json(spec.version().as_str().into()), json(id.into()));
    let status = stage.status();
    let mut head = format!(r#"{{"ociVersion":{version},"id":{id},"status":"{status}""#);
    if stage != Stage::Poststop {
        head.push_str(r#","pid":"#);
    }
    let mut tail = format!(r#","bundle":{}"#, json(bundle.to_string_lossy().into()));
    if let Some(annotations) = spec.annotations() {
        let annotations = annotations.iter();
        let annotations = annotations.map(|(key, value)| (key.clone(), value.as_str().into()));
        let annotations = serde_json::Value::Object(annotations.collect());
        tail.push_str(&format!(r#","annotations":{annotations}"#));
    }
    tail.push('}');
    [head.into_bytes(), tail.into_bytes()]
}

impl Display for Stage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_survive_as_numbers() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_number(stage as u8), Some(stage));
        }
        assert_eq!(Stage::from_number(6), None);
    }

    #[test]
    fn the_state_is_json_around_a_process_id() {
        let mut spec = runtime::Spec::default();
        spec.set_annotations(Some([("a\"b".into(), "c\nd".into())].into()));
        for (stage, pid) in [(Stage::Poststart, "7"), (Stage::Poststop, "")] {
            let [head, tail] = state(&spec, stage, Path::new("/b/\"x"), "i\\d");
            let text = [head, pid.into(), tail].concat();
            let state: runtime::State = serde_json::from_slice(&text).unwrap();
            assert_eq!(state.id(), "i\\d");
            assert_eq!(state.version(), spec.version());
            assert_eq!(state.status().to_string(), stage.status());
            assert_eq!(*state.pid(), pid.parse().ok());
            assert_eq!(state.bundle(), Path::new("/b/\"x"));
            assert_eq!(state.annotations(), spec.annotations());
        }
    }
}
