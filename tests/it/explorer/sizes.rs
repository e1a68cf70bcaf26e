//! The sizes of images and engines that cases run on: each small in its own way.

use snapdisk::{Knobs, Options};

/// One of them.
pub(crate) struct Size {
    /// How to make and open an image.
    pub(crate) options: Options,
    /// Whether space is short.
    pub(crate) tight: bool,
    /// Whether what frees space gets through all the same.
    pub(crate) guaranteed: bool,
    /// Whether fresh space is written before it is used.
    pub(crate) weak: bool,
    /// Whether few staged blocks are written out by whoever staged them.
    pub(crate) spills: bool,
    /// Blocks of the first volumes.
    pub(crate) volumes: &'static [u64],
}

/// How many different sizes there are. The last two are large, and slow.
pub(crate) const SIZES: u8 = 14;
/// Those before are small.
pub(crate) const SMALL: u8 = 12;

/// Bytes of an image of so many regions.
fn limit(knobs: &Knobs, regions: u64) -> u64 {
    (32 + u64::from(knobs.log_pages) + regions * u64::from(knobs.span)) << 12
}

/// The size of a number.
pub(crate) fn size_of(n: u8) -> Size {
    // Half of them undo operations now and then, all of which fits into memory here.
    let again = [0, 3, 0, 2][usize::from(n % 4)];
    // Half of them sync the data of a group alone at every flush.
    let busy = n % 4 < 2;
    let small = Knobs { fanout: 4, index_fanout: 4, growth: 1, again, busy, ..Knobs::default() };
    // Mostly without slack: blocks are used again as soon as they may be.
    let options = Options::new().manual_maintenance(true).slack(0).punch_from(None);
    let plain = |knobs: Knobs, options: Options, volumes| Size {
        // What runs beside a checkpoint, on its thread, must not wait for one.
        options: options.knobs(Knobs { recycle: false, ..knobs }),
        tight: false,
        guaranteed: false,
        weak: false,
        spills: knobs.ahead > 0,
        volumes,
    };
    let tight = |knobs: Knobs, options: Options, regions, volumes| Size {
        tight: true,
        options: options.clone().max_image_bytes(limit(&knobs, regions)).knobs(knobs),
        ..plain(knobs, options, volumes)
    };
    match n % SIZES {
        0 => plain(Knobs { span: 48, log_pages: 8, reserve: 12, direct: 2, inline: 0, ..small }, options, &[6]),
        1 => Size {
            weak: true,
            ..plain(
                Knobs { span: 16, log_pages: 8, reserve: 12, direct: 16, ahead: 2, map_pages: 2, inline: 1, ..small },
                options.punch_from(Some(4096)),
                &[8, 5],
            )
        },
        2 => plain(
            Knobs { span: 32, log_pages: 12, reserve: 16, direct: 1, inline: 2, ..small },
            options.slack(100),
            &[16],
        ),
        3 => plain(
            Knobs {
                span: 24,
                log_pages: 8,
                reserve: 12,
                growth: 2,
                direct: 2,
                ahead: 2,
                map_pages: 4,
                inline: 0,
                ..small
            },
            options.punch_from(Some(8192)),
            &[4, 4, 4],
        ),
        4 => Size {
            weak: true,
            ..tight(
                Knobs { span: 32, log_pages: 8, reserve: 16, direct: 16, inline: 1, ..small },
                options.punch_from(Some(4096)),
                3,
                &[12],
            )
        },
        // Groups of several pages, with room beside a checkpoint.
        5 => plain(
            Knobs { span: 160, log_pages: 60, reserve: 16, direct: 5, inline: 3, ..small },
            options.punch_from(Some(8192)),
            &[12, 3],
        ),
        6 => plain(
            Knobs { fanout: 8, span: 64, log_pages: 30, reserve: 16, direct: 2, inline: 0, ..small },
            options.slack(100),
            &[24],
        ),
        // Less: recovery must do with what the live run had.
        7 => Size {
            weak: true,
            ..tight(
                Knobs { span: 20, log_pages: 8, reserve: 8, direct: 16, ahead: 2, inline: 2, ..small },
                options,
                4,
                &[10],
            )
        },
        // The reserve is large enough for what must always get through.
        8 => Size {
            guaranteed: true,
            ..tight(
                Knobs { fanout: usize::MAX, span: 128, log_pages: 8, reserve: 150, direct: 6, inline: 3, ..small },
                options,
                2,
                &[10],
            )
        },
        // A space map in little memory, and the smallest fanout with which a node that has one item left takes in a neighbour: small volumes have trees three nodes high.
        9 => plain(
            Knobs { fanout: 5, span: 48, log_pages: 14, reserve: 24, direct: 3, map_pages: 1, inline: 2, ..small },
            options,
            &[24, 12],
        ),
        // What goes back to the host comes again soon, and is not written before it is used.
        10 => plain(
            Knobs { span: 16, log_pages: 12, reserve: 12, direct: 8, inline: 2, ..small },
            options.punch_from(Some(4096)),
            &[8, 6],
        ),
        // A long generation in a short image, all of whose space is there from the start.
        11 => tight(Knobs { span: 160, log_pages: 64, reserve: 4, direct: 16, inline: 0, ..small }, options, 1, &[24]),
        12 => Size {
            weak: true,
            ..plain(
                Knobs {
                    fanout: 6,
                    span: 300,
                    log_pages: 28,
                    reserve: 32,
                    direct: 6,
                    ahead: 3,
                    map_pages: 3,
                    inline: 1,
                    ..small
                },
                options.memory(1 << 20),
                &[200],
            )
        },
        // Nodes and regions as they are in production.
        _ => plain(Knobs { log_pages: 64, growth: 1, ..Knobs::default() }, options.slack(100), &[200, 40]),
    }
}
