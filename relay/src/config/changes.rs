//! Compares two configurations, and states what brings each change into force.

use serde::Serialize;
use toml::{Table, Value};

use super::Config;

/// Names the action that brings a changed field into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReloadAction {
    /// No action: the change is in force at once.
    Live,
    /// New handlers, which a reload makes; they inherit the sessions.
    Handler,
    /// A restart of each queue by the operator.
    Queue,
    /// A restart of the process.
    Process,
}

impl ReloadAction {
    /// Returns the remaining action as the end of a message.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Live => "in force",
            Self::Handler => "in force: new handlers take over each session that the configuration still allows",
            Self::Queue => {
                "in force for a queue with its next restart: oxide ctl restart INTERFACE:QUEUE --depth queue"
            }
            Self::Process => "in force with the next start of the process",
        }
    }
}

/// Describes one changed field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConfigChange {
    /// Path of the field, such as `engine.batch_size` or `relay[dns].upstreams`; `relay[dns]` for a whole entry.
    pub field: String,
    /// Former value as TOML; empty if there was none.
    pub from: String,
    /// New value as TOML; empty if there is none.
    pub to: String,
    /// Action that brings the change into force.
    pub effect: ReloadAction,
}

impl std::fmt::Display for ConfigChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |text: &str| if text.is_empty() { "nothing".to_owned() } else { text.to_owned() };
        write!(f, "{}: {} -> {}: {}", self.field, shown(&self.from), shown(&self.to), self.effect.remedy())
    }
}

/// Returns the action that brings `field` of `section` into force.
pub(super) fn effect(section: &str, field: &str) -> ReloadAction {
    match (section, field) {
        ("sessions", "drain_s") => ReloadAction::Live,
        ("sessions" | "limits" | "relay", _) => ReloadAction::Handler,
        ("engine", "batch_size" | "busy_poll" | "busy_poll_timeout_us" | "zero_copy" | "realtime") => {
            ReloadAction::Queue
        }
        // Plan, programs, executors and listeners are made once.
        _ => ReloadAction::Process,
    }
}

impl Config {
    /// Returns the fields that differ in `to`, each with the action that brings it into force.
    #[must_use]
    pub fn changes(&self, to: &Self) -> Vec<ConfigChange> {
        let (old, new) = (table(self), table(to));
        let mut changes = Vec::new();
        for section in ["engine", "sessions", "limits", "supervision", "admin"] {
            let of = |file: &Table| file.get(section).and_then(Value::as_table).cloned().unwrap_or_default();
            compare(section, section, &of(&old), &of(&new), &mut changes);
        }
        let entry = |file: &Table, name: &str| {
            let entries = file.get("relay").and_then(Value::as_array).cloned().unwrap_or_default();
            entries
                .into_iter()
                .find_map(|e| e.as_table().filter(|e| e.get("name").and_then(Value::as_str) == Some(name)).cloned())
        };
        let mut names: Vec<&str> = self.relays.iter().chain(&to.relays).map(|r| r.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let path = format!("relay[{name}]");
            let whole = |from: &str, to: &str| ConfigChange {
                field: path.clone(),
                from: from.to_owned(),
                to: to.to_owned(),
                effect: ReloadAction::Handler,
            };
            match (entry(&old, name), entry(&new, name)) {
                (Some(old), Some(new)) => compare("relay", &path, &old, &new, &mut changes),
                (Some(_), None) => changes.push(whole("an entry", "")),
                (None, Some(_)) => changes.push(whole("", "an entry")),
                (None, None) => {}
            }
        }
        changes
    }

    /// Returns this configuration with those changes of `to` that need at most the action `most`.
    #[must_use]
    pub fn adopting(&self, to: &Self, most: ReloadAction) -> Self {
        let mut next = self.clone();
        if most >= ReloadAction::Process {
            return to.clone();
        }
        if most >= ReloadAction::Handler {
            next.relays.clone_from(&to.relays);
            next.sessions.clone_from(&to.sessions);
            next.limits.clone_from(&to.limits);
        }
        next.sessions.drain_s = to.sessions.drain_s;
        if most >= ReloadAction::Queue {
            next.engine.batch_size = to.engine.batch_size;
            next.engine.busy_poll = to.engine.busy_poll;
            next.engine.busy_poll_timeout_us = to.engine.busy_poll_timeout_us;
            next.engine.zero_copy = to.engine.zero_copy;
            next.engine.realtime = to.engine.realtime;
        }
        next
    }
}

fn table(config: &Config) -> Table {
    Table::try_from(config).unwrap_or_default()
}

fn compare(section: &str, path: &str, old: &Table, new: &Table, changes: &mut Vec<ConfigChange>) {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let shown = |value: Option<&Value>| value.map(Value::to_string).unwrap_or_default();
    for name in names {
        let (from, to) = (old.get(name), new.get(name));
        if from != to {
            let field = format!("{path}.{name}");
            changes.push(ConfigChange { field, from: shown(from), to: shown(to), effect: effect(section, name) });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::sections::SECTIONS;

    fn config(text: &str) -> Config {
        Config::from_toml(&format!("engine.interfaces = [\"eth0\"]\n{text}")).unwrap()
    }

    #[test]
    fn each_change_is_named_with_its_reload_action() {
        let entry = |name: &str, port: u16| {
            format!("[[relay]]\nname = \"{name}\"\nlisten = \"192.0.2.1:{port}\"\nupstreams = [\"198.51.100.1:53\"]\n")
        };
        let old = config(&format!("engine.batch_size = 64\n{}{}", entry("a", 53), entry("b", 54)));
        let new = config(&format!(
            "engine.batch_size = 32\nengine.ring_size = 256\nsessions.drain_s = 9\nadmin.http = \"off\"\n{}{}",
            entry("a", 55),
            entry("c", 56)
        ));
        let found: Vec<_> = old.changes(&new).into_iter().map(|c| (c.field, c.from, c.to, c.effect)).collect();
        let wanted = [
            ("engine.batch_size", "64", "32", ReloadAction::Queue),
            ("engine.ring_size", "1024", "256", ReloadAction::Process),
            ("sessions.drain_s", "3", "9", ReloadAction::Live),
            ("admin.http", "\"auto\"", "\"off\"", ReloadAction::Process),
            ("relay[a].listen", "\"192.0.2.1:53\"", "\"192.0.2.1:55\"", ReloadAction::Handler),
            ("relay[b]", "an entry", "", ReloadAction::Handler),
            ("relay[c]", "", "an entry", ReloadAction::Handler),
        ];
        assert_eq!(found, wanted.map(|(f, a, b, e)| (f.to_owned(), a.to_owned(), b.to_owned(), e)));
        assert!(old.changes(&old).is_empty());
    }

    /// The adopted changes are exactly those that are reported as adopted.
    #[test]
    fn adopted_and_named_changes_agree() {
        let old = config("");
        let new = config(
            "engine.batch_size = 1\nengine.busy_poll = false\nengine.busy_poll_timeout_us = 7\nengine.zero_copy = \"off\"\nengine.realtime = 3\nengine.ring_size = 64\nsessions.drain_s = 1\nsessions.capacity = 64\nsessions.idle_timeout_s = 120\nsessions.source_ports = \"2000-3000\"\nadmin.socket = \"off\"\nlimits.burst_ms = 7\nsupervision.restarts = 7\n[[relay]]\nname = \"a\"\nlisten = \"192.0.2.1:1\"\nupstreams = [\"198.51.100.1:53\"]",
        );
        let all = old.changes(&new);
        for most in [ReloadAction::Live, ReloadAction::Handler, ReloadAction::Queue, ReloadAction::Process] {
            let left: Vec<_> = old.adopting(&new, most).changes(&new).into_iter().map(|c| c.field).collect();
            let wanted: Vec<_> = all.iter().filter(|c| c.effect > most).map(|c| c.field.clone()).collect();
            assert_eq!(left, wanted, "{most:?}");
        }
    }

    /// `docs/operation.md` lists for every field the action that brings a change into force.
    #[test]
    fn reload_table_matches_code() {
        let document = include_str!("../../../docs/operation.md");
        for section in SECTIONS {
            for field in section.fields {
                let word = match effect(section.name, field.name) {
                    ReloadAction::Live => "at once",
                    ReloadAction::Handler => "new handlers",
                    ReloadAction::Queue => "restart of the queue",
                    ReloadAction::Process => "restart of the process",
                };
                let name = format!("`{}.{}`", section.name, field.name);
                let line = document.lines().find(|line| line.starts_with("| ") && line.contains(word));
                let named =
                    document.lines().any(|line| line.starts_with(&format!("| {word} |")) && line.contains(&name));
                assert!(line.is_some() && named, "docs/operation.md lacks a row `| {word} |` with {name}");
            }
        }
    }
}
