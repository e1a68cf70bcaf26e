"""Plants a random sample of the mutants that cargo-mutants lists, all in one copy of the source, and runs a fast part of the tests for each.

cargo-mutants builds once for each mutant, which takes minutes. Here each mutant becomes a branch that the environment variable
SNAPDISK_PLANTED chooses, as run.py has it, so that one build serves all. Those that do not compile are left out, as cargo-mutants does.
Needs cargo-mutants and the Python packages tree-sitter and tree-sitter-rust. Exit status: 0 if all are caught, 1 if some survive, 2 for
wrong arguments.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time

import run as mutants
import tree_sitter
import tree_sitter_rust

FILES = ["src/engine/**", "src/log/**", "src/space/**", "src/tree/**", "src/io/**", "src/format.rs", "src/audit/check.rs"]
# What tests can't and need not see: texts for people, hints to the processor, and the simulator, which is a test itself.
IGNORED = re.compile(r"io/sim/|fmt::|prefetch|Debug|Display|wakeups|fresh_written|Progress|StructField")
# In the order of their worth for the time that they take.
TESTS = [
    ("lib", ["--test-threads=2"]),
    ("it", ["basic::", "hostile::", "corpus::", "salvage::", "format::", "leases::", "undone::", "usage::", "--test-threads=2"]),
    ("it", ["explorer::hunt", "--ignored", "--exact"]),
    ("it", ["model::", "faults::", "flips::pages", "--test-threads=2"]),
]


def listed():
    """All mutants of the files."""
    command = ["cargo", "mutants", "--list", "--json", *[a for f in FILES for a in ("-f", f)]]
    out = subprocess.run(command, cwd=mutants.ROOT, check=True, capture_output=True, text=True).stdout
    return [m for m in json.loads(out) if not IGNORED.search(m["name"] + m["genre"])]


def smallest(node, start, end):
    return node.descendant_for_byte_range(start, end)


def insertions(mutant, name, source, tree):
    """What a mutant inserts where: (offset, whether it goes before what else is inserted there, text). None: it is not one of those that
    can be written so."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def offset(at):
        line = source[lines[at["line"] - 1] : lines[at["line"]]].decode()
        return lines[at["line"] - 1] + len(line[: at["column"] - 1].encode())

    start, end = offset(mutant["span"]["start"]), offset(mutant["span"]["end"])
    asks = f'crate::planted("{name}")'
    put = mutant["replacement"]
    node = smallest(tree.root_node, start, end - 1 if mutant["genre"] != "BinaryOperator" else end)
    kinds = []
    above = node
    while above is not None:
        kinds.append(above.type)
        if above.type == "function_item" and "const" in source[above.start_byte : above.start_byte + 40].decode().split("fn ")[0]:
            return None
        above = above.parent
    if {"const_item", "static_item", "macro_invocation", "array_type"} & set(kinds):
        return None
    if mutant["genre"] == "FnValue":
        return [(start, True, f"if {asks} {{ return {put}; }}\n")]
    if mutant["genre"] == "MatchArmGuard":
        return [(start, True, f"(if {asks} {{ {put} }} else {{ "), (end, False, " })")]
    if mutant["genre"] == "UnaryOperator":
        whole = smallest(tree.root_node, start, end)
        while whole is not None and whole.type != "unary_expression":
            whole = whole.parent
        if whole is None:
            return None
        inner = source[end : whole.end_byte].decode()
        return [(whole.start_byte, True, f"(if {asks} {{ {inner} }} else {{ "), (whole.end_byte, False, " })")]
    if mutant["genre"] == "MatchArm":
        arm = smallest(tree.root_node, start, end - 1)
        while arm is not None and arm.type != "match_arm":
            arm = arm.parent
        pattern = arm and arm.child_by_field_name("pattern")
        if pattern is None or pattern.child_by_field_name("condition") is not None:
            return None
        return [(pattern.end_byte, False, f" if !{asks}")]
    if mutant["genre"] == "BinaryOperator":
        whole = smallest(tree.root_node, start, end - 1)
        while whole is not None and whole.type not in ("binary_expression", "compound_assignment_expr"):
            whole = whole.parent
        operator = whole and whole.child_by_field_name("operator")
        if operator is None or operator.start_byte != start:
            return None
        if whole.parent.type == "let_chain" and put in ("||", "&&"):
            return None
        left, right = source[whole.start_byte : start].decode(), source[end : whole.end_byte].decode()
        text = f"(if {asks} {{ {left}{put}{right} }} else {{ "
        return [(whole.start_byte, True, text), (whole.end_byte, False, " })")]
    return None


def plant(sample, target):
    """Writes the copy; gives for each file where in it which mutant stands."""
    mutants.write_copy([], target)
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))
    spans = {}
    for file in sorted({m["file"] for m in sample.values()}):
        source = (mutants.ROOT / file).read_bytes()
        tree = parser.parse(source)
        points = []
        for name, mutant in sample.items():
            if mutant["file"] == file:
                found = insertions(mutant, name, source, tree)
                mutant["planted"] = found is not None
                # At one place the longer expression opens first and closes last.
                extent = found[-1][0] - found[0][0] if found else 0
                points += [(at, opens, -extent if opens else extent, text, name) for at, opens, text in found or []]
        out, done, spans[file] = b"", 0, []
        for at, opens, _, text, name in sorted(points, key=lambda p: (p[0], p[1], p[2])):
            out += source[done:at]
            spans[file].append((len(out), len(out) + len(text.encode()), name))
            out, done = out + text.encode(), at
        (target / file).write_bytes(out + source[done:])
    return spans


def build(sample, target):
    """Builds the tests; takes out of the sample what does not compile. Gives the binaries."""
    while True:
        spans = plant(sample, target)
        env = {**mutants.os.environ, "CARGO_TARGET_DIR": str(mutants.cargo_target())}
        for command in (["check", "--features", "sim"], ["test", "--no-run", "--lib", "--test", "it"]):
            line = ["cargo", *command, "--message-format=json"]
            done = subprocess.run(line, cwd=target, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            messages = [json.loads(m) for m in done.stdout.splitlines() if m.startswith("{")]
            bad = set()
            for message in (m["message"] for m in messages if m.get("message", {}).get("level") == "error"):
                places = [s for c in [message, *message["children"]] for s in c["spans"]]
                for s in places:
                    near = [p for p in spans.get(s["file_name"], []) if p[0] < s["byte_end"] and s["byte_start"] < p[1]]
                    bad |= {p[2] for p in near}
                if not bad and message.get("code") and not message["code"]["code"].startswith("E"):
                    raise mutants.Broken(message["rendered"])
            if done.returncode != 0:
                break
        else:
            found = {m["target"]["name"]: m["executable"] for m in messages if m.get("executable")}
            return {"lib": found["snapdisk"], "it": found["it"]}
        if not bad:
            raise mutants.Broken("the copy does not build:\n" + done.stderr[-3000:] + "".join(m["message"]["rendered"] for m in messages if m.get("message", {}).get("level") == "error")[:3000])
        print(f"{len(bad)} do not compile", flush=True)
        for name in bad:
            sample[name]["compiles"] = False
            sample.setdefault("unviable", {})[name] = sample.pop(name)
        sample.pop("unviable")


def verdict(binaries, name, states, seconds, copy):
    """What catches a mutant; `None`: nothing."""
    env = {**mutants.os.environ, "SNAPDISK_PLANTED": name, "SNAPDISK_STATES": str(states), "RUST_BACKTRACE": "0"}
    for binary, arguments in TESTS:
        try:
            done = subprocess.run([binaries[binary], *arguments], cwd=copy, env=env, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return "timeout"
        if done.returncode != 0:
            test = re.findall(r"^test (\S+) .*FAILED", done.stdout, re.M)
            return test[0] if test else f"signal {-done.returncode}"
    return None


def main():
    parser = argparse.ArgumentParser(prog="tests/mutants/sample.py", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--sample", type=mutants.positive, default=100, metavar="N")
    parser.add_argument("--seed", type=mutants.whole, default=0, metavar="S")
    parser.add_argument("--states", type=mutants.positive, default=8000, help="states of the explorer")
    parser.add_argument("--timeout", type=mutants.positive, default=150, metavar="SECONDS", help="for each run of a test binary")
    parser.add_argument("--minutes", type=mutants.positive, default=10_000, help="no further mutant is begun after these")
    options = parser.parse_args()
    every = listed()
    chosen = random.Random(options.seed).sample(every, min(options.sample, len(every)))
    sample = {f"m{i}": m for i, m in enumerate(chosen)}
    copy = mutants.cargo_target() / "mutants" / "sample"
    binaries = build(sample, copy)
    sample = {name: m for name, m in sample.items() if m.get("planted")}
    print(f"{len(every)} mutants listed, {len(chosen)} drawn, {len(sample)} planted", flush=True)
    if (by := verdict(binaries, "", options.states, options.timeout, copy)) is not None:
        raise mutants.Broken(f"{by} fails with nothing planted")
    began, caught, timeouts, survivors = time.monotonic(), 0, 0, []
    for name, mutant in sample.items():
        if time.monotonic() - began > options.minutes * 60:
            break
        by = verdict(binaries, name, options.states, options.timeout, copy)
        timeouts += by == "timeout"
        caught += by not in (None, "timeout")
        if by is None:
            survivors.append(mutant["name"])
        print(f"{mutant['name']}: {by or 'SURVIVES'}", flush=True)
    ran = caught + timeouts + len(survivors)
    print(f"{ran} run: {caught} caught, {timeouts} timeouts, {len(survivors)} survive, {time.monotonic() - began:.0f} s")
    for name in survivors:
        print(f"survives: {name}")
    return 1 if survivors else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except mutants.Broken as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
