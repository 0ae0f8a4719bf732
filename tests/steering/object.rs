//! The committed object is what its source says.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// The compiler whose output is committed; others order instructions differently.
const CLANG: &str = "clang version 14.";
/// As in docs/steering.md, from the repository's root.
const RECIPE: &str =
    "clang -O2 --target=bpfel -mcpu=v2 -fno-addrsig -Wall -Wextra -Werror -c bpf/steer.bpf.c -o bpf/steer.bpf.o";

#[test]
fn object_matches_its_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/steering.md")).unwrap();
    assert!(document.contains(RECIPE), "docs/steering.md does not show the recipe:\n{RECIPE}");

    let version = Command::new("clang").arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if !version.contains(CLANG) {
        let found = version.lines().next().unwrap_or("no clang");
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED-OK object_matches_its_source: another compiler makes another object: needs {CLANG}x (Debian 12's), found {found}"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fresh = folder.path().join("steer.bpf.o");
    let mut words = RECIPE.split(' ');
    let arguments: Vec<&str> = words.by_ref().skip(1).take_while(|&word| word != "-o").collect();
    let output = Command::new("clang").current_dir(root).args(arguments).arg("-o").arg(&fresh).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let same = fs::read(&fresh).unwrap() == fs::read(root.join("bpf/steer.bpf.o")).unwrap();
    assert!(same, "bpf/steer.bpf.o is not what bpf/steer.bpf.c says; make it anew:\n{RECIPE}");
}
