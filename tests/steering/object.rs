//! Tests that the committed object matches its source.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Compiler of the committed object; other versions order instructions differently.
const CLANG: &str = "clang version 14.";
/// Command of docs/steering.md, run in the repository's root.
const RECIPE: &str =
    "clang -O2 --target=bpfel -mcpu=v2 -fno-addrsig -Wall -Wextra -Werror -c bpf/steer.bpf.c -o bpf/steer.bpf.o";

/// Returns the instructions of the object's section `xdp`, 8 bytes each: opcode, registers (source in the high half),
/// offset, immediate value.
fn instructions() -> Vec<[u8; 8]> {
    let object = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf/steer.bpf.o")).unwrap();
    // ELF64, little-endian: e_shoff at 40, e_shentsize, e_shnum and e_shstrndx from 58 on.
    let number = |at: usize, bytes: usize| -> usize {
        object[at..at + bytes].iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte))
    };
    let section = |index: usize| number(40, 8) + index * number(58, 2);
    // sh_name at 0, sh_offset at 24, sh_size at 32.
    let names = number(section(number(62, 2)) + 24, 8);
    let is_program = |&index: &usize| object[names + number(section(index), 4)..].starts_with(b"xdp\0");
    let program = (0..number(60, 2)).find(is_program).unwrap();
    let (at, size) = (number(section(program) + 24, 8), number(section(program) + 32, 8));
    object[at..at + size].chunks_exact(8).map(|chunk| chunk.try_into().unwrap()).collect()
}

/// Checks the object for instructions that kernels 6.1 and 6.12 refuse without `CAP_PERFMON`. Newer kernels accept them,
/// so loading the object there would not detect them.
#[test]
fn object_needs_no_perfmon() {
    // BPF_ALU64 | BPF_X with BPF_SUB, with BPF_ADD; BPF_ALU64 | BPF_K with BPF_AND.
    const SUBTRACT: u8 = 0x1f;
    const ADD: u8 = 0x0f;
    const MASK: u8 = 0x57;
    // BPF_STX and BPF_ST of 1, 2 and 4 bytes, at the frame pointer.
    const SHORT_STORES: [u8; 6] = [0x73, 0x6b, 0x63, 0x72, 0x6a, 0x62];
    const FRAME_POINTER: u8 = 10;
    let program = instructions();
    assert!(program.len() > 50, "{} instructions", program.len());
    for (at, instruction) in program.iter().enumerate() {
        assert_ne!(instruction[0], SUBTRACT, "instruction {at} subtracts a register");
        let short_store = SHORT_STORES.contains(&instruction[0]) && instruction[1] & 15 == FRAME_POINTER;
        assert!(!short_store, "instruction {at} writes a part of eight bytes of the stack");
        if instruction[0] == ADD {
            let index = instruction[1] >> 4;
            let masked = program[..at].iter().rev().take(4).any(|before| before[0] == MASK && before[1] & 15 == index);
            assert!(masked, "instruction {at} adds a register that was not masked just before");
        }
    }
}

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
    assert!(same, "bpf/steer.bpf.o does not match bpf/steer.bpf.c; to fix:\n{RECIPE}");
}
