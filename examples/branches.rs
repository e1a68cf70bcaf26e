//! A tree of writable branches, as a test environment would use it: one prepared disk, many cheap copies.

use snapdisk::{DeleteSnapshots, Options, Result};

fn main() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Options::new().create(dir.path().join("disks.img"))?;

    let base = store.create_volume("base", 1 << 30)?;
    base.write_at(&vec![0x5a; 64 << 20], 0)?;
    let prepared = base.snapshot("prepared")?;

    // Each branch starts as the snapshot is and costs what it changes.
    for i in 0..8_u64 {
        let branch = store.clone_volume(&prepared, &format!("job-{i}"))?;
        branch.write_at(&i.to_le_bytes(), i * 4096)?;
        branch.flush()?;
    }
    for v in store.usage_all()?.volumes {
        let name = store.volume_by_id(v.id)?.name()?;
        println!("{name:8} {:9} bytes mapped, {:6} its own", v.usage.mapped_bytes, v.usage.exclusive_bytes);
    }

    let kept = store.volume("job-3")?;
    let result = kept.snapshot("result")?;
    store.delete_volume(&kept, DeleteSnapshots::Keep)?;
    store.wait_reclaimed()?;
    let mut first = [0; 8];
    result.read_at(&mut first, 3 * 4096)?;
    assert_eq!(u64::from_le_bytes(first), 3);
    assert!(store.check()?.is_clean());
    store.close()
}
