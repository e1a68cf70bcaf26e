//! The committed fuzz corpora through the fuzz targets' own functions.

#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "a crate of its own elsewhere; its targets are replayed here")]
pub(crate) mod fuzz;

use std::{fs, path::Path};

fn corpus(target: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Nothing panics, loops, or finds an image damaged that a full check had found sound.
#[test]
fn replayed() {
    for (target, run) in fuzz::TARGETS {
        let mut files: Vec<_> =
            fs::read_dir(corpus(target)).expect("the corpus").map(|e| e.expect("an entry").path()).collect();
        files.sort();
        assert!(files.len() >= 8, "the corpus of {target} is gone");
        for file in files {
            // The last line names what is at work when something goes wrong.
            println!("{}", file.display());
            run(&fs::read(file).expect("an input"));
        }
    }
}

/// One input that once went wrong.
fn regression(target: &str, name: &str) {
    let run = fuzz::TARGETS.iter().find(|t| t.0 == target).expect("a target").1;
    run(&fs::read(corpus(target).join(name)).expect("an input"));
}

/// A block was placed, overwritten and placed again, in records of one log: it was allocatable while it was in use.
#[test]
fn a_block_that_the_log_names_twice() {
    regression("log", "block-named-twice");
}

/// Two parents of a node expected other keys of it, and the check looked at it for the first of them only.
#[test]
fn a_node_that_its_second_parent_finds_out_of_order() {
    regression("nodes", "shared-node-out-of-order");
}

/// Two parents of a node expected other levels of it.
#[test]
fn a_node_of_two_levels() {
    regression("catalog", "shared-node-of-two-levels");
}

/// A block was a node for one parent and data for another.
#[test]
fn a_node_that_is_data() {
    regression("nodes", "node-that-is-data");
}

/// A volume's record stood under a key that is not the volume's: it was listed and never found.
#[test]
fn a_volume_under_another_key() {
    regression("catalog", "volume-under-another-key");
}

/// The index named count pages beyond the last region: growing into them failed half-way.
#[test]
fn an_index_that_goes_on_beyond_the_last_region() {
    regression("counts", "index-beyond-the-end");
}

/// An entry of the doomed list took the place of another.
#[test]
fn a_counter_of_doomed_entries_that_fell_behind() {
    regression("superblock", "doom-sequence-used");
}

/// A volume got the number of one whose snapshots were still being removed.
#[test]
fn a_counter_of_ids_that_fell_behind_a_sweep() {
    regression("open_resealed", "next-volume-zero");
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
