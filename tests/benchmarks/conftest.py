"""Settings for the benchmarks, and a summary of the ratios when all are done."""

import jax

# As users train, not in the full precision that the other tests ask for.
jax.config.update("jax_default_matmul_precision", None)


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
