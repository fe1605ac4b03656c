"""ProGRPO (2602.05281) on Qwen2.5-7B and mathematics.

  progrpo doctor --config configs/progrpo_qwen2_5_7b.py:host
  progrpo train --config configs/progrpo_qwen2_5_7b.py:host \
    --workdir runs/progrpo_7b

Argument: `paper` (default), the batch below; `host`, one eighth of it with
the same minibatch, for one host of eight 80 GB devices.

Hardware and hours: the paper's are not known, and nothing is measured here.
`progrpo doctor` counts about 44 GiB on each of 64 devices for `paper`,
59 GiB on each of 8 for `host`.

Files, both the user's own:
  data/dapo_math_17k.jsonl  lines {"prompt": "...", "answer": "34"}; the paper
                            trains on the DAPO-Math-17k set
  data/math_verifier.py     def score(completion, reference) -> (reward,
                            correct, status); see progrpo_jax/rewards/score.py
A hundredth of the prompts is held out. For the test sets of the paper (AIME
2024 and 2025, AMC23, MATH500, Minerva, OlympiadBench):
  progrpo evaluate --config configs/progrpo_qwen2_5_7b.py:host \
    --policy runs/progrpo_7b --config.eval.num_problems=1000 \
    --config.data.tasks.math.options.validation_file=data/aime24.jsonl

To expect, averages over those six, Pass@1 / Pass@32: GRPO 37.6 / 54.7, FlowRL
35.3 / 61.0, ProGRPO 43.3 / 68.5. These are the paper's figures as others
quote them, not checked against the paper and not reproduced here.

What is a stand-in: the paper's batch, lengths, learning rate and group size
are not known. They are those of FlowRL (2509.15207), which trains the same
models on the same data: 512 prompts of 8 samples, minibatches of 32 prompts,
2048 and 8192 tokens, learning rate 1e-6, weight decay 0.1, 10 warm-up steps
(read as rollout steps). Ours: alpha 0.3, the number of steps, what is held
out and when. Clip 0.2 / 0.28, share 0.2 and the models are ProGRPO's.
"""

from configs import methods, scales


def get_config(scale: str = "paper"):
  """ProGRPO at a scale."""
  return methods.progrpo(scales.flowrl(scale))
