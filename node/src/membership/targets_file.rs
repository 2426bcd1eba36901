//! Targets from a file, followed while it changes.
//!
//! What enters: a YAML file, looked at four times a second (editors replace files, Kubernetes swaps symbolic links,
//! network file systems announce nothing: reading is the one method that works everywhere). What leaves: watched
//! targets. What may be lost: nothing; a file that is gone or wrong leaves the last good targets in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reprise_traffic::Target;
use reprise_traffic::target::TargetsFile;
use tokio::sync::watch;

use super::Targets;

/// Between two looks. New content counts when two looks in a row found the same, so that a file is not read half.
const LOOK: Duration = Duration::from_millis(250);

/// Loads a file of targets and follows its changes.
///
/// # Errors
/// One line, when the file can't be read or is wrong now. Later mistakes are warnings.
pub fn watch_targets_file(path: &Path) -> anyhow::Result<watch::Receiver<Targets>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read targets file {}", path.display()))?;
    let mut file = Followed {
        path: path.to_owned(),
        settled: Ok(text.clone()),
        candidate: Ok(text.clone()),
        revision: 0,
        targets: Targets::default(),
    };
    file.load(&text)?;
    let (sender, receiver) = watch::channel(Arc::clone(&file.targets));
    tokio::spawn(async move {
        tokio::select! {
            () = file.follow(&sender) => {}
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

/// A file's text, or why it can't be read.
type Content = Result<String, String>;

struct Followed {
    path: PathBuf,
    /// What was loaded or complained about last.
    settled: Content,
    /// What the last look found.
    candidate: Content,
    revision: u64,
    targets: Targets,
}

impl Followed {
    async fn follow(&mut self, sender: &watch::Sender<Targets>) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let seen = tokio::fs::read_to_string(&self.path)
                .await
                .map_err(|error| error.to_string());
            if self.look(seen) {
                sender.send_replace(Arc::clone(&self.targets));
            }
        }
    }

    /// True when the targets changed.
    fn look(&mut self, seen: Content) -> bool {
        if seen != self.candidate {
            self.candidate = seen;
            return false;
        }
        if seen == self.settled {
            return false;
        }
        self.settled = seen.clone();
        let loaded = match seen {
            Ok(text) => self.load(&text),
            Err(reason) => Err(anyhow::anyhow!(
                "read targets file {}: {reason}",
                self.path.display()
            )),
        };
        match loaded {
            Ok(changed) => {
                tracing::info!(
                    targets = self.targets.len(),
                    revision = self.revision,
                    "targets loaded from {}",
                    self.path.display()
                );
                changed
            }
            Err(error) => {
                tracing::warn!("{error:#}; the targets loaded before stay in force");
                false
            }
        }
    }

    fn load(&mut self, text: &str) -> anyhow::Result<bool> {
        // A relay that is started anew must not count from below what replayers know of it.
        let revision = (self.revision + 1).max(unix_millis());
        let parsed = TargetsFile::parse(&self.path.display().to_string(), text, revision)?;
        self.revision = revision;
        let mut changed = parsed.len() != self.targets.len();
        let keep = |target: Target| match self.targets.get(&target.name) {
            Some(known) if known.document == target.document => Arc::clone(known),
            _ => {
                changed = true;
                Arc::new(target)
            }
        };
        let targets = parsed.into_iter().map(keep);
        let targets = targets
            .map(|target| (target.name.clone(), target))
            .collect();
        self.targets = Arc::new(targets);
        Ok(changed)
    }
}

fn unix_millis() -> u64 {
    crate::identity::incarnation() / 1_000_000
}

#[cfg(test)]
mod tests {
    use reprise_traffic::TargetName;

    use super::*;

    fn document(targets: &[(&str, u16)]) -> String {
        let target = |(name, port): &(&str, u16)| format!("  {name}: {{url: 'http://h:{port}'}}\n");
        format!(
            "targets:\n{}",
            targets.iter().map(target).collect::<String>()
        )
    }

    fn target<'a>(targets: &'a Targets, name: &str) -> &'a Arc<Target> {
        &targets[&TargetName::new(name).unwrap()]
    }

    async fn next(receiver: &mut watch::Receiver<Targets>) -> Targets {
        tokio::time::timeout(Duration::from_secs(10), receiver.changed())
            .await
            .unwrap()
            .unwrap();
        Arc::clone(&receiver.borrow_and_update())
    }

    #[tokio::test]
    async fn follows_a_file_that_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("targets.yaml");
        std::fs::write(&path, document(&[("a/x", 1), ("a/y", 1)])).unwrap();
        let mut receiver = watch_targets_file(&path).unwrap();
        let first = Arc::clone(&receiver.borrow());
        let first_revision = target(&first, "a/x").revision;
        assert!(first_revision > 1_700_000_000_000);

        let other = dir.path().join("other");
        std::fs::write(&other, document(&[("a/x", 1), ("a/y", 2)])).unwrap();
        std::fs::rename(&other, &path).unwrap();
        let second = next(&mut receiver).await;
        assert!(Arc::ptr_eq(target(&first, "a/x"), target(&second, "a/x")));
        assert_eq!(target(&second, "a/y").endpoint().unwrap().port, 2);
        assert!(target(&second, "a/y").revision > first_revision);

        std::fs::write(&other, document(&[("a/y", 2)])).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert_eq!(next(&mut receiver).await.len(), 1);
    }

    #[tokio::test]
    async fn a_wrong_file_leaves_the_last_good_targets() {
        let path = PathBuf::from("/never/read.yaml");
        let good = document(&[("a/x", 1)]);
        let mut file = Followed {
            path,
            settled: Ok(good.clone()),
            candidate: Ok(good.clone()),
            revision: 0,
            targets: Targets::default(),
        };
        assert!(file.load(&good).unwrap());
        for wrong in [
            Ok("targets: [".to_owned()),
            Err("gone".to_owned()),
            Ok(good.replace("url", "urk")),
        ] {
            assert!(!file.look(wrong.clone()));
            assert!(!file.look(wrong));
            assert_eq!(file.targets.len(), 1);
        }
        let before = target(&file.targets, "a/x").revision;
        let better = document(&[("a/x", 2)]);
        assert!(!file.look(Ok(better.clone())));
        assert!(file.look(Ok(better)));
        assert!(target(&file.targets, "a/x").revision > before);
    }

    #[tokio::test]
    async fn the_first_load_must_succeed() {
        let missing = watch_targets_file(Path::new("/no/such.yaml")).unwrap_err();
        let missing = format!("{missing:#}");
        assert!(missing.contains("/no/such.yaml"), "{missing}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("targets.yaml");
        std::fs::write(&path, "targets: {a/b: {url: 'http://h', colour: red}}").unwrap();
        let wrong = format!("{:#}", watch_targets_file(&path).unwrap_err());
        assert!(
            wrong.contains("targets.yaml") && wrong.contains("colour"),
            "{wrong}"
        );
    }
}
