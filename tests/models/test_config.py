"""Reading Hugging Face configurations, and what is refused."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import jax
import pytest

from progrpo_jax.models import config as config_lib
from progrpo_jax.models import transformer

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
      vocab_size=152064, num_layers=28, embed_dim=3584, num_heads=28,
      num_kv_heads=4, head_dim=128, mlp_dim=18944, rope_theta=1e6,
      norm_eps=1e-6, tie_embeddings=False, max_positions=131072)
  assert config.num_params == 7_615_616_512


def test_changes_are_the_callers():
  config = ModelConfig.from_hf(QWEN_7B, dtype="bfloat16", remat="layer")
  assert (config.dtype, config.remat) == ("bfloat16", "layer")


@pytest.mark.parametrize("options", [
    dict(rope_theta=5e5), dict(rope_theta=1e4, tie_word_embeddings=True),
    dict(num_key_value_heads=1, head_dim=12, rms_norm_eps=1e-5)])
def test_reads_what_transformers_writes(options):
  import transformers
  theirs = transformers.Qwen2Config(
      vocab_size=50, hidden_size=32, num_hidden_layers=2,
      num_attention_heads=4, intermediate_size=40,
      max_position_embeddings=64, **(dict(num_key_value_heads=2) | options))
  config = ModelConfig.from_hf(theirs.to_dict())
  assert config.rope_theta == options.get("rope_theta", 1e4)
  assert config.norm_eps == options.get("rms_norm_eps", 1e-6)
  assert config.tie_embeddings == options.get("tie_word_embeddings", False)
  assert config.head_dim == options.get("head_dim", 8)
  assert config.num_kv_heads == options.get("num_key_value_heads", 2)


@hypothesis.given(
    num_kv_heads=st.integers(1, 4), group=st.integers(1, 4),
    half=st.integers(1, 32), layers=st.integers(1, 4), tie=st.booleans(),
    theta=st.floats(1e3, 1e7), positions=st.integers(1, 1 << 20))
def test_to_hf_and_back(
    num_kv_heads, group, half, layers, tie, theta, positions):
  config = ModelConfig.tiny(
      num_kv_heads=num_kv_heads, num_heads=num_kv_heads * group,
      head_dim=2 * half, num_layers=layers, tie_embeddings=tie,
      rope_theta=theta, max_positions=positions)
  assert ModelConfig.from_hf(config.to_hf()) == config


def test_transformers_reads_to_hf():
  import transformers
  config = ModelConfig.tiny(head_dim=24, rope_theta=12345.0)
  theirs = transformers.Qwen2Config.from_dict(config.to_hf())
  assert ModelConfig.from_hf(theirs.to_dict()) == config


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_num_params_counts_the_declared_weights(tie, bias):
  config = ModelConfig.tiny(
      tie_embeddings=tie, qkv_bias=bias, num_kv_heads=1, head_dim=6)
  leaves = jax.tree.leaves(transformer.abstract_params(config))
  assert config.num_params == sum(x.size for x in leaves)


@pytest.mark.parametrize(("changes", "words"), [
    (dict(model_type="qwen3_moe"), "'qwen3_moe' is not supported"),
    (dict(model_type=None), "None is not supported"),
    (dict(hidden_act="gelu"), "hidden_act='gelu'"),
    (dict(use_sliding_window=True), "use_sliding_window=True"),
    (dict(rope_scaling={"type": "yarn", "factor": 4.0}), "rope_scaling"),
    (dict(rope_parameters={"rope_type": "yarn"}), "'yarn'"),
    (dict(quantization_config={"bits": 4}), "quantization_config"),
    (dict(num_attention_heads=27), "num_heads 27 is not a multiple"),
    (dict(hidden_size=28 * 3), "head_dim 3 must be even"),
])
def test_unknown_arithmetic_is_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    ModelConfig.from_hf(QWEN_7B | changes)


@pytest.mark.parametrize(
    "field", ["vocab_size", "hidden_size", "num_hidden_layers"])
def test_missing_fields_are_named(field):
  hf = {k: v for k, v in QWEN_7B.items() if k != field}
  with pytest.raises(ValueError, match=f"lacks {field}"):
    ModelConfig.from_hf(hf)


@pytest.mark.parametrize(("changes", "words"), [
    (dict(num_kv_heads=3), "num_kv_heads 3"),
    (dict(head_dim=5), "head_dim 5"),
    (dict(dtype="float16"), "'float16'"),
    (dict(remat="all"), "'all'"),
])
def test_impossible_configs_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    ModelConfig.tiny(**changes)


def test_without_biases_there_is_no_hf_form():
  with pytest.raises(ValueError, match="qkv_bias"):
    ModelConfig.tiny(qkv_bias=False).to_hf()


def test_configs_are_hashable_records():
  a, b = ModelConfig.tiny(), ModelConfig.tiny()
  assert hash(a) == hash(b)
  with pytest.raises(dataclasses.FrozenInstanceError):
    a.num_layers = 4
