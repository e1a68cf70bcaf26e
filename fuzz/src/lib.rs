//! Hostile images: an input is the number of a seed image and a list of edits; the edited image is opened and worked with.
//!
//! Checksums would stop almost every edit at the first page, and whoever makes an image to do harm makes them right. So all targets but
//! `open_plain` make them right after the edits. `open_resealed` changes bytes, whatever they mean. The others decode what they are named
//! for, change what it says (numbers, names, references, lists), encode it again and seal everything up to the superblock; flags of the
//! input say whether counts, totals and the checksums of data shall agree with it too, so that a full check has nothing against it. Nothing
//! may panic, hang or take memory that the image's size does not justify; errors are fine. `cargo test` replays the corpora through
//! the same functions (`tests/it/corpus.rs`).

mod drive;
mod layout;
mod model;
mod reseal;
mod seeds;
mod tally;
pub mod targets;
mod value;

pub use drive::{Steps, exercise};
pub use reseal::Image;
pub use targets::TARGETS;

/// A fuzz target: a function of this crate, with a bound on the memory that one input may take.
#[macro_export]
macro_rules! target {
    ($function:ident) => {
        $crate::target!($function, 64);
    };
    ($function:ident, $mebibytes:literal) => {
        #[global_allocator]
        static MEMORY: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

        libfuzzer_sys::fuzz_target!(|input: &[u8]| {
            // Seeds are made once, before anything is measured.
            let _ = $crate::image(0);
            MEMORY.set_limit(MEMORY.allocated() + ($mebibytes << 20)).expect("a bound above what there is");
            $crate::targets::$function(input);
            MEMORY.set_limit(usize::MAX).expect("no bound");
        });
    };
}

/// Takes numbers off an input; zeros when it is used up.
pub(crate) struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let n = N.min(self.0.len());
        out[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        out
    }
    fn u8(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }
    fn u16(&mut self) -> usize {
        u16::from_le_bytes(self.bytes()).into()
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Seed image `n`.
pub fn image(n: u8) -> Image {
    seeds::seed(n)
}

/// What opening an image comes to.
pub fn opening(bytes: Vec<u8>) -> Result<(), String> {
    drive::options().open_on(Steps::new(bytes), seeds::Counter::new()).map(drop).map_err(|e| e.to_string())
}

/// What `check` finds in an image, if it can be opened.
pub fn findings(bytes: Vec<u8>) -> Option<Vec<String>> {
    let store = drive::options().open_read_only_on(Steps::new(bytes), seeds::Counter::new()).ok()?;
    Some(store.check().ok()?.findings.iter().map(ToString::to_string).collect())
}

/// Numbers at which something may tip over.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    u64::MAX,
    u64::MAX - 1,
    1 << 63,
    (1 << 62) - 1,
    (1 << 56) - 1,
    1 << 40,
    (1 << 40) - 1,
    u32::MAX as u64,
    u32::MAX as u64 - 1,
    u32::MAX as u64 - 2,
    snapdisk::VOLUME_MAX,
    snapdisk::VOLUME_MAX / snapdisk::BLOCK as u64,
    snapdisk::VOLUME_MAX / snapdisk::BLOCK as u64 - 1,
    snapdisk::IMAGE_MAX / snapdisk::BLOCK as u64,
    64,
    65,
    4032,
];
