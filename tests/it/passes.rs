//! A check whose memory budget is too small for all counts at once goes through the regions in passes, and finds the same.

use snapdisk::{
    BLOCK, Knobs, Options, Report,
    io::{
        Backend, MemoryBackend,
        sim::{Rng, SimHost},
    },
};
use std::sync::Arc;

const B: u64 = BLOCK as u64;
/// With the smallest budget a check has 2048 regions of 16 blocks in a pass.
const REGIONS: u64 = 2048;

fn look(image: &Arc<MemoryBackend>, options: &Options) -> Report {
    let store = options.open_read_only_on(image.clone(), Arc::new(SimHost::new(2))).unwrap();
    let mut report = store.check().unwrap();
    report.findings.sort_by_key(|f| format!("{f:?}"));
    report
}

#[test]
fn a_check_in_passes_finds_the_same() {
    let knobs = Knobs { fanout: 8, span: 16, index_fanout: 12, log_pages: 64, direct: 4, ..Knobs::default() };
    let small = Options::new().memory(1 << 20).manual_maintenance(true).punch_from(None).knobs(knobs);
    let large = small.clone().memory(64 << 20);
    let image = Arc::new(MemoryBackend::new());
    let store = large.create_on(image.clone(), Arc::new(SimHost::new(1))).unwrap();
    let v = store.create_volume("v", 32_000 * B).unwrap();
    let mut rng = Rng::new(5);
    for i in 0..530 {
        v.write_at(&vec![(i % 250) as u8 + 1; 60 * BLOCK], i * 60 * B).unwrap();
        if i % 100 == 50 {
            v.snapshot(&format!("s{i}")).unwrap();
        }
        // Shared nodes that are copied for a few of their blocks, so that blocks of one tree lie in regions of both passes.
        v.write_at(&[7; BLOCK], rng.below(32_000) * B).unwrap();
    }
    store.wait_reclaimed().unwrap();
    let regions = store.counters().unwrap().image_bytes / B / 16;
    store.close().unwrap();
    assert!(regions > REGIONS + 100, "{regions} regions: one pass would do");

    let (one, passes) = (look(&image, &large), look(&image, &small));
    assert!(one.is_clean(), "{:#?}", one.findings);
    assert_eq!(one, passes);

    // Damage of every kind, anywhere: counts, index, nodes, data.
    let (mut found, len) = (0, image.len().unwrap() / B);
    for round in 0..40 {
        let at = (96 + rng.below(len - 96)) * B + rng.below(B);
        let mut old = [0];
        image.read_at(at, &mut old).unwrap();
        image.write_at(at, &[old[0] ^ 0x41]).unwrap();
        let (one, passes) = (look(&image, &large), look(&image, &small));
        // Without all counts, and below a node that does not verify, the passes know of each other's blocks what one walk knows.
        assert_eq!(one.findings, passes.findings, "round {round}, byte {at}");
        found += usize::from(!one.is_clean());
        image.write_at(at, &old).unwrap();
    }
    assert!(found > 20, "{found} of 40 flips were seen: the image is mostly empty");
}
