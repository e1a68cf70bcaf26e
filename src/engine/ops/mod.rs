//! The operations: what each is asked for, needs and does.

mod apply;
mod batch;
mod write;

pub(crate) use batch::Wish;
pub(crate) use write::Bytes;
