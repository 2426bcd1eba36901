//! Settings: defaults, then the configuration file, then flags.
//!
//! What enters: a TOML file, flags that were given. What leaves: one struct, or one line that names the file, the
//! line and the key that is wrong. What may be lost: nothing; an unknown key is an error.
//!
//! A service's struct carries `#[serde(default, deny_unknown_fields)]` (on nested structs as well) and is the only
//! source of names, defaults and documentation. Durations are `#[serde(with = "reprise_node::config::duration")]`,
//! sizes are [`ByteSize`].

use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Durations written `"250ms"`; `duration::option` for optional ones.
pub use humantime_serde as duration;
pub use reprise_traffic::ByteSize;

/// Loads settings: defaults < file < flags.
///
/// `flags` is a struct whose fields have the names of `C`'s and are `Option`s: `None` was not given. Empty lists
/// count as not given.
///
/// # Errors
/// One line: the file can't be read, or which line of it has which unknown key or wrong value.
pub fn load<C>(file: Option<&Path>, flags: &impl Serialize) -> anyhow::Result<C>
where
    C: Default + Serialize + DeserializeOwned,
{
    let from_file: C = match file {
        None => C::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("read configuration file {}", path.display()))?;
            toml::from_str(&text).map_err(|error| {
                let line = error.span().map_or(String::new(), |span| {
                    format!(", line {}", line_of(&text, span.start))
                });
                let what = error.message().replace('\n', " ");
                anyhow!("configuration file {}{line}: {what}", path.display())
            })?
        }
    };
    let mut merged = Table::try_from(&from_file).context("render settings")?;
    overlay(&mut merged, Table::try_from(flags).context("render flags")?);
    Value::Table(merged)
        .try_into()
        .map_err(|error: toml::de::Error| anyhow!("flags: {}", error.message()))
}

/// Settings as TOML, for `--print-default`; a service puts its comments around it.
///
/// # Errors
/// When the struct holds something that TOML can't say.
pub fn to_toml<C: Serialize>(settings: &C) -> anyhow::Result<String> {
    toml::to_string(settings).context("render settings")
}

fn overlay(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => overlay(base, over),
            (_, Value::Array(list)) if list.is_empty() => {}
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|b| **b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        id: Option<String>,
        capture: Vec<String>,
        budget: ByteSize,
        #[serde(with = "duration")]
        linger: Duration,
        etcd: Nested,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Nested {
        endpoints: Vec<String>,
        prefix: Option<String>,
    }

    impl Default for Settings {
        fn default() -> Settings {
            Settings {
                id: None,
                capture: Vec::new(),
                budget: ByteSize::mib(64),
                linger: Duration::from_millis(5),
                etcd: Nested::default(),
            }
        }
    }

    #[derive(Default, Serialize)]
    struct Flags {
        id: Option<String>,
        capture: Vec<String>,
        budget: Option<ByteSize>,
        etcd: Nested,
    }

    fn load_text(text: &str, flags: &Flags) -> anyhow::Result<Settings> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        load(Some(file.path()), flags)
    }

    #[test]
    fn defaults_then_file_then_flags() {
        assert_eq!(
            load::<Settings>(None, &Flags::default()).unwrap(),
            Settings::default()
        );
        let flags = Flags {
            id: Some("web".to_owned()),
            etcd: Nested {
                prefix: Some("p".to_owned()),
                ..Nested::default()
            },
            ..Flags::default()
        };
        let text = "capture = ['lo:80']\nlinger = '1s'\nid = 'x'\nbudget = '1.5KiB'\n\
                    [etcd]\nendpoints = ['h:1']\n";
        let settings = load_text(text, &flags).unwrap();
        assert_eq!(settings.id.as_deref(), Some("web"));
        assert_eq!(settings.capture, ["lo:80"]);
        assert_eq!(settings.budget, ByteSize(1536));
        assert_eq!(settings.linger, Duration::from_secs(1));
        assert_eq!(settings.etcd.endpoints, ["h:1"]);
        assert_eq!(settings.etcd.prefix.as_deref(), Some("p"));
        let printed = to_toml(&settings).unwrap();
        assert_eq!(load_text(&printed, &Flags::default()).unwrap(), settings);
    }

    #[test]
    fn a_mistake_is_one_line_with_file_line_and_key() {
        for (text, line, part) in [
            ("id = 'x'\ncolour = 1\n", "line 2", "colour"),
            ("\n\n[etcd]\nendpoint = 1\n", "line 4", "endpoint"),
            ("linger = 'soon'\n", "line 1", "soon"),
            ("id = 'a'\nbudget = 'big'", "line 2", "big"),
            ("id = ", "line 1", ""),
        ] {
            let error = format!("{:#}", load_text(text, &Flags::default()).unwrap_err());
            assert!(error.starts_with("configuration file /"), "{error}");
            assert!(error.contains(line) && error.contains(part), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let none = load::<Settings>(Some(Path::new("/no/such")), &Flags::default());
        assert!(format!("{:#}", none.unwrap_err()).contains("/no/such"));
    }
}
