"""Jobs in processes of their own: shares of the cores, errors, deaths, runs that survive them."""

import dataclasses
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from examples.engine import pool, results, runner
from examples.paper import experiments, rows

from helpers.on_noise import OnNoise

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Job:
    name: str
    folder: pathlib.Path


def work(job, tell):
    tell(job.name, 1, "begun")
    marker = job.folder / job.name
    if job.name.startswith("fails"):
        raise ValueError(f"{job.name} is wrong")
    if job.name.startswith("dies") and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return sorted(os.sched_getaffinity(0)), os.getpid()


def environment(job, tell):
    return os.environ.get("GLIBC_TUNABLES")


def run(folder, names, processes=2):
    told, warned = [], []
    jobs = [Job(name, folder) for name in names]
    ended = pool.run(work, jobs, processes, lambda *what: told.append(what), warned.append, 3)
    return {job.name: what for job, what in ended}, told, warned


linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are not given here")


@linux
def test_each_job_has_a_process_with_its_share_of_the_cores(tmp_path):
    ended, told, warned = run(tmp_path, ["a", "b", "c"])
    shares = pool.shares(pool.cores(), 2)
    assert {tuple(cores) for cores, _ in ended.values()} <= {tuple(share) for share in shares}
    assert os.getpid() not in {pid for _, pid in ended.values()}
    assert len({pid for _, pid in ended.values()}) <= 2
    assert sorted(told) == [(name, 1, "begun") for name in "abc"]
    assert warned == []
    assert multiprocessing.active_children() == []


@linux
@pytest.mark.parametrize(
    ("given", "expected"), [(None, "glibc.malloc.hugetlb=1"), ("glibc.malloc.check=0",) * 2]
)
def test_processes_start_with_huge_pages_unless_told_otherwise(given, expected, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if given is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    jobs = [Job("any", pathlib.Path())]
    ((_, found),) = pool.run(environment, jobs, 1, lambda *_: None, print, 1)
    assert found == expected
    assert os.environ.get("GLIBC_TUNABLES") == given


@linux
def test_a_death_or_an_error_costs_its_own_job_alone(tmp_path):
    ended, told, warned = run(tmp_path, ["a", "dies", "fails", "b"])
    assert {name for name, what in ended.items() if isinstance(what, pool.Failure)} == {"fails"}
    assert ended["fails"] == "ValueError: fails is wrong, 3 times"
    assert [name for name, *_ in told].count("fails") == 3
    assert [name for name, *_ in told].count("dies") == 2
    assert sorted(warned) == [
        "dies: its process died (exit code -9); it is taken up again",
        "fails: ValueError: fails is wrong; it is taken up again",
        "fails: ValueError: fails is wrong; it is taken up again",
    ]


@pytest.mark.parametrize(
    ("cores", "processes", "expected"),
    [
        ([0, 1], 1, [[0, 1]]),
        ([0, 1], 2, [[0], [1]]),
        ([3, 5, 7], 2, [[3], [5, 7]]),
        ([*range(8)], 3, [[0, 1], [2, 3, 4], [5, 6, 7]]),
        ([4, 6], 3, [[4], [6], [4]]),
    ],
)
def test_cores_are_shared_out_evenly_or_taken_in_turns(cores, processes, expected):
    assert pool.shares(cores, processes) == expected


ENDLESS = """
import os, pathlib, sys, time
from examples.engine import pool

class Job:
    name = "endless"

def work(job, tell):
    tell(job.name, os.getpid(), "")
    time.sleep(600)

if __name__ == "__main__":
    for _ in pool.run(work, [Job()], 1, lambda *what: print(what[1], flush=True), print, 1):
        pass
"""


def lives(pid):
    try:
        return "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2]
    except FileNotFoundError:
        return False


@linux
def test_no_process_outlives_a_killed_parent(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        child = int(parent.stdout.readline())
        assert lives(child)
        parent.kill()
    end = time.monotonic() + 60
    while lives(child):
        assert time.monotonic() < end, "the child lives on"
        time.sleep(0.1)


@linux
@pytest.mark.usefixtures("standard_promotion")
def test_a_killed_run_is_taken_up_again_beside_the_others(tmp_path, monkeypatch):
    setting = OnNoise(rows.choose(3, "a", "WC")[0], experiments.Options(epochs=3))
    killed = []
    tell = runner._Display.tell

    def kill_once(display, name, epoch, text):
        tell(display, name, epoch, text)
        if not killed:
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()

    monkeypatch.setattr(runner._Display, "tell", kill_once)
    places = runner.Places(tmp_path, tmp_path / "out")
    unfinished = runner.run(
        [setting], range(2), places, "examples.paper", checkpoint_every=1, processes=2
    )
    assert unfinished == runner.Unfinished([], [])
    records = results.read(places.records(setting))
    assert sorted(record["run"]["seed"] for record in records) == [0, 1]
    assert {len(record["curves"]["train_loss"]) for record in records} == {3}
    assert {record["machine"]["cpus"] for record in records} == {
        len(share) for share in pool.shares(pool.cores(), 2)
    }
    assert [*places.unfinished.iterdir()] == []


def test_no_process_at_all_is_refused(tmp_path):
    places = runner.Places(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="--jobs must be at least 1, got 0"):
        runner.run([], range(1), places, "examples.paper", processes=0)
