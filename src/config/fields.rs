//! What declares a field of a configuration file, and checks a value for it. The sections of a file are made of these.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Problem;

/// One field.
#[derive(Debug)]
pub struct Field {
    /// As in the file.
    pub name: &'static str,
    /// As TOML; `None` where the field must be given.
    pub default: Option<&'static str>,
    /// What the example file holds.
    pub example: &'static str,
    /// Whether it holds that as a comment: the default is not a value of the field itself.
    pub commented: bool,
    /// What it may hold, for people.
    pub allowed: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Whether a value has the right type.
    fits: fn(Value) -> bool,
}

/// One section of the file.
#[derive(Debug)]
pub struct Section {
    /// As in the file.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// In the order of the example file.
    pub fields: &'static [Field],
}

fn fits<T: DeserializeOwned>(value: Value) -> bool {
    T::deserialize(value).is_ok()
}

/// Declares a field that has a default.
#[must_use]
pub const fn optional<T: DeserializeOwned>(
    name: &'static str,
    default: &'static str,
    allowed: &'static str,
    about: &'static str,
) -> Field {
    Field { name, default: Some(default), example: default, commented: false, allowed, about, fits: fits::<T> }
}

/// Declares a field that must be given.
#[must_use]
pub const fn required<T: DeserializeOwned>(
    name: &'static str,
    example: &'static str,
    allowed: &'static str,
    about: &'static str,
) -> Field {
    Field { name, default: None, example, commented: false, allowed, about, fits: fits::<T> }
}

/// Makes a field whose default is not a value of its own; the example file shows `example` as a comment.
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
    /// Reports a value of the right type that is not in the field's range.
    pub fn refuse(&self, name: &str, value: impl fmt::Display, remedy: impl Into<String>, problems: &mut Vec<Problem>) {
        let allowed = self.fields.iter().find(|field| field.name == name).map_or("", |field| field.allowed);
        problems.push(Problem::new(format!("{}.{name}", self.name), value, format!("allowed: {allowed}"), remedy));
    }
}

impl Field {
    /// Returns whether `value` has the right type; its range is not looked at.
    #[must_use]
    pub fn accepts(&self, value: &impl Serialize) -> bool {
        serde_json::to_value(value).is_ok_and(self.fits)
    }

    /// Returns what to write instead of a wrong value.
    #[must_use]
    pub fn write(&self) -> String {
        let (name, example) = (self.name, self.example);
        let or = if self.commented { ", or leave it out for the default" } else { "" };
        format!("write for example {name} = {example}{or}")
    }
}
