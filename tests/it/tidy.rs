//! What is true of the source itself: the order of the layers, the size of files, where `unsafe` may stand.
//!
//! Each check is a function of texts, and has a test that it catches what it is for.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The modules of the crate, lowest layer first. A module imports from its own layer and those below it.
const LAYERS: &[&[&str]] = &[
    &["error", "events", "units", "bytes", "hint", "format", "codec", "knobs", "lack", "sync"],
    &["io"],
    &["space"],
    &["tree"],
    &["log"],
    &["engine"],
    &["audit"],
    &["handle"],
    &["counters", "diff", "read_disk", "terms"],
    &["snapshot"],
    &["volume"],
    &["attached"],
    &["store"],
    &["options"],
    &["api"],
    &["nbd", "http", "cli", "capi", "vhost"],
];
/// A file of this many lines is to be split.
const LINES: usize = 700;
/// The only files with `unsafe` in them.
const UNSAFE: &[&str] = &[
    "src/bin/snapdisk/streams.rs",
    "src/capi/data.rs",
    "src/capi/disk.rs",
    "src/capi/handles.rs",
    "src/capi/raw.rs",
    "src/capi/store.rs",
    "src/hint.rs",
    "src/io/file.rs",
    "src/io/map.rs",
    "tests/it/capi/calls.rs",
];
/// Marks of unfinished work.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("unimplem", "ented!"),
    concat!("db", "g!"),
];

/// A word or a sign of Rust source.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// The tokens of `source`, without comments and with every literal of characters as `""`.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
    let (mut out, mut i, mut line) = (Vec::new(), 0, 1);
    while i < bytes.len() {
        let start = i;
        let rest = &source[i..];
        let raw = rest.trim_start_matches(['b', 'c']).strip_prefix('r').map(|r| r.trim_start_matches('#'));
        let text = if rest.starts_with("//") {
            i += rest.find('\n').unwrap_or(rest.len());
            ""
        } else if rest.starts_with("/*") {
            let mut depth = 0;
            loop {
                match &bytes[i..] {
                    [b'/', b'*', ..] => (depth, i) = (depth + 1, i + 2),
                    [b'*', b'/', ..] => (depth, i) = (depth - 1, i + 2),
                    [] => break,
                    _ => i += 1,
                }
                if depth == 0 {
                    break;
                }
            }
            ""
        } else if raw.is_some_and(|r| r.starts_with('"') && rest.len() - r.len() <= 8 && !rest.starts_with('"')) {
            let open = rest.find('"').unwrap();
            let close = format!("\"{}", "#".repeat(rest[..open].matches('#').count()));
            i += open + 1;
            i += source[i..].find(&close).map_or(rest.len() - open - 1, |n| n + close.len());
            "\"\""
        } else if rest.starts_with('"') {
            i += 1;
            while i < bytes.len() && bytes[i] != b'"' {
                i += 1 + usize::from(bytes[i] == b'\\');
            }
            i = (i + 1).min(bytes.len());
            "\"\""
        } else if let Some(quoted) = rest.strip_prefix('\'') {
            let first = quoted.chars().next().map_or(0, char::len_utf8);
            if quoted.starts_with('\\') {
                i += 3 + quoted.as_bytes().iter().skip(2).position(|&b| b == b'\'').unwrap_or(0) + 1;
                "\"\""
            } else if quoted[first..].starts_with('\'') {
                i += first + 2;
                "\"\""
            } else {
                i += 1;
                "'"
            }
        } else if rest.starts_with("::") {
            i += 2;
            "::"
        } else if word(bytes[i]) {
            i += bytes[i..].iter().position(|&b| !word(b)).unwrap_or(rest.len());
            &source[start..i]
        } else {
            i += 1;
            source[start..i].trim()
        };
        if !text.is_empty() {
            out.push(Token { text, line });
        }
        i = i.min(bytes.len());
        line += bytes[start..i].iter().filter(|&&b| b == b'\n').count();
    }
    out
}

/// The tokens that are left when everything under `#[cfg(test)]` is taken out.
fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let is = |i: usize, text: &str| tokens.get(i).is_some_and(|t| t.text == text);
    // The position after the group that opens at `i`, or after the token.
    let after = |mut i: usize| {
        let mut depth = 0;
        while let Some(t) = tokens.get(i) {
            i += 1;
            match t.text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        i
    };
    let (mut out, mut i) = (Vec::new(), 0);
    while i < tokens.len() {
        let attribute = is(i, "#") && is(i + 1, "[");
        let end = if attribute { after(i + 1) } else { i + 1 };
        let has = |text: &str| tokens[i..end].iter().any(|t| t.text == text);
        if attribute && is(i + 2, "cfg") && has("test") && !has("not") {
            i = end;
            while is(i, "#") && is(i + 1, "[") {
                i = after(i + 1);
            }
            while i < tokens.len() && !is(i, ";") && !is(i, "{") {
                i = after(i);
            }
            i = after(i);
        } else {
            out.extend_from_slice(&tokens[i..end]);
            i = end;
        }
    }
    out
}

/// The module that a file is, as a path from the crate's root; `None` for what is no part of the library's layers.
fn module_of(file: &str) -> Option<Vec<&str>> {
    let inner = file.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut path: Vec<_> = inner.split('/').collect();
    if path[0] == "bin" || path == ["lib"] || path.contains(&"tests") {
        return None;
    }
    if path.last() == Some(&"mod") {
        path.pop();
    }
    Some(path)
}

/// Where the names that the root re-exports come from: name to module.
fn reexports<'a>(root: &[Token<'a>]) -> BTreeMap<&'a str, &'a str> {
    let (mut out, mut depth) = (BTreeMap::new(), 0);
    for (i, t) in root.iter().enumerate() {
        match t.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            "use" if depth == 0 && i > 0 && root[i - 1].text == "pub" => {
                let mut path = root[i + 1..].iter().map(|t| t.text).take_while(|&t| t != ";");
                let Some(module) = path.find(|t| !["crate", "self", "::"].contains(t)) else { continue };
                out.extend(path.filter(|t| t.starts_with(char::is_alphabetic)).map(|name| (name, module)));
            }
            _ => {}
        }
    }
    out
}

/// The names just below the crate's root that a file of module `path` uses, with their lines.
fn root_names<'a>(tokens: &[Token<'a>], path: &[&str]) -> Vec<(usize, &'a str)> {
    let is = |i: usize, text: &str| tokens.get(i).is_some_and(|t| t.text == text);
    let mut out = Vec::new();
    let mut heads = |at: usize| {
        let Some(first) = tokens.get(at) else { return };
        if first.text != "{" {
            out.push((first.line, first.text));
            return;
        }
        let (mut depth, mut i) = (0, at);
        while let Some(t) = tokens.get(i) {
            match t.text {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && (i == at || t.text == ",") && !is(i + 1, "}") {
                out.extend(tokens.get(i + 1).map(|t| (t.line, t.text)));
            }
            i += 1;
        }
    };
    // One entry for each open brace: whether it is a module's.
    let mut braces: Vec<bool> = Vec::new();
    let mut in_use = None;
    for (i, t) in tokens.iter().enumerate() {
        match t.text {
            "{" => braces.push(i >= 2 && is(i - 2, "mod")),
            "}" => drop(braces.pop()),
            "use" => in_use = Some(braces.len()),
            ";" => in_use = None,
            "crate" if is(i + 1, "::") => heads(i + 2),
            "super" if is(i + 1, "::") && (i == 0 || !is(i - 1, "::")) => {
                let depth = path.len() + braces.iter().filter(|&&m| m).count();
                let climbs =
                    tokens[i..].chunks(2).take_while(|c| c.len() == 2 && c[0].text == "super" && c[1].text == "::");
                let climbs = climbs.count();
                if climbs >= depth {
                    heads(i + 2 * climbs);
                } else if in_use.is_some_and(|outside| braces.len() > outside) {
                    // Where it leads depends on what stands before the brace.
                    heads(i);
                }
            }
            _ => {}
        }
    }
    out
}

/// What breaks the order of the layers in `files` (path, text), of which one is `src/lib.rs`.
fn check_layers(files: &[(String, String)]) -> Vec<String> {
    let root = files.iter().find(|(file, _)| file == "src/lib.rs").map_or("", |(_, text)| text);
    let root = tokens(root);
    let reexports = reexports(&root);
    let layer_of = |module: &str| LAYERS.iter().position(|l| l.contains(&module));
    let mut bad = Vec::new();
    for (file, text) in files {
        let Some(path) = module_of(file) else { continue };
        let Some(own) = layer_of(path[0]) else {
            bad.push(format!("{file}: module {} is in no layer", path[0]));
            continue;
        };
        for (line, name) in root_names(&without_tests(&tokens(text)), &path) {
            let module = if layer_of(name).is_some() { Some(&name) } else { reexports.get(name) };
            match module.map(|m| (m, layer_of(m))) {
                Some((_, Some(layer))) if layer <= own => {}
                Some((m, Some(_))) => {
                    bad.push(format!("{file}:{line}: {} must not import {m}, which is above it", path[0]))
                }
                _ => bad.push(format!("{file}:{line}: `{name}` can't be traced to a layer")),
            }
        }
    }
    bad
}

fn check_size(file: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines >= LINES).then(|| format!("{file}: {lines} lines; split it"))
}

fn check_unsafe(file: &str, text: &str) -> Vec<String> {
    if UNSAFE.contains(&file) {
        return Vec::new();
    }
    let found = tokens(text).into_iter().filter(|t| t.text == "unsafe");
    found.map(|t| format!("{file}:{}: unsafe outside {UNSAFE:?}", t.line)).collect()
}

fn check_header(file: &str, text: &str) -> Option<String> {
    // A fuzz target begins with what makes it one.
    let mut lines = text.lines().skip_while(|l| l.trim().is_empty() || l.starts_with("#![no_main]"));
    let first = lines.next().unwrap_or_default();
    let has = first.strip_prefix("//!").is_some_and(|t| !t.trim().is_empty());
    (!has).then(|| format!("{file}: does not begin with a //! header"))
}

/// Whether `word` stands in `line` by itself: letters don't go on where it begins or ends with one.
fn stands_in(line: &str, word: &str) -> bool {
    let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        !(letter(before) && letter(word.chars().next()) || letter(after) && letter(word.chars().next_back()))
    })
}

fn check_words(file: &str, text: &str) -> Vec<String> {
    let mut bad = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let unfinished = UNFINISHED.iter().filter(|w| stands_in(line, w));
        bad.extend(unfinished.map(|w| format!("{file}:{}: says {w:?}", n + 1)));
    }
    bad
}

/// Every text file of the project that is somebody's work, as (path from the project's root, text).
fn project() -> Vec<(String, String)> {
    fn walk(at: &Path, root: &Path, out: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(at).unwrap().map(|e| e.unwrap()) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                if !["target", ".git", "corpus", "artifacts", "coverage"].contains(&name.as_str()) {
                    walk(&path, root, out);
                }
            } else if name != "Cargo.lock" && !name.starts_with("LICENSE") {
                // What is no text is no source.
                if let Ok(text) = fs::read_to_string(&path) {
                    out.push((path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), text));
                }
            }
        }
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut out = Vec::new();
    walk(&root, &root, &mut out);
    assert!(out.iter().any(|(file, _)| file == "src/lib.rs"), "no sources under {}", root.display());
    out.sort();
    out
}

fn rust_files() -> Vec<(String, String)> {
    project().into_iter().filter(|(file, _)| file.ends_with(".rs")).collect()
}

#[track_caller]
fn none(bad: Vec<String>) {
    assert!(bad.is_empty(), "\n{}\n", bad.join("\n"));
}

#[test]
fn modules_import_downwards() {
    none(check_layers(&rust_files()));
}

#[test]
fn files_are_short() {
    none(rust_files().iter().filter_map(|(file, text)| check_size(file, text)).collect());
}

#[test]
fn unsafe_stays_in_its_files() {
    none(rust_files().iter().flat_map(|(file, text)| check_unsafe(file, text)).collect());
}

#[test]
fn files_say_what_they_are() {
    none(rust_files().iter().filter_map(|(file, text)| check_header(file, text)).collect());
}

#[test]
fn nothing_unfinished_is_left() {
    none(project().iter().flat_map(|(file, text)| check_words(file, text)).collect());
}

/// `check_layers` of one file beside a root that re-exports.
fn layers_of(file: &str, text: &str) -> Vec<String> {
    let root = "pub use error::{Error, Result as Outcome};\npub use engine::Engine;\nmod a { pub use crate::{Outcome, engine::Error}; }";
    check_layers(&[("src/lib.rs".into(), root.into()), (file.into(), text.into())])
}

#[test]
fn an_import_from_above_is_caught() {
    let bad: &[(&str, &str)] = &[
        ("src/tree/node.rs", "use crate::engine::Engine;"),
        ("src/tree/node.rs", "use crate::{error::Error, engine::{a, b}};"),
        ("src/tree/node.rs", "use crate::{\n    error::{self, Error},\n    engine,\n};"),
        ("src/tree/node.rs", "fn f() { crate::engine::go() }"),
        ("src/tree/node.rs", "fn f() -> char { let c = '\\''; crate::engine::go(c, '\"') }"),
        ("src/tree/node.rs", "use crate::Engine;"),
        ("src/tree/node.rs", "use crate::{Outcome, Engine};"),
        ("src/tree/node.rs", "use super::super::engine::go;"),
        ("src/tree/mod.rs", "use super::engine::go;"),
        ("src/tree/mod.rs", "mod a { use super::super::engine::go; }"),
        ("src/tree/mod.rs", "mod a {} use super::{engine::go};"),
        ("src/tree/node.rs", "use super::{a, super::engine};"),
        ("src/tree.rs", "pub(in crate::engine) fn f() {}"),
        ("src/tree.rs", "use crate::*;"),
        ("src/tree.rs", "use crate::unheard_of;"),
        ("src/tree.rs", "#[cfg(not(test))] use crate::engine::a;"),
        ("src/tree.rs", "#[cfg(test)] mod tests; use crate::engine::a;"),
        ("src/tree.rs", "#[cfg(test)] #[path = \"x.rs\"] mod tests { fn f(a: [u8; 2]) {} } use crate::engine::a;"),
        ("src/tree.rs", "/* a /* b */ c */ use crate::engine::a;"),
        ("src/tree.rs", "const A: &str = r#\"a\"b\"#; use crate::engine::a;"),
        ("src/tree.rs", "const A: &str = \"a\\\"\"; use crate::engine::a;"),
        ("src/tree.rs", "fn f<'a>(x: &'a str) { crate::engine::a(x) }"),
        ("src/unheard_of.rs", ""),
        ("src/error.rs", "use crate::io::Backend;"),
        ("src/store.rs", "use crate::nbd::Server;"),
    ];
    for (file, text) in bad {
        assert_eq!(layers_of(file, text).len(), 1, "{file}: {text}: {:?}", layers_of(file, text));
    }
    let found = layers_of("src/tree/node.rs", "//! x\n\nuse crate::{\n    error::Error,\n    engine::Engine,\n};\n");
    assert_eq!(found, ["src/tree/node.rs:5: tree must not import engine, which is above it"]);
}

#[test]
fn an_import_from_below_is_let_through() {
    let good: &[(&str, &str)] = &[
        ("src/engine/log.rs", "use crate::{Error, Outcome, tree::{self, Node}, engine::x};"),
        ("src/engine/log.rs", "use super::{Engine, log}; mod a { use super::super::engine::b; }"),
        ("src/engine/a/b.rs", "use super::super::engine;"),
        ("src/tree.rs", "// use crate::engine::a;\n/// crate::engine\nfn f() {}"),
        ("src/tree.rs", "/* crate::engine::a /* crate::engine::b */ */"),
        ("src/tree.rs", "const A: &str = \"crate::engine::a\"; const B: &[u8] = br##\"crate::engine::b\"#\"##;"),
        ("src/tree.rs", "#[cfg(test)] use crate::engine::a; pub(crate) fn f() {}"),
        ("src/tree.rs", "#[cfg(test)]\nmod tests { use crate::engine::a; fn f() { g(|| {}); } }"),
        ("src/tree.rs", "#[cfg(all(test, unix))] fn f() -> [u8; 3] { crate::engine::a() }"),
        ("src/tree/tests.rs", "use crate::engine::a;"),
        ("src/bin/snapdisk/main.rs", "use crate::args;"),
        ("tests/it/main.rs", "use crate::model;"),
    ];
    for (file, text) in good {
        none(layers_of(file, text));
    }
}

#[test]
fn a_long_file_is_caught() {
    assert!(check_size("a", &"x\n".repeat(LINES)).is_some());
    assert!(check_size("a", &"x\n".repeat(LINES - 1)).is_none());
}

#[test]
fn unsafe_elsewhere_is_caught() {
    let text = "//! unsafe\n#![allow(unsafe_code)]\nconst S: &str = \"unsafe {\";\nfn f() { unsafe { g() } }\nunsafe impl A for B {}";
    assert_eq!(check_unsafe("src/tree/node.rs", text).len(), 2);
    assert!(check_unsafe("src/tree/node.rs", text)[0].starts_with("src/tree/node.rs:4:"));
    assert!(check_unsafe("src/io/map.rs", text).is_empty());
}

#[test]
fn a_missing_header_is_caught() {
    for text in ["", "use a;", "// a", "/// a", "//!", "//! \nuse a;", "use a;\n//! a"] {
        assert!(check_header("a", text).is_some(), "{text:?}");
    }
    for text in ["//! a", "\n//! a\n", "#![no_main]\n//! a"] {
        assert!(check_header("a", text).is_none(), "{text:?}");
    }
}

#[test]
fn unfinished_words_are_caught() {
    for word in UNFINISHED {
        for text in [word.to_string(), format!("a {word} b"), format!("(\"{word}\")"), format!("a\n\n// {word}.")] {
            assert_eq!(check_words("a", &text).len(), 1, "{text:?}");
        }
    }
    assert_eq!(check_words("a", &format!("x\ny {}", UNFINISHED[0])), [format!("a:2: says {:?}", UNFINISHED[0])]);
    for text in ["todos los", "Xxx", "fixme later"] {
        none(check_words("a", text));
    }
}

/// The edits of a list of planted bugs that do not apply: whose text does not stand exactly once in its file.
fn stale_edits(list: &str, read: impl Fn(&str) -> String) -> Vec<String> {
    let mut out = Vec::new();
    for edit in list.split("{ file = \"").skip(1) {
        let (file, rest) = edit.split_once('"').unwrap_or_default();
        let find = rest.split("'''").nth(1).unwrap_or_default();
        let found = read(file).matches(find).count();
        if find.is_empty() || found != 1 {
            out.push(format!("{file}: {found} times: {find}"));
        }
    }
    out
}

#[test]
fn planted_bugs_apply_to_the_source_as_it_is() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    for list in ["tests/mutants/list.toml", "tests/hosts/planted.toml", "fuzz/planted.toml"] {
        let text = fs::read_to_string(root.join(list)).unwrap();
        assert!(text.contains("{ file = \""), "{list} has edits");
        let stale = stale_edits(&text, |file| fs::read_to_string(root.join(file)).unwrap_or_default());
        assert!(stale.is_empty(), "{list}:\n{}", stale.join("\n"));
    }
}

#[test]
fn a_stale_edit_is_seen() {
    let list =
        "edit = [{ file = \"a\", find = '''x y''', put = '''z''' }, { file = \"b\", find = '''q''', put = '''''' }]";
    let read = |file: &str| if file == "a" { "x y".to_owned() } else { "q q".to_owned() };
    assert_eq!(stale_edits(list, read), ["b: 2 times: q"]);
    assert_eq!(stale_edits(list, |_| String::new()).len(), 2);
}
