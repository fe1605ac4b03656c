"""Every key of every config, with its default and its range.

A config file calls `get_config()` and changes what its run needs. Nothing else
in the project supplies defaults: a key that is not here does not exist, and
naming it is an error. Names follow TRL where it has one.

A key is declared once, in `keys`: a comment that says what it means, then its
default and what else it may be, as a kind of progrpo_jax/ranges.py. A value
out of its range is refused before anything is built. What a key may be beside
another one is in progrpo_jax/config/checks.py.
"""

from ml_collections import ConfigDict

from progrpo_jax import ranges

_PROJECTIONS = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
    "down_proj")


def get_config() -> ConfigDict:
  """All keys; by themselves GRPO with the clip's own bounds and no KL."""
  return _defaults(keys())


def _defaults(group: ConfigDict) -> ConfigDict:
  """A group of declared keys with the default of each."""
  return ConfigDict({
      name: _defaults(key) if isinstance(key, ConfigDict) else key.default
      for name, key in group.items()})


def task() -> dict[str, ranges.Range]:
  """The declaration of an entry of data.tasks, but for the task's options."""
  return {
      "module": ranges.Text(None, also=(None,), empty=False),
      "weight": ranges.Number(1.0, above=0),
  }


def keys() -> ConfigDict:
  """The declaration of each key; an empty group takes what is put into it."""
  c = ConfigDict()
  for group in (
      _run, _model, _mesh, _data, _rewards, _sampling, _algo,
      _algo_entropy_control, _algo_length_penalty, _algo_rephrase,
      _algo_arm, _algo_dynamic_sampling, _algo_reset, _train, _optim,
      _eval, _checkpoint, _hosts, _log, _warmup):
    group(c)
  return c


def _run(c: ConfigDict) -> None:
  """The run as a whole."""
  # All randomness of a run is folded from this number; a larger one would be
  # another one's double.
  c.seed = ranges.Whole(0, at_least=0, at_most=2**32 - 1)

  # Label of the method in tables and figures.
  c.method = ranges.Text("grpo", empty=False)

  # Stages of a long run: a tuple of entries that change keys from a step or a
  # reset on; see progrpo_jax/config/schedule.py.
  c.schedule = ranges.Many(())


def _model(c: ConfigDict) -> None:
  """The policy that is trained."""
  c.model = ConfigDict()

  # HF directory, or a run's workdir or one of its checkpoints/<step>.
  c.model.init_from = ranges.Place("")

  # Compute type; masters are float32.
  c.model.dtype = ranges.Choice("float32", of=("float32", "bfloat16"))

  # What the backward pass recomputes: "none"; "dots", all but products with
  # weights; "layer", each layer.
  c.model.remat = ranges.Choice("none", of=("none", "dots", "layer"))

  # Kernel of attention over whole sequences: "auto" (by platform), "xla",
  # "splash" (TPU) or "cudnn" (GPU).
  c.model.attention = ranges.Choice(
      "auto", of=("auto", "xla", "splash", "cudnn"))

  c.model.lora = ConfigDict()

  # Train adapters of this rank in the place of the weights, which are then
  # held in model.dtype; 0 trains the weights.
  c.model.lora.rank = ranges.Whole(0, at_least=0)

  # Adapters are multiplied by alpha / rank.
  c.model.lora.alpha = ranges.Number(32.0, above=0)

  # Weights that are adapted, by the names of Hugging Face.
  c.model.lora.targets = ranges.Many(_PROJECTIONS, each=ranges.Choice(
      of=_PROJECTIONS))

  # Tokens whose logits may exist at one time.
  c.model.logits_chunk = ranges.Whole(4096, at_least=1)

  # "auto": the tokenizer's chat template, if it has one; "own": one without
  # is an error; "none"; the name of one of several; or a Jinja template.
  c.model.chat_template = ranges.Text("auto", empty=False)

  # Variables that the template reads, such as Qwen3's enable_thinking (False:
  # answer at once) or Llama 3's date_string. No template is told what day it
  # is, or prompts would change with it; one that asks for it (strftime_now)
  # writes the date that it falls back to, or the text of an option
  # strftime_now.
  c.model.chat_template_options = ConfigDict()
  c.model.system_prompt = ranges.Text("")


def _mesh(c: ConfigDict) -> None:
  """The mesh of devices."""
  # Sizes of the mesh; -1 takes what is left. They multiply to the devices.
  c.mesh = ConfigDict()
  c.mesh.data = ranges.Whole(-1, at_least=1, also=(-1,))
  c.mesh.fsdp = ranges.Whole(1, at_least=1, also=(-1,))
  c.mesh.tensor = ranges.Whole(1, at_least=1, also=(-1,))


def _data(c: ConfigDict) -> None:
  """Problems and prompts."""
  c.data = ConfigDict()

  # Task name -> {"weight": 1.0, "options": {}}; a task of one's own also has
  # "module", its import path. What options a task has stands in its file in
  # progrpo_jax/tasks/.
  c.data.tasks = ConfigDict()

  # Built data sets live here and are used again.
  c.data.dir = ranges.Place(
      "~/.cache/progrpo_jax/data", empty=False)

  # A longer prompt is an error, or a problem that is left out of training or
  # evaluation; a run says at its start how many are. See eval.partial_sets.
  c.data.max_prompt_length = ranges.Whole(256, at_least=1)
  c.data.filter_overlong_prompts = ranges.Flag(False)

  # Prompts of a batch are padded to the smallest of these that holds them;
  # each is compiled once. () pads to max_prompt_length.
  c.data.prompt_buckets = ranges.Many((), each=ranges.Whole(at_least=1))


def _rewards(c: ConfigDict) -> None:
  """Processes that verify."""
  c.rewards = ConfigDict()

  # Processes that verify, and seconds that one answer may take.
  c.rewards.workers = ranges.Whole(2, at_least=1, at_most=1024)
  c.rewards.deadline_s = ranges.Number(10.0, above=0, at_most=86400)

  # Seconds for one call of a reward function of your own, on a whole batch.
  c.rewards.batch_deadline_s = ranges.Number(60.0, above=0, at_most=86400)
  c.rewards.memory_mb = ranges.Whole(2048, at_least=128)

  # Stop when more than this share of a batch fails in the verifier itself.
  c.rewards.max_failure_share = ranges.Number(0.5, at_least=0, at_most=1)

  # Run programs that the policy writes unconfined where the machine offers no
  # isolation; without, such a run does not start. See docs/tasks.md.
  c.rewards.allow_unsafe_code = ranges.Flag(False)

  # Where verifiers look for the answer. "auto": after the last </think>; in
  # the whole of a response that has no thought; nowhere, if a thought was
  # begun (by the response or by the chat template) and not ended. "required":
  # only after a </think>. "off": everywhere. Reward functions of your own see
  # the whole response.
  c.rewards.thinking = ranges.Choice("auto", of=("auto", "required", "off"))


def _sampling(c: ConfigDict) -> None:
  """The rollout."""
  c.sampling = ConfigDict()
  c.sampling.temperature = ranges.Number(
      1.0, at_least=0.01, at_most=100, why="must be in [0.01, 100]: greedy "
      "samples of a group are all alike")
  c.sampling.top_p = ranges.Number(1.0, above=0, at_most=1)
  c.sampling.top_k = ranges.Whole(0, at_least=0)
  c.sampling.max_new_tokens = ranges.Whole(256, at_least=1)

  # Tokens decoded between two looks at whether any sample is alive.
  c.sampling.chunk = ranges.Whole(16, at_least=1)

  # Prompts that are sampled at one time, which is what the cache of keys has
  # to have room for; 0 for all that a round draws. In float32 samples do not
  # depend on it; in bfloat16 only their distribution does not, as the last
  # bits of the logits depend on the size of a batch. A batch is verified
  # while the next one is sampled; it is also what reward functions of your
  # own see at one time.
  c.sampling.batch_prompts = ranges.Whole(0, at_least=0)


def _algo(c: ConfigDict) -> None:
  """The method."""
  c.algo = ConfigDict()

  # Samples of each prompt (G).
  c.algo.num_generations = ranges.Whole(
      8, at_least=2, why="a group needs at least 2 samples, or it has no "
      "spread to learn from")

  # A function of algos/advantages.py, or an import path.
  c.algo.advantage = ranges.Text("grpo", empty=False)

  c.algo.advantage_options = ConfigDict()

  # A function of algos/losses.py, or an import path; it gets epsilon,
  # epsilon_high and dual_clip if its signature names them, and loss_options.
  c.algo.loss = ranges.Text("clip", empty=False)

  # Bounds of the ratio, 1 - epsilon and 1 + epsilon_high. 0 for the loss's own:
  # clip and flowrl 0.2 and 0.28, clip_cov 0.2 and 0.2, gspo 3e-4 and 4e-4.
  c.algo.epsilon = ranges.Number(0.0, at_least=0, at_most=1)
  c.algo.epsilon_high = ranges.Number(0.0, at_least=0)

  # Bound of the ratio for bad tokens; 0 for none.
  c.algo.dual_clip = ranges.Number(0.0, above=1, also=(0.0,))

  c.algo.loss_options = ConfigDict()

  # A function of algos/aggregate.py.
  c.algo.aggregate = ranges.Text("token_mean", empty=False)

  # KL to the reference: weight and a function of algos/kl.py; k1 is for
  # beta 0 alone, as it has no gradient in expectation. With beta 0 no
  # reference is held. FlowRL's own beta is in loss_options.
  c.algo.beta = ranges.Number(0.0, at_least=0)
  c.algo.kl = ranges.Text("k3", empty=False)

  # Take the KL (k1, summed over a response) off its reward instead, times
  # this; REINFORCE++ does.
  c.algo.reward_kl_coef = ranges.Number(0.0, at_least=0)

  # Hold a reference even where no KL asks for one (FlowRL reads it).
  c.algo.hold_reference = ranges.Flag(False)

  # Train FlowRL's estimate of log Z beside the policy.
  c.algo.partition_head = ranges.Flag(False)
  c.algo.entropy_coef = ranges.Number(0.0, at_least=0)

  # A function of algos/correction.py that weighs tokens by trainer over
  # sampler, with its options; "" for none.
  c.algo.correction = ranges.Text("")

  c.algo.correction_options = ConfigDict()

  # Responses cut at the length limit teach nothing (they still count in the
  # group's mean).
  c.algo.mask_truncated_completions = ranges.Flag(False)

  # Tokens before the limit over which the overlong penalty grows; 0 for none.
  c.algo.overlong_cache = ranges.Whole(0, at_least=0)

  # The reward of a response cut at the limit is multiplied by this.
  c.algo.truncated_factor = ranges.Number(1.0, at_least=0, at_most=1)


def _algo_entropy_control(c: ConfigDict) -> None:
  """An entropy bonus that holds a target."""
  c.algo.entropy_control = ConfigDict()

  # Move entropy_coef by `step` a step, within [0, 1], to hold the entropy at
  # the target; 0 leaves it as it is.
  c.algo.entropy_control.target = ranges.Number(0.0, at_least=0)
  c.algo.entropy_control.step = ranges.Number(0.005, above=0)


def _algo_length_penalty(c: ConfigDict) -> None:
  """ProRL v2's penalty of length."""
  c.algo.length_penalty = ConfigDict()

  # Adds coef * (a half cosine of the length, from 0 at 0 to -1 at the limit)
  # to rewards that are above 0 and takes none of them below 0, during `on` of
  # every `on + off` steps; always, if off is 0.
  c.algo.length_penalty.coef = ranges.Number(0.0, at_least=0)
  c.algo.length_penalty.on = ranges.Whole(100, at_least=0)
  c.algo.length_penalty.off = ranges.Whole(0, at_least=0)


def _algo_rephrase(c: ConfigDict) -> None:
  """RePO's rephrased expert solutions."""
  c.algo.rephrase = ConfigDict()

  # RePO: in a group where at least this share of the rewards lies below
  # fail_below, the worst response gives way to the policy's own rephrasing of
  # an expert solution (a demonstration of the task), if that is right.
  c.algo.rephrase.enabled = ranges.Flag(False)
  c.algo.rephrase.min_fail_share = ranges.Number(0.75, at_least=0, at_most=1)
  c.algo.rephrase.fail_below = ranges.Number(0.5)

  # What the policy is asked; {prompt} and {solution} are filled in.
  c.algo.rephrase.template = ranges.Text(
      "{prompt}\n\nRephrase this solution: {solution}", empty=False)

  # A longer question is not asked.
  c.algo.rephrase.max_prompt_length = ranges.Whole(1024, at_least=1)


def _algo_arm(c: ConfigDict) -> None:
  """ProGRPO's re-weighting of advantages."""
  c.algo.arm = ConfigDict()

  # Strength of the re-weighting; 0 turns ARM off.
  c.algo.arm.alpha = ranges.Number(0.0, at_least=0)

  # Share of least probable tokens that the confidence of an answer and of a
  # prompt is taken over; 1.0 for the prompt is 1 / perplexity.
  c.algo.arm.low_prob_share = ranges.Number(0.2, above=0, at_most=1)
  c.algo.arm.prompt_low_prob_share = ranges.Number(0.2, above=0, at_most=1)

  # What ranks the tokens of an answer: "probability" takes the least
  # probable, "entropy" those where the policy was least certain.
  c.algo.arm.tail = ranges.Choice(
      "probability", of=("probability", "entropy"))

  # In which groups, and on which responses; see algos/arm.py.
  c.algo.arm.active = ranges.Choice("any_correct", of=("any_correct", "mixed"))
  c.algo.arm.apply_to = ranges.Choice("all", of=("all", "correct"))
  c.algo.arm.centre = ranges.Flag(False)


def _algo_dynamic_sampling(c: ConfigDict) -> None:
  """DAPO's dynamic sampling."""
  c.algo.dynamic_sampling = ConfigDict()
  c.algo.dynamic_sampling.enabled = ranges.Flag(False)

  # Rounds of sampling before a batch is used half full.
  c.algo.dynamic_sampling.max_rounds = ranges.Whole(10, at_least=1)

  # Prompts of a round; 0 for as many as a batch holds. Times max_rounds they
  # must fill a batch. DAPO draws three batches' worth at once.
  c.algo.dynamic_sampling.prompts_per_round = ranges.Whole(0, at_least=0)

  # A group is kept if this differs within it: "reward", as the advantage reads
  # it, with truncated_factor and the penalties of length; or "accuracy", the
  # verdicts (DAPO).
  c.algo.dynamic_sampling.filter = ranges.Choice(
      "reward", of=("reward", "accuracy"))

  # Groups that are right throughout are kept (ARM learns from them).
  c.algo.dynamic_sampling.keep_all_correct = ranges.Flag(False)

  # Groups beyond the batch: "discard", or "carry" to the next step, where
  # their ratio is taken to the policy that sampled them.
  c.algo.dynamic_sampling.surplus = ranges.Choice(
      "discard", of=("discard", "carry"))


def _algo_reset(c: ConfigDict) -> None:
  """ProRL's resets of the reference."""
  c.algo.reset = ConfigDict()

  # When the reference becomes the current policy; "auto" is "stall", "kl" and
  # "dominates", () is never. See algos/reset.py.
  c.algo.reset.modes = ranges.Many((), each=ranges.Choice(
      of=("every", "at", "stall", "kl", "dominates", "auto")))
  c.algo.reset.period = ranges.Whole(200, at_least=1)
  c.algo.reset.at_steps = ranges.Many((), each=ranges.Whole(at_least=1))

  # Evaluations without a gain of more than min_delta in the watched metric.
  c.algo.reset.patience = ranges.Whole(5, at_least=1)
  c.algo.reset.min_delta = ranges.Number(0.0, at_least=0)
  c.algo.reset.watch = ranges.Text("pass@1", empty=False)

  # KL above this multiple of what its growth over kl_window steps leads to
  # expect, and above kl_threshold; 0 for either leaves it out.
  c.algo.reset.kl_factor = ranges.Number(4.0, above=1, also=(0.0,))
  c.algo.reset.kl_threshold = ranges.Number(0.0, at_least=0)
  c.algo.reset.kl_window = ranges.Whole(20, at_least=5)

  # The KL's share of the gradient, in the median over share_window steps,
  # above which it dominates.
  c.algo.reset.share_threshold = ranges.Number(0.5, at_least=0, below=1)
  c.algo.reset.share_window = ranges.Whole(20, at_least=1)

  # Fewest steps from a reset to one by "stall", "kl" or "dominates".
  c.algo.reset.min_gap = ranges.Whole(20, at_least=1)

  # Forget the optimiser's moments as well. The schedule of the learning rate
  # goes on; its rate rises from 0 again over rewarmup_steps updates.
  c.algo.reset.optimizer = ranges.Flag(True)
  c.algo.reset.rewarmup_steps = ranges.Whole(0, at_least=0)


def _train(c: ConfigDict) -> None:
  """Batches and updates."""
  c.train = ConfigDict()
  c.train.total_steps = ranges.Whole(1000, at_least=1)

  # Groups of a step (P).
  c.train.prompts_per_step = ranges.Whole(32, at_least=1)

  # Optimiser updates per pass over a step's batch, and passes over it. Each
  # update reads whole groups, of prompts that are dealt out anew for each
  # pass.
  c.train.num_minibatches = ranges.Whole(1, at_least=1)
  c.train.num_iterations = ranges.Whole(1, at_least=1)

  # Rows of a micro-batch, and how many responses of one prompt a row holds; 0
  # takes the whole minibatch, the whole group. They change what memory an
  # update takes, and nothing that it computes. Clip-Cov, KL-Cov and losses
  # that draw take a forward pass more where a minibatch is cut.
  c.train.micro_batch_prompts = ranges.Whole(0, at_least=0)
  c.train.micro_batch_generations = ranges.Whole(0, at_least=0)

  # Stop the run after so many updates in a row that changed nothing: something
  # of them was not finite, or their minibatch had no token to learn from.
  c.train.max_skipped_updates = ranges.Whole(5, at_least=1)


def _optim(c: ConfigDict) -> None:
  """The optimiser."""
  c.optim = ConfigDict()
  c.optim.learning_rate = ranges.Number(1e-6, above=0, at_most=1)
  c.optim.warmup_steps = ranges.Whole(0, at_least=0)

  # After the warm-up, to 0 at the last update.
  c.optim.decay = ranges.Choice(
      "constant", of=("constant", "linear", "cosine"))
  c.optim.b1 = ranges.Number(0.9, at_least=0, below=1)
  c.optim.b2 = ranges.Number(0.999, at_least=0, below=1)
  c.optim.eps = ranges.Number(1e-8, above=0, at_most=1)
  c.optim.weight_decay = ranges.Number(0.0, at_least=0)

  # Gradients of a greater norm are scaled down to it; 0 leaves them.
  c.optim.max_grad_norm = ranges.Number(1.0, at_least=0)

  # Type of Adam's first moment: "bfloat16" saves two bytes a parameter.
  c.optim.mu_dtype = ranges.Choice("float32", of=("float32", "bfloat16"))


def _eval(c: ConfigDict) -> None:
  """Held-out problems."""
  c.eval = ConfigDict()

  # Steps between evaluations; 0 for none. The end is always evaluated, and
  # the start if at_start.
  c.eval.every = ranges.Whole(0, at_least=0)
  c.eval.at_start = ranges.Flag(True)
  c.eval.num_problems = ranges.Whole(64, at_least=1)
  c.eval.num_samples = ranges.Whole(32, at_least=1)

  # Prompts sampled together; they are padded to this many.
  c.eval.batch_prompts = ranges.Whole(16, at_least=1)
  c.eval.temperature = ranges.Number(
      0.6, at_least=0.01, at_most=100, also=(0.0,))
  c.eval.top_p = ranges.Number(0.95, above=0, at_most=1)
  c.eval.top_k = ranges.Whole(0, at_least=0)

  # Evaluate a published test set without its problems that are left out as
  # their prompts are too long. Otherwise it is refused: its pass@k would be
  # that of other problems.
  c.eval.partial_sets = ranges.Flag(False)

  # Also judge answers without regard to a missed format; a base policy that
  # answers in its own way is then not taken for one that cannot answer.
  c.eval.tolerant = ranges.Flag(False)

  # A text file, one document a line, that the Creativity Index is taken
  # against, over n-grams from the first to the second number of words.
  c.eval.creativity_corpus = ranges.Place("")
  c.eval.creativity_range = ranges.Many(
      (5, 12), each=ranges.Whole(at_least=1), length=2)


def _checkpoint(c: ConfigDict) -> None:
  """What is saved, and when."""
  c.checkpoint = ConfigDict()

  # Steps between checkpoints; the end and every reset are always saved.
  c.checkpoint.every = ranges.Whole(100, at_least=1)

  # Newest ones kept (with their references), and multiples always kept.
  c.checkpoint.keep = ranges.Whole(2, at_least=1)
  c.checkpoint.keep_every = ranges.Whole(0, at_least=0)

  # Write while training goes on.
  c.checkpoint.background = ranges.Flag(True)


def _hosts(c: ConfigDict) -> None:
  """Runs on several hosts."""
  c.hosts = ConfigDict()

  # Steps between comparisons of what the hosts, and the devices with a copy of
  # one array, hold; 0 for never.
  c.hosts.compare_every = ranges.Whole(50, at_least=0)

  # Seconds without a word after which a host counts as lost.
  c.hosts.heartbeat_s = ranges.Whole(100, at_least=1, at_most=86400)


def _log(c: ConfigDict) -> None:
  """What is written and shown."""
  c.log = ConfigDict()
  c.log.tensorboard = ranges.Flag(True)
  c.log.wandb = ranges.Flag(False)

  # Steps between rollouts kept to browse; 0 for none. Prompts of each.
  c.log.rollouts_every = ranges.Whole(10, at_least=0)
  c.log.rollouts_prompts = ranges.Whole(8, at_least=1)


def _warmup(c: ConfigDict) -> None:
  """Supervised warm-up of a base policy (`progrpo warmup`)."""
  # Supervised warm-up of a base policy (`progrpo warmup`).
  c.warmup = ConfigDict()
  c.warmup.embed_dim = ranges.Whole(64, at_least=1)
  c.warmup.num_layers = ranges.Whole(3, at_least=1)
  c.warmup.num_heads = ranges.Whole(4, at_least=1)
  c.warmup.num_kv_heads = ranges.Whole(2, at_least=1)
  c.warmup.mlp_dim = ranges.Whole(192, at_least=1)
  c.warmup.examples = ranges.Whole(20000, at_least=1)
  c.warmup.steps = ranges.Whole(1000, at_least=1)
  c.warmup.batch_size = ranges.Whole(128, at_least=1)
  c.warmup.learning_rate = ranges.Number(3e-3, above=0, at_most=1)
