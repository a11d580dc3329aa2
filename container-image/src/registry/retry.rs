//! When to ask again, and after how long.

use std::time::Duration;

use super::error::RegistryError;
use super::transport::Patience;
use crate::{Error, Result};

/// How often and how patiently a request is repeated that failed for a passing reason: a lost
/// connection, silence, status 408, 429, 500, 502, 503 or 504.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retry {
    /// How often a request is sent altogether.
    pub attempts: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub delay: Duration,
    /// The longest wait, also where the registry asks for a longer one.
    pub max_delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        let delay = Duration::from_millis(200);
        Self {
            attempts: 5,
            delay,
            max_delay: Duration::from_secs(30),
        }
    }
}

impl Retry {
    /// Runs `request` until it succeeds, fails for good or has failed too often.
    pub(super) fn run<T>(
        &self,
        patience: &Patience,
        mut request: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut failures = 0;
        loop {
            match request() {
                Ok(value) => return Ok(value),
                Err(error) => {
                    failures += 1;
                    self.wait(patience, failures, error)?;
                }
            }
        }
    }

    /// Waits before the next attempt, or gives `error` back if there is none.
    pub(super) fn wait(&self, patience: &Patience, failures: u32, error: Error) -> Result<()> {
        if !error.is_retryable() || failures >= self.attempts {
            return Err(error);
        }
        let asked = RegistryError::of(&error).and_then(|answer| answer.retry_after);
        let backoff = self.delay.saturating_mul(1 << (failures - 1).min(16));
        patience.sleep(asked.unwrap_or(backoff).min(self.max_delay))
    }
}
