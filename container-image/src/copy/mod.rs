//! Copying images between places.

mod destination;
mod source;

pub(crate) use destination::Destination;
pub(crate) use source::{Chosen, Source, Transfer};
