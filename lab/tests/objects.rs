//! Checks that the committed BPF objects match their sources.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// Compiler of the committed objects; other versions order instructions differently.
const CLANG: &str = "clang version 14.";
/// Command of docs/performance.md, run from the repository's root.
const RECIPE: &str = "clang -O2 --target=bpfel -mcpu=v2 -fno-addrsig -Wall -Wextra -Werror -c";

#[test]
fn objects_match_their_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document = std::fs::read_to_string(root.join("docs/performance.md")).unwrap();
    assert!(document.contains(RECIPE), "docs/performance.md does not contain the command:\n{RECIPE}");
    let version = Command::new("clang").arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if !version.contains(CLANG) {
        let found = version.lines().next().unwrap_or("no clang");
        let why = format!("needs {CLANG}x (Debian 12's), found {found}");
        writeln!(std::io::stderr(), "SKIPPED objects_match_their_sources: {why}").unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["generate", "count", "split", "bounce"] {
        let (source, object) = (format!("lab/bpf/{name}.bpf.c"), format!("lab/bpf/{name}.bpf.o"));
        let fresh = folder.path().join(name);
        let output = Command::new("clang")
            .current_dir(root)
            .args(RECIPE.split(' ').skip(1))
            .arg(&source)
            .arg("-o")
            .arg(&fresh)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let same = std::fs::read(&fresh).unwrap() == std::fs::read(root.join(&object)).unwrap();
        assert!(same, "{object}: it does not match {source}; to fix:\n{RECIPE} {source} -o {object}");
    }
}
