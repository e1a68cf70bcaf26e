//! What the copy of `src/vhost` costs: requests from and to a large memory, as a guest's is, made in it directly and through a buffer.
//!
//! `cargo run --example copy DIRECTORY` prints nanoseconds a request, the best of seven rounds; the image is made in the directory.

#![allow(clippy::disallowed_methods, reason = "it measures")]

use snapdisk::{Options, Result};
use std::{env, hint::black_box, io::IoSlice, path::Path, time::Instant};

/// Bytes of the buffer of a queue.
const BUFFER: usize = 256 << 10;
/// Bytes of the guest's memory that are used, and of the disk: more than a processor's caches hold.
const RANGE: usize = 256 << 20;

fn main() -> Result<()> {
    let dir = env::args().nth(1).unwrap_or_else(|| panic!("usage: copy DIRECTORY"));
    let store = Options::new().create(Path::new(&dir).join("copy.img"))?;
    let disk = store.create_volume("disk", RANGE as u64)?;
    let mut guest = vec![3_u8; RANGE];
    println!("| bytes | write directly | vectored | through a buffer | read directly | through a buffer |");
    println!("|---|---|---|---|---|---|");
    for size in [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20] {
        let piece = size.min(BUFFER);
        let mut buffer = vec![0; piece];
        let direct = nanos(size, |at| disk.write_at(&guest[at..at + size], at as u64));
        let vectored = nanos(size, |at| disk.write_vectored_at(&[IoSlice::new(&guest[at..at + size])], at as u64));
        let bounced = nanos(size, |at| {
            (at..at + size).step_by(piece).try_for_each(|at| {
                buffer.copy_from_slice(&guest[at..at + piece]);
                disk.write_at(&buffer, at as u64)
            })
        });
        let read = nanos(size, |at| disk.read_at(&mut guest[at..at + size], at as u64));
        let copied = nanos(size, |at| {
            (at..at + size).step_by(piece).try_for_each(|at| {
                disk.read_at(&mut buffer, at as u64)?;
                guest[at..at + piece].copy_from_slice(&buffer);
                Ok(())
            })
        });
        black_box(&guest);
        println!("| {size} | {} | {} | {} | {} | {} |", direct?, vectored?, bounced?, read?, copied?);
    }
    store.close()
}

/// Nanoseconds that `f` takes for one of many places of `size` bytes.
fn nanos(size: usize, mut f: impl FnMut(usize) -> Result<()>) -> Result<u64> {
    let (places, times) = ((RANGE / size) as u32, ((64 << 20) / size) as u32);
    let mut best = u64::MAX;
    for _ in 0..7 {
        let start = Instant::now();
        for i in 0..times {
            f((i.wrapping_mul(7919) % places) as usize * size)?;
        }
        best = best.min(start.elapsed().as_nanos() as u64 / u64::from(times));
    }
    Ok(best)
}
