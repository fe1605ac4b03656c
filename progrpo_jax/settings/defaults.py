"""Every key of every config, with its default and its range.

A config file calls `get_config()` and changes what its run needs. Nothing else
in the project supplies defaults: a key that is not here does not exist, and
setting it is an error. Names follow TRL where it has one.

A key is declared once: a comment with its meaning, then its default and range,
as a class of progrpo_jax/ranges.py. A value out of its range is refused before
anything is built. Rules on several keys are in progrpo_jax/settings/checks.py.
"""

from ml_collections import ConfigDict

from progrpo_jax import ranges

_PROJECTIONS = (
  "q_proj",
  "k_proj",
  "v_proj",
  "o_proj",
  "gate_proj",
  "up_proj",
  "down_proj",
)


def get_config() -> ConfigDict:
  """Returns the default config: GRPO with its loss's clip bounds and no KL."""
  return _defaults(keys())


def _defaults(group: ConfigDict) -> ConfigDict:
  """Returns a group of keys with the default of each."""
  return ConfigDict(
    {
      name: _defaults(key) if isinstance(key, ConfigDict) else key.default
      for name, key in group.items()
    }
  )


def task() -> dict[str, ranges.Range]:
  """Returns the ranges of an entry of data.tasks, without its options."""
  return {
    "module": ranges.Text(None, also=(None,), empty=False),
    "weight": ranges.Number(1.0, above=0),
  }


def keys() -> ConfigDict:
  """Returns the range of each key; an empty group accepts any options."""
  c = ConfigDict()
  for group in (
    _run,
    _model,
    _mesh,
    _data,
    _rewards,
    _sampling,
    _algo,
    _algo_entropy_control,
    _algo_length_penalty,
    _algo_rephrase,
    _algo_arm,
    _algo_distill,
    _algo_dynamic_sampling,
    _algo_reset,
    _train,
    _optim,
    _eval,
    _checkpoint,
    _hosts,
    _log,
    _warmup,
  ):
    group(c)
  return c


def _run(c: ConfigDict) -> None:
  """The run as a whole."""
  # Seed of all randomness of a run. JAX reads 32 bits, so a larger seed would
  # repeat a smaller one.
  c.seed = ranges.Whole(0, at_least=0, at_most=2**32 - 1)

  # Label in tables and figures. It changes nothing: the defaults of this page
  # are a clipped mean over tokens without a KL. `methods.grpo(c)` is the
  # paper's GRPO (one mean per sequence, KL 0.04).
  c.method = ranges.Text("grpo", empty=False)

  # Stages of a long run: a tuple of entries, each of which changes keys from a
  # step or a reset on; see progrpo_jax/settings/schedule.py.
  c.schedule = ranges.Many(())


def _model(c: ConfigDict) -> None:
  """The policy that is trained."""
  c.model = ConfigDict()

  # HF directory, or a run's workdir or one of its checkpoints/<step>. With
  # model.download also a model of the Hugging Face hub: "OWNER/NAME", or
  # "OWNER/NAME@REVISION".
  c.model.init_from = ranges.Place("")

  # Whether a model of the hub is fetched, if it is not on this machine.
  c.model.download = ranges.Flag(False)

  # Compute type, and that of exported weights; masters are float32.
  c.model.dtype = ranges.Choice("float32", of=("float32", "bfloat16"))

  # Activations that the backward pass recomputes: "none"; "dots" (all but
  # matrix products with weights); "layer" (everything inside a layer).
  c.model.remat = ranges.Choice("none", of=("none", "dots", "layer"))

  # Attention kernel for whole sequences: "auto" (by platform), "xla",
  # "splash" (TPU) or "cudnn" (GPU).
  c.model.attention = ranges.Choice(
    "auto", of=("auto", "xla", "splash", "cudnn")
  )

  c.model.lora = ConfigDict()

  # Train LoRA adapters of this rank instead of the weights, which are then
  # stored in model.dtype; 0 trains the weights. Adapters on another run's
  # policy need one of its checkpoints as model.init_from, not its workdir.
  c.model.lora.rank = ranges.Whole(0, at_least=0)

  # Adapters are multiplied by alpha / rank.
  c.model.lora.alpha = ranges.Number(32.0, above=0)

  # Weights that get adapters, by their Hugging Face names.
  c.model.lora.targets = ranges.Many(
    _PROJECTIONS, each=ranges.Choice(of=_PROJECTIONS)
  )

  # Number of tokens of a device whose logits are computed at a time.
  c.model.logits_chunk = ranges.Whole(1024, at_least=1)

  # "auto": the tokenizer's chat template, if it has one; "own": the
  # tokenizer's, and an error if it has none; "none"; the name of one of its
  # several templates; or a Jinja template.
  c.model.chat_template = ranges.Text("auto", empty=False)

  # Variables of the template, such as Qwen3's enable_thinking (False: answer
  # at once) or Llama 3's date_string. Templates do not get the current date,
  # because prompts would change from day to day: one that calls strftime_now
  # writes its fallback date, or the text of an option strftime_now. The options
  # of the run whose export model.init_from is hold where they are not given.
  c.model.chat_template_options = ConfigDict()

  # System message of prompts that have none of their own; needs a chat
  # template. "" for none, or that of the run whose export model.init_from is.
  c.model.system_prompt = ranges.Text("")


def _mesh(c: ConfigDict) -> None:
  """The mesh of devices."""
  # Sizes of the mesh. Their product is the number of devices. One size, and no
  # more than one, may be -1: the size that makes it so. For 7B on 8 GPUs set
  # mesh.data=1 and mesh.fsdp=-1. These must be multiples of data x fsdp:
  # train.prompts_per_step, eval.batch_prompts, and sampling.batch_prompts and
  # algo.dynamic_sampling.prompts_per_round where they are not 0.
  c.mesh = ConfigDict()

  # Devices that share the batch; each holds all weights.
  c.mesh.data = ranges.Whole(-1, at_least=1, also=(-1,))

  # Devices that share the batch, and the weights, gradients and optimiser (as
  # FSDP or ZeRO-3). Take this first for a model that does not fit.
  c.mesh.fsdp = ranges.Whole(1, at_least=1, also=(-1,))

  # Devices that split heads, MLP and vocabulary of one layer (tensor parallel).
  c.mesh.tensor = ranges.Whole(1, at_least=1, also=(-1,))


def _data(c: ConfigDict) -> None:
  """Problems and prompts."""
  c.data = ConfigDict()

  # Task name -> {"weight": 1.0, "options": {}}; a task of your own also has
  # "module", its import path. A task's options are described in its file in
  # progrpo_jax/tasks/.
  c.data.tasks = ConfigDict()

  # Directory of built data sets, which all runs share.
  c.data.dir = ranges.Place("~/.cache/progrpo_jax/data", empty=False)

  # Longest prompt, in tokens. A longer one is an error, or left out: see
  # filter_overlong_prompts.
  c.data.max_prompt_length = ranges.Whole(256, at_least=1)

  # Leave longer prompts out of training and evaluation; a run says at its start
  # how many. See eval.partial_sets.
  c.data.filter_overlong_prompts = ranges.Flag(False)

  # Lengths to which the prompts of a batch may be padded; the smallest that is
  # long enough is taken, and each compiles once. () pads to max_prompt_length.
  c.data.prompt_buckets = ranges.Many((), each=ranges.Whole(at_least=1))


def _rewards(c: ConfigDict) -> None:
  """Worker processes of verifiers, and what they read."""
  c.rewards = ConfigDict()

  # Number of processes that run verifiers.
  c.rewards.workers = ranges.Whole(2, at_least=1, at_most=1024)

  # Seconds for one answer.
  c.rewards.deadline_s = ranges.Number(10.0, above=0, at_most=86400)

  # Seconds for one call of a reward function of your own, on a whole batch.
  c.rewards.batch_deadline_s = ranges.Number(60.0, above=0, at_most=86400)

  # Address space of a process that runs verifiers or reward functions, in MiB.
  c.rewards.memory_mb = ranges.Whole(2048, at_least=128)

  # Stop the run if verifiers fail on more than this share of a batch.
  c.rewards.max_failure_share = ranges.Number(0.5, at_least=0, at_most=1)

  # On a machine without isolation, run the policy's programs unconfined;
  # otherwise such a run does not start. See docs/tasks.md.
  c.rewards.allow_unsafe_code = ranges.Flag(False)

  # Where verifiers look for the answer. "auto": after the last </think>; in
  # the whole response if it has no thought; nowhere if a thought was opened
  # (by the response or by the chat template) and not closed. "required": only
  # after a </think>. "off": in the whole response. Reward functions of your
  # own always see the whole response.
  c.rewards.thinking = ranges.Choice("auto", of=("auto", "required", "off"))


def _sampling(c: ConfigDict) -> None:
  """The rollout."""
  c.sampling = ConfigDict()

  # Temperature of the responses that are learnt from.
  c.sampling.temperature = ranges.Number(
    1.0,
    at_least=0.01,
    at_most=100,
    why="must be in [0.01, 100]: greedy samples of a group are all alike",
  )

  # Draw from the likeliest tokens with this share of the probability; 1 for
  # all.
  c.sampling.top_p = ranges.Number(1.0, above=0, at_most=1)

  # Draw from so many of the likeliest tokens; 0 for all.
  c.sampling.top_k = ranges.Whole(0, at_least=0)

  # Tokens of a response at the most. In a response of several turns, what the
  # task replies counts too.
  c.sampling.max_new_tokens = ranges.Whole(256, at_least=1)

  # Turns of a response at the most, where a task answers the policy; tasks
  # that do not answer have one turn. See docs/extending.md.
  c.sampling.max_turns = ranges.Whole(8, at_least=1)

  # Tokens after which sampling may end, or go on with fewer rows, as responses
  # have ended.
  c.sampling.chunk = ranges.Whole(16, at_least=1)

  # Prompts that are sampled at a time, which decides the size of the KV cache.
  # A batch is verified while the next one is sampled, and reward functions of
  # your own see one batch per call; but every batch reads the weights once more
  # for each token. Two batches are faster than one if verifying takes more than
  # twice as long as these readings. 0 halves the round where programs are run
  # and that is to be expected, and otherwise takes it whole: see
  # `batch_prompts` in build/problems.py. In float32 the samples do not depend
  # on it; in bfloat16 only their distribution is the same, as the last bits of
  # the logits depend on the size of a batch.
  c.sampling.batch_prompts = ranges.Whole(0, at_least=0)

  # Devices that share weights, key heads and vocabulary while responses are
  # drawn: a multiple of mesh.tensor, and best a divisor of the number of key
  # heads. 0 takes mesh.tensor. A large model that is not shared costs each
  # device the time to read all of it for every token; shared, each reads its
  # part, and two sums a layer cross the links.
  c.sampling.tensor = ranges.Whole(0, at_least=0)


def _algo(c: ConfigDict) -> None:
  """The method."""
  c.algo = ConfigDict()

  # Responses per prompt (G).
  c.algo.num_generations = ranges.Whole(
    8,
    at_least=2,
    why="a group needs at least 2 samples, or it has no spread to learn from",
  )

  # A function of algos/advantages.py, or an import path. It gets what its
  # arguments name (see INPUTS in learn/advantage.py), and advantage_options.
  c.algo.advantage = ranges.Text("grpo", empty=False)

  # Arguments of the advantage, such as {"k": 4} of "passk".
  c.algo.advantage_options = ConfigDict()

  # A function of algos/losses.py, or an import path; it gets epsilon,
  # epsilon_high and dual_clip if its signature names them, and loss_options.
  c.algo.loss = ranges.Text("clip", empty=False)

  # Lower clip bound of the ratio, 1 - epsilon. 0 takes the loss's own: 0.2 of
  # clip, high_entropy, flowrl and clip_cov, 3e-4 of gspo.
  c.algo.epsilon = ranges.Number(0.0, at_least=0, at_most=1)

  # Upper clip bound of the ratio, 1 + epsilon_high. 0 takes the loss's own:
  # 0.28 of clip, high_entropy and flowrl, 0.2 of clip_cov, 4e-4 of gspo.
  c.algo.epsilon_high = ranges.Number(0.0, at_least=0)

  # Upper bound of the ratio for tokens with negative advantage; 0 for none.
  c.algo.dual_clip = ranges.Number(0.0, above=1, also=(0.0,))

  # Arguments of the loss, such as {"cap": 5.0} of "cispo".
  c.algo.loss_options = ConfigDict()

  # How the losses of tokens are averaged: a function of algos/aggregate.py
  # ("token_mean", "sequence_mean" or "constant"), or an import path.
  c.algo.aggregate = ranges.Text("token_mean", empty=False)

  # Weight of the KL to the reference in the loss. Where it is 0, and nothing
  # else reads a reference, none is in memory. FlowRL's own beta is in
  # loss_options.
  c.algo.beta = ranges.Number(0.0, at_least=0)

  # Estimator of this KL: a function of algos/kl.py. "k1" needs beta 0, as its
  # gradient is 0 in expectation.
  c.algo.kl = ranges.Text("k3", empty=False)

  # Weight of the KL (k1, summed over a response) that is subtracted from the
  # reward, as in REINFORCE++.
  c.algo.reward_kl_coef = ranges.Number(0.0, at_least=0)

  # Keep a reference even if no KL needs one (FlowRL reads it).
  c.algo.hold_reference = ranges.Flag(False)

  # Train FlowRL's estimate of log Z together with the policy.
  c.algo.partition_head = ranges.Flag(False)

  # Weight of the entropy bonus in the loss; 0 for none.
  c.algo.entropy_coef = ranges.Number(0.0, at_least=0)

  # A function of algos/correction.py, which weights tokens by the ratio of the
  # trainer's to the sampler's probability; "" for none.
  c.algo.correction = ranges.Text("")

  # Arguments of the correction, such as {"cap": 2.0} of "truncate".
  c.algo.correction_options = ConfigDict()

  # Exclude responses cut at the length limit from the loss (they still count
  # in the group's mean).
  c.algo.mask_truncated_completions = ranges.Flag(False)

  # Tokens before the length limit over which DAPO's overlong penalty grows; 0
  # for no penalty.
  c.algo.overlong_cache = ranges.Whole(0, at_least=0)

  # Factor of the reward of a response cut at the length limit.
  c.algo.truncated_factor = ranges.Number(1.0, at_least=0, at_most=1)


def _algo_entropy_control(c: ConfigDict) -> None:
  """An entropy bonus that holds a target."""
  c.algo.entropy_control = ConfigDict()

  # Entropy in nats that is held by changing entropy_coef within [0, 1]; 0 keeps
  # entropy_coef fixed.
  c.algo.entropy_control.target = ranges.Number(0.0, at_least=0)

  # Change of entropy_coef in a training step.
  c.algo.entropy_control.step = ranges.Number(0.005, above=0)


def _algo_length_penalty(c: ConfigDict) -> None:
  """ProRL v2's penalty of length."""
  c.algo.length_penalty = ConfigDict()

  # Adds coef * (a half cosine of the length, from 0 at length 0 to -1 at the
  # limit) to rewards above 0, without making one negative, during `on` of every
  # `on + off` steps; always, if off is 0.
  c.algo.length_penalty.coef = ranges.Number(0.0, at_least=0)

  # Steps of each cycle with the penalty.
  c.algo.length_penalty.on = ranges.Whole(100, at_least=0)

  # Steps of each cycle without it.
  c.algo.length_penalty.off = ranges.Whole(0, at_least=0)


def _algo_rephrase(c: ConfigDict) -> None:
  """RePO's rephrased expert solutions."""
  c.algo.rephrase = ConfigDict()

  # RePO: in a group where at least min_fail_share of the rewards is below
  # fail_below, the worst response is replaced by the policy's own rephrasing of
  # an expert solution (a demonstration of the task), if that is correct.
  c.algo.rephrase.enabled = ranges.Flag(False)

  # Share of a group's rewards that must be below fail_below.
  c.algo.rephrase.min_fail_share = ranges.Number(0.75, at_least=0, at_most=1)

  # A reward below this is a failure.
  c.algo.rephrase.fail_below = ranges.Number(0.5)

  # Prompt for a rephrasing; {prompt} and {solution} are filled in.
  c.algo.rephrase.template = ranges.Text(
    "{prompt}\n\nRephrase this solution: {solution}", empty=False
  )

  # Longest prompt for a rephrasing, in tokens; a longer one is skipped.
  c.algo.rephrase.max_prompt_length = ranges.Whole(1024, at_least=1)


def _algo_arm(c: ConfigDict) -> None:
  """ProGRPO's re-weighting of advantages."""
  c.algo.arm = ConfigDict()

  # Strength of the re-weighting; 0 turns ARM off.
  c.algo.arm.alpha = ranges.Number(0.0, at_least=0)

  # Share of an answer's tokens, the least probable ones, over which the
  # confidence in it is averaged.
  c.algo.arm.low_prob_share = ranges.Number(0.2, above=0, at_most=1)

  # The same of a prompt, for c(q); 1.0 makes it 1 / perplexity. Read only where
  # `centre` is False.
  c.algo.arm.prompt_low_prob_share = ranges.Number(0.2, above=0, at_most=1)

  # Which tokens of an answer are averaged: "probability" takes the least
  # probable, "entropy" those where the policy's entropy is highest.
  c.algo.arm.tail = ranges.Choice("probability", of=("probability", "entropy"))

  # Groups that ARM re-weights: "any_correct", with a right response; "mixed",
  # with right and wrong ones; "all_correct", without a wrong one.
  c.algo.arm.active = ranges.Choice(
    "any_correct", of=("any_correct", "mixed", "all_correct")
  )

  # Responses of such a group whose advantages change.
  c.algo.arm.apply_to = ranges.Choice("all", of=("all", "correct", "wrong"))

  # Compare the confidence in an answer with the group's mean instead of the
  # confidence in the prompt, c(q), as `methods.progrpo` does. The shifts of a
  # group then sum to 0. See algos/arm.py.
  c.algo.arm.centre = ranges.Flag(False)


def _algo_distill(c: ConfigDict) -> None:
  """On-policy distillation: a teacher scores what the policy sampled."""
  c.algo.distill = ConfigDict()

  # The teacher: HF directory, or a run's checkpoints/<step>, of any size and
  # architecture, whose vocabulary has that of the policy; "" for none.
  c.algo.distill.teacher = ranges.Place("")

  # Weight of the teacher's advantage, log pi_teacher - log pi of each token; 0
  # turns it off, from a stage of the schedule on.
  c.algo.distill.coef = ranges.Number(1.0, at_least=0)

  # What a token counts of the next one's advantage: 0 leaves each its own, 1
  # sums to the end of the response.
  c.algo.distill.discount = ranges.Number(0.0, at_least=0, at_most=1)

  # Add it to the advantages of the rewards; otherwise it takes their place, and
  # rewards are measured only.
  c.algo.distill.keep_rewards = ranges.Flag(False)


def _algo_dynamic_sampling(c: ConfigDict) -> None:
  """DAPO's dynamic sampling."""
  c.algo.dynamic_sampling = ConfigDict()

  # Leave out groups whose responses are all worth the same (see `filter`), and
  # sample more prompts until the batch is full. GRPO learns nothing from them;
  # nsr, reinforce_pp without its baseline, dra_grpo and unlikeliness do, and
  # lose them.
  c.algo.dynamic_sampling.enabled = ranges.Flag(False)

  # Most rounds of sampling per step; after them an incomplete batch is used.
  c.algo.dynamic_sampling.max_rounds = ranges.Whole(10, at_least=1)

  # Prompts per round; 0 for those of a whole batch. Times max_rounds they must
  # be enough for a batch. DAPO draws three batches' worth per round.
  c.algo.dynamic_sampling.prompts_per_round = ranges.Whole(0, at_least=0)

  # Keep a group if this differs between its responses: "reward", including
  # truncated_factor and length penalties; or "accuracy", the verdicts (DAPO).
  c.algo.dynamic_sampling.filter = ranges.Choice(
    "reward", of=("reward", "accuracy")
  )

  # Also keep groups whose responses are all correct (ARM learns from them).
  c.algo.dynamic_sampling.keep_all_correct = ranges.Flag(False)

  # Groups beyond a full batch: "discard" them, or "carry" them to the next
  # step, where their ratio is relative to the policy that sampled them.
  c.algo.dynamic_sampling.surplus = ranges.Choice(
    "discard", of=("discard", "carry")
  )


def _algo_reset(c: ConfigDict) -> None:
  """ProRL's resets of the reference."""
  c.algo.reset = ConfigDict()

  # Conditions for a reset, which replaces the reference by the current policy;
  # "auto" is "stall", "kl" and "dominates", () is never. See algos/reset.py.
  c.algo.reset.modes = ranges.Many(
    (),
    each=ranges.Choice(of=("every", "at", "stall", "kl", "dominates", "auto")),
  )

  # "every": steps from one reset to the next.
  c.algo.reset.period = ranges.Whole(200, at_least=1)

  # "at": the steps of the resets.
  c.algo.reset.at_steps = ranges.Many((), each=ranges.Whole(at_least=1))

  # "stall": number of evaluations without a gain of more than min_delta in the
  # watched metric.
  c.algo.reset.patience = ranges.Whole(5, at_least=1)

  # "stall": a gain of the watched metric that is not larger does not count.
  c.algo.reset.min_delta = ranges.Number(0.0, at_least=0)

  # "stall": the watched metric of the evaluations, such as "pass@8".
  c.algo.reset.watch = ranges.Text("pass@1", empty=False)

  # "kl": the KL must exceed this many times the value extrapolated from its
  # growth over kl_window steps; 0 drops this condition.
  c.algo.reset.kl_factor = ranges.Number(4.0, above=1, also=(0.0,))

  # "kl": the KL must exceed this too; 0 drops this condition.
  c.algo.reset.kl_threshold = ranges.Number(0.0, at_least=0)

  # "kl": steps from whose KL the growth is extrapolated.
  c.algo.reset.kl_window = ranges.Whole(20, at_least=5)

  # "dominates": the KL's share of the gradient, as the median over share_window
  # steps, exceeds this.
  c.algo.reset.share_threshold = ranges.Number(0.5, at_least=0, below=1)

  # "dominates": the steps of this median.
  c.algo.reset.share_window = ranges.Whole(20, at_least=1)

  # Fewest steps between a reset and a later one by "stall", "kl" or
  # "dominates".
  c.algo.reset.min_gap = ranges.Whole(20, at_least=1)

  # Also reset the optimiser's moments. The learning-rate schedule goes on, but
  # the rate rises from 0 again over rewarmup_steps updates.
  c.algo.reset.optimizer = ranges.Flag(True)

  # Updates of this second warm-up; 0 for none.
  c.algo.reset.rewarmup_steps = ranges.Whole(0, at_least=0)


def _train(c: ConfigDict) -> None:
  """Batches and updates."""
  c.train = ConfigDict()

  # Steps of the run. A run that is done goes on with a larger number.
  c.train.total_steps = ranges.Whole(1000, at_least=1)

  # Groups per step (P).
  c.train.prompts_per_step = ranges.Whole(32, at_least=1)

  # Optimiser updates per pass over a step's batch; divides prompts_per_step.
  # Each reads whole groups.
  c.train.num_minibatches = ranges.Whole(1, at_least=1)

  # Passes over a step's batch. Prompts are shuffled again for each.
  c.train.num_iterations = ranges.Whole(1, at_least=1)

  # Prompts and responses are packed into rows of so many tokens, whole bundles
  # one behind the other; 0 takes the longest bundle that there can be.
  c.train.row_tokens = ranges.Whole(0, at_least=0)

  # Rows per micro-batch on each device; 0 takes as many as have 4,096 tokens,
  # and at most a quarter of a minibatch's bundles. Like row_tokens and
  # micro_batch_generations it changes memory and speed, but not the result.
  # Clip-Cov, KL-Cov, high_entropy and random losses take one more forward
  # pass.
  c.train.micro_batch_rows = ranges.Whole(0, at_least=0)

  # Responses that share their prompt's tokens in a bundle; divides
  # algo.num_generations. 0 takes 1 where attention is a kernel, and elsewhere
  # what needs least work.
  c.train.micro_batch_generations = ranges.Whole(0, at_least=0)

  # Score the batch under the policy before its update. "needed": unless one
  # update reads each batch once and nothing else reads the scores; the old
  # log-probs are then the update's own. "always": also for its measures (exact
  # entropies, confidence in prompts). "never": ARM, with algo.arm.centre, and
  # an advantage that reads log-probs then take the sampler's.
  c.train.score = ranges.Choice("needed", of=("needed", "always", "never"))

  # Stop the run after this many skipped updates in a row. An update is skipped
  # if a number in it is not finite, or its minibatch has no token to learn
  # from.
  c.train.max_skipped_updates = ranges.Whole(5, at_least=1)


def _optim(c: ConfigDict) -> None:
  """The optimiser."""
  c.optim = ConfigDict()

  # Learning rate of AdamW. The default suits training of all weights of a model
  # of billions of parameters. LoRA and small models take more.
  c.optim.learning_rate = ranges.Number(1e-6, above=0, at_most=1)

  # Updates over which the learning rate rises from 0.
  c.optim.warmup_steps = ranges.Whole(0, at_least=0)

  # Learning rate after the warm-up; "linear" and "cosine" reach 0 at the last
  # update.
  c.optim.decay = ranges.Choice("constant", of=("constant", "linear", "cosine"))

  # Decay of the mean of gradients (AdamW's beta1).
  c.optim.b1 = ranges.Number(0.9, at_least=0, below=1)

  # Decay of the mean of their squares (AdamW's beta2).
  c.optim.b2 = ranges.Number(0.999, at_least=0, below=1)

  # AdamW's epsilon.
  c.optim.eps = ranges.Number(1e-8, above=0, at_most=1)

  # AdamW's weight decay.
  c.optim.weight_decay = ranges.Number(0.0, at_least=0)

  # Gradients with a larger norm are scaled down to it; 0 does not clip.
  c.optim.max_grad_norm = ranges.Number(1.0, at_least=0)

  # Type of Adam's first moment: "bfloat16" saves two bytes a parameter.
  c.optim.mu_dtype = ranges.Choice("float32", of=("float32", "bfloat16"))


def _eval(c: ConfigDict) -> None:
  """Held-out problems."""
  c.eval = ConfigDict()

  # Steps between evaluations; 0 for none at all.
  c.eval.every = ranges.Whole(0, at_least=0)

  # Also evaluate the policy before the first step.
  c.eval.at_start = ranges.Flag(True)

  # Also evaluate after the last step: "always", "never", or, with "auto", in
  # runs of at least `every` steps, so that a short trial ends when it is done.
  c.eval.at_end = ranges.Choice("auto", of=("auto", "always", "never"))

  # Held-out problems of each task, at the most.
  c.eval.num_problems = ranges.Whole(64, at_least=1)

  # Responses per problem, of which pass@k is estimated.
  c.eval.num_samples = ranges.Whole(32, at_least=1)

  # Prompts sampled at a time, on all devices together; the last batch is padded
  # to this size. Times num_samples it decides the memory of an evaluation.
  c.eval.batch_prompts = ranges.Whole(16, at_least=1)

  # Temperature of an evaluation's responses; 0 takes the likeliest token.
  c.eval.temperature = ranges.Number(
    0.6, at_least=0.01, at_most=100, also=(0.0,)
  )

  # As sampling.top_p, for evaluations.
  c.eval.top_p = ranges.Number(0.95, above=0, at_most=1)

  # As sampling.top_k, for evaluations.
  c.eval.top_k = ranges.Whole(0, at_least=0)

  # Evaluate a published test set although prompts that are too long are left
  # out. Otherwise such a set is refused, as its pass@k would be on fewer
  # problems than published.
  c.eval.partial_sets = ranges.Flag(False)

  # Also judge answers regardless of their format, so that a base policy that
  # ignores the format does not look like one that cannot answer.
  c.eval.tolerant = ranges.Flag(False)

  # A text file, one document per line, that the Creativity Index compares
  # responses with; "" for none.
  c.eval.creativity_corpus = ranges.Place("")

  # Shortest and longest n-gram of the Creativity Index, in words.
  c.eval.creativity_range = ranges.Many(
    (5, 12), each=ranges.Whole(at_least=1), length=2
  )


def _checkpoint(c: ConfigDict) -> None:
  """Checkpoints."""
  c.checkpoint = ConfigDict()

  # Steps between checkpoints; the last step and every reset are always saved.
  c.checkpoint.every = ranges.Whole(100, at_least=1)

  # Number of newest checkpoints to keep (with their references).
  c.checkpoint.keep = ranges.Whole(2, at_least=1)

  # Checkpoints whose step is a multiple of this are kept too; 0 for none.
  c.checkpoint.keep_every = ranges.Whole(0, at_least=0)

  # Write checkpoints in the background while training goes on.
  c.checkpoint.background = ranges.Flag(True)


def _hosts(c: ConfigDict) -> None:
  """Runs on several hosts."""
  c.hosts = ConfigDict()

  # Steps between checks that hosts, and devices with copies of one array, hold
  # equal data; 0 for never.
  c.hosts.compare_every = ranges.Whole(50, at_least=0)

  # Seconds without a heartbeat after which a host counts as lost.
  c.hosts.heartbeat_s = ranges.Whole(100, at_least=1, at_most=86400)


def _log(c: ConfigDict) -> None:
  """Logs."""
  c.log = ConfigDict()

  # Write the metrics for TensorBoard too, into tb/ of the workdir.
  c.log.tensorboard = ranges.Flag(True)

  # Copy the metrics, and tables of the saved rollouts, to W&B: project
  # progrpo_jax, run named as the workdir's last folder.
  c.log.wandb = ranges.Flag(False)

  # The same to trackio.
  c.log.trackio = ranges.Flag(False)

  # Import path of your own logger ("mine.Logger"; "" for none): called with the
  # workdir, it returns an object with `log(step, numbers)`; `table(step, name,
  # columns, rows)` and `close()` are called if it has them.
  c.log.logger = ranges.Text("")

  # Steps between saved rollouts; 0 for none.
  c.log.rollouts_every = ranges.Whole(10, at_least=0)

  # Prompts of a step whose groups are saved.
  c.log.rollouts_prompts = ranges.Whole(8, at_least=1)


def _warmup(c: ConfigDict) -> None:
  """Supervised warm-up of a base policy (`progrpo warmup`)."""
  # Supervised warm-up of a base policy (`progrpo warmup`). The sizes are those
  # of a new policy; a policy in model.init_from keeps its own.
  c.warmup = ConfigDict()

  # Width of the policy; a multiple of num_heads.
  c.warmup.embed_dim = ranges.Whole(64, at_least=1)

  # Its layers.
  c.warmup.num_layers = ranges.Whole(3, at_least=1)

  # Its query heads.
  c.warmup.num_heads = ranges.Whole(4, at_least=1)

  # Its key and value heads.
  c.warmup.num_kv_heads = ranges.Whole(2, at_least=1)

  # Width inside of its MLPs.
  c.warmup.mlp_dim = ranges.Whole(192, at_least=1)

  # Demonstrations to learn from, at the most.
  c.warmup.examples = ranges.Whole(20000, at_least=1)

  # Updates of the warm-up.
  c.warmup.steps = ranges.Whole(1000, at_least=1)

  # Demonstrations of an update.
  c.warmup.batch_size = ranges.Whole(128, at_least=1)

  # Learning rate of the warm-up.
  c.warmup.learning_rate = ranges.Number(3e-3, above=0, at_most=1)
