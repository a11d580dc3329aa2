//! A container engine as a library.
