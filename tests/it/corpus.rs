//! The committed fuzz corpus through the fuzz target's own function.

#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "a crate of its own elsewhere; one of its targets is replayed here")]
pub(crate) mod fuzz;

use std::{fs, path::Path};

/// Nothing panics, loops, or asks for more than the image justifies.
#[test]
fn replayed() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/open_resealed");
    let mut files: Vec<_> = fs::read_dir(&dir).expect("the corpus").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() >= 8, "the corpus is gone");
    for file in files {
        // The last line names what is at work when something goes wrong.
        println!("{}", file.display());
        fuzz::open_resealed(&fs::read(file).expect("an input"));
    }
}

/// The harness finds what it is for: without its checksums made right, an edit of a node's payload does not get past them.
#[test]
fn resealing_gets_edits_past_the_checksums() {
    let mut image = fuzz::image(2);
    let clean = |image: &fuzz::Image| fuzz::findings(image.bytes.clone());
    assert_eq!(clean(&image), Some(vec![]), "the seed");
    image.reseal();
    assert_eq!(clean(&image), Some(vec![]), "resealed as it was");
    let pages = image.pages();
    let verdicts = |reseal: bool| {
        let one = |page| {
            let mut edited = fuzz::image(2);
            let [old] = edited.get(page, 64);
            edited.put(page, 64, &[old ^ 1]);
            if reseal {
                edited.reseal();
            }
            clean(&edited).unwrap_or_default().iter().any(|f| f.contains("checksum mismatch"))
        };
        (0..pages).filter(|&p| one(p)).count()
    };
    assert!(verdicts(false) > 0 && verdicts(true) == 0, "{} {}", verdicts(false), verdicts(true));
}

/// A record is a list of operations; one whose length lies is an error, not an allocation.
#[test]
fn lists_of_absurd_length_are_refused() {
    const DELETE_SNAPSHOT: u32 = 7;
    for length in [1, 2, 5000, u64::from(u32::MAX), u64::MAX] {
        let mut body = length.to_le_bytes().to_vec();
        body.extend_from_slice(&DELETE_SNAPSHOT.to_le_bytes());
        body.extend_from_slice(&1u64.to_le_bytes());
        let mut image = fuzz::image(3);
        image.set_log(&body);
        let outcome = fuzz::opening(image.bytes);
        assert_eq!(outcome.is_ok(), length == 1, "length {length}: {outcome:?}");
    }
}
