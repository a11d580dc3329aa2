//! What a transfer tells while it runs.

use std::fmt;
use std::sync::Arc;

use crate::Digest;

/// Something that happened to one blob of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The blob: a layer, or a config in a push.
    pub id: Digest,
    /// What is being done to it.
    pub phase: Phase,
    /// How many bytes are done in this phase.
    pub done: u64,
    /// How many there are in this phase, where that is known.
    pub total: Option<u64>,
}

/// What is being done to a blob. `Display` gives Docker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// It waits for its turn.
    Waiting,
    /// It is here already, nothing has to be done.
    Exists,
    /// It comes from the registry; while it does, it is also unpacked.
    Downloading,
    /// Its last byte came and it is what it should be.
    Downloaded,
    /// It is unpacked from the store.
    Extracting,
    /// It is here and unpacked.
    Complete,
    /// It goes to the registry.
    Pushing,
    /// The registry has it now.
    Pushed,
    /// The registry had it already.
    ExistsRemotely,
    /// The registry took it from another of its repositories.
    Mounted,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "Waiting",
            Self::Exists => "Already exists",
            Self::Downloading => "Downloading",
            Self::Downloaded => "Download complete",
            Self::Extracting => "Extracting",
            Self::Complete => "Pull complete",
            Self::Pushing => "Pushing",
            Self::Pushed => "Pushed",
            Self::ExistsRemotely => "Layer already exists",
            Self::Mounted => "Mounted from another repository",
        })
    }
}

/// Receives events, from several threads at once. It must not block.
pub type Progress = Arc<dyn Fn(Event) + Send + Sync>;

/// Tells a listener, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Reporter(pub(crate) Option<Progress>);

impl Reporter {
    pub(crate) fn tell(&self, id: Digest, phase: Phase, done: u64, total: u64) {
        if let Some(progress) = &self.0 {
            progress(Event {
                id,
                phase,
                done,
                total: Some(total),
            });
        }
    }
}
