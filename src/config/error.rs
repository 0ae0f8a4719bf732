//! Defines the errors of a configuration. All problems are reported at once, each with its remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Reports one invalid value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Path of the field: `engine.ring_size`, or `relay[dns].listen` with the entry's name (`relay[#2]` without a
    /// name).
    pub field: String,
    /// Value in the file, as TOML; empty if there is none.
    pub value: String,
    /// Description of the valid values.
    pub wanted: String,
    /// Text to write instead.
    pub remedy: String,
}

impl Problem {
    /// Creates a problem from the field, its value, the valid values, and the remedy.
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
        write!(f, ": {}; to fix: {}", self.wanted, self.remedy)
    }
}

/// Reports an unusable configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot read the file: {source}; to fix: start with the file that `oxide config example` prints", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The file is not valid TOML. The text shows line, column and the invalid part.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// Some values are invalid. The list is never empty.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

impl ConfigError {
    /// Returns the invalid values; empty if the file could not be read or is not TOML.
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
