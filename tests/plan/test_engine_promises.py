"""What the engine promises of its programs, on the TPU compiler's own text.

Programs of a small bfloat16 policy are compiled for a v5e, without a TPU.
"""

import importlib.util
import pathlib
import runpy

import pytest

from progrpo_jax.plan import ahead, counts, hlo

pytestmark = [
  pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs the TPU's compiler: pip install -e '.[aot]'",
  ),
  pytest.mark.timeout(1800),
]
SCRIPT = pathlib.Path(__file__).with_name("compile_small.py")
SMALL = runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("hlo")


@pytest.fixture
def program(folder, run_python):
  """A function of a program's name to its module; all compile at once."""
  if not (folder / "update.hlo").exists():
    # As users compile: the tests' own flags are for a CPU.
    env = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    run_python([SCRIPT, folder], devices=1, timeout=1500, env=env)
  return lambda name: hlo.parse((folder / f"{name}.hlo").read_text())


def token_loop(module):
  return ahead.token_loop(module, SMALL["CHUNK"])


def test_no_token_waits_for_weights(program):
  module = program("sample")
  again = counts.over_constants(module, token_loop(module))
  assert not [(c.kind, c.nbytes, c.instruction.op_name) for c in again]


def test_no_token_copies_the_keys_of_a_layer(program):
  loop = token_loop(program("many"))
  copied = counts.copies(loop.body, SMALL["keys_of_a_layer"]())
  assert not [(i.name, i.arrays[0].shape) for i in copied]


@pytest.mark.parametrize("name", ["sample", "score", "update"])
def test_no_product_has_float32_on_both_sides(program, name):
  cost = counts.cost(program(name))
  assert cost.flops["bf16 x bf16"] > 0
  assert not cost.flops.get("f32 x f32")


@pytest.mark.parametrize("name", ["score", "update"])
def test_whole_sequences_go_through_the_kernel(program, name):
  kernels = {i.op_name for i in counts.kernels(program(name))}
  assert kernels
  assert all("splash" in kernel for kernel in kernels), kernels
