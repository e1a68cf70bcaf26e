"""The table "Real hosts" of docs/reliability.md: each fault, what covers it, and what the last runs of the rungs saw."""

import json
import re
import sys

BEGIN, END = "<!-- Written by tests/hosts/run.sh --table. -->", "<!-- End of the table. -->"
NOT_RUN = "not run: "

# The fault; the tests that cover it in process, named as cargo does (those with `src:` stand beside the code); the rungs that cover it on
# real hosts, by how their names begin; and what is not run, with the reason.
ROWS = [
    ("power loss: any subset and order of what was not synced", ["explorer::random", "explorer::exhaustive"], [], ""),
    ("a torn block, garbage in the page being written", ["explorer::random", "flips::every_byte_flipped"], [], ""),
    ("a length that is lost, or kept without its data", ["explorer::random", "explorer::exhaustive"], [], ""),
    ("a crash in recovery or in a checkpoint, and a second one", ["explorer::random", "schedule::random"], [], ""),
    ("kill -9 at any time", ["files::kill::kill_9_loses_no_acknowledged_flush"], ["kill"], ""),
    ("kill -9 and what was not synced is lost; torn writes below a filesystem", [], [], "needs LazyFS"),
    ("the filesystem crashes and replays its journal", [], ["shutdown"], ""),
    ("a virtual machine loses power", [], [], "needs qemu and its block log"),
    ("a sync fails once, later ones succeed", ["faults::a_failed_sync_is_final", "explorer::random"], ["inject"], ""),
    ("a sync fails since the medium is full", ["faults::a_failed_sync_is_final"], ["writeback"], ""),
    ("the filesystem turns read-only while the image is open", [], ["writeback-ext4", "writeback-btrfs"], ""),
    ("a write fails", ["faults::every_call_fails_once"], ["inject"], ""),
    ("the host is full", ["faults::every_call_fails_once", "faults::a_full_host_is_no_disaster"], ["full"], ""),
    ("on a full host: delete, discard, checkpoint", ["faults::a_full_host_is_no_disaster"], ["full"], ""),
    ("short, empty and interrupted calls", ["faults::short_and_interrupted_calls_are_continued"], ["file-limit"], ""),
    ("the file may not grow (RLIMIT_FSIZE, SIGXFSZ)", [], ["file-limit"], ""),
    ("a read fails or is short", ["faults::a_failed_read_may_be_repeated", "faults::every_call_fails_once"], ["writeback-btrfs"], ""),
    ("a hole or an error under a map", ["src:io::file::tests::a_first_touch_past_a_foreign_cut_is_declined"], ["files"], ""),
    ("another process cuts the file of an open image", ["src:io::file::tests::the_map_declines_what_it_must_not_touch"], ["files"], ""),
    ("every byte flipped", ["flips::every_byte_flipped"], [], ""),
    ("every sector zeroed, older, or swapped with another", ["flips::every_sector_zeroed_aged_or_swapped"], [], ""),
    ("the file cut at every sector, or longer", ["flips::cut_and_lengthened"], [], ""),
    ("a sync that lies", [], [], "no test yet"),
    ("a second opening: same process, other process, races, after kill -9",
     ["files::one_writer_or_many_readers", "src:io::file::tests::many_race_to_open_and_one_wins"], ["kill"], ""),
    ("a fork with an open image",
     ["files::refused::a_forked_childs_handles_answer_wrong_process", "src:io::file::tests::a_forked_child_takes_nothing_away"], [], ""),
    ("unlink, rename, replacement, links, chmod under an open image",
     ["src:io::file::tests::a_replaced_path_leaves_the_open_image_alone"], ["files"], ""),
    ("opening for reading: nothing changes, mode 0444, a read-only mount", ["faults::a_read_only_opening_changes_nothing"], ["read-only", "files"], ""),
    ("holes: the host has none, before and after the commit, beside a reader", ["explorer::random", "concurrency::between::nothing_is_overwritten_under_a_reader"], [], ""),
    ("memory that a hostile image asks for", ["hostile::hostile_images_do_no_harm"], [], ""),
    ("a crash in create, clone, resize, rollback", ["explorer::random"], ["shutdown", "kill"], ""),
    ("threads in unlucky orders", ["schedule::random"], [], ""),
    ("a disk nearly full for hours", [], [], "no soak yet"),
]


def find_test(root, name):
    """The test of this name must exist."""
    path, _, function = name.rpartition("::")
    place = root / ("src" if path.startswith("src:") else "tests/it")
    for part in path.removeprefix("src:").split("::"):
        place = place / part
    places = [place.with_suffix(".rs"), place / "mod.rs"]
    text = "".join(p.read_text() for p in places if p.is_file())
    if not re.search(rf"#\[test\]\s*(?:#\[[^\n]*\]\s*)*fn {re.escape(function)}\b", text):
        sys.exit(f"error: there is no test {name}")
    return "`" + name.removeprefix("src:") + "`"


def outcome(results, rungs, begins):
    """What the last runs of the rungs that begin so saw, a line for each."""
    lines = []
    for rung in [r for r in rungs if r == begins or r.startswith(begins + "-")]:
        r = results.get(rung)
        if r is None:
            sys.exit(f"error: {rung} was not run; tests/hosts/run.sh {rung}")
        figures = [f"{r['cycles']} cycles"]
        if r["acknowledged"]:
            figures.append(f"{r['acknowledged']} acknowledgements")
        if r.get("races"):
            figures.append(f"{r['races']} races")
        # Where a host does not keep its promises, what is promised there is that nothing is lost: what was refused is told.
        refused = [s for s in r["seen"] if re.search("flush|delete|discard|checkpoint|reclaim|freed", s) and not s.endswith(": ok")]
        figures += [f"{s} in {r['seen'][s]}" for s in refused if rung.startswith("full")]
        lines.append(f"`{rung}`: {', '.join(figures)}, lost {r['lost']}")
    if not lines:
        sys.exit(f"error: there is no rung {begins}")
    return lines


def write(root, results_path, rungs):
    results = json.loads(results_path.read_text()) if results_path.exists() else {}
    out = ["| fault | covered by | on real hosts |", "|---|---|---|"]
    for fault, tests, names, missing in ROWS:
        tests = ", ".join(find_test(root, t) for t in tests)
        lines = [line for n in names for line in outcome(results, rungs, n)]
        out.append(f"| {fault} | {tests or ('rungs' if lines else '')} | {'<br>'.join(lines) or (NOT_RUN + missing if missing else '')} |")
    asked = {r["asked"] for r in results.values()}
    if len(asked) != 1:
        sys.exit("error: the last runs had different --cycles: " + ", ".join(f"{name} {r['asked']}" for name, r in results.items()))
    kernels = sorted({r["kernel"] for r in results.values() if "kernel" in r})
    head = f"Linux {', '.join(kernels)}; `tests/hosts/run.sh --cycles {asked.pop()}`, then `tests/hosts/run.sh --table`."
    path = root / "docs" / "reliability.md"
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"error: {path} does not say where the table goes")
    before, rest = text.split(BEGIN)
    path.write_text("\n".join([before + BEGIN, "", head, "", *out, "", END]) + rest.split(END)[1])
    return 0
