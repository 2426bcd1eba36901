//! What speaks to services of others, against these: a real Kafka, a real OpenSearch. `make test-services` runs it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod documents;
mod fixtures;
mod gor;
mod kafka;
