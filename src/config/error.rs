//! What is wrong with a configuration, all of it at once, each with its mend.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// One value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Where: `engine.ring_size`, or `relay[dns].listen` with the entry's name (`relay[#2]` if it has none).
    pub field: String,
    /// What stands there, as TOML; empty where nothing does.
    pub value: String,
    /// What may stand there.
    pub wanted: String,
    /// What to write instead.
    pub remedy: String,
}

impl Problem {
    /// Names the field, shows its value, and says what is wanted and what mends it.
    #[must_use]
    pub fn new(
        field: impl Into<String>,
        value: impl fmt::Display,
        wanted: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), value: value.to_string(), wanted: wanted.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field)?;
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        write!(f, ": {}; {}", self.wanted, self.remedy)
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source} (`oxide config example` prints a file to start from)", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Not TOML. The text shows line, column and the offending piece.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// Values that cannot be used; never empty.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

impl ConfigError {
    /// The single values at fault; empty where the file could not be read or is not TOML.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            ConfigError::Invalid(problems) => problems,
            _ => &[],
        }
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
