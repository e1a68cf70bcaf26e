//! The targets: what each of them does with an input.

use super::{
    Input, NUMBERS,
    drive::{exercise, exercise_long},
    layout,
    model::{self, Live},
    reseal::Image,
    seeds,
    value::Value,
};
use snapdisk::{BLOCK, IMAGE_MAX, format::SUPERBLOCK_FIELDS};

/// What an input is given to.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("open_plain", open_plain),
    ("open_resealed", open_resealed),
    ("superblock", superblock),
    ("counts", counts),
    ("nodes", nodes),
    ("catalog", catalog),
    ("log", log),
];

/// Works with an edited image as it is, or, where the first byte is 255, with the rest of the input.
pub fn open_plain(input: &[u8]) {
    if let [255, rest @ ..] = input {
        return exercise(rest.to_vec());
    }
    let mut input = Input(input);
    let mut image = seeds::seed(input.u8());
    edit(&mut image, &mut input);
    exercise_long(image.bytes, image.claimed);
}

/// Edits a seed image as the input says, makes its checksums right, and works with it.
pub fn open_resealed(input: &[u8]) {
    let mut input = Input(input);
    let mut image = seeds::seed(input.u8());
    edit(&mut image, &mut input);
    image.reseal();
    exercise_long(image.bytes, image.claimed);
}

/// Changes fields of the superblock, and how long the file is.
pub fn superblock(input: &[u8]) {
    let mut input = Input(input);
    let mut image = seeds::seed(input.u8());
    let flags = input.u8();
    let pool = image.pool(&image.live());
    let Some(mut value) = image.superblock_page().map(|p| model::superblock(p)) else { return };
    while !input.is_empty() {
        // The magic number, version, checksum and features say nothing to who knows them.
        let field = 6 + usize::from(input.u8()) % (SUPERBLOCK_FIELDS.len() - 6);
        if let Some(field) = value.field(field) {
            field.mutate(&mut input, &pool);
        }
    }
    if let (Value::Struct(fields), Some(page)) = (value, image.superblock_mut()) {
        for (value, (_, range)) in fields.iter().zip(&SUPERBLOCK_FIELDS) {
            let bytes = value.bytes();
            let len = bytes.len().min(range.len());
            page[range.start..range.start + len].copy_from_slice(&bytes[..len]);
        }
    }
    image.reseal_superblock(flags & 1 == 0);
    image.claimed = match flags >> 1 & 3 {
        0 | 1 => 0,
        // As long as the regions that it names.
        2 => {
            let blocks = image.field("spans").saturating_mul(image.field("span")).saturating_add(1 << 14);
            blocks.saturating_mul(BLOCK as u64).min(IMAGE_MAX)
        }
        _ => IMAGE_MAX,
    };
    exercise_long(image.bytes, image.claimed);
}

/// Changes counts and the index over them.
pub fn counts(input: &[u8]) {
    pages(input, |live| [&live.counts[..], &live.index[..]].concat());
}

/// Changes nodes of extent trees.
pub fn nodes(input: &[u8]) {
    pages(input, |live| live.extents.clone());
}

/// Changes nodes and records of the catalog.
pub fn catalog(input: &[u8]) {
    pages(input, |live| live.records.clone());
}

/// Changes what stands on some of the pages.
fn pages(input: &[u8], of: fn(&Live) -> Vec<u64>) {
    let mut input = Input(input);
    let mut image = seeds::seed(input.u8());
    let flags = input.u8();
    let live = image.live();
    let (pages, pool) = (of(&live), image.pool(&live));
    while !input.is_empty() && !pages.is_empty() {
        let block = pages[usize::from(input.u8()) % pages.len()];
        let Some(page) = image.page_mut(block) else { return };
        let mut value = layout::page(page);
        value.mutate(&mut input, &pool);
        layout::put_page(page, value);
        image.seal(block);
    }
    settle(&mut image, flags);
    image.reseal_superblock(true);
    exercise_long(image.bytes, image.claimed);
}

/// Makes the rest of the image agree with what was changed, as far as the flags say.
fn settle(image: &mut Image, flags: u8) {
    if flags & 1 != 0 {
        image.sum_data();
    }
    if flags & 2 != 0 {
        image.recount();
    }
    if flags & 4 != 0 {
        image.claimed = 1 << 32;
    }
}

/// Changes groups, records and operations of the log.
pub fn log(input: &[u8]) {
    let mut input = Input(input);
    let mut image = seeds::with_log(input.u8());
    let flags = input.u8();
    let live = image.live();
    let pool = image.pool(&live);
    let mut groups = Value::List { items: image.groups(), prefixed: false };
    while !input.is_empty() {
        groups.mutate(&mut input, &pool);
    }
    if let Value::List { items, .. } = groups {
        image.set_groups(items, flags & 1 != 0);
    }
    settle(&mut image, flags & 6);
    image.reseal_superblock(true);
    exercise_long(image.bytes, image.claimed);
}

fn number(n: u8, image: &Image) -> u64 {
    let blocks = (image.bytes.len() / BLOCK) as u64;
    let list = NUMBERS.iter().copied().chain([blocks, blocks.saturating_sub(1), blocks + 1, 252]);
    list.cycle().nth(n.into()).unwrap_or_default()
}

fn edit(image: &mut Image, input: &mut Input<'_>) {
    while !input.is_empty() {
        let kind = input.u8() % 10;
        if kind == 7 {
            let field = usize::from(input.u8());
            let value = if input.u8().is_multiple_of(2) { number(input.u8(), image) } else { input.u64() };
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
                let (at, value) = (input.u16(), number(input.u8(), image));
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
