"""The table of docs/from_trl.md: all of TRL's options, and keys that exist."""

import ast
import inspect
import pathlib
import re

import pytest

from progrpo_jax.algos import advantages, aggregate, correction, losses
from progrpo_jax.rewards import functions, pool
from progrpo_jax.settings import checks, defaults

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs/from_trl.md"
# Fields of trl.GRPOConfig, version 1.16.
OPTIONS = """
  accelerator_config activation_checkpointing activation_checkpointing_kwargs
  adam_beta1 adam_beta2 adam_epsilon auto_find_batch_size
  average_tokens_across_devices batch_eval_metrics beta bf16 bf16_full_eval
  cache_implementation cast_lm_head_to_fp32 chat_template_kwargs data_seed
  dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context
  dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
  dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers
  ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout
  debug deepspeed delta disable_dropout disable_tqdm do_eval do_predict
  do_train ds3_gather_for_generation enable_jit_checkpoint entropy_coef
  entropy_coef_delta entropy_coef_max entropy_coef_min entropy_target epsilon
  epsilon_high eval_accumulation_steps eval_delay eval_do_concat_batches
  eval_on_start eval_steps eval_strategy eval_use_gather_object fp16
  fp16_full_eval fsdp fsdp_config full_determinism generation_batch_size
  generation_kwargs gradient_accumulation_steps gradient_checkpointing
  gradient_checkpointing_kwargs greater_is_better hub_always_push hub_model_id
  hub_private_repo hub_revision hub_strategy hub_token ignore_data_skip
  importance_sampling_level include_for_metrics include_num_input_tokens_seen
  label_names label_smoothing_factor learning_rate length_column_name
  liger_kernel_config load_best_model_at_end local_rank log_completions
  log_completions_hub_repo log_level log_level_replica log_multimodal
  log_on_each_node log_unique_prompts logging_first_step
  logging_nan_inf_filter logging_steps logging_strategy loss_type
  lr_scheduler_kwargs lr_scheduler_type mask_truncated_completions
  max_completion_length max_grad_norm max_steps max_tool_calling_iterations
  metric_for_best_model min_p model_init_kwargs multi_objective_aggregation
  neftune_noise_alpha num_completions_to_print num_generations
  num_generations_eval num_iterations num_train_epochs
  off_policy_mask_threshold optim optim_args optim_target_modules output_dir
  pad_to_multiple_of parallelism_config per_device_eval_batch_size
  per_device_train_batch_size prediction_loss_only project push_to_hub
  ref_model_mixup_alpha ref_model_sync_steps remove_unused_columns
  repetition_penalty report_to restore_callback_states_from_checkpoint
  resume_from_checkpoint reward_weights router_aux_loss_coef run_name
  sapo_temperature_neg sapo_temperature_pos save_on_each_node save_only_model
  save_steps save_strategy save_total_limit scale_rewards seed shuffle_dataset
  skip_memory_metrics steps_per_generation sync_ref_model temperature tf32
  top_entropy_quantile top_k top_p torch_compile torch_compile_backend
  torch_compile_mode torch_empty_cache_steps trackio_bucket_id
  trackio_space_id trackio_static_space_id train_sampling_strategy
  transformers_continuous_batching_config trust_remote_code
  use_adaptive_entropy use_bias_correction_kl use_cache use_cpu
  use_liger_kernel use_transformers_continuous_batching use_transformers_paged
  use_vllm vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos
  vllm_enable_sleep_mode vllm_gpu_memory_utilization vllm_group_port
  vllm_importance_sampling_cap vllm_importance_sampling_clip_max
  vllm_importance_sampling_clip_min vllm_importance_sampling_correction
  vllm_importance_sampling_mode vllm_max_model_length vllm_mode
  vllm_model_impl vllm_server_base_url vllm_server_host vllm_server_port
  vllm_server_timeout vllm_structured_outputs_regex vllm_tensor_parallel_size
  warmup_steps weight_decay
""".split()

TEXT = PAGE.read_text(encoding="utf-8")
_, _, AFTER = TEXT.partition("## Options")
OF_TRL, _, OF_VERL = AFTER.partition("## Keys of verl")


def rows(text):
  return [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in text.splitlines()
    if line.startswith("| `")
  ]


ROWS = rows(OF_TRL)
DEFAULTS = rows(TEXT.partition("## TRL's defaults")[2].partition("\n## ")[0])
HERE = [here for _, here, _ in ROWS + rows(OF_VERL)]
HERE += [here for _, _, here, _ in DEFAULTS]
KEYS = [key for here in HERE for key in re.findall(r"`([^`]+)`", here)]


def test_every_option_of_trl_is_in_one_row():
  told = [o for theirs, _, _ in ROWS for o in re.findall(r"`(\w+)`", theirs)]
  assert sorted(told) == sorted(OPTIONS)


@pytest.mark.parametrize("key", sorted(set(KEYS)))
def test_every_key_of_ours_exists(key):
  group = defaults.get_config()
  for name in key.split("."):
    assert name in group, key
    group = group[name]


def test_options_of_other_names_are_found_by_them():
  for option, key in checks.OF_TRL.items():
    (here,) = [here for theirs, here, _ in ROWS if f"`{option}`" in theirs]
    assert f"`{key}`" in here, option


def test_our_defaults_are_what_the_page_says():
  config = defaults.get_config()
  clip = inspect.signature(losses.clip).parameters
  for _, _, here, told in DEFAULTS:
    keys = re.findall(r"`([^`]+)`", here)
    values = told.partition(";")[0].split(", ")
    for key, value in zip(keys, values, strict=True):
      group, name = key.split(".")
      # 0 stands for the loss's own bound.
      own = clip[name].default if name.startswith("epsilon") else 0
      ours = config[group][name] or own
      assert ast.literal_eval(value.strip("`")) == ours, key


def test_what_has_no_key_says_so():
  assert all(here or note for _, here, note in ROWS)


@pytest.mark.parametrize(
  "module, option",
  [
    (losses, "importance_sampling_level"),
    (aggregate, "loss_type"),
    (advantages, "scale_rewards"),
    (correction, "vllm_importance_sampling_mode"),
  ],
)
def test_every_value_of_ours_is_a_function(module, option):
  (note,) = [note for theirs, _, note in ROWS if f"`{option}`" in theirs]
  values = re.findall(r'`"(\w+)"`', note)
  assert values and all(callable(getattr(module, v)) for v in values)


def test_a_reward_function_of_verl_judges_a_batch():
  def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source == "sums" and extra_info in (None, {"index": 1})
    return float(solution_str == ground_truth)

  names = {"compute_score": compute_score}
  exec(re.search(r"```python\n(.*?)```", OF_VERL, re.DOTALL)[1], names)
  answers = [[{"role": "assistant", "content": text}] for text in ("3", "4")]
  columns = {"data_source": ["sums"] * 2, "ground_truth": ["3", "3"]}
  for more in ({}, {"extra_info": [{"index": 1}] * 2}):
    batch = functions.Batch([[]] * 2, answers, columns | more)
    objects = {"score": names["score"]}
    with pool.Pool(workers=1, objects=objects) as here:
      functions.check(here, ["score"], batch.columns)
      judged = functions.evaluate(here, functions.Rule(["score"]), batch)
    assert judged.values == [(1.0,), (0.0,)]


def test_every_argument_of_a_reward_function_is_told():
  assert all(f"`{name}`" in TEXT for name in functions.RESERVED)
