"""Runs mutmut's mutants in forks of one process that has collected the tests once.

`mutmut run` does the same more slowly: it collects the tests anew for each mutant. From the
repository's root:

    python tests/mutants.py [--only PATTERN] [--processes 2] [--seconds 8]

What is found is kept in `mutants/results.jsonl`, so that an interrupted run goes on. Delete the
folder `mutants` after a change of the code or of the tests. See `tests/mutation.md`.
"""

import argparse
import ast
import collections
import contextlib
import fnmatch
import gc
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MADE = ROOT / "mutants"
EXITS = {"killed": 1, "survived": 0, "not finished": 7, "no tests": 33}
SECONDS_FOR_ALL = 300
"""After which a fork is in an endless loop, which counts as killed."""


def make():
    """Mutmut's mutants of all modules that pyproject.toml names, with the tests beside them."""
    from mutmut.__main__ import (
        copy_also_copy_files,
        copy_src_dir,
        create_mutants,
        setup_source_paths,
    )

    MADE.mkdir(exist_ok=True)
    copy_src_dir()
    copy_also_copy_files()
    setup_source_paths()
    create_mutants(1)


def names():
    """The mutants, in an order that is random but the same each time."""
    found = []
    for path in sorted(MADE.glob("wcgc/*.meta")):
        found += json.loads(path.read_text())["exit_code_by_key"]
    random.Random(0).shuffle(found)
    return found


def refused_by_types():
    """The mutants with an error of mypy that the code which was not mutated does not have."""
    command = [sys.executable, "-m", "mypy", "wcgc", "--output", "json"]
    printed = subprocess.run(command, cwd=MADE, capture_output=True, text=True, check=False).stdout
    errors = collections.defaultdict(list)
    for error in map(json.loads, filter(str.strip, printed.splitlines())):
        # The copies of a function are many, and what is said of that is not of the mutant.
        if error["code"] not in ("unused-ignore", "no-redef", "misc"):
            text = re.sub(r"__mutmut_(\d+|orig)|line \d+", "", error["message"])
            errors[error["file"]].append((error["line"], (error["code"], text)))
    refused = set()
    for file, found in errors.items():
        copies = [
            node
            for node in ast.walk(ast.parse((MADE / file).read_text()))
            if isinstance(node, ast.FunctionDef) and "__mutmut_" in node.name
        ]
        said = {
            copy.name: collections.Counter(
                text for line, text in found if copy.lineno <= line <= copy.end_lineno
            )
            for copy in copies
        }
        module = file.removesuffix(".py").replace("/", ".")
        for name, texts in said.items():
            if texts - said[f"{name.rpartition('__mutmut_')[0]}__mutmut_orig"]:
                refused.add(f"{module}.{name}")
    return refused


class Runner:
    """A plugin of pytest that runs tests as often as there are mutants."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.failed, self.spent = False, 0.0

    def pytest_runtest_logreport(self, report):
        self.spent += report.duration
        self.failed |= report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        import wcgc._init_checks

        # Between the user and the library there are frames of mutmut.
        wcgc._init_checks.LIBRARIES += ("mutmut",)
        touched = MADE / "touched.json"
        if not touched.exists() and self.in_fork(lambda: self.look(session.items, touched)):
            raise SystemExit("Tests fail without a mutant.")
        self.run_mutants({item.nodeid: item for item in session.items}, touched)
        return True

    def run(self, items, goes_on=lambda item: True, note=lambda item: None):
        """What becomes of a mutant by these tests; each is noted, and may be the last."""
        for item, following in zip(items, [*items[1:], None], strict=True):
            self.failed, self.spent = False, 0.0
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return "killed"
            note(item)
            if following is not None and not goes_on(following):
                return "not finished"
        return "survived"

    def in_fork(self, function):
        pid = os.fork()
        if pid == 0:
            os._exit(function())
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def look(self, items, path):
        """Notes which functions each test touches, and how long it takes."""
        from mutmut.mutation.trampoline import set_mutant_under_test
        from mutmut.state import state

        set_mutant_under_test("stats")
        tests = collections.defaultdict(list)

        def note(item):
            for function in state()._stats:
                tests[function].append((self.spent, item.nodeid))
            state()._stats.clear()

        if self.run(items, note=note) == "killed":
            return 1
        path.write_text(json.dumps(tests))
        return 0

    def run_mutants(self, items, touched):
        tests = json.loads(touched.read_text())
        results = MADE / "results.jsonl"
        done = set(read(results)) if results.exists() else set()
        running = {}
        gc.collect()
        gc.freeze()  # so that forks share their memory
        for name in (n for n in fnmatch.filter(names(), self.arguments.only) if n not in done):
            while len(running) >= self.arguments.processes:
                self.reap(running, results)
            found = sorted(tests.get(name.rpartition("__mutmut_")[0], []))
            pid = os.fork()
            if pid == 0:
                self.test_mutant(name, [(spent, items[test]) for spent, test in found])
            running[pid] = name, time.monotonic()
        while running:
            self.reap(running, results)

    def test_mutant(self, name, tests):
        """Runs in a fork, and ends it: the shortest tests first, while there is time."""
        from mutmut.mutation.trampoline import set_mutant_under_test

        durations = {item: spent for spent, item in tests}
        limit = time.process_time() + self.arguments.seconds

        def goes_on(item):
            return time.process_time() + durations[item] / 2 < limit

        code = 99  # of an error in this file
        try:
            with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
                os.dup2(sink.fileno(), 1)
                os.dup2(sink.fileno(), 2)
                set_mutant_under_test(name)
                code = EXITS[self.run([*durations], goes_on) if tests else "no tests"]
        finally:
            os._exit(code)

    def reap(self, running, results):
        """Waits for a fork, and ends those that run for ever."""
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            for late, (_, start) in running.items():
                if time.monotonic() - start > SECONDS_FOR_ALL:
                    os.kill(late, signal.SIGKILL)
            time.sleep(0.01)
            return
        name, _ = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        if code == 99:
            raise SystemExit(f"The run of {name} went wrong.")
        said = {code: said for said, code in EXITS.items()}.get(code, "killed")
        with results.open("a") as file:
            file.write(json.dumps([name, said]) + "\n")


def read(results):
    return dict(map(json.loads, results.read_text().splitlines()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="a pattern of names, as wcgc._muon.*")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8, help="of a processor, for one mutant")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    if not MADE.exists():
        make()
    refused = refused_by_types()
    os.chdir(MADE)
    sys.path[:0] = [str(MADE)]
    options = ["-q", "-p", "no:cacheprovider", *settings["pytest_add_cli_args"]]
    pytest.main(
        [*options, *settings["pytest_add_cli_args_test_selection"]], plugins=[Runner(arguments)]
    )
    found = read(MADE / "results.jsonl")
    results = {name: found[name] for name in fnmatch.filter(found, arguments.only)}
    counts = collections.Counter(results.values())
    print(f"{len(results)} mutants: {dict(counts)}")
    left = sorted(name for name, said in results.items() if said != "killed")
    print(f"Of the {len(left)} that no test has killed, mypy refuses {len(refused & {*left})}.")
    for name in left:
        if name not in refused:
            print(results[name], name)


if __name__ == "__main__":
    main()
