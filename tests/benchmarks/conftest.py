"""Settings for the benchmarks, what they ran on, and a summary of the ratios when all are done."""

import jax

from examples.engine import runner

# As users train, not in the full precision that the other tests ask for.
jax.config.update("jax_default_matmul_precision", None)


def pytest_benchmark_update_machine_info(config, machine_info):
    """Machine and versions, as `examples.figures` takes them from --benchmark-json."""
    machine_info["described"] = runner.describe_machine()


def pytest_terminal_summary(terminalreporter, config):
    """One line a benchmark, with what it recorded beside the times."""
    session = getattr(config, "_benchmarksession", None)
    if session is None or not session.benchmarks:
        return
    terminalreporter.section("ratios to the plain optimizer")
    for entry in session.benchmarks:
        values = ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in entry.extra_info.items()
        )
        terminalreporter.write_line(f"{entry.name}: {values}")
