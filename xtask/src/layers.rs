//! Checks that modules and crates import only what is below them in the table of `docs/architecture.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::tiers::root;

/// Name of the engine's crate in the table; its modules have their own rows.
const ENGINE: &str = "src";

/// Holds one row of the table: a crate (`relay/`) or a module of the engine (`src/queue`), with its declared imports.
struct Row {
    name: String,
    imports: BTreeSet<String>,
}

/// Reads the rows whose first column is a path in backticks. The imports are the names in backticks in the third
/// column.
fn rows(page: &str) -> Vec<Row> {
    let quoted = |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split(" | ").collect();
        let [name, _, imports] = cells.as_slice() else { return None };
        let name = name.strip_suffix('`')?.trim_end_matches('/').to_owned();
        Some(Row { name, imports: quoted(imports).into_iter().collect() })
    };
    let table =
        page.lines().skip_while(|line| !line.starts_with("| module |")).take_while(|line| line.starts_with('|'));
    table.filter_map(row).collect()
}

/// Collects the modules that the sources of `folder` name by `crate::`, without tests.
fn imports_of_module(folder: &Path, own: &str, found: &mut BTreeSet<String>) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if stem.ends_with("tests") {
            continue;
        }
        if path.is_dir() {
            imports_of_module(&path, own, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            // The tests of a file are its last item.
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            assert!(!code.contains("crate::{"), "{}: write one `use crate::` line for each module", path.display());
            for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
                for rest in line.split("crate::").skip(1) {
                    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                    found.insert(rest[..end].to_owned());
                }
            }
        }
    }
    found.remove(own);
}

/// Returns the crates of the workspace that `folder/Cargo.toml` depends on, by their folders.
fn imports_of_crate(folder: &Path) -> BTreeSet<String> {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    let section =
        manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default().split("\n[").next().unwrap_or_default();
    let paths = section.lines().filter_map(|line| line.split_once("path = \"")?.1.split('"').next());
    paths.map(|path| if path == ".." { ENGINE } else { path.trim_start_matches("../") }.to_owned()).collect()
}

/// Returns the errors of `row`, which imports `found` and is above `below`.
fn complaints(row: &Row, found: &BTreeSet<String>, below: &BTreeSet<&str>) -> Vec<String> {
    let name = &row.name;
    let undeclared = found.difference(&row.imports).map(|one| format!("{name} imports {one}, which is not declared"));
    let unused = row.imports.difference(found).map(|one| format!("{name} declares {one} and does not import it"));
    let upward = row.imports.iter().filter(|one| !below.contains(one.as_str()));
    undeclared.chain(unused).chain(upward.map(|one| format!("{name} imports {one}, which is not below it"))).collect()
}

#[test]
fn modules_and_crates_import_only_what_is_declared_and_below_them() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap_or_default();
    let rows = rows(&page);
    let (mut modules, mut crates) = (BTreeSet::new(), BTreeSet::from(["topology", "actors"]));
    let mut wrong = Vec::new();
    for row in &rows {
        if let Some(module) = row.name.strip_prefix("src/") {
            let mut found = BTreeSet::new();
            imports_of_module(&root().join("src").join(module), module, &mut found);
            wrong.extend(complaints(row, &found, &modules));
            modules.insert(module);
        } else {
            wrong.extend(complaints(row, &imports_of_crate(&root().join(&row.name)), &crates));
            crates.insert(ENGINE);
            crates.insert(&row.name);
        }
    }
    let folders =
        fs::read_dir(root().join("src")).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let there: BTreeSet<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let listed: BTreeSet<String> = modules.iter().map(|module| (*module).to_owned()).collect();
    assert_eq!(there, listed, "the modules of src/ must equal the rows of the table in docs/architecture.md");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Returns the names that the `use` lines of `code` take from `from`, such as `super`: for `from::a::B` the `a`.
fn used(code: &str, from: &str) -> Vec<String> {
    let lines =
        code.split("use ").skip(1).filter_map(|rest| rest.split_once(';')?.0.strip_prefix(from)?.strip_prefix("::"));
    let names = lines.flat_map(|line| {
        let list = line.strip_prefix('{').and_then(|list| list.strip_suffix('}'));
        let list = list.unwrap_or_else(|| line.split("::").next().unwrap_or_default());
        list.split(',').map(|one| one.trim().split("::").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// Checks that the files of the engine's module import each other in one direction. An export of `mod.rs` counts as
/// an import of its file.
#[test]
fn files_of_the_engine_import_each_other_without_a_cycle() {
    let folder = root().join("src/engine");
    let read = |name: &str| {
        let text = fs::read_to_string(folder.join(format!("{name}.rs"))).unwrap_or_default();
        text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()
    };
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned()));
    let mut left: BTreeSet<String> = names.filter(|name| name != "mod").collect();
    let exports = read("mod");
    let file_of = |name: &str, files: &BTreeSet<String>| {
        let exporter = files.iter().find(|file| used(&exports, file).iter().any(|one| one == name));
        files.get(name).or(exporter).cloned().unwrap_or_else(|| format!("mod.rs ({name})"))
    };
    let imports: Vec<(String, BTreeSet<String>)> = left
        .iter()
        .map(|file| (file.clone(), used(&read(file), "super").iter().map(|name| file_of(name, &left)).collect()))
        .collect();
    assert!(imports.iter().any(|(_, found)| !found.is_empty()), "no import was found");
    loop {
        let free = |(file, found): &&(String, BTreeSet<String>)| {
            left.contains(file) && found.iter().all(|one| !left.contains(one) && !one.starts_with("mod.rs"))
        };
        let Some((file, _)) = imports.iter().find(free) else { break };
        left.remove(file);
    }
    let stuck: Vec<_> = imports.iter().filter(|(file, _)| left.contains(file)).collect();
    assert!(stuck.is_empty(), "a cycle, or an import of what mod.rs itself declares: {stuck:#?}");
}

#[test]
fn undeclared_unused_and_upward_imports_are_reported() {
    let rows = rows("| module | owns | imports |\n|---|---|---|\n| `src/a` | x | `b`, `c` |\n\n| `src/z` | x | `y` |");
    assert_eq!(rows.len(), 1, "only the first table");
    let found = BTreeSet::from(["b".to_owned(), "d".to_owned()]);
    let wrong = complaints(&rows[0], &found, &BTreeSet::from(["c"]));
    assert_eq!(
        wrong,
        [
            "src/a imports d, which is not declared",
            "src/a declares c and does not import it",
            "src/a imports b, which is not below it"
        ]
    );
}
