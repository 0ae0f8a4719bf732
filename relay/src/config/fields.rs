//! Checks a file against the list of all fields (`sections`) and makes the example file from it. A test compares
//! `docs/configuration.md` with the same list.

use std::fmt::Write as _;

use oxide::config::fields::{Field, Section};
use oxide::config::{ENGINE, Problem, SUPERVISION};
use toml::{Table, Value};

use super::relay::RelayConfig;
use super::sections::{ADMIN, LIMITS, RELAY, SECTIONS, SESSIONS};

/// Reports fields that are unknown, missing, or of the wrong type.
fn check_section(section: &Section, path: &str, table: &Table, problems: &mut Vec<Problem>) {
    for (name, value) in table {
        let Some(field) = section.fields.iter().find(|field| field.name == name) else {
            let known = section.fields.iter().map(|field| field.name);
            problems.push(unknown(&format!("{path}.{name}"), "field", name, known));
            continue;
        };
        if !field.accepts(value) && !name_bad_elements(field, path, value, problems) {
            problems.push(Problem::new(
                format!("{path}.{name}"),
                value,
                format!("expected {}", field.allowed),
                field.write(),
            ));
        }
    }
    for field in section.fields.iter().filter(|field| field.default.is_none() && !table.contains_key(field.name)) {
        problems.push(Problem::new(
            format!("{path}.{}", field.name),
            "",
            format!("missing; expected {}", field.allowed),
            field.write(),
        ));
    }
}

/// Reports each element of a list that has the wrong type. Returns false if there are none.
fn name_bad_elements(field: &Field, path: &str, value: &Value, problems: &mut Vec<Problem>) -> bool {
    let before = problems.len();
    for (at, element) in value.as_array().into_iter().flatten().enumerate() {
        if !field.accepts(&[element]) {
            let name = format!("{path}.{}[{at}]", field.name);
            problems.push(Problem::new(name, element, format!("expected {}", field.allowed), field.write()));
        }
    }
    problems.len() > before
}

/// Reports every field of `file` that is unknown, missing, or of the wrong type.
pub(super) fn check_shape(file: &Table, problems: &mut Vec<Problem>) {
    for (name, value) in file {
        match (name.as_str(), value) {
            ("engine", Value::Table(table)) => check_section(&ENGINE, "engine", table, problems),
            ("sessions", Value::Table(table)) => check_section(&SESSIONS, "sessions", table, problems),
            ("admin", Value::Table(table)) => check_section(&ADMIN, "admin", table, problems),
            ("limits", Value::Table(table)) => check_section(&LIMITS, "limits", table, problems),
            ("supervision", Value::Table(table)) => check_section(&SUPERVISION, "supervision", table, problems),
            ("relay", Value::Array(entries)) if entries.iter().all(Value::is_table) => {
                for (at, table) in entries.iter().filter_map(Value::as_table).enumerate() {
                    let name = table.get("name").and_then(Value::as_str).unwrap_or_default();
                    check_section(&RELAY, &RelayConfig::path(name, at + 1), table, problems);
                }
            }
            ("relay", _) => problems.push(Problem::new("relay", "", "a list of entries", "write [[relay]] above each")),
            ("engine" | "sessions" | "limits" | "supervision" | "admin", _) => {
                problems.push(Problem::new(name, value, "a section", format!("write [{name}] and its fields below")));
            }
            _ => {
                let known = SECTIONS.iter().map(|section| section.name);
                problems.push(unknown(name, "section", name, known));
            }
        }
    }
    if !file.contains_key("engine") {
        check_section(&ENGINE, "engine", &Table::new(), problems);
    }
}

fn unknown<'a>(path: &str, what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Problem {
    let near = known.clone().map(|other| (distance(name, other), other)).min();
    let remedy = match near {
        Some((steps, other)) if steps <= 1 + other.len() / 3 => format!("write {other}"),
        _ => format!("use one of {}", known.collect::<Vec<_>>().join(", ")),
    };
    Problem::new(path, "", format!("no such {what}"), remedy)
}

/// Returns the number of letters to insert, remove or change to turn one word into the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, other) in row.iter_mut().skip(1).zip(&b) {
            let change = diagonal + usize::from(letter != *other);
            diagonal = *cell;
            left = change.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Returns the example file.
pub(super) fn example() -> String {
    let mut text = String::from(
        "# OXIDE: example configuration with every field. Fields with their default value can be omitted.\n",
    );
    for section in SECTIONS {
        let (open, close) = if section.name == "relay" { ("[[", "]]") } else { ("[", "]") };
        let _ = write!(text, "\n# {}\n{open}{}{close}\n", section.about, section.name);
        for field in section.fields {
            let default = field.default.map_or("required".to_owned(), |default| format!("default: {default}"));
            let _ = write!(text, "\n# {}\n# {default}; allowed: {}\n", field.about, field.allowed);
            let comment = if field.commented { "# " } else { "" };
            let _ = writeln!(text, "{comment}{} = {}", field.name, field.example);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances() {
        for (a, b, wanted) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "abc", 3),
            ("ring", "ring", 0),
            ("rign_size", "ring_size", 2),
            ("pin", "pim", 1),
        ] {
            assert_eq!(distance(a, b), wanted, "{a} {b}");
            assert_eq!(distance(b, a), wanted, "{b} {a}");
        }
    }
}
