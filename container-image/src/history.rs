//! How an image came to be, step by step.

use crate::{History, Image, Layer};

/// One step of how an image came to be.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HistoryRow {
    /// What the config says about it; nothing where it says less than there are layers.
    pub step: History,
    /// The layer that it made, if it made one.
    pub layer: Option<Layer>,
}

impl Image {
    /// How the image came to be, oldest step first: one row for each step of the config's history,
    /// with its layer unless the step made none, and one for each layer that the history forgot.
    #[must_use]
    pub fn history(&self) -> Vec<HistoryRow> {
        let mut layers = self.layers().iter().cloned();
        let steps = self.config().history.iter().cloned();
        let mut rows: Vec<_> = steps
            .map(|step| HistoryRow {
                layer: if step.empty_layer {
                    None
                } else {
                    layers.next()
                },
                step,
            })
            .collect();
        rows.extend(layers.map(|layer| HistoryRow {
            step: History::default(),
            layer: Some(layer),
        }));
        rows
    }
}
