//! Waiting for a condition.
//!
//! What enters: a look at the world. What leaves: what it found, or why it never did.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Looks again and again until `look` finds what it wants.
///
/// # Errors
/// After `limit`, the last look's error.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if start.elapsed() >= limit => {
                return Err(error).with_context(|| format!("{what}: not within {limit:?}"));
            }
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_why_it_gave_up() {
        let error = eventually::<()>("tea", Duration::from_millis(20), || {
            anyhow::bail!("water is cold")
        });
        assert_eq!(
            format!("{:#}", error.unwrap_err()),
            "tea: not within 20ms: water is cold"
        );
    }

    #[test]
    fn it_ends_with_the_first_find() {
        let mut looks = 0;
        let found = eventually("third look", Duration::from_secs(5), || {
            looks += 1;
            anyhow::ensure!(looks == 3, "look {looks}");
            Ok(looks)
        });
        assert_eq!(found.unwrap(), 3);
    }
}
