"""Values that follow from a config: of several keys, or of keys and devices.

What `checks` cannot know without the devices is refused here.
"""

from typing import Any

from progrpo_jax import errors, packing
from progrpo_jax.algos import reset
from progrpo_jax.devices import sharding
from progrpo_jax.models import config as model_config

# Keys of a row at which attention by plain XLA costs as much as the weights'
# products. Measured on the policy of `make bench` with bundles of 1, 2, 4 and 8
# responses (docs/benchmarks.md, "What was tried"); wider models have larger
# products, and would share prompts a little more.
_EQUAL = 1280


def prompts_per_round(c) -> int:
  """Returns the number of prompts of one round of sampling."""
  dynamic = c.algo.dynamic_sampling
  if dynamic.enabled and dynamic.prompts_per_round:
    return dynamic.prompts_per_round
  return c.train.prompts_per_step


def distills(c) -> bool:
  """Returns whether a teacher's log-probs are part of the advantages."""
  return bool(c.algo.distill.teacher and c.algo.distill.coef)


def needs_reference(c) -> bool:
  """Returns whether the method reads a reference policy."""
  return bool(c.algo.beta or c.algo.reward_kl_coef or c.algo.hold_reference)


def readers_of_scores(c) -> list[str]:
  """Returns the settings that need log-probs scored before the update.

  They are named as the error message names them. An advantage that reads
  log-probs, and ARM with `centre`, are not among them: the sampler's log-probs
  will do for those.
  """
  a, t = c.algo, c.train
  arm = a.arm.alpha and (not a.arm.centre or a.arm.tail == "entropy")
  return [
    key
    for key, reads in (
      ("train.num_minibatches", t.num_minibatches > 1),
      ("train.num_iterations", t.num_iterations > 1),
      ("algo.correction", a.correction),
      ("algo.rephrase.enabled", a.rephrase.enabled),
      ("algo.distill.teacher", distills(c)),
      # The measured KL is exactly 0 after a reset only where both policies
      # were scored alike.
      ("the KL to a reference", needs_reference(c)),
      ("algo.arm without centre, or with tail 'entropy'", arm),
    )
    if reads
  ]


def reset_options(c) -> dict[str, Any]:
  """Returns the keyword arguments of `algos.reset.should_reset`."""
  r = c.algo.reset
  # A config writes 0 for "off", the function takes None.
  return dict(
    modes=tuple(r.modes),
    period=r.period,
    at_steps=tuple(r.at_steps),
    patience=r.patience,
    min_delta=r.min_delta,
    kl_factor=r.kl_factor or None,
    kl_threshold=r.kl_threshold or None,
    kl_window=r.kl_window,
    share_threshold=r.share_threshold or None,
    share_window=r.share_window,
    min_gap=r.min_gap,
  )


def idle_resets(c) -> dict[str, str]:
  """The modes of `algo.reset.modes` that can never fire, and why not."""
  watch = c.algo.reset.watch
  k = watch.removeprefix("pass@")
  why = {}
  if not c.eval.every:
    why["stall"] = "config.eval.every = 0: there is no evaluation to watch"
  elif k != watch and k.isdigit() and not _is_reported(int(k), c):
    why["stall"] = (
      f"config.algo.reset.watch = {watch!r}: an evaluation reports pass@k for "
      f"k = 1, 2, 4, ... up to config.eval.num_samples ({c.eval.num_samples})"
    )
  if not needs_reference(c):
    why["kl"] = (
      "no KL is measured: config.algo.beta and config.algo.reward_kl_coef are "
      "0, and config.algo.hold_reference is False"
    )
  if not c.algo.beta:
    why["dominates"] = "config.algo.beta = 0: no KL is part of the gradient"
  if set(reset.AUTO) <= set(why):
    why["auto"] = "; ".join(why.values())
  return {mode: why[mode] for mode in c.algo.reset.modes if mode in why}


def _is_reported(k: int, c) -> bool:
  """Returns whether an evaluation reports pass@k; see `evaluators.passk`."""
  return 1 <= k <= c.eval.num_samples and k.bit_count() == 1


def lora_config(c) -> model_config.LoRA | None:
  """Returns the LoRA adapters that the config asks for, or None.

  Raises:
    InputError: rank, alpha or targets are not possible.
  """
  if not c.model.lora.rank:
    return None
  try:
    return model_config.LoRA(
      rank=c.model.lora.rank,
      alpha=c.model.lora.alpha,
      targets=tuple(c.model.lora.targets),
    )
  except ValueError as e:
    raise errors.InputError(f"config.model.lora: {e}") from e


def check_split(mesh, **counts: int) -> None:
  """Refuses row counts that the mesh cannot split evenly.

  Args:
    mesh: mesh of the devices.
    **counts: name for the message -> number of rows.

  Raises:
    InputError: the message names the count.
  """
  shards = sharding.batch_shards(mesh)
  for name, count in counts.items():
    if count % shards:
      raise errors.InputError(
        f"{name} = {count} cannot be divided over the {shards} batch shards "
        f"of the mesh {dict(mesh.shape)}; make it a multiple of {shards}"
      )


def sampling_mesh(c, mesh):
  """Returns the mesh on which responses are drawn, of the same devices.

  Args:
    c: the config.
    mesh: mesh of training.

  Raises:
    InputError: sampling.tensor does not divide the devices, or is no multiple
      of the mesh's own, so that rows could not be split as those of training.
  """
  own = sharding.ways("heads", mesh)
  tensor = c.sampling.tensor or own
  if tensor % own or mesh.size % tensor:
    raise errors.InputError(
      f"config.sampling.tensor = {tensor} must divide the {mesh.size} devices, "
      f"and be a multiple of the {own} of mesh.tensor; 0 takes these"
    )
  return sharding.refactored(mesh, tensor)


def layout(c, mesh, kernel: bool = False) -> tuple[int, packing.Layout]:
  """Returns how sequences are packed into rows.

  Args:
    c: the config.
    mesh: mesh of the devices.
    kernel: whether attention is a fused kernel, which takes no bundles of
      several responses.

  Returns:
    (responses of a bundle, sizes of rows).

  Raises:
    InputError: a size does not divide evenly, a row is too short, or the mesh
      cannot split the prompts.
  """
  group, t = c.algo.num_generations, c.train
  prompt, new = c.data.max_prompt_length, c.sampling.max_new_tokens
  per_bundle = t.micro_batch_generations
  if not per_bundle:
    per_bundle = 1 if kernel else _cheapest(group, prompt, new, t.row_tokens)
  if group % per_bundle:
    raise errors.InputError(
      f"config.train.micro_batch_generations = {per_bundle} must divide "
      f"algo.num_generations ({group})"
    )
  longest = prompt + per_bundle * new
  if 0 < t.row_tokens < longest:
    hint = ", or lower train.micro_batch_generations" if per_bundle > 1 else ""
    raise errors.InputError(
      f"config.train.row_tokens = {t.row_tokens} is less than the longest "
      f"prompt with {per_bundle} of its responses: {longest} tokens; raise it"
      f"{hint}"
    )
  counts = {
    "config.train.prompts_per_step": t.prompts_per_step,
    "config.algo.dynamic_sampling.prompts_per_round": prompts_per_round(c),
    "config.sampling.batch_prompts": c.sampling.batch_prompts,
  }
  if c.eval.every:
    counts["config.eval.batch_prompts"] = c.eval.batch_prompts
  check_split(mesh, **counts)
  bundles = t.prompts_per_step // t.num_minibatches * (group // per_bundle)
  sizes = packing.Layout(
    tokens=t.row_tokens,
    rows=t.micro_batch_rows,
    shards=sharding.batch_shards(mesh),
  )
  return per_bundle, sizes.resolved(bundles, longest)


def _cheapest(group: int, prompt: int, new: int, row: int) -> int:
  """Returns the responses of a bundle that cost least by plain XLA.

  More of them read their prompt less often, but make longer rows, and a query
  of plain XLA is multiplied with every key of its row.
  """
  fitting = [
    r
    for r in range(1, group + 1)
    if not group % r and (not row or prompt + r * new <= row)
  ]
  return min(
    fitting or [1],
    key=lambda r: (prompt / r + new) * (1 + (row or prompt + r * new) / _EQUAL),
  )
