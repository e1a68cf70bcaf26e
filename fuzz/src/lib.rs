//! Hostile images: an input is the number of a seed image and a list of edits; the edited image is opened and worked with.
//!
//! Checksums would stop almost every edit at the first page, and whoever makes an image to do harm makes them right. So `open_resealed` makes
//! them all right after the edits: superblocks, nodes, count and index pages (for the place where each lies, with the stamp in its
//! own header), records, log pages with their chain. Nothing may panic, hang or take memory that the image's size does not justify;
//! errors are fine. `cargo test` replays the corpus through the same functions (`tests/it/corpus.rs`).

mod drive;
mod reseal;
mod seeds;

pub use drive::{Steps, exercise};
pub use reseal::Image;

/// Takes numbers off an input; zeros when it is used up.
struct Input<'a>(&'a [u8]);

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

/// Edits a seed image as the input says, makes its checksums right, and works with it.
pub fn open_resealed(input: &[u8]) {
    let mut input = Input(input);
    let mut image = seeds::seed(input.u8());
    edit(&mut image, &mut input);
    image.reseal();
    exercise(image.bytes);
}

/// Works with an edited image as it is, or, where the first byte is 255, with the rest of the input.
pub fn open_plain(input: &[u8]) {
    if let [255, rest @ ..] = input {
        return exercise(rest.to_vec());
    }
    let mut input = Input(input);
    let mut image = seeds::seed(input.u8());
    edit(&mut image, &mut input);
    exercise(image.bytes);
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
fn interesting(n: u8, image: &Image) -> u64 {
    let blocks = (image.bytes.len() / snapdisk::BLOCK) as u64;
    let list = [
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
        u64::from(u32::MAX),
        u64::from(u32::MAX) - 1,
        u64::from(u32::MAX) - 2,
        snapdisk::VOLUME_MAX,
        snapdisk::VOLUME_MAX / snapdisk::BLOCK as u64,
        snapdisk::VOLUME_MAX / snapdisk::BLOCK as u64 - 1,
        snapdisk::IMAGE_MAX / snapdisk::BLOCK as u64,
        blocks,
        blocks.saturating_sub(1),
        blocks + 1,
        64,
        65,
        252,
        4032,
    ];
    list[usize::from(n) % list.len()]
}

fn edit(image: &mut Image, input: &mut Input<'_>) {
    while !input.is_empty() {
        let kind = input.u8() % 10;
        if kind == 7 {
            let field = usize::from(input.u8());
            let value = if input.u8().is_multiple_of(2) { interesting(input.u8(), image) } else { input.u64() };
            image.set_superblock(field, value);
            continue;
        }
        if kind == 8 {
            let blocks = input.u16() % 1024;
            image.bytes.resize(blocks * snapdisk::BLOCK, 0);
            continue;
        }
        let page = usize::from(input.u8());
        match kind {
            0 => {
                let (at, value) = (input.u16(), input.u8());
                image.put(page, at, &[value]);
            }
            1 => {
                let (at, bit) = (input.u16(), input.u8() % 8);
                let [old] = image.get(page, at);
                image.put(page, at, &[old ^ 1 << bit]);
            }
            2 => {
                let (at, value) = (input.u16(), input.u64());
                image.put(page, at, &value.to_le_bytes());
            }
            3 => {
                let (at, value) = (input.u16(), interesting(input.u8(), image));
                image.put(page, at, &value.to_le_bytes());
            }
            // Kind, level, or number of items.
            4 => {
                let (which, value) = (input.u8() % 3, input.u16() as u16);
                let at = [4, 5, 6][usize::from(which)];
                let bytes = value.to_le_bytes();
                image.put(page, at, if which == 2 { &bytes } else { &bytes[..1] });
            }
            // A reference to another page that verifies.
            5 => {
                let (other, at) = (usize::from(input.u8()), input.u16());
                let reference = image.reference(other);
                image.put(page, at, &reference);
            }
            6 => {
                let (other, from, at) = (usize::from(input.u8()), input.u16(), input.u16());
                let bytes: [u8; 32] = image.get(other, from);
                image.put(page, at, &bytes);
            }
            _ => {
                let (at, delta) = (input.u16(), input.u8() as i8);
                let old = u64::from_le_bytes(image.get(page, at));
                image.put(page, at, &old.wrapping_add_signed(delta.into()).to_le_bytes());
            }
        }
    }
}
