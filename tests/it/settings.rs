//! What the tests read from the environment. A value that says nothing is no reason for a default: the run ends with status 2, and its last
//! line names the variable and the value.

use std::io::Write as _;

/// The value of a variable, or in words what is wrong with it.
fn read<T>(name: &str, value: &str, form: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, String> {
    parse(value).ok_or_else(|| format!("{name}={value:?} is not {form}"))
}

/// What a variable says, if it is set.
pub(crate) fn parsed<T>(name: &str, form: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let value = std::env::var_os(name)?;
    match read(name, &value.to_string_lossy(), form, parse) {
        Ok(value) => Some(value),
        Err(e) => {
            // Past the capture of the tests' output, which an exit would swallow.
            let _ = writeln!(std::io::stderr(), "error: {e}");
            std::process::exit(2);
        }
    }
}

fn digits(text: &str) -> Option<u64> {
    let plain = text.replace('_', "");
    plain.bytes().all(|b| b.is_ascii_digit()).then(|| plain.parse().ok()).flatten()
}

/// A number; underscores may separate its digits.
pub(crate) fn number(name: &str, usual: u64) -> u64 {
    parsed(name, "a number", digits).unwrap_or(usual)
}

/// How many there are to be: at least one.
pub(crate) fn count(name: &str, usual: u64) -> u64 {
    parsed(name, "a number from 1", |text| digits(text).filter(|&n| n > 0)).unwrap_or(usual)
}

/// Whether something is on.
pub(crate) fn switch(name: &str, usual: bool) -> bool {
    let parse = |text: &str| match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    };
    parsed(name, "0 or 1", parse).unwrap_or(usual)
}

#[test]
fn numbers_are_read() {
    assert_eq!(digits("1_000_000"), Some(1_000_000));
    for text in ["", "_", "x", "-1", "+1", "1e6", " 1", "1.0", "99999999999999999999"] {
        assert_eq!(digits(text), None, "{text}");
    }
    let told = read("SNAPDISK_SEED", "one", "a number", digits).unwrap_err();
    assert_eq!(told, "SNAPDISK_SEED=\"one\" is not a number");
}

/// Each variable, in a process of its own.
#[test]
fn malformed_settings_are_errors() {
    let variables = [
        ("SNAPDISK_STATES", "0", "explorer::random"),
        ("SNAPDISK_STATES", "many", "explorer::hunt"),
        ("SNAPDISK_SEED", "1.5", "explorer::random"),
        ("SNAPDISK_SEED", "", "schedule::random"),
        ("SNAPDISK_GUARD", "yes", "explorer::random"),
        ("SNAPDISK_LENGTH", "three", "explorer::exhaustive"),
        ("SNAPDISK_CASE", "seed=1 size=2 ops=W0.1 more=F", "explorer::replay"),
        ("SNAPDISK_CASE", "", "explorer::replay"),
        ("SNAPDISK_SCHEDULES", "-5", "schedule::random"),
        ("SNAPDISK_SCHEDULE", "seed=1 threads=W0", "schedule::replay"),
        ("SNAPDISK_SWEEP", "0x10", "faults::"),
        ("SNAPDISK_MODEL_CASES", "1k", "model::agree::store_and_model_agree"),
        ("SNAPDISK_FULL", "true", "flips::every_byte_flipped"),
        ("SNAPDISK_STRESS", "0", "concurrency::"),
        ("SNAPDISK_KILLS", "x", "files::kill::"),
    ];
    for (name, value, test) in variables {
        let run = std::process::Command::new(std::env::current_exe().unwrap())
            .args([test, "--test-threads=1", "--include-ignored"])
            .env(name, value)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&run.stderr);
        let said = told.lines().any(|l| l.starts_with(&format!("error: {name}={value:?} is not ")));
        assert!(run.status.code() == Some(2) && said, "{name}={value:?}, {test}: {}: {told}", run.status);
    }
}
