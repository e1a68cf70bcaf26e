//! What of the crate an embedder can see: what may grow says so, and the format is not part of it.

use std::{collections::BTreeSet, fs, path::Path};

/// Types that anyone may construct or match on as a whole, with the reason why nothing will be added to them.
const EXHAUSTIVE: &[(&str, &str)] = &[
    ("VolumeId", "a number"),
    ("SnapshotId", "a number"),
    ("Block", "a number, and with the feature `sim` only"),
    ("Stamp", "a number, and with the feature `sim` only"),
    ("SystemHost", "stands for the machine and has no parts"),
    ("Knobs", "sizes that tests shrink, with the feature `sim` only"),
    ("PageKind", "bytes of format 1, with the feature `sim` only"),
    ("PageHeader", "bytes of format 1, with the feature `sim` only"),
    ("RootPointer", "bytes of format 1, with the feature `sim` only"),
    ("Superblock", "bytes of format 1, with the feature `sim` only"),
    ("LogHeader", "bytes of format 1, with the feature `sim` only"),
    ("CreateDisk", "a request, which callers write with `..Default::default()`"),
    ("DescribeDisk", "a request, which callers write with `..Default::default()`"),
    ("AttachDisk", "a request, which callers write with `..Default::default()`"),
    ("DetachDisk", "a request, which callers write with `..Default::default()`"),
    ("UpgradeDisk", "a request, which callers write with `..Default::default()`"),
    ("CloneDisk", "a request, which callers write with `..Default::default()`"),
    ("CreateDiskFromSnapshot", "a request, which callers write with `..Default::default()`"),
    ("DeleteDisk", "a request, which callers write with `..Default::default()`"),
    ("DescribeRegion", "a request, which callers write with `..Default::default()`"),
    ("CreateSnapshot", "a request, which callers write with `..Default::default()`"),
    ("DescribeSnapshot", "a request, which callers write with `..Default::default()`"),
    ("RollbackSnapshot", "a request, which callers write with `..Default::default()`"),
    ("DeleteSnapshot", "a request, which callers write with `..Default::default()`"),
    ("Caller", "configuration that callers write"),
    ("Region", "configuration that callers write"),
    ("Project", "configuration that callers write"),
    ("Member", "configuration that callers write"),
    ("Limits", "configuration that callers write"),
    ("Company", "configuration that callers write"),
    ("Directory", "configuration that callers write"),
    ("Schedule", "configuration that callers write"),
    ("Options", "a structure of C, whose layout is the contract"),
    ("Info", "a structure of C, whose layout is the contract"),
    ("Extent", "a structure of C, whose layout is the contract"),
    ("StoreFigures", "a structure of C, whose layout is the contract"),
    ("VolumeFigures", "a structure of C, whose layout is the contract"),
    ("Incoming", "a request, which callers write with `..Default::default()`"),
    ("ServerOptions", "options, which callers write with `..Default::default()`"),
    ("Call", "a tool handles each, with the feature `sim` only"),
    ("How", "a tool handles each, with the feature `sim` only"),
    ("Mutation", "a tool handles each, with the feature `sim` only"),
    ("Ev", "a tool handles each, with the feature `sim` only"),
    ("Fault", "what a test plans, with the feature `sim` only"),
    ("Caps", "what a test plans, with the feature `sim` only"),
    ("Protected", "what a guard is told, with the feature `sim` only"),
    ("Format", "what a guard is told, with the feature `sim` only"),
    ("ReadOnlyGuard", "a guard that a test places, with the feature `sim` only"),
];

/// The public structs with a public field and the public enums of a source that any caller could construct or match without a
/// rest.
fn exhaustive(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let (rest, is_enum) = match (line.strip_prefix("pub struct "), line.strip_prefix("pub enum ")) {
            (Some(rest), _) => (rest, false),
            (_, Some(rest)) => (rest, true),
            _ => continue,
        };
        let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        let body = lines[i + 1..].iter().take_while(|l| !l.starts_with('}'));
        let open = match rest.split_once('(') {
            Some((_, fields)) => fields.starts_with("pub "),
            None if rest.ends_with(';') => true,
            None => is_enum || body.clone().any(|l| l.starts_with("    pub ")),
        };
        let attributes = lines[..i].iter().rev().take_while(|l| l.starts_with('#') || l.starts_with("///"));
        if open && !attributes.into_iter().any(|l| *l == "#[non_exhaustive]") {
            found.push(name);
        }
    }
    found
}

#[test]
fn what_may_grow_is_non_exhaustive() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for dir in ["", "api", "audit", "capi", "http", "io", "io/file", "io/sim"] {
        for entry in fs::read_dir(src.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(path).unwrap();
                found.extend(exhaustive(&text).into_iter().map(str::to_owned));
            }
        }
    }
    found.sort();
    let mut allowed: Vec<_> = EXHAUSTIVE.iter().map(|(name, _)| (*name).to_owned()).collect();
    allowed.sort();
    assert_eq!(found, allowed, "a public type that is not #[non_exhaustive] needs a reason");
}

/// The text of a file of the project.
fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn every_dependency_has_its_reason() {
    let (manifest, page) = (page("Cargo.toml"), page("docs/dependencies.md"));
    let list = manifest.split("[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let named = list.lines().filter_map(|l| l.split_once(" = ").map(|(name, _)| name)).filter(|n| !n.starts_with('#'));
    let named: BTreeSet<String> = named.map(str::to_owned).collect();
    let rows = page.lines().filter(|l| l.starts_with('|')).filter_map(|l| l.rsplit(" | ").nth(1));
    let told: BTreeSet<String> = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    assert_eq!(told, named);
}

#[test]
fn the_readme_names_the_oldest_compiler() {
    let manifest = page("Cargo.toml");
    let oldest = manifest.lines().find_map(|l| l.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(page("README.md").contains(&format!("| Rust | {oldest} or later")));
}

#[test]
fn an_open_type_is_caught() {
    let open = [
        "pub struct A {\n    pub a: u8,\n}",
        "pub struct A {\n    a: u8,\n    pub b: u8,\n}",
        "pub struct A(pub u8);",
        "pub struct A;",
        "#[derive(Debug)]\npub enum A {\n    B,\n}",
        "#[non_exhaustive]\npub enum B {\n}\n\npub struct A<T> {\n    pub a: T,\n}",
    ];
    for text in open {
        assert_eq!(exhaustive(text), ["A"], "{text}");
    }
    for text in [
        "pub struct A {\n    a: u8,\n}\npub fn f() {\n    pub b: u8,\n}",
        "pub struct A(u8);",
        "#[non_exhaustive]\n#[derive(Debug)]\npub enum A {\n}",
        "#[non_exhaustive]\n/// x\npub struct A {\n    pub a: u8,\n}",
        "pub(crate) struct A(pub u8);",
    ] {
        assert!(exhaustive(text).is_empty(), "{text}");
    }
}
