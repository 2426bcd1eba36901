//! Compiles the wire's messages with the system's `protoc`. The one method is served by hand, see `frames`.
fn main() -> std::io::Result<()> {
    prost_build::Config::new()
        .bytes(["."])
        .compile_protos(&["reprise/v1/delivery.proto"], &["."])
}
