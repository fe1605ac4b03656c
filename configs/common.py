"""Every key of every config, with its default.

A config file calls `get_config()` and changes what its run needs. Nothing else
in the project supplies defaults: a key that is not here does not exist, and
naming it is an error. Names follow TRL where it has one.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """All keys; by themselves plain GRPO."""
  c = ConfigDict()
  # All randomness of a run is folded from this number.
  c.seed = 0
  # Label of the method in tables and figures.
  c.method = "grpo"

  c.model = ConfigDict()
  # HF directory, or a run's workdir or one of its checkpoints/<step>.
  c.model.init_from = ""
  # Compute type, "float32" or "bfloat16"; masters are float32.
  c.model.dtype = "float32"
  # What the backward pass recomputes: "none"; "dots", all but products with
  # weights; "layer", each layer.
  c.model.remat = "none"
  # Kernel of attention over whole sequences: "auto" (by platform), "xla",
  # "splash" (TPU) or "cudnn" (GPU).
  c.model.attention = "auto"
  c.model.lora = ConfigDict()
  # Train adapters of this rank in the place of the weights, which are then
  # held in model.dtype; 0 trains the weights.
  c.model.lora.rank = 0
  # Adapters are multiplied by alpha / rank.
  c.model.lora.alpha = 32.0
  # Weights that are adapted, by the names of Hugging Face.
  c.model.lora.targets = (
      "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
      "down_proj")
  # Tokens whose logits may exist at one time.
  c.model.logits_chunk = 4096
  # "auto": the tokenizer's chat template, if it has one; "own": one without
  # is an error; "none"; the name of one of several; or a Jinja template.
  c.model.chat_template = "auto"
  # Variables that the template reads, such as Qwen3's enable_thinking (False:
  # answer at once) or Llama 3's date_string. No template is told what day it
  # is, or prompts would change with it; one that asks for it (strftime_now)
  # writes the date that it falls back to, or the text of an option
  # strftime_now.
  c.model.chat_template_options = ConfigDict()
  c.model.system_prompt = ""

  # Sizes of the mesh; -1 takes what is left. They multiply to the devices.
  c.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1))

  c.data = ConfigDict()
  # Task name -> {"weight": 1.0, "options": {}}; a task of one's own also has
  # "module", its import path. What options a task has stands in its file in
  # progrpo_jax/tasks/.
  c.data.tasks = ConfigDict()
  # Built data sets live here and are used again.
  c.data.dir = "~/.cache/progrpo_jax/data"
  # A longer prompt is an error, or a problem that is left out.
  c.data.max_prompt_length = 256
  c.data.filter_overlong_prompts = False
  # Prompts of a batch are padded to the smallest of these that holds them;
  # each is compiled once. () pads to max_prompt_length.
  c.data.prompt_buckets = ()

  c.rewards = ConfigDict()
  # Processes that verify, and seconds that one answer may take.
  c.rewards.workers = 2
  c.rewards.deadline_s = 10.0
  # Seconds for one call of a reward function of your own, on a whole batch.
  c.rewards.batch_deadline_s = 60.0
  c.rewards.memory_mb = 2048
  # Stop when more than this share of a batch fails in the verifier itself.
  c.rewards.max_failure_share = 0.5
  # Run programs that the policy writes unconfined where the machine offers no
  # isolation; without, such a run does not start. See docs/tasks.md.
  c.rewards.allow_unsafe_code = False
  # Where verifiers look for the answer. "auto": after the last </think>; in
  # the whole of a response that has no thought; nowhere, if a thought was
  # begun (by the response or by the chat template) and not ended. "required":
  # only after a </think>. "off": everywhere. Reward functions of your own see
  # the whole response.
  c.rewards.thinking = "auto"

  c.sampling = ConfigDict()
  c.sampling.temperature = 1.0
  c.sampling.top_p = 1.0
  c.sampling.top_k = 0
  c.sampling.max_new_tokens = 256
  # Tokens decoded between two looks at whether any sample is alive.
  c.sampling.chunk = 16
  # Prompts that are sampled at one time, which is what the cache of keys has
  # to have room for; 0 for all that a round draws. Samples do not depend on
  # it. A batch is verified while the next one is sampled; it is also what
  # reward functions of your own see at one time.
  c.sampling.batch_prompts = 0

  # Stages of a long run: a tuple of entries that change keys from a step or a
  # reset on; see progrpo_jax/schedule.py.
  c.schedule = ()

  c.algo = ConfigDict()
  # Samples of each prompt (G).
  c.algo.num_generations = 8
  # A function of algos/advantages.py, or an import path.
  c.algo.advantage = "grpo"
  c.algo.advantage_options = ConfigDict()
  # A function of algos/losses.py, or an import path; it gets the keys below
  # that its signature names, and those of loss_options.
  c.algo.loss = "clip"
  c.algo.epsilon = 0.2
  c.algo.epsilon_high = 0.2
  # Bound of the ratio for bad tokens; 0 for none.
  c.algo.dual_clip = 0.0
  c.algo.loss_options = ConfigDict()
  # A function of algos/aggregate.py.
  c.algo.aggregate = "token_mean"
  # KL to the reference: weight and a function of algos/kl.py. With beta 0 no
  # reference is held.
  c.algo.beta = 0.0
  c.algo.kl = "k3"
  # Take the KL (k1, summed over a response) off its reward instead, times
  # this; REINFORCE++ does.
  c.algo.reward_kl_coef = 0.0
  # Hold a reference even where no KL asks for one (FlowRL reads it).
  c.algo.hold_reference = False
  # Train FlowRL's estimate of log Z beside the policy.
  c.algo.partition_head = False
  c.algo.entropy_coef = 0.0

  c.algo.entropy_control = ConfigDict()
  # Move entropy_coef by `step` a step, within its bounds, to hold the
  # entropy at the target; 0 leaves it as it is.
  c.algo.entropy_control.target = 0.0
  c.algo.entropy_control.step = 0.005
  c.algo.entropy_control.low = 0.0
  c.algo.entropy_control.high = 1.0

  c.algo.beta_control = ConfigDict()
  # Multiply beta by `rate` a step while the entropy is below the floor, and
  # let it come back above it; 0 leaves it as it is.
  c.algo.beta_control.floor = 0.0
  c.algo.beta_control.rate = 1.1
  c.algo.beta_control.high = 0.1

  # A function of algos/correction.py that weighs tokens by trainer over
  # sampler, with its options; "" for none.
  c.algo.correction = ""
  c.algo.correction_options = ConfigDict()
  # Responses cut at the length limit teach nothing (they still count in the
  # group's mean).
  c.algo.mask_truncated_completions = False
  # Tokens before the limit over which the overlong penalty grows; 0 for none.
  c.algo.overlong_cache = 0
  # The reward of a response cut at the limit is multiplied by this.
  c.algo.truncated_factor = 1.0

  c.algo.length_penalty = ConfigDict()
  # Adds coef * (a half cosine of the length, from hi at 0 to lo at the limit)
  # to rewards that are above 0, during `on` of every `on + off` steps; always,
  # if off is 0.
  c.algo.length_penalty.coef = 0.0
  c.algo.length_penalty.lo = -1.0
  c.algo.length_penalty.hi = 0.0
  c.algo.length_penalty.on = 100
  c.algo.length_penalty.off = 0

  c.algo.rephrase = ConfigDict()
  # RePO: in a group where at least this share of the rewards lies below
  # fail_below, the worst response gives way to the policy's own rephrasing of
  # an expert solution (a demonstration of the task), if that is right.
  c.algo.rephrase.enabled = False
  c.algo.rephrase.min_fail_share = 0.75
  c.algo.rephrase.fail_below = 0.5
  # What the policy is asked; {prompt} and {solution} are filled in.
  c.algo.rephrase.template = "{prompt}\n\nRephrase this solution: {solution}"
  # A longer question is not asked.
  c.algo.rephrase.max_prompt_length = 1024

  c.algo.arm = ConfigDict()
  # Strength of the re-weighting; 0 turns ARM off.
  c.algo.arm.alpha = 0.0
  # Share of least probable tokens that the confidence of an answer and of a
  # prompt is taken over; 1.0 for the prompt is 1 / perplexity.
  c.algo.arm.low_prob_share = 0.2
  c.algo.arm.prompt_low_prob_share = 0.2
  # What ranks the tokens of an answer: "probability" takes the least
  # probable, "entropy" those where the policy was least certain.
  c.algo.arm.tail = "probability"
  # "any_correct" or "mixed"; "all" or "correct"; see algos/arm.py.
  c.algo.arm.active = "any_correct"
  c.algo.arm.apply_to = "all"
  c.algo.arm.centre = False

  c.algo.dynamic_sampling = ConfigDict()
  c.algo.dynamic_sampling.enabled = False
  # Rounds of sampling before a batch is used half full.
  c.algo.dynamic_sampling.max_rounds = 10
  # Prompts of a round; 0 for as many as a batch holds. DAPO draws three
  # batches' worth at once.
  c.algo.dynamic_sampling.prompts_per_round = 0
  # Groups that are right throughout are kept (ARM learns from them).
  c.algo.dynamic_sampling.keep_all_correct = False
  # Groups beyond the batch: "discard", or "carry" to the next step, where
  # their ratio is taken to the policy that sampled them.
  c.algo.dynamic_sampling.surplus = "discard"

  c.algo.reset = ConfigDict()
  # When the reference becomes the current policy: any of "every", "at",
  # "stall", "kl", "dominates", and "auto" for the last three; () never. See
  # algos/reset.py.
  c.algo.reset.modes = ()
  c.algo.reset.period = 200
  c.algo.reset.at_steps = ()
  # Evaluations without a gain of more than min_delta in the watched metric.
  c.algo.reset.patience = 5
  c.algo.reset.min_delta = 0.0
  c.algo.reset.watch = "pass@1"
  # KL above this multiple of its median over kl_window steps, and above
  # kl_threshold.
  c.algo.reset.kl_factor = 4.0
  c.algo.reset.kl_threshold = 0.0
  c.algo.reset.kl_window = 20
  # The KL's share of the gradient, in the median over share_window steps,
  # above which it dominates.
  c.algo.reset.share_threshold = 0.5
  c.algo.reset.share_window = 20
  c.algo.reset.min_gap = 1
  # Start the optimiser anew as well.
  c.algo.reset.optimizer = True

  c.train = ConfigDict()
  c.train.total_steps = 1000
  # Groups of a step (P).
  c.train.prompts_per_step = 32
  # Optimiser updates per pass over a step's batch, and passes over it.
  c.train.num_minibatches = 1
  c.train.num_iterations = 1
  # Prompts of a micro-batch, and how many responses of a prompt it holds; 0
  # takes the whole minibatch, the whole group.
  c.train.micro_batch_prompts = 0
  c.train.micro_batch_generations = 0
  # Abort after so many refused (non-finite) updates in a row.
  c.train.max_skipped_updates = 5

  c.optim = ConfigDict()
  c.optim.learning_rate = 1e-6
  c.optim.warmup_steps = 0
  # "constant", "linear" or "cosine".
  c.optim.decay = "constant"
  c.optim.b1 = 0.9
  c.optim.b2 = 0.999
  c.optim.eps = 1e-8
  c.optim.weight_decay = 0.0
  c.optim.max_grad_norm = 1.0
  # Type of Adam's first moment: "bfloat16" saves two bytes a parameter.
  c.optim.mu_dtype = "float32"

  c.eval = ConfigDict()
  # Steps between evaluations; 0 for none. The end is always evaluated, and
  # the start if at_start.
  c.eval.every = 0
  c.eval.at_start = True
  c.eval.num_problems = 64
  c.eval.num_samples = 32
  # Prompts sampled together; they are padded to this many.
  c.eval.batch_prompts = 16
  c.eval.temperature = 0.6
  c.eval.top_p = 0.95
  c.eval.top_k = 0
  # Also judge answers without regard to a missed format; a base policy that
  # answers in its own way is then not taken for one that cannot answer.
  c.eval.tolerant = False
  # A text file, one document a line, that the Creativity Index is taken
  # against, over n-grams from the first to the second number of words.
  c.eval.creativity_corpus = ""
  c.eval.creativity_range = (5, 12)

  c.checkpoint = ConfigDict()
  # Steps between checkpoints; the end and every reset are always saved.
  c.checkpoint.every = 100
  # Newest ones kept (with their references), and multiples always kept.
  c.checkpoint.keep = 2
  c.checkpoint.keep_every = 0
  # Write while training goes on.
  c.checkpoint.background = True

  c.hosts = ConfigDict()
  # Steps between comparisons of what the hosts, and the devices with a copy of
  # one array, hold; 0 for never.
  c.hosts.compare_every = 50
  # Seconds without a word after which a host counts as lost.
  c.hosts.heartbeat_s = 100

  c.log = ConfigDict()
  c.log.tensorboard = True
  c.log.wandb = False
  # Steps between rollouts kept to browse; 0 for none. Prompts of each.
  c.log.rollouts_every = 10
  c.log.rollouts_prompts = 8

  # Supervised warm-up of a base policy (`progrpo warmup`).
  c.warmup = ConfigDict()
  c.warmup.embed_dim = 64
  c.warmup.num_layers = 3
  c.warmup.num_heads = 4
  c.warmup.num_kv_heads = 2
  c.warmup.mlp_dim = 192
  c.warmup.examples = 20000
  c.warmup.steps = 1000
  c.warmup.batch_size = 128
  c.warmup.learning_rate = 3e-3
  return c
