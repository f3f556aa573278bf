"""The measurement of the engine's throughput."""

import re

import pytest

from examples.paper import throughput
from examples.paper.rows import choose


def test_operations_are_those_of_the_layers():
    (row,) = choose(3, "a", "7")
    # Pairs of a pixel and a neighbour inside the image, along each side.
    convolutions = sum(
        (5 * side - 6) ** 2 * channels
        for side, channels in ((32, 3 * 32), (16, 32 * 32), (8, 32 * 64))
    )
    dense = 4 * 4 * 64 * 64 + 64 * 10
    products = 3 * 2 * (convolutions + dense)
    assert products < throughput.operations(row) < 1.02 * products


@pytest.mark.usefixtures("standard_promotion")
def test_what_is_printed_fits_together(capsys, monkeypatch):
    monkeypatch.setattr(throughput, "PRODUCT_SIDE", 256)
    throughput.main(throughput.Config(images=50, turns=1))
    printed = capsys.readouterr().out
    number = r"([\d.e+]+)"
    (engine, loop, ratio), _ = (
        map(float, found)
        for found in re.findall(
            rf"engine {number} \(.*loop {number} \(.*engine / loop {number} \(", printed
        )
    )
    ((one, reached, percent, most),) = (
        map(float, found)
        for found in re.findall(
            rf"{number} GFLOP an image; engine {number} GFLOP a second, {number}% of the {number}",
            printed,
        )
    )
    assert ratio == pytest.approx(engine / loop, abs=0.01, rel=0.02)
    assert reached == pytest.approx(one * engine, rel=0.02)
    assert percent == pytest.approx(100 * reached / most, abs=0.1, rel=0.01)
