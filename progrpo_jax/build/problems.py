"""Problems of a run: its prompts, its verifiers, what is held out."""

from collections.abc import Callable, Mapping, Sequence
import functools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from progrpo_jax import errors
from progrpo_jax.devices import hosts, sharding
from progrpo_jax.evaluators import creativity, held_out
from progrpo_jax.rewards import functions, thinking
from progrpo_jax.rewards import pool as pool_lib
from progrpo_jax.rollout import decoding, verify
from progrpo_jax.rollout import prompts as prompts_lib
from progrpo_jax.settings import derived, isolation
from progrpo_jax.tasks import base as tasks

# Seconds that a worker takes to judge a program with ten tests
# (docs/benchmarks.md), beside which other answers take none; and bytes a second
# that an accelerator reads of its memory, to the order of magnitude.
_PROGRAM_S = 0.15
_MEMORY_RATE = 1e12
# Draws of a run that are looked at before it begins.
_LOOKED_AT = 256


def make_prompter(c, tokenizer, split: str) -> prompts_lib.Prompter:
  """Returns the prompts of a split, "train" or "validation", of all tasks."""
  specs = [
    dict(
      name=spec.get("module") or name,
      label=name,
      weight=spec.get("weight", 1.0),
      options=dict(spec.get("options", {})),
    )
    for name, spec in c.data.tasks.items()
  ]
  for spec in specs:
    if c.sampling.max_turns > 1 and _replies(spec["name"]):
      # A chat template that cannot render replies is refused here.
      tokenizer.encode_reply("")
  keep = None
  if c.data.filter_overlong_prompts:
    keep = functools.partial(
      prompts_lib.fits, tokenizer, c.data.max_prompt_length
    )
  source = prompts_lib.PromptSource(
    specs,
    split,
    seed=c.seed,
    data_dir=os.path.expanduser(c.data.dir),
    keep=keep,
  )
  for spec in specs:
    _check_judge(spec)
  return prompts_lib.Prompter(
    source,
    tokenizer,
    buckets=tuple(c.data.prompt_buckets),
    max_prompt_length=c.data.max_prompt_length,
  )


def _replies(name: str) -> bool:
  """Returns whether a task answers the policy."""
  return hasattr(tasks.resolve(name), "reply")


def converses(c) -> bool:
  """Returns whether some task of a config has episodes of several turns."""
  return c.sampling.max_turns > 1 and any(
    _replies(spec.get("module") or label)
    for label, spec in c.data.tasks.items()
  )


def _check_judge(spec: dict[str, Any]) -> None:
  """Refuses rows of the user's whose completions nothing scores."""
  options = spec["options"]
  if tasks.resolve(spec["name"]).VERIFIER == functions.VERIFIER and not (
    options.get("reward_functions") or options.get("verifier")
  ):
    raise errors.InputError(
      f"task {spec['label']}: nothing scores its completions; give"
      " reward_functions or a verifier (without either, its rows serve"
      " `progrpo warmup` alone)"
    )


def give_rewards(
  c: ml_collections.ConfigDict, rewards: Sequence[Callable[..., Any] | str]
) -> tuple[ml_collections.ConfigDict, dict[str, Callable[..., Any]]]:
  """Makes reward functions that are objects known to a run.

  A task `file` that names no reward functions gets all of these.

  Args:
    c: the config, which stays as it is.
    rewards: functions, or their names.

  Returns:
    (config that names them, the objects by name), for `stages.make_setup`.

  Raises:
    InputError: no task takes one of them, two have the same name, or a task
      has functions where their names belong.
  """
  for label, spec in c.data.tasks.items():
    _check_names(label, spec.get("options", {}).get("reward_functions"))
  objects = functions.by_name([f for f in rewards if not isinstance(f, str)])
  if not rewards:
    return c, {}
  by_object = {id(f): name for name, f in objects.items()}
  named = tuple(f if isinstance(f, str) else by_object[id(f)] for f in rewards)
  c = c.copy_and_resolve_references()
  # What the tasks that take reward functions name, by task.
  own: dict[str, tuple[str, ...]] = {}
  with c.unlocked():
    for label, spec in c.data.tasks.items():
      if tasks.resolve(spec.get("module") or label).VERIFIER != (
        functions.VERIFIER
      ):
        continue
      options = spec.get("options", {})
      names = options.get("reward_functions") or named
      own[label] = (names,) if isinstance(names, str) else tuple(names)
      spec["options"] = {**options, "reward_functions": names}
  if not own:
    raise errors.InputError(
      "reward functions score rows of your own, and config.data.tasks has none:"
      " give it a task of the module 'file'"
    )
  # A resumed run has their names in its config.
  unused = [n for n in named if not any(n in names for names in own.values())]
  if unused:
    tasks_of = "; ".join(f"{t}: {', '.join(names)}" for t, names in own.items())
    raise errors.InputError(
      f"rewards: no task takes {', '.join(unused)}, since each names"
      f" reward_functions of its own ({tasks_of}): leave out that option of the"
      " task, or the argument"
    )
  return c, objects


def _check_names(label: str, names: Any) -> None:
  """Refuses functions in the options of a task."""
  for name in names if isinstance(names, list | tuple) else [names]:
    if callable(name):
      raise errors.InputError(
        f"task {label}: reward_functions takes names, not {name!r:.60}; give "
        f"functions by rewards=[{getattr(name, '__name__', 'f')}]"
      )


def make_pool(
  c,
  opens_thought: bool = False,
  stop: Callable[[], bool] = lambda: False,
  objects: Mapping[str, Callable[..., Any]] | None = None,
) -> pool_lib.Pool:
  """Starts the processes that verify.

  Args:
    c: the config.
    opens_thought: whether the chat template ends a prompt inside a thought.
    stop: whether to give up verifying, see `Pool`.
    objects: reward functions that are objects, see `give_rewards`.
  """
  r = c.rewards
  return pool_lib.Pool(
    workers=r.workers,
    deadline_s=r.deadline_s,
    memory_mb=r.memory_mb,
    max_failure_share=r.max_failure_share,
    batch_deadline_s=r.batch_deadline_s,
    options=isolation.options(c),
    answer=reader(c, opens_thought),
    stop=stop,
    objects=objects,
    max_steps=c.train.total_steps,
  )


def reader(c, opens_thought: bool) -> Callable[[str], str | None]:
  """Returns what takes a thought off a completion; it gives None for no answer.

  Args:
    c: the config.
    opens_thought: whether the chat template ends a prompt inside a thought.
  """
  return functools.partial(
    thinking.answer, mode=c.rewards.thinking, inside=opens_thought
  )


def check_functions(
  pool: pool_lib.Pool, prompter: prompts_lib.Prompter
) -> None:
  """Refuses reward functions that cannot be called, before a run samples.

  Raises:
    InputError: a function cannot be loaded, or its arguments do not fit.
    Preempted: the run was asked to stop.
  """
  rows = [prompter.source.row(draw) for draw in range(_LOOKED_AT)]
  verify.check_functions(pool, rows)


def make_settings(c, stop_ids: Sequence[int], **changes) -> decoding.Settings:
  """Returns how responses are sampled in training.

  Args:
    c: the config.
    stop_ids: the tokenizer's, which end a response.
    **changes: fields of `decoding.Settings` to set otherwise.
  """
  s = c.sampling
  return decoding.Settings(
    **dict(
      num_generations=c.algo.num_generations,
      max_new_tokens=s.max_new_tokens,
      temperature=s.temperature,
      top_p=s.top_p,
      top_k=s.top_k,
      stop_ids=tuple(stop_ids),
      chunk=s.chunk,
      batch_prompts=s.batch_prompts,
      max_turns=s.max_turns,
    )
    | changes
  )


def batch_prompts(c, model, mesh) -> int:
  """Returns how many prompts are sampled at a time; 0 for all of a round.

  Where the config leaves it open, a round is halved if that is expected to save
  time: half of the verifying is then done while the second half is sampled, but
  the weights are read once more for every token. The choice depends on config
  and devices alone, not on measured times, which would change from run to run:
  in bfloat16 the samples depend on the size of a batch.

  Args:
    c: the config.
    model: configuration of the policy.
    mesh: mesh on which responses are drawn.
  """
  if c.sampling.batch_prompts:
    return c.sampling.batch_prompts
  # On a CPU verifiers would take the cores that sample.
  if mesh.devices.flat[0].platform == "cpu":
    return 0
  count = derived.prompts_per_round(c)
  programs = count * c.algo.num_generations * _share_of_programs(c)
  verifying_s = programs * _PROGRAM_S / (c.rewards.workers * hosts.count())
  weights = model.num_params * jnp.dtype(c.model.dtype).itemsize
  weights /= sharding.ways(
    "mlp", mesh
  )  # on each device, as decoding reads them
  reading_s = c.sampling.max_new_tokens * weights / _MEMORY_RATE
  shards = sharding.batch_shards(mesh)
  half = -(-count // (2 * shards)) * shards
  return half if verifying_s > 2 * reading_s and half < count else 0


def _share_of_programs(c) -> float:
  """Share of the training prompts whose answers are programs to be run."""
  weights = {
    name: spec.get("weight", 1.0) for name, spec in c.data.tasks.items()
  }
  programs = [
    name
    for name, spec in c.data.tasks.items()
    if isolation.runs_programs(
      spec.get("module") or name, dict(spec.get("options", {}))
    )
  ]
  return sum(weights[name] for name in programs) / sum(weights.values())


def make_evaluators(
  c, model, tokenizer, pool, mesh
) -> tuple[held_out.HeldOut, ...]:
  """Returns an evaluator for each task, on its validation split.

  Raises:
    InputError: a published test set would lose problems, a number of problems
      does not divide over the mesh, or a reward function cannot be called.
    Preempted: the pool was asked to stop.
  """
  e = c.eval
  sampling = make_settings(
    c,
    tokenizer.stop_ids,
    num_generations=e.num_samples,
    temperature=e.temperature,
    top_p=e.top_p,
    top_k=e.top_k,
    batch_prompts=0,
  )
  derived.check_split(mesh, **{"config.eval.batch_prompts": e.batch_prompts})
  measures = held_out.MEASURES
  if e.creativity_corpus:
    measures = (
      *measures,
      creativity.measure(_corpus(e.creativity_corpus), *e.creativity_range),
    )
  settings = held_out.Settings(
    model=model,
    mesh=mesh,
    sampling_mesh=derived.sampling_mesh(c, mesh),
    tokenizer=tokenizer,
    pool=pool,
    sampling=sampling,
    chunk=c.model.logits_chunk,
    key=jax.random.fold_in(jax.random.key(c.seed), held_out.STREAM),
    measures=measures,
    tolerant=e.tolerant,
  )
  evaluators = []
  for name in c.data.tasks:
    alone = _alone(c, name)
    prompter = make_prompter(alone, tokenizer, "validation")
    check_whole(alone, tokenizer, prompter.source)
    batches = prompter.first(e.num_problems, e.batch_prompts)
    verify.check_functions(pool, [row for b in batches for row in b.rows])
    evaluators.append(
      held_out.HeldOut(
        name=name,
        settings=settings,
        prompts=batches,
        left_out=sum(out for out, _ in prompter.left_out.values()),
        refused=prompter.source.refused,
      )
    )
  return tuple(evaluators)


def held_out_rows(c, tokenizer, label: str, count: int) -> list[tasks.Row]:
  """Returns the first problems of a task that evaluations try.

  Args:
    c: the config.
    tokenizer: the policy's, which decides what is too long.
    label: name of the task in config.data.tasks.
    count: number of problems at the most.

  Raises:
    InputError: the config has no such task, or its data cannot be read.
  """
  if label not in c.data.tasks:
    raise errors.InputError(
      f"no task {label!r} in config.data.tasks"
      f"{tasks.nearest(label, list(c.data.tasks))}"
    )
  prompter = make_prompter(_alone(c, label), tokenizer, "validation")
  return prompter.source.first(count)


def _alone(c, label: str):
  """Returns a config with one task of several."""
  alone = c.copy_and_resolve_references()  # a plain copy shares its groups
  with alone.unlocked():
    alone.data.tasks = {label: c.data.tasks[label]}
  return alone


def check_whole(c, tokenizer, source: prompts_lib.PromptSource) -> None:
  """Refuses a published test set that would lose problems.

  Raises:
    InputError: some prompts are too long, and config.eval.partial_sets does
      not allow to leave them out.
  """
  if c.eval.partial_sets:
    return
  for task, (out, of) in source.left_out.items():
    if not out or not tasks.has_published_test(task):
      continue
    longest = max(
      len(tokenizer.encode_prompt(row.prompt, row.context)[0])
      for row in source.rows_left_out()
      if row.task == task
    )
    raise errors.InputError(
      f"{task}: {out} of the {of} problems of this published test set have "
      f"prompts of more than data.max_prompt_length = "
      f"{c.data.max_prompt_length} tokens, and its numbers would be those "
      f"of other problems; raise that to {longest}, which the longest one "
      "has, or set config.eval.partial_sets=True to evaluate the others "
      "alone"
    )


def all_notes(c, prompter: prompts_lib.Prompter, evaluators) -> list[str]:
  """Returns what to say of a run's problems: left out, or not as expected."""
  limit = c.data.max_prompt_length
  notes = [
    f"{task}: {out} of {total} prompts are longer than {limit} tokens and "
    "left out"
    for task, (out, total) in prompter.left_out.items()
    if out
  ]
  count, token, place = prompter.markup(_LOOKED_AT)
  if count:
    notes.append(
      f"{count} of the first {_LOOKED_AT} prompts hold a control token of the "
      f"model, as {token!r} in {place}: in a prompt it is plain text. Give "
      "the messages instead of a chat that is written out: the template of "
      "config.model.chat_template writes its tokens"
    )
  return notes + held_out_notes(c, evaluators) + _leaks(prompter, evaluators)


def _leaks(prompter: prompts_lib.Prompter, evaluators) -> list[str]:
  """Returns a sentence for each set with problems that are trained on."""
  trained = prompter.source.texts
  notes = []
  for evaluator in evaluators:
    rows = [row for batch in evaluator.prompts for row in batch.rows]
    rows = rows[: evaluator.num_problems]
    shared = sum(prompts_lib.text_hash(row) in trained for row in rows)
    if shared:
      notes.append(
        f"{evaluator.name}: {shared} of the {len(rows)} problems evaluated are "
        "among the prompts of the training, but for blanks: they are not held "
        "out"
      )
  return notes


def held_out_notes(c, evaluators) -> list[str]:
  """Returns a sentence for each set that is not evaluated as it was asked."""
  notes = []
  for evaluator in evaluators:
    tried, reasons = evaluator.num_problems, []
    if evaluator.left_out:
      reasons.append(
        f"{evaluator.left_out} more left out, with prompts of more than "
        f"{c.data.max_prompt_length} tokens"
      )
    if evaluator.refused:
      refused = ", ".join(
        f"{count}: {why}" for why, count in evaluator.refused.items()
      )
      reasons.append(f"rows of the held-out files are no problems ({refused})")
    if tried < c.eval.num_problems:
      reasons.append(f"config.eval.num_problems is {c.eval.num_problems}")
    if reasons:
      notes.append(
        f"{evaluator.name}: {tried} problems evaluated; {'; '.join(reasons)}"
      )
  return notes


@functools.lru_cache(maxsize=2)
def _corpus(path: str) -> creativity.CorpusIndex:
  """Returns the index of a text file, one document a line.

  Kept between calls, since building it takes long.

  Raises:
    InputError: the file cannot be read.
  """
  try:
    text = pathlib.Path(path).expanduser().read_text(encoding="utf-8")
  except (OSError, ValueError) as e:
    raise errors.InputError(
      f"config.eval.creativity_corpus = {path!r}: {e}"
    ) from e
  return creativity.CorpusIndex(
    [creativity.words(line) for line in text.splitlines() if line.strip()]
  )
