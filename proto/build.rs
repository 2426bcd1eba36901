//! Compiles the wire's messages with the system's `protoc`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        .bytes(".")
        .compile_protos(&["reprise/v1/delivery.proto"], &["."])?;
    Ok(())
}
