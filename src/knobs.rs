//! Sizes that tests shrink.

#[cfg_attr(not(feature = "sim"), allow(unreachable_pub, reason = "public with the feature `sim`"))]
/// Sizes of an engine. The defaults are what images are made with.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    /// Items in a node, at most (the page's size is the other bound). At least 4.
    pub fanout: usize,
    /// Blocks in a region, 16 to 1008. Taken at creation.
    pub span: u32,
    /// Entries in an index page, 4 to 252. Taken at creation.
    pub index_fanout: u32,
    /// Pages of the log, at least 8; 0: as the options say. Taken at creation.
    pub log_pages: u32,
    /// Free blocks that only operations that free space may take.
    pub reserve: u32,
    /// Regions that the image grows by at a time, once it has twice as many.
    pub growth: u32,
    /// A write of at least this many whole blocks goes to its place before it is logged.
    pub direct: u32,
    /// Blocks from which on what is staged is written out ahead of its group, and from which on the medium is asked to begin with what was
    /// written. 0: as the memory budget and the medium want it.
    pub ahead: u32,
    /// Count pages and index pages that stay in memory. 0: as the memory budget says.
    pub map_pages: u32,
    /// Whether a write that finds no space waits for a checkpoint, where that would help, rather than have the image grow past its slack.
    pub recycle: bool,
    /// A group of at most this many blocks of data has them in the log itself, and a checkpoint writes them to their places. 0: none has.
    pub inline: u32,
    /// Whether a flush always takes the medium to be busy with other data than its own.
    pub busy: bool,
    /// Every so many operations, one is undone when all of it is done but its record, and begun anew, as if it had met something that is not
    /// in memory. At least 2; 0: none is.
    pub again: u32,
}

impl Default for Knobs {
    fn default() -> Self {
        Knobs {
            fanout: usize::MAX,
            span: crate::format::SPAN_MAX,
            index_fanout: crate::format::INDEX_FANOUT_MAX,
            log_pages: 0,
            reserve: 256,
            growth: 16,
            direct: 16,
            ahead: 0,
            map_pages: 0,
            recycle: true,
            inline: 4,
            busy: false,
            again: 0,
        }
    }
}
