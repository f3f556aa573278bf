"""How training steps are compiled on each platform: the one place that says so.

XLA's fusions for CPUs by YNN give wrong results for some programs in jaxlib 0.10.2 and 0.11.2
(https://github.com/jax-ml/jax/issues/39103), so they are off. Then oneDNN's convolutions, which
most jaxlib wheels hold, can be had: with the fusions on, YNN would take the convolutions first.
Inside of `jax.lax.scan` the gradients of convolutions are 30 times slower on a CPU
(https://github.com/jax-ml/jax/issues/12868), so an epoch is a loop of compiled steps there.
On accelerators nothing of this holds: no options, and a whole epoch in one scan.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Options = Mapping[str, bool | str]

WITHOUT_YNN: Options = {"xla_cpu_experimental_ynn_fusion_type": ""}
WITH_ONEDNN: Options = {**WITHOUT_YNN, "xla_cpu_experimental_onednn_custom_call": True}

ONEDNN_CONVOLUTION = "__onednn$convolution"
"""What XLA calls such a convolution in a compiled program."""


@dataclasses.dataclass(frozen=True)
class Compilation:
    """How the steps of one platform are compiled.

    Attributes:
      name: for people and records.
      options: for `jax.jit`.
      scan: whether an epoch is one compiled scan; else it is a loop of compiled steps.
      note: what a user should be told; empty if all is as it should be.
    """

    name: str
    options: Options
    scan: bool
    note: str = ""

    def jit(self, function: Callable, **choices: Any) -> Callable:
        """`jax.jit` with these options."""
        return jax.jit(function, compiler_options=dict(self.options) or None, **choices)


def choose(platform: str | None = None) -> Compilation:
    """The compilation for a platform, such as `"cpu"`; by itself for JAX's default one.

    On a CPU a small convolution is compiled to see what this jaxlib can do: what it cannot do is
    left out, and `note` says so.
    """
    platform = jax.default_backend() if platform is None else platform
    if platform != "cpu":
        return Compilation("XLA", {}, scan=True)
    return _choose_for_cpu()


@functools.cache
def _choose_for_cpu() -> Compilation:
    note = ""
    try:
        if ONEDNN_CONVOLUTION in compile_convolution(WITH_ONEDNN):
            return Compilation("oneDNN without YNN", WITH_ONEDNN, scan=False)
    except jax.errors.JaxRuntimeError as error:
        note = f" ({_first_line(error)})"
    note = f"oneDNN's convolutions are not to be had from this jaxlib on this processor{note}"
    try:
        compile_convolution(WITHOUT_YNN)
    except jax.errors.JaxRuntimeError as error:
        return Compilation(
            "XLA's defaults",
            {},
            scan=False,
            note=f"{note}, and YNN's fusions, wrong in some jaxlibs, cannot be switched off "
            f"({_first_line(error)}).",
        )
    return Compilation("without YNN", WITHOUT_YNN, scan=False, note=f"{note}: XLA's own are used.")


def compile_convolution(options: Options) -> str:
    """Compiles a small convolution and returns the program's text.

    Raises:
      jax.errors.JaxRuntimeError: this jaxlib does not know one of the options.
    """

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    x = jax.ShapeDtypeStruct((8, 8, 8, 16), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 16, 16), jnp.float32)
    device = jax.local_devices(backend="cpu")[0]
    with jax.default_device(device):
        lowered = jax.jit(convolve, compiler_options=dict(options)).lower(x, kernel)
        return str(lowered.compile().as_text())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
