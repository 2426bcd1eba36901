//! What the fuzz targets share: how an input is read, conversations that are cut and reordered, and what has to be
//! true of whatever comes out.
//!
//! What enters: bytes that the fuzzer chose. What leaves: a panic where something isn't as it has to be.
//! What may be lost: nothing.

pub mod check;
pub mod conversation;
pub mod input;
