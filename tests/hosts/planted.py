"""Plants the bugs of `planted.toml` in a copy of the source and shows that the rungs see them."""

import importlib.util
import pathlib
import tomllib

from host import Failed

HERE = pathlib.Path(__file__).resolve().parent


def mutants():
    """The script that plants bugs for the tests in process."""
    spec = importlib.util.spec_from_file_location("mutants", HERE.parent / "mutants" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_list(planter, rungs):
    """The bugs with their places in the source, and what to build: each patch once."""
    known = {bug["name"]: bug for bug in planter.read_list()}
    bugs = tomllib.loads((HERE / "planted.toml").read_text())["bug"]
    patches = {}
    for bug in bugs:
        name = bug["name"]
        if bug["rung"] not in rungs:
            raise Failed(f"{name}: no rung is called {bug['rung']}")
        if "edit" in bug:
            patches[name] = {"name": name, "places": [planter.place(name, edit) for edit in bug["edit"]]}
        elif name in known:
            patches[name] = known[name]
        else:
            raise Failed(f"{name}: no edit, and not listed in tests/mutants/list.toml")
    return bugs, list(patches.values())


def run(rungs, build, hunt):
    """Runs the rung of each bug until it is seen. `hunt(binary, name, rung, cycles, fresh)` gives the cycle in which it was, and how."""
    planter = mutants()
    try:
        bugs, patches = read_list(planter, rungs)
        groups = planter.batches(patches)
        binaries = {}
        for number, group in enumerate(groups):
            copy = planter.cargo_target() / "mutants" / f"hosts-{number}"
            planter.write_copy(group, copy)
            binary = build(copy)
            binaries |= {patch["name"]: binary for patch in group}
    except planter.Broken as e:
        raise Failed(str(e)) from e
    seen, survivors, controlled = [], [], set()
    for bug in bugs:
        name, rung, binary, fresh = bug["name"], bug["rung"], binaries[bug["name"]], bug.get("fresh", "yes")
        if (rung, binary, fresh) not in controlled:
            controlled.add((rung, binary, fresh))
            wrong = hunt(binary, "", rung, 5, fresh)
            if wrong:
                raise Failed(f"{rung} fails with nothing planted: {wrong[1]}")
        found = hunt(binary, name, rung, bug["cycles"], fresh)
        if found:
            seen.append(f"{name}: seen by {rung} in cycle {found[0]}")
            print(f"planted {name}: seen by {rung} in cycle {found[0]}: {found[1][:160]}", flush=True)
        else:
            survivors.append(f"{name} by {rung}")
            print(f"planted {name}: NOT SEEN by {rung} in {bug['cycles']} cycles", flush=True)
    if survivors:
        raise Failed(f"not seen: {', '.join(survivors)}")
    return seen
