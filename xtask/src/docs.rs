//! `cargo xtask docs`: checks every link of the Markdown files, then builds the book with mdBook.

use crate::process::{Cancel, Result, failed, has_program, run_lines};
use crate::setup::Policy;
use crate::slow_tiers::install_tool;
use crate::tiers::root;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Version of mdBook that is installed if there is none.
const MDBOOK: &str = "0.4.52";

/// Checks the links, then builds the book into `target/book`.
pub(crate) fn run(cancel: &Cancel, policy: Policy) -> Result<()> {
    let broken = broken_links(root());
    if !broken.is_empty() {
        return failed(format!("broken links; to fix: correct them in the file named\n  {}", broken.join("\n  ")));
    }
    println!("docs: all relative links of the Markdown files exist");
    let own = root().join("target/tools/bin/mdbook");
    let program = if has_program("mdbook") { PathBuf::from("mdbook") } else { own };
    if !has_program("mdbook") && !program.exists() {
        if policy == Policy::Refuse {
            return failed(format!("mdbook: not installed; to fix: cargo install mdbook --version {MDBOOK} --locked"));
        }
        install_tool(cancel, "mdbook", MDBOOK)?;
    }
    let mut command = Command::new(program);
    command.arg("build").arg(root().join("docs"));
    let status = run_lines(cancel, &mut command, |line| println!("{line}"))?;
    if status.success() { Ok(()) } else { failed(format!("mdbook build ended with {status}")) }
}

/// Lists each relative link whose file or heading does not exist, as `file: link`.
fn broken_links(root: &Path) -> Vec<String> {
    let mut broken = vec![];
    for file in markdown_files(root) {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let folder = file.parent().unwrap_or(root);
        for link in links(&text) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { file.clone() } else { folder.join(path) };
            let is_there = target.exists() && (anchor.is_empty() || has_anchor(&target, anchor));
            if !is_there {
                broken.push(format!("{}: {link}", file.strip_prefix(root).unwrap_or(&file).display()));
            }
        }
    }
    broken
}

/// Lists the Markdown files at the top and in `docs/`.
fn markdown_files(root: &Path) -> Vec<PathBuf> {
    let folders = [root.to_owned(), root.join("docs")];
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "md")).collect();
    files.sort();
    files
}

/// Returns the relative targets of `[text](target)`, outside code blocks and inline code.
fn links(text: &str) -> Vec<String> {
    let mut found = vec![];
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
            for rest in prose.split("](").skip(1) {
                let target = rest.split([')', ' ']).next().unwrap_or_default();
                if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                    found.push(target.to_owned());
                }
            }
        }
    }
    found
}

/// Returns whether a Markdown file has a heading or an `<a id>` of this name. Other files always pass.
fn has_anchor(file: &Path, anchor: &str) -> bool {
    if file.extension().is_none_or(|extension| extension != "md") {
        return true;
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let headings: BTreeSet<String> = text.lines().filter(|line| line.starts_with('#')).map(slug).collect();
    headings.contains(anchor) || text.contains(&format!("id=\"{anchor}\""))
}

/// Returns the anchor that GitHub and mdBook give a heading.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_repository_exist() {
        let files = markdown_files(root());
        assert!(files.len() > 12, "{files:?}");
        assert_eq!(broken_links(root()), Vec::<String>::new());
    }

    #[test]
    fn book_lists_every_page() {
        let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
        for file in markdown_files(&root().join("docs")) {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(name == "SUMMARY.md" || summary.contains(&format!("({name})")), "docs/SUMMARY.md lacks {name}");
        }
    }

    #[test]
    fn links_skips_code_and_addresses() {
        let text = "[a](b.md#c) `[x](y)` [d](https://e)\n```\n[f](g)\n```\n[h](i.md \"title\")";
        assert_eq!(links(text), ["b.md#c", "i.md"]);
        assert_eq!(slug("## `[engine]`: the NIC queues"), "engine-the-nic-queues");
    }
}
