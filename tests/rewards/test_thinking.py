"""Which part of a completion counts as its answer."""

import hypothesis
from hypothesis import strategies as st
import pytest

from progrpo_jax import errors
from progrpo_jax.build import problems
from progrpo_jax.rewards import thinking
from progrpo_jax.settings import checks, defaults

PLAIN = "2 + 2 is 4.\n<answer>4</answer>"


@pytest.mark.parametrize(
  ("completion", "auto", "required", "inside"),
  [
    # No thought at all. Inside of one that the prompt opened, this is it.
    (PLAIN, PLAIN, None, None),
    ("", "", None, None),
    # A whole thought; its second half, where the prompt has opened it.
    ("<think>5?</think>4", "4", "4", "4"),
    ("5?</think>\n\n4", "\n\n4", "\n\n4", "\n\n4"),
    ("<think>\n\n</think>\n\n4", "\n\n4", "\n\n4", "\n\n4"),
    # The last end counts, also of a model that thinks twice.
    ("a</think>b</think>c", "c", "c", "c"),
    ("<think>a</think>b<think>c</think>d", "d", "d", "d"),
    # Begun and not ended: at the limit of length, or for ever.
    ("<think>4 <answer>4</answer>", None, None, None),
    ("4 <think>", None, None, None),
    ("<think>a</think>4<think>", None, None, None),
    # Nothing after the thought is an answer, if an empty one.
    ("<think>4</think>", "", "", ""),
    # Much like a tag, but text.
    ("<Think>4", "<Think>4", None, None),
    ("< think>4", "< think>4", None, None),
  ],
)
def test_the_answer_of_a_completion(completion, auto, required, inside):
  assert thinking.answer(completion) == auto
  assert thinking.answer(completion, "required") == required
  assert thinking.answer(completion, inside=True) == inside
  assert thinking.answer(completion, "required", inside=True) == required
  for begun in (False, True):
    assert thinking.answer(completion, "off", inside=begun) == completion


@hypothesis.given(st.lists(st.sampled_from([*thinking.TAGS, "x", " "])))
def test_no_thought_is_ever_shown(parts_of_it):
  completion = "".join(parts_of_it)
  for mode in ("auto", "required"):
    for inside in (False, True):
      shown = thinking.answer(completion, mode, inside=inside)
      if shown is not None:
        assert not set(thinking.TAGS) & {shown} and completion.endswith(shown)
        assert thinking.OPEN not in shown and thinking.CLOSE not in shown
        assert not thinking.opens(completion)


def test_an_unknown_mode_is_an_error():
  with pytest.raises(ValueError, match="'on' is not one of"):
    thinking.answer("", "on")


@pytest.mark.parametrize(
  ("text", "opens"),
  [
    ("", False),
    ("user: hi", False),
    ("<think>", True),
    ("<think>\n", True),
    ("<think>\n\n</think>\n", False),
    ("</think><think>", True),
  ],
)
def test_where_a_text_ends_inside_of_a_thought(text, opens):
  assert thinking.opens(text) == opens


@pytest.mark.parametrize(
  ("mode", "inside", "shown"),
  [
    ("auto", False, [PLAIN, "4", None]),
    ("auto", True, [None, "4", None]),
    ("required", False, [None, "4", None]),
    ("off", True, [PLAIN, "5</think>4", "<think>4"]),
  ],
)
def test_the_config_decides_what_a_pool_shows(mode, inside, shown):
  c = defaults.get_config()
  c.rewards.thinking = mode
  c.rewards.workers = 1
  with problems.make_pool(c, inside) as pool:
    assert [
      pool.answer(text) for text in (PLAIN, "5</think>4", "<think>4")
    ] == shown


def test_an_unknown_mode_in_a_config_is_an_error():
  c = defaults.get_config()
  c.model.init_from = "somewhere"
  c.data.tasks.countdown = {}
  c.rewards.thinking = "on"
  with pytest.raises(
    errors.InputError,
    match=("config.rewards.thinking = 'on': must be 'auto' or 'required' or"),
  ):
    checks.validate(c)
