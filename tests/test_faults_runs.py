"""Runs that are killed, find a full or read-only disk, or want the folder of another run."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from examples import cifar
from examples.paper import results

ROOT = Path(__file__).parent.parent


# Killed


PAPER_ON_NOISE = """
import hashlib, pathlib, sys
from examples import cifar
from examples.paper import __main__ as command
for path in pathlib.Path(sys.argv[-1]).glob("*/*.bin"):
    cifar.MD5[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
command.main()
"""


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """CIFAR-10 in the official layout, of which the first 100 images of two files are not black."""
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in cifar.FILES["cifar10"]:
        records = rng.integers(0, 256, (100, 1 + 3072), np.uint8)
        records[:, 0] %= 10
        with (folder / f"{name}.bin").open("wb") as file:
            file.write(records.tobytes())
            file.truncate(10_000 * (1 + 3072))
    return folder.parent


def start(data_dir, out, epochs):
    arguments = f"table 3 --rows 7 --epochs {epochs} --checkpoint-every 1 --limit 100"
    places = ["--out", str(out), "--data-dir", str(data_dir)]
    return subprocess.Popen(
        [sys.executable, "-c", PAPER_ON_NOISE, *shlex.split(arguments), *places],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(cifar10, tmp_path, kills):
    epochs = 8 * kills
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    began = time.monotonic()
    with start(cifar10, alone, epochs) as undisturbed:
        next(line for line in undisturbed.stdout if "epoch 1:" in line)
        startup = time.monotonic() - began
        began = time.monotonic()
        undisturbed.communicate()
        epoch_seconds = (time.monotonic() - began) / epochs
    assert undisturbed.returncode == 0

    rng = np.random.default_rng(0)
    for kill in range(kills):
        with start(cifar10, killed, epochs) as victim:
            if kill % 4 == 1:  # in its start
                time.sleep(rng.uniform(0, startup))
            else:  # in the course of an epoch, of its test or of its checkpoint
                assert any("epoch" in line and ":" in line for line in victim.stdout)
                time.sleep(rng.uniform(0, 6 * epoch_seconds))
            victim.kill()
            assert victim.wait() == -signal.SIGKILL, "it was over before it was killed"
        assert not results.path_of(killed, 3).exists()
    with start(cifar10, killed, epochs) as heir:
        output, _ = heir.communicate()
    assert heir.returncode == 0
    assert "epoch 1:" not in output
    assert f"epoch {epochs}:" in output
    first, second = (json.loads(results.path_of(out, 3).read_text()) for out in (alone, killed))
    assert first["parameters"] == second["parameters"]
    for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert len(first["curves"][name]) == epochs
        assert first["curves"][name] == second["curves"][name]
    assert first["accuracy"] == second["accuracy"]
    assert [*(killed / "unfinished").iterdir()] == []
