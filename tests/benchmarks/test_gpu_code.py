"""What XLA makes of updates and networks for a GPU, which need not be there: kernels and bytes.

    python -m pip install -e ".[dev,cuda]"
    JAX_PLATFORMS=cpu python -m pytest tests/benchmarks/test_gpu_code.py

The compiler is told what an H100 is like. It cannot try there which way to compute a product or
convolution is the fastest, and takes the first; all other kernels are those that the GPU would run.
What is timed is the compilation.
"""

import collections
import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from wcgc.models._conv_transpose import conv_transpose

from helpers.compared import FORMS, OPTIMIZERS, PARAMETERS, uncentralized
from helpers.measuring import kernels_and_bytes, lowered_update

pytest.importorskip("jax_cuda13_plugin", reason="needs the extra cuda")

pytestmark = pytest.mark.usefixtures("standard_promotion")

ALL_FORMS = {"plain": uncentralized, **FORMS}

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 13 minor: 0 }
dnn_version_info { major: 9 minor: 12 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84929347584
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
}
"""
"""What XLA wants to know of the device: its `GpuTargetConfigProto`."""


@pytest.fixture(scope="module")
def h100():
    topology = topologies.get_topology_desc("H100", "cuda", target_config=H100, topology="1x1x1")
    return jax.sharding.SingleDeviceSharding(topology.devices[0])


def compiled(lowered):
    return lowered.compile({"xla_gpu_autotune_level": 0})


@pytest.mark.parametrize("form", ALL_FORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("parameters", PARAMETERS)
def test_update(benchmark, h100, parameters, optimizer, form):
    chosen = PARAMETERS[parameters]()
    tx, after = ALL_FORMS[form](OPTIMIZERS[optimizer](), chosen.axes)
    lowered = lowered_update(tx, after, chosen.shapes, sharding=h100)
    update = benchmark.pedantic(compiled, [lowered])
    kernels, moved = kernels_and_bytes(update)
    benchmark.extra_info.update(
        kernels=kernels,
        bytes_per_parameter_byte=moved / chosen.bytes,
        temporary_share=update.memory_analysis().temp_size_in_bytes / chosen.bytes,
        jax=jax.__version__,
    )


@pytest.mark.parametrize(
    ("size", "stride", "side", "features"),
    [(3, 1, 16, (64, 64)), (2, 2, 13, (512, 256)), (3, 2, 57, (64, 128)), (7, 2, 111, (128, 64))],
)
def test_transposed_convolution(benchmark, h100, size, stride, side, features):
    """The gradients of that of `wcgc.models` beside those of JAX's own."""
    padding = size - 1 - (size // 2 if stride == 1 else 0)

    def ours(x, kernel):
        return conv_transpose(x, kernel, stride, padding)

    def of_jax(x, kernel):
        return jax.lax.conv_transpose(x, kernel, (stride, stride), ((padding, padding),) * 2)

    x, kernel = (
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=h100)
        for shape in ((50, side, side, features[0]), (size, size, *features))
    )

    def lowered(function):
        out = jax.eval_shape(function, x, kernel)
        cotangent = jax.ShapeDtypeStruct(out.shape, out.dtype, sharding=h100)

        def gradients(x, kernel, cotangent):
            return jax.vjp(function, x, kernel)[1](cotangent)

        return jax.jit(gradients, out_shardings=h100).lower(x, kernel, cotangent)

    mine = benchmark.pedantic(compiled, [lowered(ours)])
    others = compiled(lowered(of_jax))
    calls, calls_of_jax = (
        collections.Counter(re.findall(r'custom_call_target="__cudnn\$(\w+)"', program.as_text()))
        for program in (mine, others)
    )
    assert calls.total() == 2
    benchmark.extra_info.update(
        calls=", ".join(sorted(calls)),
        calls_of_jax=", ".join(sorted(calls_of_jax)),
        kernels=kernels_and_bytes(mine)[0],
        kernels_of_jax=kernels_and_bytes(others)[0],
        jax=jax.__version__,
    )
