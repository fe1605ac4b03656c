"""The user's own prompts, from a file of their own.

  {"prompt": "What is 6 * 7?", "answer": "42", "topic": "arithmetic"}

Reads JSONL, JSON (a list), CSV, parquet and folders that Hugging Face's
`datasets.save_to_disk` wrote, here or in a bucket, one or several. A row is one
of

  prompt, answer, ...            a text, or messages [{"role", "content"}, ...]
                                 whose last one is the user's; the names of the
                                 columns are options
  messages                       a chat that ends with an answer: the last
                                 message is a demonstration, those before it the
                                 prompt
  prompt, completion             a prompt with a demonstration
  prompt, reward_model, ...      verl's: reward_model.ground_truth is the answer

Completions are scored by reward functions, which get every other column by
name, by a verifier, which compares with the answer, or by both. Rows with
demonstrations serve a warm-up without either. `docs/tasks.md` describes the
options. Unusable rows are written with their number and the reason to
`<file>.rejected.jsonl` in data_dir; it is an error if their share exceeds
`max_bad_share`. The file is long because every form of a row is read here,
beside the options that name its columns.
"""

from collections.abc import Callable, Mapping, Sequence
import datetime
import decimal
import functools
import inspect
import json
import math
import re
import typing
from typing import Any, NamedTuple

from progrpo_jax import errors, places
from progrpo_jax.errors import InputError
from progrpo_jax.rewards import functions, logic, serving
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import files, programs, schema, testcases
from progrpo_jax.tasks.sets import rejects as rejects_lib

VERIFIER = functions.VERIFIER
DOMAIN = "your own"

_ROLES = ("system", "user", "assistant")
# Columns of which a reward function is told by other arguments, or not at all.
_NOT_PASSED = ("prompt", "completion", "demonstrations")
# Arguments of verifiers that are the machine's, and no matter of a file.
_OF_THE_MACHINE = ("allow_unsafe", "time_limit_s", "test_limit_s", "memory_mb")
# Splits of a saved DatasetDict that serve as validation.
_HELD_OUT = ("validation", "test")
# The id of a dataset of the hub, which no file has as its path: it names no
# kind of file.
_HUB_ID = re.compile(r"[\w-]+/[\w-]+")

Message = dict[str, str]


class _Bad(ValueError):
  """A row is unusable; the message says why."""


class Record(NamedTuple):
  """One row of the file.

  Attributes:
    prompt: last message of the user.
    context: messages before it.
    is_chat: whether the prompt was given as messages.
    answer: reference of the verifier.
    columns: columns that reward functions get.
    demonstrations: completions to learn from.
    options: keyword arguments of the verifier: the row's, and those that the
      task has for all rows.
    place: file and number of the row.
  """

  prompt: str
  context: tuple[Message, ...]
  is_chat: bool
  answer: Any
  columns: dict[str, Any]
  demonstrations: tuple[str, ...]
  options: dict[str, Any]
  place: str = ""

  @property
  def text(self) -> str:
    """The whole prompt as one text, by which rows are held out."""
    return (
      json.dumps(self.context) + self.prompt if self.context else self.prompt
    )


def load(
  split: str,
  *,
  data_dir: str,
  seed: int,
  file: str | Sequence[str],
  validation_file: str | Sequence[str] | None = None,
  validation_share: float = 0.1,
  max_bad_share: base.Share = 0.0,
  encoding: str = "utf-8",
  prompt: str = "prompt",
  answer: str = "answer",
  messages: str = "messages",
  reward_functions: str | Sequence[str] = (),
  reward_weights: Sequence[float] | None = None,
  correct_by: str | None = None,
  correct_threshold: float = 1.0,
  verifier: str | None = None,
  verifier_options: dict[str, Any] | None = None,
) -> list[base.Row]:
  """Returns the rows of a split.

  Without a validation_file, the validation split of a saved DatasetDict is
  taken; where there is none, the prompts with the lowest hashes are held out.
  That choice depends only on the text of the prompts, not on seed or order.

  Args:
    split: "train" or "validation".
    data_dir: folder for the report of unusable rows.
    seed: unused.
    file: path of the prompts, local or in a bucket, or several. A name with *,
      ? or [] is a pattern, and stands for all that it matches, in order.
    validation_file: paths of the validation prompts; None holds out a share of
      `file`.
    validation_share: share of the distinct prompts held out, above 0 and
      below 1.
    max_bad_share: largest allowed share of unusable rows.
    encoding: encoding of a text file, by its Python name.
    prompt: column of the prompt, a text or messages.
    answer: column of the reference answer.
    messages: column of the chat where there is no prompt.
    reward_functions: names of reward functions; a text is a list of one.
    reward_weights: weight of each function, that of a verifier beside them
      first; None weighs them equally.
    correct_by: function that decides correctness, one of `reward_functions`;
      a verifier beside them decides by default.
    correct_threshold: lowest value of that function that counts as correct.
    verifier: name of a verifier ("math") or its import path.
    verifier_options: keyword arguments of the verifier.

  Raises:
    InputError: the options contradict each other, or a file cannot be used.
  """
  del seed
  if isinstance(reward_functions, str):
    reward_functions = (reward_functions,)
  names = [*([verifier] if verifier else []), *reward_functions]
  # Options of the scoring code are checked before any file is read.
  if reward_functions:
    functions.check_weights(names, reward_weights)
    correct_by = names[
      functions.find_decider(names, correct_by or verifier or None)
    ]
    if not (
      isinstance(correct_threshold, (int, float))
      and math.isfinite(correct_threshold)
    ):
      raise InputError(
        f"correct_threshold must be a finite number, not {correct_threshold!r}"
      )
  elif reward_weights or correct_by or correct_threshold != 1.0:
    raise InputError(
      "reward_weights, correct_by and correct_threshold are for"
      " reward_functions; a verifier decides correctness itself"
    )
  judge = base.named_verifier(verifier) if verifier else ""
  fixed = dict(verifier_options or {})
  if fixed and not judge:
    raise InputError("verifier_options needs a verifier")
  if fixed:
    base.check_verifier_options(judge, fixed)
  option, given, share = "file", file, validation_share
  if validation_file:
    share = None
    if split != "train":
      option, given = "validation_file", validation_file
  paths = _paths(given, option)
  if not validation_file and _have_own_validation(paths):
    share = None
  path = " + ".join(paths)
  convert = functools.partial(
    _record,
    columns=(prompt, answer, messages),
    judge=judge,
    named=bool(verifier) and ":" not in verifier,
    fixed=fixed,
  )
  records = [
    record
    for each, name in zip(paths, _names(paths))
    for record in read(
      each, name, split, data_dir, max_bad_share, encoding, convert
    )
  ]
  if answer != "answer" and not any(answer in r.columns for r in records):
    columns = dict.fromkeys(name for r in records for name in r.columns)
    raise InputError(
      f"{path}: no column {answer!r}, which the option answer names (columns"
      f" besides the prompt: {', '.join(columns) or 'none'})"
    )
  if not names and not all(r.demonstrations for r in records):
    raise InputError(
      f"{path}: give either reward_functions or a verifier, by name"
      ' ("math") or as import paths ("module:function" or'
      ' "file.py:function"), or from Python functions by'
      " progrpo_jax.train(..., rewards=[f]); rows without either serve a"
      " warm-up, and need a demonstration each"
    )
  if share is not None:
    records = _held_out(records, path, split, share)
  meta = {
    "functions": names,
    "weights": list(reward_weights) if reward_weights else None,
    "correct_by": correct_by,
    "correct_threshold": correct_threshold,
    "verifier": judge or None,
  }
  return [_row(record, meta, bool(reward_functions)) for record in records]


def _row(record: Record, meta: dict[str, Any], by_functions: bool) -> base.Row:
  """Converts a record to a row.

  Args:
    record: usable record.
    meta: how completions are scored, as `functions.score` wants it.
    by_functions: whether reward functions have a say.
  """
  options, judge = record.options, ""
  if meta["verifier"] and not by_functions:
    judge, meta = meta["verifier"], options
  else:
    meta = {
      "prompt": record.prompt,
      "context": list(record.context),
      "is_chat": record.is_chat,
      "columns": record.columns,
      **meta,
      "options": options,
    }
  return base.Row(
    "file",
    record.prompt,
    record.answer,
    meta,
    record.demonstrations,
    context=record.context,
    verifier=judge,
    place=record.place,
  )


def _paths(given: str | Sequence[str], option: str) -> list[str]:
  """Returns the files that an option names.

  Raises:
    InputError: there are none, or one is named twice.
  """
  several = [given] if isinstance(given, str) else list(given)
  paths = [path for one in several for path in files.matching(one)]
  if not paths:
    raise InputError(f"the option {option} names no file")
  for path in paths:
    if _HUB_ID.fullmatch(path) and not files.exists(path):
      name = path.rpartition("/")[2].lower().replace("-", "_")
      own = f"; the task {name!r} has one" if name in base.names() else ""
      raise InputError(
        f"{path}: no such file; a dataset of the Hugging Face hub is written to"
        f" one first: datasets.load_dataset({path!r}, split='train').to_json("
        f"'rows.jsonl'){own}"
      )
    if paths.count(path) > 1:
      raise InputError(f"the option {option} names {path} more than once")
  return paths


def _names(paths: Sequence[str]) -> list[str]:
  """Returns what rows and reports call files: the ends of their paths.

  As short as they can be while all of them differ.
  """
  parts = [path.rstrip("/").split("/") for path in paths]
  for count in range(1, max(map(len, parts)) + 1):
    names = ["/".join(words[-count:]) for words in parts]
    if len(set(names)) == len(names):
      break
  return names


def read(
  path: str,
  name: str,
  split: str,
  data_dir: str,
  max_bad_share: float,
  encoding: str,
  convert: Callable[[dict[str, Any]], Record],
) -> list[Record]:
  """Returns the usable records of a file.

  Args:
    path: path of the file or folder, local or in a bucket.
    name: name of the file for the places of rows and for the report.
    split: split to read of a folder with several.
    data_dir: folder for the report of unusable rows.
    max_bad_share: largest allowed share of unusable rows.
    encoding: encoding of a text file.
    convert: function that makes a record of a row, or raises `_Bad`.

  Raises:
    InputError: the file cannot be read or has too many unusable rows.
  """
  unit = files.unit(name)
  report = name.replace("/", "_")
  rejects = rejects_lib.Rejects(path, report, data_dir, max_bad_share, unit)
  good = []
  with places.reaching(path):
    for number, row, reason in _numbered(path, split, encoding):
      try:
        if reason:
          raise _Bad(reason)
        place = f"{name}, {unit} {number}"
        good.append(convert(row)._replace(place=place))
      except (_Bad, schema.BadRow, schema.LeftOut) as error:
        rejects.add(number, str(error), json.dumps(row, default=str))
  rejects.close(len(good))
  return good


def _numbered(path: str, split: str, encoding: str) -> files.Numbered:
  """Yields the numbered rows of a file or a saved folder."""
  try:
    "".encode(encoding)
  except LookupError as error:
    raise InputError(f"encoding = {encoding!r}: {error}") from error
  if not _is_folder(path):
    yield from files.read(path, encoding=encoding)
    return
  splits = files.saved_splits(path)
  if split != "train":
    split = next((s for s in _HELD_OUT if s in splits), "train")
  yield from files.read_saved(path, split)


def _is_folder(path: str) -> bool:
  """Returns whether a path is a folder; False if it cannot be looked at."""
  with places.reaching(path):
    try:
      return places.place(path).expanduser().is_dir()
    except (OSError, ValueError):  # ValueError: a NUL in the path
      return False


def _have_own_validation(paths: Sequence[str]) -> bool:
  """Returns whether all are saved DatasetDicts with a split for validation.

  Raises:
    InputError: some are, and the rows of the others would be on both sides.
  """
  own = [
    _is_folder(path) and bool(set(_HELD_OUT) & set(files.saved_splits(path)))
    for path in paths
  ]
  if any(own) and not all(own):
    raise InputError(
      f"{paths[own.index(True)]} has a split for validation, and"
      f" {paths[own.index(False)]} has none: give the option validation_file"
    )
  return all(own)


def _record(
  row: dict[str, Any],
  *,
  columns: tuple[str, str, str],
  judge: str,
  named: bool,
  fixed: dict[str, Any],
) -> Record:
  """Converts a row of the file.

  Args:
    row: row as it was read.
    columns: names of the columns of prompt, answer and messages.
    judge: import path of the verifier, or "".
    named: whether the verifier is one of this package, called by its name, to
      which columns named like its arguments are passed.
    fixed: options of the verifier for all rows; they win over a row's.

  Raises:
    _Bad, schema.BadRow, schema.LeftOut: the row is unusable.
  """
  of_prompt, of_answer, of_messages = columns
  row = {key: _plain(value, key) for key, value in row.items()}
  for name in functions.RESERVED:
    if name in row:
      raise _Bad(f"a column may not be called {name!r}")
  shown = _demonstrations(row)
  given = row.get(of_prompt)
  if given is None and row.get(of_messages) is not None:
    of_prompt = of_messages
    given = _messages(row[of_messages], of_messages)
    if given and given[-1]["role"] == "assistant":
      shown = (*shown, given.pop()["content"])
  if given is None:
    others = ", ".join(row) or "none"
    raise _Bad(
      f"no prompt: no column {of_prompt!r} or {of_messages!r} (columns:"
      f" {others}; the option prompt says which one)"
    )
  is_chat = not isinstance(given, str)
  chat = _messages(given, of_prompt) if is_chat else [_user(given)]
  if not chat or chat[-1]["role"] != "user":
    raise _Bad(f"{of_prompt} does not end with a message of the user")
  *context, last = chat
  if not last["content"].strip():
    raise _Bad("prompt is empty")
  passed = {
    key: value
    for key, value in row.items()
    if key not in (*_NOT_PASSED, of_prompt)
  }
  reference = row.get(of_answer)
  truth = row.get("reward_model")
  if isinstance(truth, Mapping) and "ground_truth" in truth:
    passed["ground_truth"] = truth["ground_truth"]
    reference = truth["ground_truth"] if reference is None else reference
  reference, options = _for_judge(judge, named, reference, of_answer, passed)
  if judge and reference in (None, "", [], {}):
    raise _Bad(
      "no answer for the verifier to compare with (no column"
      f" {of_answer!r}; the option answer says which one)"
    )
  options |= fixed
  if named and judge not in _READERS:
    _check_reference(judge, reference, options)
  return Record(
    last["content"], tuple(context), is_chat, reference, passed, shown, options
  )


def _for_judge(
  judge: str, named: bool, reference: Any, column: str, row: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
  """Returns what a verifier compares with, and the options of a row for it.

  Raises:
    _Bad, schema.BadRow, schema.LeftOut: the verifier cannot use the row.
  """
  if not named:
    return reference, {}
  options = {
    key: _typed(row[key], annotation)
    for key, annotation in _keywords(judge).items()
    if row.get(key) not in (None, "")  # an empty cell of a CSV file
  }
  reader = _READERS.get(judge)
  if reader is None:
    return reference, options
  reference, more = reader(reference, column, row)
  return reference, {**options, **more}


@functools.cache
def _keywords(judge: str) -> dict[str, Any]:
  """Arguments of a verifier that a row may set -> their annotations."""
  parameters = inspect.signature(serving.resolve(judge)).parameters.values()
  return {
    p.name: p.annotation
    for p in parameters
    if p.kind is p.KEYWORD_ONLY and p.name not in _OF_THE_MACHINE
  }


def _typed(value: Any, annotation: Any) -> Any:
  """Returns an option of a row; a CSV file has lists and numbers as texts."""
  is_text = annotation is str or str in typing.get_args(annotation)
  if is_text or not isinstance(value, str):
    return value
  try:
    return json.loads(value)
  except (ValueError, RecursionError):
    return value  # the verifier says what it cannot use


def _check_reference(
  judge: str, reference: Any, options: dict[str, Any]
) -> None:
  """Refuses a row that its verifier cannot use, whatever is answered.

  Raises:
    _Bad: with the verifier's reason.
  """
  score = serving.resolve(judge)
  try:
    judged = score("", reference, **options)
    if judged.status == "refused":
      check = getattr(inspect.getmodule(score), "check_reference", None)
      if check is not None:
        wanted = inspect.signature(check).parameters
        check(reference, **{k: v for k, v in options.items() if k in wanted})
      raise _Bad("the verifier cannot use the answer")
  except _Bad:
    raise
  # Whatever it is: a run would stop at it, or mask every sample of the row.
  except Exception as error:
    raise _Bad(str(error) or type(error).__name__) from error


def _tests(
  reference: Any, column: str, row: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
  """Tests of a program, in any published format, and the function to call."""
  if reference is None:
    return None, {}
  tests, name = testcases.read(reference, column, row.get("entry_point"))
  return tests, {"entry_point": name} if name else {}


def _followed(
  reference: Any, column: str, row: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
  """Instructions to follow: IFEval's columns, or a record of them."""
  # Here, because it loads what only the extra `language` installs.
  from progrpo_jax.tasks.sets import instructions

  if isinstance(reference, str):
    reference = schema.parse_json(reference, column)
  given = reference if isinstance(reference, Mapping) else row
  problem = instructions.problem(
    "", given.get("instruction_id_list"), given.get("kwargs")
  )
  return problem.reference, {}


def _entry(
  reference: Any, column: str, row: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
  """An entry of Reasoning Gym: its generator is named in its metadata."""
  del column
  metadata = row.get("metadata") or {}
  if isinstance(metadata, str):
    metadata = schema.parse_json(metadata, "metadata")
  dataset = row.get("dataset") or metadata.get("source_dataset")
  if not dataset:
    raise _Bad(
      "no generator of Reasoning Gym (a column dataset, or source_dataset in"
      " the column metadata)"
    )
  return reference, {"dataset": dataset, "metadata": metadata}


# Verifiers whose reference is made from several columns or formats.
_READERS = {
  programs.VERIFIER: _tests,
  "progrpo_jax.rewards.instruction:score": _followed,
  f"{logic.__name__}:score": _entry,
}


def _demonstrations(row: dict[str, Any]) -> tuple[str, ...]:
  """Returns the completions to learn from, of either column.

  Raises:
    _Bad: they are no texts.
  """
  shown = row.get("demonstrations") or []
  if not isinstance(shown, list) or not all(isinstance(d, str) for d in shown):
    raise _Bad("demonstrations must be a list of texts")
  completion = row.get("completion")
  if completion is None:
    return tuple(shown)
  if not isinstance(completion, str):
    chat = _messages(completion, "completion")
    if len(chat) != 1 or chat[0]["role"] != "assistant":
      raise _Bad("completion is not one message of the assistant")
    completion = chat[0]["content"]
  return (completion, *shown)


def _messages(value: Any, column: str) -> list[Message]:
  """Returns the messages of a chat with texts as contents.

  Raises:
    _Bad: they are no messages, or hold more than text.
  """
  if isinstance(value, Mapping) and {"role", "content"} <= set(value):
    # Arrow's form of a sequence of records: a record of lists.
    value = [
      {"role": role, "content": content}
      for role, content in zip(value["role"], value["content"])
    ]
  if not isinstance(value, list):
    raise _Bad(f"{column} is {errors.kind(value)}, not a string or messages")
  return [_message(m, f"{column}[{i}]") for i, m in enumerate(value)]


def _message(value: Any, where: str) -> Message:
  """Returns one message; raises `_Bad` if it is none."""
  role = value.get("role") if isinstance(value, Mapping) else None
  if role not in _ROLES:
    raise _Bad(
      f"{where} is no message with a role of {', '.join(_ROLES)}: {value!r:.60}"
    )
  content = value.get("content")
  if isinstance(content, list):  # parts of a multimodal message
    texts = [
      part.get("text") if isinstance(part, Mapping) else None
      for part in content
    ]
    content = None if None in texts else "".join(texts)
  if not isinstance(content, str):
    raise _Bad(f"{where} has no text as its content")
  return {"role": role, "content": content}


def _user(content: str) -> Message:
  """A message of the user."""
  return {"role": "user", "content": content}


def _plain(value: Any, column: str) -> Any:
  """Returns a value of a table as JSON has it: dates are texts.

  Raises:
    _Bad: it has no such form.
  """
  if value is None or isinstance(value, (str, bool, int)):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else None  # how tables say "missing"
  if isinstance(value, Mapping):
    return {str(key): _plain(v, column) for key, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v, column) for v in value]
  if isinstance(value, (datetime.date, datetime.time)):
    return value.isoformat()
  if isinstance(value, (decimal.Decimal, datetime.timedelta)):
    return str(value)
  raise _Bad(
    f"column {column!r} holds {type(value).__name__}, which is neither text"
    " nor a number: leave it out of the file"
  )


def _held_out(
  records: list[Record], path: str, split: str, share: float
) -> list[Record]:
  """Returns the records of a split, held out by the hash of the prompt."""
  if not 0 < share < 1:
    raise InputError(f"validation_share must lie between 0 and 1, not {share}")
  # Split by distinct prompt: rows that share a prompt, but for blanks, stay on
  # one side.
  texts = [" ".join(r.text.split()) for r in records]
  prompts = sorted(set(texts), key=files.text_digest)
  held = set(prompts[: math.ceil(share * len(prompts))])
  wanted = split == "validation"
  side = [r for r, text in zip(records, texts) if (text in held) == wanted]
  if not side:
    raise InputError(
      f"{path}: no rows are left for the split {split!r}. Of {len(records)} "
      f"rows with {len(prompts)} different prompts, {len(held)} are held out "
      f"for validation (validation_share = {share}): give more prompts, or a "
      "validation_file"
    )
  return side
