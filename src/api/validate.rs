//! The contract's rules for single parameters.

use super::{code::Fault, params::ARRAY_MAX, tenant::Caller};

/// Each must not be empty.
pub(super) fn required(list: &[(&str, &str)]) -> Result<(), Fault> {
    list.iter().try_for_each(|(name, value)| if value.is_empty() { Err(Fault::missing(name)) } else { Ok(()) })
}

/// A sub-account must say which of its projects something new goes to.
pub(super) fn named_project(caller: &Caller, project: Option<&str>) -> Result<(), Fault> {
    if caller.projects.is_some() && !caller.admin && project.is_none_or(str::is_empty) {
        return Err(Fault::missing("ProjectID"));
    }
    Ok(())
}

/// A name: 1 to 128 characters, none of them a control character.
pub(super) fn name(value: &str) -> Result<(), Fault> {
    if value.chars().count() > 128 {
        return Err(Fault::format("Name", value, "at most 128 characters long"));
    }
    if value.chars().any(char::is_control) {
        return Err(Fault::format("Name", value, "free of control characters"));
    }
    Ok(())
}

/// Text of at most so many characters.
pub(super) fn at_most(name: &str, value: Option<&str>, most: usize) -> Result<(), Fault> {
    match value {
        Some(v) if v.chars().count() > most => Err(Fault::format(name, v, &format!("at most {most} characters long"))),
        _ => Ok(()),
    }
}

/// A member's id: 0 or more.
pub(super) fn member(value: Option<i64>) -> Result<(), Fault> {
    match value {
        Some(id) if id < 0 => Err(Fault::format("MemberID", id, "0 or more")),
        _ => Ok(()),
    }
}

/// An array has a bounded number of elements; empty ones don't count, and an array that has no others is absent.
pub(super) fn array(name: &str, value: Option<&[String]>) -> Result<Option<Vec<String>>, Fault> {
    let Some(list) = value else { return Ok(None) };
    if list.len() > ARRAY_MAX {
        return Err(Fault::format(name, list.len(), &format!("at most {ARRAY_MAX} elements")));
    }
    Ok(Some(list.iter().filter(|s| !s.is_empty()).cloned().collect::<Vec<_>>()).filter(|l| !l.is_empty()))
}

/// Offset and limit of a page.
pub(super) fn paging(offset: Option<i64>, limit: Option<i64>) -> Result<(usize, usize), Fault> {
    let offset = offset.unwrap_or(0);
    let from = usize::try_from(offset).map_err(|_| Fault::format("Offset", offset, "0 or more"))?;
    match limit.unwrap_or(0) {
        0 => Ok((from, 20)),
        n @ 1..=100 => Ok((from, n as usize)),
        n => Err(Fault::format("Limit", n, "from 0 to 100")),
    }
}

/// Absent if empty.
pub(super) fn given(value: Option<&str>) -> Option<&str> {
    value.filter(|v| !v.is_empty())
}

/// A literal substring, ASCII case-insensitive.
pub(super) struct Keyword(Vec<u8>);

impl Keyword {
    pub(super) fn new(text: &str) -> Keyword {
        Keyword(text.as_bytes().to_vec())
    }
    pub(super) fn matches(&self, text: &str) -> bool {
        text.as_bytes().windows(self.0.len()).any(|w| w.eq_ignore_ascii_case(&self.0))
    }
}
