"""What must work where nothing but the wheel and its requirements is installed.

python smoke.py     # from a folder without the sources
"""

import doctest
import importlib
import importlib.util
import pathlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wcgc


def main() -> None:
    """Ends with an error unless all is well."""
    installed = pathlib.Path(wcgc.__file__)
    if "site-packages" not in installed.parts:
        raise SystemExit(f"These are the sources, not what is installed: {installed}")
    if not (installed.parent / "py.typed").is_file():
        raise SystemExit(f"{installed.parent} has no py.typed: type checkers will pass it over")
    for extra in "flax", "matplotlib", "orbax", "rich", "sklearn", "tyro":
        if importlib.util.find_spec(extra):
            raise SystemExit(f"{extra} is installed, which the library shall do without")
    train()
    models_ask_for_flax()
    run_doctests()


def train() -> None:
    """One step of a chain ends with centralized kernels."""
    params = wcgc.centralize({"kernel": jnp.arange(12.0).reshape(4, 3) ** 2, "bias": jnp.ones(3)})
    tx = optax.chain(wcgc.centralize_gradients(), optax.sgd(0.1), wcgc.centralize_params())
    grads = jax.grad(lambda tree: jnp.sum(tree["kernel"] ** 3) + jnp.sum(tree["bias"]))(params)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(after["bias"], 0.9, rtol=1e-6)
    scale = np.abs(after["kernel"]).max()
    np.testing.assert_allclose(np.mean(after["kernel"], 0) / scale, 0, atol=1e-6)
    if np.allclose(after["kernel"], params["kernel"]):
        raise SystemExit("The step has changed nothing")


def models_ask_for_flax() -> None:
    """The networks say what they need."""
    try:
        importlib.import_module("wcgc.models")
    except ImportError as error:
        if "pip install 'wcgc[flax]'" in str(error):
            return
        raise
    raise SystemExit("wcgc.models can be imported without Flax")


def run_doctests() -> None:
    """Those of the library's own modules, but for what is about models in Flax."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for info in pkgutil.iter_modules(wcgc.__path__):
        if not info.ispkg:
            for test in finder.find(importlib.import_module(f"wcgc.{info.name}")):
                if "flax" not in test.docstring:
                    runner.run(test)
    if runner.failures:
        raise SystemExit(f"{runner.failures} doctests failed")
    if runner.tries < 20:
        raise SystemExit(f"Only {runner.tries} doctests were found")
    print(f"wcgc {wcgc.__version__} works alone, {runner.tries} doctests passed")


if __name__ == "__main__":
    main()
