"""Reading Hugging Face configurations, and what is refused."""

import dataclasses
import math

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from progrpo_jax.models import config as config_lib
from progrpo_jax.models import parameters, rope

ModelConfig = config_lib.ModelConfig

# The published config.json of Qwen2.5-7B, as transformers 4 wrote it.
QWEN_7B = {
  "architectures": ["Qwen2ForCausalLM"],
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": 151643,
  "hidden_act": "silu",
  "hidden_size": 3584,
  "initializer_range": 0.02,
  "intermediate_size": 18944,
  "max_position_embeddings": 131072,
  "max_window_layers": 28,
  "model_type": "qwen2",
  "num_attention_heads": 28,
  "num_hidden_layers": 28,
  "num_key_value_heads": 4,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "sliding_window": 131072,
  "tie_word_embeddings": False,
  "torch_dtype": "bfloat16",
  "use_cache": True,
  "use_mrope": False,
  "use_sliding_window": False,
  "vocab_size": 152064,
}


def test_reads_qwen2_5_7b():
  config = ModelConfig.from_hf(QWEN_7B)
  assert config == ModelConfig(
    vocab_size=152064,
    num_layers=28,
    embed_dim=3584,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    mlp_dim=18944,
    rope_theta=1e6,
    norm_eps=1e-6,
    tie_embeddings=False,
    max_positions=131072,
    bos_token_id=151643,
  )
  assert config.num_params == 7_615_616_512


def test_changes_are_the_callers():
  config = ModelConfig.from_hf(QWEN_7B, dtype="bfloat16", remat="layer")
  assert (config.dtype, config.remat) == ("bfloat16", "layer")


@pytest.mark.parametrize(
  "options",
  [
    dict(rope_theta=5e5),
    dict(rope_theta=1e4, tie_word_embeddings=True),
    dict(num_key_value_heads=1, head_dim=12, rms_norm_eps=1e-5),
  ],
)
def test_reads_what_transformers_writes(options):
  import transformers

  theirs = transformers.Qwen2Config(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=40,
    max_position_embeddings=64,
    **(dict(num_key_value_heads=2) | options),
  )
  config = ModelConfig.from_hf(theirs.to_dict())
  assert config.rope_theta == options.get("rope_theta", 1e4)
  assert config.norm_eps == options.get("rms_norm_eps", 1e-6)
  assert config.tie_embeddings == options.get("tie_word_embeddings", False)
  assert config.head_dim == options.get("head_dim", 8)
  assert config.num_kv_heads == options.get("num_key_value_heads", 2)


@pytest.mark.parametrize(
  ("published", "expected", "num_params"),
  [
    # Qwen2.5-0.5B
    (
      dict(
        QWEN_7B,
        hidden_size=896,
        intermediate_size=4864,
        num_attention_heads=14,
        num_hidden_layers=24,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        vocab_size=151936,
      ),
      dict(head_dim=64, tie_embeddings=True),
      494_032_768,
    ),
    # DeepSeek-R1-Distill-Qwen-1.5B
    (
      dict(
        QWEN_7B,
        hidden_size=1536,
        intermediate_size=8960,
        num_attention_heads=12,
        num_key_value_heads=2,
        rope_theta=10000,
        vocab_size=151936,
      ),
      dict(head_dim=128, rope_theta=1e4),
      1_777_088_000,
    ),
    # Qwen3-0.6B
    (
      dict(
        QWEN_7B,
        model_type="qwen3",
        attention_bias=False,
        head_dim=128,
        hidden_size=1024,
        intermediate_size=3072,
        num_attention_heads=16,
        num_key_value_heads=8,
        rope_scaling=None,
        tie_word_embeddings=True,
        vocab_size=151936,
        max_position_embeddings=40960,
      ),
      dict(family="qwen3", qk_norm=True, qkv_bias=False),
      596_049_920,
    ),
    # Llama-3.2-1B
    (
      dict(
        architectures=["LlamaForCausalLM"],
        attention_bias=False,
        attention_dropout=0.0,
        bos_token_id=128000,
        eos_token_id=128001,
        head_dim=64,
        hidden_act="silu",
        hidden_size=2048,
        initializer_range=0.02,
        intermediate_size=8192,
        max_position_embeddings=131072,
        mlp_bias=False,
        model_type="llama",
        num_attention_heads=32,
        num_hidden_layers=16,
        num_key_value_heads=8,
        pretraining_tp=1,
        rms_norm_eps=1e-05,
        rope_theta=500000.0,
        rope_scaling=dict(
          factor=32.0,
          high_freq_factor=4.0,
          low_freq_factor=1.0,
          original_max_position_embeddings=8192,
          rope_type="llama3",
        ),
        tie_word_embeddings=True,
        torch_dtype="bfloat16",
        transformers_version="4.45.0.dev0",
        use_cache=True,
        vocab_size=128256,
      ),
      dict(family="llama", qkv_bias=False, norm_eps=1e-5),
      1_235_814_400,
    ),
  ],
)
def test_reads_published_configs(published, expected, num_params):
  config = ModelConfig.from_hf(published)
  assert {k: getattr(config, k) for k in expected} == expected
  assert config.num_params == num_params


SMOLLM2 = {
  "architectures": ["LlamaForCausalLM"],
  "attention_bias": False,
  "attention_dropout": 0.0,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_act": "silu",
  "hidden_size": 576,
  "initializer_range": 0.041666666666666664,
  "intermediate_size": 1536,
  "is_llama_config": True,
  "max_position_embeddings": 8192,
  "mlp_bias": False,
  "model_type": "llama",
  "num_attention_heads": 9,
  "num_hidden_layers": 30,
  "num_key_value_heads": 3,
  "pad_token_id": 2,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_interleaved": False,
  "rope_scaling": None,
  "rope_theta": 100000,
  "tie_word_embeddings": True,
  "torch_dtype": "bfloat16",
  "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
  "transformers_version": "4.42.3",
  "use_cache": True,
  "vocab_size": 49152,
}
# Mistral-7B-v0.3.
MISTRAL = {
  "architectures": ["MistralForCausalLM"],
  "attention_dropout": 0.0,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_act": "silu",
  "hidden_size": 4096,
  "initializer_range": 0.02,
  "intermediate_size": 14336,
  "max_position_embeddings": 32768,
  "model_type": "mistral",
  "num_attention_heads": 32,
  "num_hidden_layers": 32,
  "num_key_value_heads": 8,
  "rms_norm_eps": 1e-05,
  "rope_theta": 1000000.0,
  "sliding_window": None,
  "tie_word_embeddings": False,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.42.0.dev0",
  "use_cache": True,
  "vocab_size": 32768,
}
# DeepSeek-R1-0528-Qwen3-8B.
R1_QWEN3 = {
  "architectures": ["Qwen3ForCausalLM"],
  "attention_bias": False,
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": 151645,
  "head_dim": 128,
  "hidden_act": "silu",
  "hidden_size": 4096,
  "initializer_range": 0.02,
  "intermediate_size": 12288,
  "max_position_embeddings": 131072,
  "max_window_layers": 36,
  "model_type": "qwen3",
  "num_attention_heads": 32,
  "num_hidden_layers": 36,
  "num_key_value_heads": 8,
  "rms_norm_eps": 1e-06,
  "rope_scaling": {
    "attn_factor": 0.8782488562869419,
    "factor": 4.0,
    "original_max_position_embeddings": 32768,
    "rope_type": "yarn",
  },
  "rope_theta": 1000000,
  "sliding_window": None,
  "tie_word_embeddings": False,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.51.0",
  "use_cache": True,
  "use_sliding_window": False,
  "vocab_size": 151936,
}


@pytest.mark.parametrize(
  ("published", "num_params"),
  [(SMOLLM2, 134_515_008), (MISTRAL, 7_248_023_552), (R1_QWEN3, 8_190_735_360)],
)
def test_reads_configs_that_carry_more_fields(published, num_params):
  config = ModelConfig.from_hf(published)
  assert config.num_params == num_params
  assert config.bos_token_id == published["bos_token_id"]
  scaling = config.rope_scaling
  # DeepSeek's attn_factor undoes what yarn's factor does to the attention.
  assert scaling is None or scaling.amplitude == pytest.approx(1.0)


@pytest.mark.parametrize(
  "fields",
  [
    dict(unk_token_id=0, mask_token_id=4, cls_token_id=None),
    {"is_qwen2_config": True, "transformers.js_config": {"dtype": "q4"}},
    dict(model_max_length=4096, tokenizer_padding_side="left"),
    dict(output_attentions=True, return_dict_in_generate=True),
    dict(resid_pdrop=0.0, embd_pdrop=0, hidden_dropout=0.0),
    dict(attn_implementation="sdpa", use_flash_attn=True),
  ],
)
def test_fields_without_effect_are_let_through(fields):
  assert ModelConfig.from_hf(QWEN_7B | fields) == ModelConfig.from_hf(QWEN_7B)


@pytest.mark.parametrize(
  ("written", "read"), [(7, 7), (0, 0), (None, None), (-1, None)]
)
def test_bos_survives_reading_and_writing(written, read):
  config = ModelConfig.from_hf(SMALL | dict(bos_token_id=written))
  assert config.bos_token_id == read
  assert config.to_hf().get("bos_token_id") == read
  assert ModelConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize("window", [dict(sliding_window=4096), {}])
def test_mistrals_window_is_refused_also_as_the_default(window):
  """Without the field transformers slides a window of 4096 tokens."""
  import transformers

  assert transformers.MistralConfig().sliding_window == 4096
  fields = {k: v for k, v in MISTRAL.items() if k != "sliding_window"} | window
  with pytest.raises(ValueError, match="sliding_window=4096 limits attention"):
    ModelConfig.from_hf(fields)


@hypothesis.given(
  family=st.sampled_from(sorted(config_lib.FAMILIES)),
  scaling=st.sampled_from(
    [
      None,
      rope.Scaling("linear", 2.0),
      rope.Scaling("yarn", 4.0, original_max_position_embeddings=64),
    ]
  ),
  num_kv_heads=st.integers(1, 4),
  group=st.integers(1, 4),
  half=st.integers(1, 32),
  layers=st.integers(1, 4),
  tie=st.booleans(),
  theta=st.floats(1e3, 1e7),
  positions=st.integers(1, 1 << 20),
)
def test_to_hf_and_back(
  family, scaling, num_kv_heads, group, half, layers, tie, theta, positions
):
  config = ModelConfig.tiny(
    family=family,
    rope_scaling=scaling,
    num_kv_heads=num_kv_heads,
    num_heads=num_kv_heads * group,
    head_dim=2 * half,
    num_layers=layers,
    tie_embeddings=tie,
    rope_theta=theta,
    max_positions=positions,
  )
  assert ModelConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize("family", config_lib.FAMILIES)
@pytest.mark.parametrize(
  "scaling",
  [
    None,
    rope.Scaling("linear", 2.0),
    rope.Scaling("yarn", 4.0, original_max_position_embeddings=64),
  ],
)
def test_transformers_reads_to_hf(family, scaling):
  import transformers

  config = ModelConfig.tiny(
    head_dim=24, rope_theta=12345.0, rope_scaling=scaling, family=family
  )
  theirs = transformers.CONFIG_MAPPING[family].from_dict(config.to_hf())
  assert ModelConfig.from_hf(theirs.to_dict()) == config


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("family", config_lib.FAMILIES)
def test_num_params_counts_the_declared_weights(tie, family):
  config = ModelConfig.tiny(
    tie_embeddings=tie, family=family, num_kv_heads=1, head_dim=6
  )
  leaves = jax.tree.leaves(parameters.abstract_params(config))
  assert config.num_params == sum(x.size for x in leaves)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (dict(model_type="qwen3_moe"), "'qwen3_moe' is not supported"),
    (dict(model_type=None), "None is not supported"),
    (dict(hidden_act="gelu"), "hidden_act='gelu'"),
    (dict(use_sliding_window=True), "use_sliding_window=True"),
    (dict(rope_scaling={"type": "dynamic", "factor": 4.0}), "'dynamic'"),
    (dict(rope_parameters={"rope_type": "ntk"}), "'ntk'"),
    (dict(quantization_config={"bits": 4}), "quantization_config"),
    (
      dict(layer_types=["full_attention", "sliding_attention"]),
      "layer_types has 'sliding_attention'",
    ),
    (dict(logit_scale=0.5), "logit_scale=0.5 is not known"),
    (dict(attention_bias=True), "attention_bias=True"),
    (dict(use_mrope=True), "use_mrope=True"),
    (dict(rope_interleaved=True), "rope_interleaved=True"),
    (dict(resid_pdrop=0.1), "resid_pdrop=0.1"),
    (dict(model_type="gemma3_text"), "'gemma3_text' is not supported"),
    (dict(num_attention_heads=27), "num_heads 27 is not a multiple"),
    (dict(hidden_size=28 * 3), "head_dim 3 must be even"),
  ],
)
def test_unknown_arithmetic_is_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    ModelConfig.from_hf(QWEN_7B | changes)


@pytest.mark.parametrize(
  "field", ["vocab_size", "hidden_size", "num_hidden_layers"]
)
def test_missing_fields_are_named(field):
  hf = {k: v for k, v in QWEN_7B.items() if k != field}
  with pytest.raises(ValueError, match=f"lacks {field}"):
    ModelConfig.from_hf(hf)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (dict(num_kv_heads=3), "num_kv_heads 3"),
    (dict(head_dim=5), "head_dim 5"),
    (dict(dtype="float16"), "'float16'"),
    (dict(remat="all"), "remat 'all': known are 'none', 'dots', 'layer'"),
    (dict(attention="flash"), "attention 'flash': known are 'auto', 'xla'"),
    (dict(family="gpt2"), "family 'gpt2': known are 'qwen2'"),
  ],
)
def test_impossible_configs_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    ModelConfig.tiny(**changes)


def test_configs_are_hashable_records():
  a, b = ModelConfig.tiny(), ModelConfig.tiny()
  assert hash(a) == hash(b)
  with pytest.raises(dataclasses.FrozenInstanceError):
    a.num_layers = 4


# The least of a config that transformers would load.
SMALL = dict(
  QWEN_7B,
  hidden_size=32,
  num_attention_heads=4,
  num_key_value_heads=2,
  intermediate_size=40,
  num_hidden_layers=2,
  vocab_size=50,
)


# Transformers refuses a null of Mistral.
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_null_heads_of_keys_are_as_many_as_those_of_queries(family):
  import transformers

  fields = dict(SMALL, model_type=family, num_key_value_heads=None, head_dim=8)
  theirs = transformers.AutoConfig.for_model(**fields)
  assert ModelConfig.from_hf(fields).num_kv_heads == 4
  assert theirs.num_key_value_heads == 4


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    (dict(num_attention_heads=0), "num_attention_heads=0 must be a whole"),
    (dict(num_attention_heads=4.0), "num_attention_heads=4.0"),
    (dict(num_attention_heads=64, num_key_value_heads=64), "no width"),
    (dict(num_key_value_heads=0), "num_key_value_heads=0"),
    (dict(num_key_value_heads=-2), "num_key_value_heads=-2"),
    (dict(num_hidden_layers=True), "num_hidden_layers=True"),
    (dict(num_hidden_layers=10**9), "from 1 to 10000"),
    (dict(hidden_size="32"), "hidden_size='32'"),
    (dict(vocab_size=None), "vocab_size=None"),
    (dict(head_dim=[8]), r"head_dim=\[8\]"),
    (dict(rms_norm_eps=0.0), "rms_norm_eps=0.0 must be a number above 0"),
    (dict(rms_norm_eps=-1e-6), "rms_norm_eps"),
    (dict(rms_norm_eps=float("nan")), "rms_norm_eps=nan must be a finite"),
    (dict(rms_norm_eps="1e-6"), "rms_norm_eps='1e-6'"),
    (dict(rope_theta=float("inf")), "rope_theta=inf"),
    (dict(rope_theta=0), "rope_theta=0"),
    (dict(rope_theta=10**400), "rope_theta=1000"),
    (dict(rope_parameters=dict(rope_theta=-1.0)), "rope_parameters.rope_theta"),
    (dict(rope_parameters=[1]), r"rope_parameters=\[1\] must be an object"),
    (dict(rope_scaling="yarn"), "rope_scaling='yarn' must be an object"),
    (dict(rope_scaling=dict(rope_type=["yarn"])), r"rope_type \['yarn'\]"),
    (dict(rope_scaling=dict(rope_type="linear", factor=0)), "factor=0"),
    (dict(rope_scaling=dict(rope_type="linear", factor="2")), "factor='2'"),
    (
      dict(rope_scaling=dict(rope_type="yarn", factor=2.0), rope_theta=1),
      "above 1",
    ),
    (
      dict(
        rope_scaling=dict(
          rope_type="llama3",
          factor=8.0,
          low_freq_factor=4.0,
          high_freq_factor=4.0,
        )
      ),
      "must be below",
    ),
    (dict(tie_word_embeddings="no"), "tie_word_embeddings='no' must be true"),
    (dict(layer_types=5), "layer_types=5 must be a list"),
    (dict(layer_types=[["full_attention"]]), "layer_types"),
    (dict(model_type=["qwen2"]), "model_type"),
    (dict(progrpo_lora=dict(rank=1)), "progrpo_lora"),
    (dict(max_position_embeddings=0), "max_position_embeddings=0"),
    (dict(bos_token_id="<s>"), "bos_token_id='<s>'"),
  ],
)
def test_nonsense_is_refused_by_its_name(changes, word):
  with pytest.raises(ValueError, match=word):
    ModelConfig.from_hf(SMALL | changes)


_NONSENSE = st.recursive(
  st.none()
  | st.booleans()
  | st.integers(-3, 40)
  | st.text(max_size=3)
  | st.sampled_from(
    [
      10**9,
      10**30,
      -1,
      0,
      0.0,
      -0.5,
      1e-300,
      1e300,
      float("inf"),
      float("nan"),
      2.5,
      "yarn",
      "linear",
      "llama3",
      "default",
      "silu",
    ]
  ),
  lambda inner: (
    st.lists(inner, max_size=2)
    | st.dictionaries(
      st.sampled_from(
        [
          "rope_type",
          "type",
          "factor",
          "rope_theta",
          "low_freq_factor",
          "high_freq_factor",
          "beta_fast",
          "mscale",
          "mscale_all_dim",
          "original_max_position_embeddings",
          "rank",
          "alpha",
          "targets",
        ]
      ),
      inner,
      max_size=4,
    )
  ),
  max_leaves=5,
)


@hypothesis.given(
  family=st.sampled_from(sorted(config_lib.FAMILIES)),
  changes=st.dictionaries(
    st.sampled_from(
      [
        *sorted(QWEN_7B),
        "head_dim",
        "rope_scaling",
        "rope_parameters",
        "layer_types",
        "mlp_bias",
        "progrpo_lora",
        "progrpo_partition_head",
        "unheard",
      ]
    ),
    _NONSENSE,
    min_size=1,
    max_size=3,
  ),
)
@hypothesis.settings(max_examples=400, deadline=None)
def test_a_config_is_read_or_refused(family, changes):
  try:
    config = ModelConfig.from_hf(
      SMALL
      | dict(model_type=family)
      | config_lib.FAMILIES[family].fields
      | changes
    )
  except ValueError as error:
    assert str(error)
    return
  # What is read can be built, and is written as it was read.
  assert config.num_params > 0 and config.num_heads % config.num_kv_heads == 0
  assert math.isfinite(config.norm_eps) and config.norm_eps > 0
  theta = config.rope_theta
  assert math.isfinite(theta) and theta > 0
  if config.head_dim < 1024:
    angles = rope.angles(
      np.arange(3), config.head_dim, theta, config.rope_scaling
    )
    assert angles.shape == (3, config.head_dim // 2)
  assert config.to_hf()["num_attention_heads"] == config.num_heads
