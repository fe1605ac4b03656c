"""RePO (2602.10819) on Qwen2.5-7B and mathematics.

  progrpo train --config configs/repo_qwen2_5_7b.py:host --workdir runs/repo_7b

Model, scales and evaluation are those of configs/progrpo_qwen2_5_7b.py.
Hardware and hours: not measured here. On 64 v5p chips the TPU's compiler counts
20 GiB of each and at least 22 hours, see docs/tpu.md.

Files: data/deepscaler, whose published solutions serve as the expert's where
they box the answer, and the six test sets of configs/progrpo_qwen2_5_7b.py.
The paper trains on the hard part of OpenR1-Math.

What to expect: we know of no score in this setting. The paper trains Qwen3-8B
on the hard part of OpenR1-Math and has AIME 2024 13.1, AIME 2025 10.0 and
MATH500 78.2, as others quote it. Not reproduced here.

From the paper: where enough of a group fails, its worst response is replaced by
the policy's own rephrasing of an expert solution, if the verifier accepts it;
then GRPO, with the ratio under the plain prompt. Chosen here: how many
responses must fail and how badly, the wording of the question, the data.
Stand-ins: batch, lengths and learning rate are FlowRL's (2509.15207).
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """RePO at a scale."""
  c = scales.flowrl(scale)
  c.data.tasks = {"deepscaler": scales.published(validation=scales.MATHEMATICS)}
  # A problem and a solution of it.
  c.algo.rephrase.max_prompt_length = (
    c.data.max_prompt_length + c.sampling.max_new_tokens
  )
  return methods.repo(c)
