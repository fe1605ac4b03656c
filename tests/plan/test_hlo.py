"""Texts of programs, shortened from what libtpu 0.0.42 wrote."""

import pathlib

import pytest

from progrpo_jax.plan import counts, hlo

HERE = pathlib.Path(__file__).parent
# A loop over tokens: a layer's weights are gathered for each, one asks for the
# next iteration's part ahead, keys are written in place, and a copy goes back
# to main memory.
DECODE = (HERE / "decode.hlo").read_text()
KEYS = 8 * 8 * 2 * 128 * 1024 * 2
HEAD = 1536 * 151936 * 2
MLP = 1536 * 8960 * 2


@pytest.fixture
def module():
  return hlo.parse(DECODE)


@pytest.fixture
def loop(module):
  (only,) = hlo.loops(module)
  return only


def moved(module, loop, name):
  return counts.hbm_bytes(module, loop.body)[name]


@pytest.mark.parametrize(
  ("text", "shape", "nbytes", "padded", "in_hbm"),
  [
    ("bf16[64,100]{1,0:T(8,128)(2,1)}", (64, 100), 12800, 16384, True),
    ("f32[3]{0:T(128)S(1)}", (3,), 12, 512, False),
    # The layout says which axis is innermost.
    ("f32[8,2,3]{1,2,0:T(4,128)}", (8, 2, 3), 192, 8 * 4 * 128 * 4, True),
    ("pred[]", (), 1, 1, True),
    ("f8e4m3fn[16]{0}", (16,), 16, 16, True),
    ("s4[16]{0}", (16,), 8, 8, True),
    ("u32[]{:S(2)}", (), 4, 4, False),
  ],
)
def test_an_array(text, shape, nbytes, padded, in_hbm):
  (array,) = hlo.arrays_of(text)
  assert (array.shape, array.nbytes, array.padded, array.in_hbm) == (
    shape,
    nbytes,
    padded,
    in_hbm,
  )


def test_a_tuple_has_the_arrays_of_its_parts():
  text = "((f32[2,3]{1,0}), bf16[4]{0:T(128)S(1)}, /*index=2*/u32[]{:S(2)})"
  assert [a.dtype for a in hlo.arrays_of(text)] == ["f32", "bf16", "u32"]


def test_a_module(module):
  assert module.entry.name == "main"
  assert module.entry.root.name == "result"
  (kernel,) = counts.kernels(module)
  assert kernel.name == "splash.1"
  # Behind line feeds in the metadata.
  assert kernel.op_name == "jit(score)/splash_mha_fwd"
  assert module.computations["body"].instructions["mlp"].cycles == 167575
  with pytest.raises(ValueError, match="no ENTRY"):
    hlo.parse("HloModule x")


def test_a_loop_runs_from_its_start_to_its_end(loop):
  assert (loop.trips, loop.depth) == (60, 0)


@pytest.mark.parametrize(
  ("change", "trips"),
  [
    (("constant(4)", "constant(0)"), 64),
    (("%first, %a)", "%a, %first)"), 64),  # what it starts from is no constant
    (("direction=LT", "direction=LE"), None),
    (("constant(64)", "parameter(1)"), None),
    (
      (
        "body=%body",
        'body=%body, backend_config={"known_trip_count":{"n":"7"}}',
      ),
      7,
    ),
  ],
)
def test_the_number_of_iterations(change, trips):
  (loop,) = hlo.loops(hlo.parse(DECODE.replace(*change)))
  assert loop.trips == trips


def test_what_no_iteration_changes(loop):
  same = hlo.invariant(loop)
  # Handed on; computed from that; fetched for the iteration after.
  assert {"up", "head", "one", "copy-done", "ahead", "weights"} <= same
  assert not same & {"arg", "step", "next", "keys", "written", "mlp", "x"}


def test_a_gather_of_weights_in_the_loop_is_seen(module, loop):
  assert [
    (c.kind, c.dtype, c.nbytes, c.devices)
    for c in counts.collectives(module, loop.body)
  ] == [
    # Once, though two fusions have a part of it.
    ("all-gather", "bf16", HEAD, 4),
    ("all-gather", "bf16", MLP, 4),
    ("all-reduce", "bf16", 64 * 8960 * 2, 2),
  ]
  again = counts.over_constants(module, loop)
  assert [c.nbytes for c in again] == [HEAD, MLP]


def test_bytes_over_main_memory(module, loop):
  # Written once, where it starts, not by what goes on beside it.
  assert moved(module, loop, "async-collective-start") == HEAD
  assert moved(module, loop, "goes_on") == 1536 * 128 * 2
  assert moved(module, loop, "all-gather.3") == MLP
  # A weight, through a fusion that renames it; activations are in VMEM.
  assert moved(module, loop, "mlp") == MLP
  assert moved(module, loop, "all-reduce.1") == 0
  assert moved(module, loop, "copy-start") == MLP // 4
  # One column of the keys, in tiles of 128.
  assert moved(module, loop, "written") == KEYS // 8
  assert moved(module, loop, "near") == KEYS
  assert moved(module, loop, "copy-start.1") == KEYS


def test_a_copy_of_the_cache_is_seen(module, loop):
  assert [i.name for i in counts.copies(loop.body, KEYS)] == ["copy-start.1"]
  assert not counts.copies(loop.body, KEYS + 1)


def test_the_cost_of_the_loop(module, loop):
  cost = counts.cost(module, loop.body)
  assert cost.flops == {
    "bf16 x bf16": 2 * 64 * 1536 * 8960 + 2 * 64 * 1536 * 128
  }
  assert cost.cycles == 167575
  assert cost.ici == {
    "all-gather": 0.75 * (HEAD + MLP),
    "all-reduce": 2 * 0.5 * 64 * 8960 * 2,
  }
  whole = counts.cost(module)
  assert whole.cycles == 60 * cost.cycles
  assert whole.total_flops == 60 * cost.total_flops
  none = counts.cost(module, trips={"loop": 0})
  assert (none.cycles, none.total_ici) == (0, 0)


def test_a_loop_of_unknown_length_counts_as_often_as_said():
  module = hlo.parse(DECODE.replace("direction=LT", "direction=LE"))
  assert counts.cost(module).cycles == 167575
  assert counts.cost(module, trips={"loop": 5}).cycles == 5 * 167575


FUSIONS = (HERE / "fusions.hlo").read_text()


def test_fusions_count_what_they_touch():
  module = hlo.parse(FUSIONS)
  moved = counts.hbm_bytes(module, module.entry)
  tokens = 512 * 1536 * 2
  # An update in place, but for a scalar beside it; a layer of a stack.
  assert moved["in_place"] - 2 * tokens < 1000
  assert moved["layer"] - 1536 * 256 * (4 + 2) < 1000
  assert moved["scattered"] == 1.25 * MLP


def test_a_reduction_of_which_a_device_keeps_a_part():
  module = hlo.parse(FUSIONS)
  permute, scatter = counts.collectives(module, module.entry)
  assert (scatter.kind, scatter.nbytes, scatter.devices) == (
    "reduce-scatter",
    MLP,
    4,
  )
  assert scatter.crossing == 0.75 * MLP
  assert (permute.kind, permute.crossing) == (
    "collective-permute",
    512 * 1536 * 2,
  )


@pytest.mark.parametrize(
  ("left", "right", "result", "attributes", "flops"),
  [
    (
      "bf16[64,100]",
      "f32[100,30]",
      "bf16[64,30]",
      "dim_labels=bf_io->bf",
      {"bf16 x f32": 2 * 64 * 100 * 30},
    ),
    # Heads as a window: 8 results, each of which meets one number.
    (
      "bf16[2,128,8,1]",
      "bf16[8,128,512,1]",
      "bf16[2,1,8,128]",
      "window={size=1x8 pad=0_0x7_7 rhs_reversal=0x1}, "
      "dim_labels=0bf1_1oi0->0b1f",
      {"bf16 x bf16": 2 * 128 * 8 * 128 * 512 * 2},
    ),
    # Queries against keys, a batch of 8 x 8 x 2 as dilated windows.
    (
      "bf16[8,8,2,6,128]",
      "bf16[8,8,2,128,1024]",
      "f32[8,8,2,6,1024]",
      "window={size=8x8x2 stride=7x7x1 lhs_dilate=8x8x2}, "
      "dim_labels=012bf_012io->012bf",
      {"bf16 x bf16": 2 * 8 * 8 * 2 * 6 * 128 * 1024},
    ),
  ],
)
def test_products_as_the_compiler_writes_them(
  left, right, result, attributes, flops
):
  module = hlo.parse(
    f"""ENTRY %main (a: {left}, b: {right}) -> {result} {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %c = {result} convolution(%a, %b), {attributes}
}}
"""
  )
  assert counts.flops(module, module.entry) == flops


def test_a_dot():
  module = hlo.parse(
    """ENTRY %main (a: f32[4,8,16], b: f32[4,16,2]) -> f32[4,8,2] {
  %a = f32[4,8,16]{2,1,0} parameter(0)
  %b = f32[4,16,2]{2,1,0} parameter(1)
  ROOT %c = f32[4,8,2]{2,1,0} dot(%a, %b), lhs_contracting_dims={2}
}
"""
  )
  assert counts.flops(module, module.entry) == {"f32 x f32": 2 * 4 * 8 * 16 * 2}
