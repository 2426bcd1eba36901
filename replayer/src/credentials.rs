//! The user and password that a target asks for.
//!
//! What enters: the name of a file with `user:password`. What leaves: the value of `Authorization` (RFC 7617). What may be
//! lost: nothing; a file that can't be used is an error when the target is set up, not when traffic comes. What is in
//! it goes into no message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Why there are no credentials. One line for the target's owner.
#[derive(Debug, thiserror::Error)]
#[error("read basic_auth_file {file}: {reason}")]
pub struct CredentialsError {
    /// As in the document.
    file: String,
    /// What is wrong with it.
    reason: String,
}

/// The value of `Authorization` for what is in that file.
///
/// # Errors
/// When it can't be read, or holds no `user:password` in one line.
pub(crate) fn basic(file: &str) -> Result<Vec<u8>, CredentialsError> {
    let refuse = |reason: String| CredentialsError {
        file: file.to_owned(),
        reason,
    };
    let text = std::fs::read(file).map_err(|error| refuse(error.to_string()))?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if !line.contains(&b':') || line.iter().any(u8::is_ascii_control) {
        return Err(refuse("is not one line with user:password".to_owned()));
    }
    Ok(format!("Basic {}", STANDARD.encode(line)).into_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn of(text: &[u8]) -> Result<Vec<u8>, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text).unwrap();
        basic(file.path().to_str().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_line_becomes_a_value() {
        // RFC 7617 §2.
        let value = b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_vec();
        for end in ["", "\n", "\r\n"] {
            let text = format!("Aladdin:open sesame{end}");
            assert_eq!(of(text.as_bytes()), Ok(value.clone()));
        }
        assert_eq!(of(b":"), Ok(b"Basic Og==".to_vec()));
    }

    #[test]
    fn anything_else_is_refused_and_not_shown() {
        for text in [&b""[..], b"secret", b"secret:a\nb:c\n", b"secret:\0"] {
            let error = of(text).unwrap_err();
            assert!(
                error.contains("user:password") && !error.contains("secret"),
                "{error}"
            );
        }
        let error = basic("/nowhere/auth").unwrap_err().to_string();
        assert!(
            error.starts_with("read basic_auth_file /nowhere/auth: No such file"),
            "{error}"
        );
    }
}
