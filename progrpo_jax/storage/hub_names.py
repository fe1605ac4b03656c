"""Names of models on the Hugging Face hub.

A model is named by its id, "OWNER/NAME", or by its id and a revision (a branch,
a tag or a commit), "OWNER/NAME@REVISION". See `hub` for what fetches one.
"""

import re

# What the hub accepts as the id of a model, and a revision.
_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
_ID = re.compile(rf"({_NAME}/{_NAME})(?:@([\w./-]+))?")


def split(name: str) -> tuple[str, str | None] | None:
  """Returns (id, revision or None) of a model; None for any other text."""
  match = _ID.fullmatch(name)
  return match and match.groups()


# What names the policy to start from, or to read. `config.model.download`
# fetches that, and no other.
_FETCHED = ("config.model.init_from", "--policy", "policy")


def hint(name: str, key: str) -> str:
  """Says how to get a model, for the end of a message; "" if it is no id.

  Args:
    name: text in the place of a directory.
    key: name of its place: a key of the config, a flag, or an argument of the
      API.
  """
  parts = split(name)
  if parts is None:
    return ""
  repo, revision = parts
  place = f"models/{repo.rpartition('/')[2]}"
  at = f" --revision {revision}" if revision else ""
  command = f"`hf download {repo}{at} --local-dir {place}`"
  if key in _FETCHED:
    command = f"--config.model.download=True fetches it, and so does {command},"
  else:
    command += " fetches it,"
  return (
    f"; if it is a model of the Hugging Face hub, {command} after which "
    f"{key} = {place!r} names it"
  )
