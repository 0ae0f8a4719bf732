//! Runs a fuzz target on stable Rust: the stored corpus and a bounded number of seeded mutations of it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use oxide::port::sim::Rng;

/// Maximum length of a mutated input, bytes.
const LONGEST: usize = 4096;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    // The crate of this test may be in a folder of the workspace.
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("fuzz/corpus"));
    let folder = folders.find(|folder| folder.is_dir()).unwrap().join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    // The order of a folder's listing is not defined.
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Runs `body` on the corpus of `target` and on `runs` mutations of it. `FUZZ_RUNS` multiplies the mutations,
/// `FUZZ_SEED` selects others, and `FUZZ_INPUT` runs only that file.
pub(crate) fn run(target: &str, runs: u64, body: impl Fn(&[u8])) {
    if let Ok(file) = std::env::var("FUZZ_INPUT") {
        return body(&fs::read(file).unwrap());
    }
    let corpus = corpus(target);
    assert!(corpus.len() >= 4, "{target}: the corpus has only {} files", corpus.len());
    for (path, input) in &corpus {
        attempt(target, &body, input, &path.display().to_string());
    }
    let (seed, times) = (number("FUZZ_SEED").unwrap_or(1), number("FUZZ_RUNS").unwrap_or(1));
    let mut rng = Rng::part(seed, corpus.len() as u64);
    for n in 0..runs * times {
        let input = mutant(&corpus, &mut rng);
        attempt(target, &body, &input, &format!("mutation {n} of seed {seed}"));
    }
    eprintln!("{target}: {} corpus files and {} mutations, seed {seed}", corpus.len(), runs * times);
}

/// Keeps an input that fails, and prints how to run it again.
fn attempt(target: &str, body: impl Fn(&[u8]), input: &[u8], what: &str) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(input))) else { return };
    let kept = std::env::temp_dir().join(format!("oxide-fuzz-{target}-{}", std::process::id()));
    let _ = fs::write(&kept, input);
    eprintln!("{target}, {what}: {} bytes stored; FUZZ_INPUT={} runs it again", input.len(), kept.display());
    std::panic::resume_unwind(panic);
}

fn mutant(corpus: &[(PathBuf, Vec<u8>)], rng: &mut Rng) -> Vec<u8> {
    let pick = |rng: &mut Rng| &corpus[rng.below(corpus.len() as u64) as usize].1;
    let mut input = pick(rng).clone();
    for _ in 0..1 + rng.below(6) {
        let at = rng.below(input.len() as u64 + 1) as usize;
        let end = (at + 1 + rng.below(16) as usize).min(input.len());
        match rng.below(9) {
            0..=2 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
            3 => {
                const ODD: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, 0x45, 0x46, 0x60, 17, 8, b'"', b'\n'];
                if let Some(byte) = input.get_mut(at) {
                    *byte = ODD[rng.below(ODD.len() as u64) as usize];
                }
            }
            4 => input.insert(at, rng.next() as u8),
            5 => drop(input.drain(at.min(end)..end)),
            6 => {
                let piece = input[at.min(end)..end].to_vec();
                input.splice(at..at, piece);
            }
            7 => {
                let other = pick(rng);
                let from = rng.below(other.len() as u64 + 1) as usize;
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let other = pick(rng);
                let from = rng.below(other.len() as u64 + 1) as usize;
                let piece = other[from..(from + 32).min(other.len())].to_vec();
                input.splice(at..at, piece);
            }
        }
        input.truncate(LONGEST);
    }
    input
}
