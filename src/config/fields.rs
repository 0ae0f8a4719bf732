//! Declares the fields and sections of a configuration file, and checks the type of a value.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Problem;

/// Describes one field.
#[derive(Debug)]
pub struct Field {
    /// Name in the file.
    pub name: &'static str,
    /// Default as TOML; `None` if the field is required.
    pub default: Option<&'static str>,
    /// Value in the example file.
    pub example: &'static str,
    /// Whether the example file shows the value as a comment, because the default is not a value of the field itself.
    pub commented: bool,
    /// Valid values, as text.
    pub allowed: &'static str,
    /// Purpose of the field, as text.
    pub about: &'static str,
    /// Returns whether a value has the right type.
    fits: fn(Value) -> bool,
}

/// Describes one section of the file.
#[derive(Debug)]
pub struct Section {
    /// Name in the file.
    pub name: &'static str,
    /// Purpose of the section, as text.
    pub about: &'static str,
    /// Fields in the order of the example file.
    pub fields: &'static [Field],
}

fn fits<T: DeserializeOwned>(value: Value) -> bool {
    T::deserialize(value).is_ok()
}

/// Declares a field with a default.
#[must_use]
pub const fn optional<T: DeserializeOwned>(
    name: &'static str,
    default: &'static str,
    allowed: &'static str,
    about: &'static str,
) -> Field {
    Field { name, default: Some(default), example: default, commented: false, allowed, about, fits: fits::<T> }
}

/// Declares a required field.
#[must_use]
pub const fn required<T: DeserializeOwned>(
    name: &'static str,
    example: &'static str,
    allowed: &'static str,
    about: &'static str,
) -> Field {
    Field { name, default: None, example, commented: false, allowed, about, fits: fits::<T> }
}

/// Declares a field whose default is not a value of its own. The example file shows `example` as a comment.
#[must_use]
pub const fn inherited<T: DeserializeOwned>(
    name: &'static str,
    default: &'static str,
    example: &'static str,
    allowed: &'static str,
    about: &'static str,
) -> Field {
    Field { name, default: Some(default), example, commented: true, allowed, about, fits: fits::<T> }
}

impl Section {
    /// Adds a problem for a value of the right type that is out of range.
    pub fn refuse(&self, name: &str, value: impl fmt::Display, remedy: impl Into<String>, problems: &mut Vec<Problem>) {
        let allowed = self.fields.iter().find(|field| field.name == name).map_or("", |field| field.allowed);
        problems.push(Problem::new(format!("{}.{name}", self.name), value, format!("expected {allowed}"), remedy));
    }
}

impl Field {
    /// Returns whether `value` has the right type. It does not check the range.
    #[must_use]
    pub fn accepts(&self, value: &impl Serialize) -> bool {
        serde_json::to_value(value).is_ok_and(self.fits)
    }

    /// Returns the remedy for a wrong value.
    #[must_use]
    pub fn write(&self) -> String {
        let (name, example) = (self.name, self.example);
        let or = if self.commented { ", or leave it out for the default" } else { "" };
        format!("write for example {name} = {example}{or}")
    }
}
