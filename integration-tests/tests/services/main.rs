//! What speaks to services of others, against these: a real Kafka, a real OpenSearch. `make test-services` runs it.

mod documents;
mod fixtures;
mod kafka;
