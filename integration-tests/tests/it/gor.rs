//! `reprise gor`: GoReplay's command lines do what their guides say, in each way to write them.
//!
//! What is proven stands in the modules: what arrives at the far end of each documented line, and in which form; what filters
//! let through; files and their names; a relay of records that changes no byte and loses none; how a run ends.

mod ends;
mod far;
mod files;
mod filters;
mod lines;
mod reading;
mod records;
mod relay;
mod responses;
mod run;
