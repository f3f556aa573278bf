"""What rounding does to norms and means that are kept, over many steps."""

import pytest

from examples import drift

pytestmark = pytest.mark.usefixtures("standard_promotion")

BOUNDS = {
    # name: what is documented for 10,000 steps in float32 and in bfloat16
    'normalize_params(norm="keep")': (2e-4, 0.2),
    'normalize_params("global", norm="keep")': (2e-5, 0.1),
    "centralize_params()": (2e-7, 5e-4),
    "centralize_gradients() in front of SGD": (1e-5, 1.0),
}


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
class TestDrift:
    def check(self, name, dtype, steps, share):
        worst = float(drift.largest_deviation(0, *drift.CASES[name], dtype, steps))
        bound = BOUNDS[name][dtype == "bfloat16"]
        assert 0 < worst <= share * bound

    def test_deviations_over_500_steps_stay_in_bounds(self, name, dtype):
        self.check(name, dtype, 500, 1.0 if name == "centralize_params()" else 0.2)

    @pytest.mark.slow
    def test_deviations_over_10_000_steps_stay_in_bounds(self, name, dtype):
        self.check(name, dtype, drift.STEPS, 1.0)


def test_norms_that_nothing_keeps_move():
    assert drift.largest_deviation(0, *drift.CASES["norms under Adam alone"], "float32", 500) > 0.05
