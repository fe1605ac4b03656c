"""The step of tools/bench_peers.py by TRL's GRPO trainer.

With one update per step the trainer takes the old log-probs from the update's
own pass, without scoring the samples first.
"""

import importlib.metadata
import tempfile

import datasets
import numpy as np
from peers import work
import tokenizers
import torch
import transformers
import trl


class Begins(transformers.TrainerCallback):
  """Measures at the beginning of each step."""

  def __init__(self, watch: work.Watch):
    """Measures with `watch`."""
    self._watch = watch

  def on_step_begin(self, args, state, control, **kwargs):
    """Begins a step; on a CPU all work of the step before is done."""
    self._watch.begin()


def main() -> None:
  """Trains and writes the figures."""
  args = work.arguments()
  watch = work.Watch(args)
  torch.set_num_threads(args.cores)
  torch.manual_seed(0)
  model = make_model(args)
  before = leaves(model)
  with tempfile.TemporaryDirectory() as folder:
    trainer = trl.GRPOTrainer(
      model=model,
      processing_class=make_tokenizer(args),
      reward_funcs=make_rewards(args, watch),
      train_dataset=datasets.Dataset.from_list(
        [row(args, n) for n in range(watch.total_steps * args.prompts)]
      ),
      args=config(args, folder, watch.total_steps),
      callbacks=[Begins(watch)],
    )
    trainer.train()
  after = leaves(model)
  changed = max(float(np.max(np.abs(a - b))) for a, b in zip(before, after))
  versions = {
    name: importlib.metadata.version(name)
    for name in ("trl", "transformers", "torch")
  }
  watch.write(versions, sum(x.size for x in after), changed)


def row(args, number: int) -> dict:
  """Returns row `number` of the data."""
  if not args.model:
    return {"prompt": work.prompt(number, args.prompt_tokens)}
  return {"prompt": work.conversation(work.problem(number)), "number": number}


def make_rewards(args, watch: work.Watch):
  """Returns the reward function, which also ends the sampling of a step."""
  if not args.model:
    return lambda completions, **_: watch.rewards(completions)

  def rewards(completions, completion_ids, number, **_):
    lengths = [len(ids) for ids in completion_ids]
    watch.sampled(len(lengths), sum(lengths) / len(lengths), max(lengths))
    return [
      work.judge(messages[0]["content"], work.problem(n))
      for messages, n in zip(completions, number)
    ]

  return rewards


def make_model(args) -> transformers.PreTrainedModel:
  """Returns the policy: of --model, or with random weights."""
  if args.model:
    return transformers.AutoModelForCausalLM.from_pretrained(
      args.model, dtype=torch.float32
    )
  return transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=work.VOCAB,
      num_hidden_layers=args.layers,
      hidden_size=work.WIDTH,
      num_attention_heads=work.HEADS,
      num_key_value_heads=work.KEY_HEADS,
      head_dim=work.HEAD,
      intermediate_size=work.HIDDEN,
      rms_norm_eps=work.NORM_EPS,
      rope_parameters=dict(
        rope_type="default", rope_theta=float(work.ROPE_THETA)
      ),
      tie_word_embeddings=True,
      bos_token_id=None,
      eos_token_id=None,
      pad_token_id=None,
      dtype="float32",
    )
  )


def make_tokenizer(args) -> transformers.PreTrainedTokenizerFast:
  """Returns the tokenizer of --model, or one whose words are ids.

  Its padding and end have no logit.
  """
  if args.model:
    return transformers.AutoTokenizer.from_pretrained(args.model)
  words = tokenizers.models.WordLevel(
    {str(i): i for i in range(work.VOCAB)}, unk_token="0"
  )
  tokenizer = tokenizers.Tokenizer(words)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens(["<pad>", "<end>"])
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>"
  )


def config(args, folder: str, steps: int) -> trl.GRPOConfig:
  """Returns settings for the clipped loss averaged over tokens, without KL."""
  rows = args.prompts * args.samples
  micro = min(work.MICRO_BATCH * args.samples, rows)
  return trl.GRPOConfig(
    output_dir=folder,
    max_steps=steps,
    use_cpu=True,
    bf16=False,
    per_device_train_batch_size=micro,
    gradient_accumulation_steps=rows // micro,
    generation_batch_size=rows,
    gradient_checkpointing=False,
    num_generations=args.samples,
    max_completion_length=args.new_tokens,
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    beta=0.0,
    epsilon=work.CLIP,
    num_iterations=1,
    loss_type="dapo",
    optim="adamw_torch",
    learning_rate=work.learning_rate(args),
    lr_scheduler_type="constant",
    weight_decay=0.0,
    max_grad_norm=work.MAX_GRAD_NORM,
    save_strategy="no",
    logging_steps=1,
    report_to="none",
    disable_tqdm=True,
  )


def leaves(model: torch.nn.Module) -> list[np.ndarray]:
  """Returns a copy of all parameters."""
  return [x.detach().numpy().copy() for x in model.parameters()]


if __name__ == "__main__":
  main()
