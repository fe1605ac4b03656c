"""Settings that several config files share: model, data, budget.

At paper scale the data are the published sets, read from files that the user
has fetched, those of a set in a folder of its name: data/aime24,
data/deepscaler, ...
`progrpo tasks list` says where each is to be had, and the error for a missing
file how to get it; docs/tasks.md has them in a table. They are built at the
first start.
"""

from progrpo_jax.settings import defaults, named

# Where the published files lie.
FILES = "data"
# The six test sets that papers on mathematics report.
MATHEMATICS = (
  "aime24",
  "aime25",
  "amc23",
  "math500",
  "minerva_math",
  "olympiad_bench",
)


def laptop():
  """The quickstart's: a small policy and Countdown, minutes on two cores."""
  c = defaults.get_config()
  c.model.init_from = "runs/quickstart/base"
  # Recomputing is cheaper than a trip to memory here: 204 against 270 ms for
  # an update of 256 sequences on two cores.
  c.model.remat = "layer"
  c.data.tasks = {
    "countdown": {"weight": 1.0, "options": {"template": "compact"}}
  }
  c.data.dir = "runs/data"
  c.data.max_prompt_length = 32
  c.sampling.max_new_tokens = 24
  c.sampling.chunk = 8
  c.algo.num_generations = 16
  c.train.total_steps = 100
  c.train.prompts_per_step = 32
  c.train.num_minibatches = 2
  c.optim.learning_rate = 3e-4
  c.eval.every = 20
  c.eval.num_problems = 128
  c.eval.num_samples = 64
  c.eval.batch_prompts = 32
  # The policy is read as it is: no sharpening hides a lost path.
  c.eval.temperature = 1.0
  c.eval.top_p = 1.0
  c.checkpoint.every = 25
  c.log.rollouts_every = 5
  c.warmup.steps = 1500
  c.warmup.batch_size = 64
  return c


def puzzles():
  """The quickstart's scale on four puzzles with short prompts, equally often.

  Countdown, colourings and boards have many right answers, a sum has one.
  """

  def task(**options):
    return {"weight": 1.0, "options": {"template": "compact", **options}}

  c = laptop()
  c.data.tasks = {
    "countdown": task(min_numbers=3, max_numbers=4, max_value=9, max_target=30),
    "chain_sum": task(min_terms=3, max_terms=5, max_digits=1),
    "graph_color": task(min_num_vertices=6, max_num_vertices=7),
    # The usual 5,000 distinct boards are more than the generator finds.
    "n_queens": task(
      n=8, min_remove=4, max_remove=8, num_train=3000, num_validation=300
    ),
  }
  # Most prompts are shorter than 40 characters, a graph with all its edges
  # is not.
  c.data.max_prompt_length = 72
  c.data.prompt_buckets = (40,)
  c.sampling.max_new_tokens = 16
  c.train.prompts_per_step = 16
  return c


def smollm2():
  """A real pretrained model of 135M parameters, minutes on two cores."""
  c = defaults.get_config()
  c.model.init_from = "runs/real/base"
  c.model.system_prompt = "Answer with one sentence only."
  c.data.tasks = {
    "sentences": {
      "weight": 1.0,
      "options": {"count": "at_most", "lengths": (5, 6, 7, 8)},
    }
  }
  c.data.dir = "runs/data"
  # The longest prompt has 38 tokens, a sentence of eight words 12 or so.
  c.data.max_prompt_length = 40
  c.sampling.max_new_tokens = 20
  c.sampling.chunk = 4
  c.algo.num_generations = 8
  c.train.total_steps = 40
  c.train.prompts_per_step = 8
  c.optim.learning_rate = 1e-5
  c.eval.every = 20
  # The runs share the base, which is evaluated once for all of them.
  c.eval.at_start = False
  c.eval.num_problems = 32
  c.eval.num_samples = 32
  c.eval.batch_prompts = 8
  c.eval.temperature = 1.0
  c.eval.top_p = 1.0
  # A checkpoint has 1.6 GB.
  c.checkpoint.every = 20
  c.checkpoint.keep = 1
  c.log.rollouts_every = 10
  return c


def compared(c, method: str):
  """Applies a method, and takes back what its paper changes besides.

  GRPO's KL term and its mean by sequence go, and so do clip bounds that were
  taken over from PPO, so that methods differ in what they are about. This is
  for small runs, whose responses have ten tokens or twenty: shares and periods
  that mean something else there are set for runs of this length. What depends
  on the policy is left to the config file.

  Args:
    c: a config, such as `laptop()`, with the number of its steps.
    method: name of a function of `methods`.

  Raises:
    InputError: there is no such method.
  """
  samples = c.train.prompts_per_step * c.algo.num_generations
  c = named.method(method)(c)
  a = c.algo
  # Without a KL term the reference needs no memory, and plain GRPO is here
  # the baseline that differs from ProGRPO in ARM alone.
  if method == "grpo":
    a.beta = 0.0
    a.aggregate = "token_mean"
  # Bounds of 0.2 and 0.2 are what a paper took over from PPO, not its method.
  if a.epsilon == a.epsilon_high == 0.2:
    a.epsilon_high = 0.28
  # The mean of ten tokens is noisier than that of thousands. In the first
  # steps the paper's bounds clip 3 to 5% of all tokens of the quickstart,
  # updates without an advantage included, and bounds 100 times as wide under
  # 2%.
  if method == "gspo":
    a.epsilon, a.epsilon_high = 3e-3, 4e-3
  # Of the 2,600 tokens of the quickstart's minibatch 2e-4 are not one. KL-Cov
  # takes 2e-4 of the tokens at 32B and 2e-3 at 7B: more, the smaller the
  # policy.
  if method == "clip_cov":
    a.loss_options.share = 2e-3
  if method == "kl_cov":
    a.loss_options.share = 2e-2
  # With one term it is GRPO with one more scale. The second is DAPO's penalty
  # over the last half of the length that there is.
  if method == "gdpo":
    a.overlong_cache = c.sampling.max_new_tokens // 2
  # A short run is to see two resets, and the length penalty come and go.
  if method in ("prorl", "prorl_v2", "brorl"):
    a.reset.modes = ("every",)
    a.reset.period = c.train.total_steps * 2 // 5
  if method in ("prorl_v2", "brorl"):
    a.length_penalty.on = c.train.total_steps // 10
    a.length_penalty.off = c.train.total_steps // 2
  # As many samples a step as the others, of fewer problems.
  if method == "brorl":
    a.num_generations = 64
    c.train.prompts_per_step = samples // 64
  # What SAPO is about is its gate: the mean is that of all others here.
  if method == "sapo":
    a.aggregate = "token_mean"
  return c


# Models whose weights four chips share while they decode, see below.
_SHARED = (
  "Qwen2.5-7B",
  "Qwen2.5-Math-7B",
  "DeepSeek-R1-Distill-Qwen-7B",
  "Qwen3-8B-Base",
)


def flowrl(scale: str = "paper", model: str = "Qwen2.5-7B"):
  """FlowRL's batch, lengths and optimiser on DAPO-Math-17k.

  Ours: the number of steps, what is held out and when; the warm-up of 10
  steps is read as rollout steps.
  """
  c = _start(model)
  c.data.tasks = {"dapo_math_17k": published(validation=MATHEMATICS)}
  c.data.max_prompt_length = 2048
  c.data.prompt_buckets = (256, 512, 1024)
  c.sampling.max_new_tokens = 8192
  # Ratio, clip and ARM see the distribution that was sampled from: at
  # temperature 1 without truncation, the policy itself.
  c.algo.num_generations = 8
  c.train.total_steps = 200
  batch(c, scale, prompts=512, minibatch=32)
  c.optim.learning_rate = 1e-6
  c.optim.weight_decay = 0.1
  c.optim.warmup_steps = 10 * c.train.num_minibatches
  # Whole on each of 64 chips, these weights are most of what a token costs: by
  # the TPU's compiler 364 s of a step are sampling, and 246 s if four share.
  if scale == "paper" and model in _SHARED:
    c.sampling.tensor = 4
  return c


def entropy_mechanism(scale: str = "paper"):
  """The setting of 2505.22617 at 7B, where it differs from FlowRL's.

  256 prompts of 8, 8 updates a step, learning rate 5e-7, groups without
  spread filtered out. Ours: no weight decay, no warm-up.
  """
  c = flowrl(scale)
  batch(c, scale, prompts=256, minibatch=32)
  c.algo.dynamic_sampling.enabled = True
  c.optim.learning_rate = 5e-7
  c.optim.weight_decay = 0.0
  c.optim.warmup_steps = 0
  return c


def dapo(model: str = "Qwen2.5-32B"):
  """DAPO's own: long responses, 16 updates of 512 samples a step."""
  c = flowrl(model=model)
  # The heads are split too: the scores of one response of this length, all
  # heads together, are tens of GiB.
  c.mesh.tensor = 8
  c.sampling.max_new_tokens = 20480
  c.algo.num_generations = 16
  c.sampling.batch_prompts = 16
  c.eval.batch_prompts = 8
  c.eval.temperature = 1.0
  c.eval.top_p = 0.7
  return c


def prorl(scale: str = "paper"):
  """ProRL's four domains, batch and first context.

  The unit of the batch (prompts) and what is held out are ours.
  """
  c = _start("DeepSeek-R1-Distill-Qwen-1.5B")
  c.data.tasks = domains()
  c.data.max_prompt_length = 1024
  c.data.prompt_buckets = (256, 512)
  c.sampling.max_new_tokens = 8192
  c.algo.num_generations = 16
  batch(c, scale, prompts=256, minibatch=64)
  c.optim.learning_rate = 2e-6
  # Of every domain.
  c.eval.num_problems = 64
  c.eval.num_samples = 16
  return c


def domains(instructions: bool = False) -> dict:
  """ProRL's data, each domain by its size in thousands of problems.

  What is held out is what the paper tests: the six sets of mathematics, the
  four sources of Eurus-2's own validation, GPQA, IFEval, and unseen problems
  of Reasoning Gym's tasks.
  """
  tasks = {
    "deepscaler": published(40.0, validation=MATHEMATICS),
    "eurus2_code": published(24.0),
    "scp116k": published(25.0, validation=("gpqa",)),
    "reasoning_gym": {"weight": 37.0, "options": {"dataset": "mixture"}},
  }
  if instructions:
    tasks["nemotron_instructions"] = published(10.0, validation=("ifeval",))
  return tasks


def published(weight: float = 1.0, **options) -> dict:
  """A task that is a published set, from files at hand."""
  return {"weight": weight, "options": {"manual_dir": FILES, **options}}


def batch(c, scale: str, *, prompts: int, minibatch: int) -> None:
  """The paper's batch, or 64 prompts for one host of eight devices.

  The minibatch, in prompts, is the same. Responses are long: each has its own
  prompt, and a device reads one row at a time; the groups of four prompts a
  device are sampled together, and verified while the next are sampled.
  """
  if scale not in ("paper", "host"):
    raise ValueError(f"no scale {scale!r}; known: paper, host")
  devices = 64 if scale == "paper" else 8
  c.train.prompts_per_step = prompts if scale == "paper" else 64
  c.train.num_minibatches = c.train.prompts_per_step // minibatch
  c.train.micro_batch_generations = 1
  c.train.micro_batch_rows = 1
  c.sampling.batch_prompts = 4 * devices
  c.eval.batch_prompts = devices


def _start(model: str):
  """A Qwen2.5 or its like in bfloat16, split over all devices."""
  c = defaults.get_config()
  c.model.init_from = f"models/{model}"
  c.model.dtype = "bfloat16"
  c.model.remat = "layer"
  c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, -1, 1
  # Published sets have a few problems that are longer than any limit.
  c.data.filter_overlong_prompts = True
  c.rewards.workers = 16
  c.sampling.chunk = 64
  c.eval.every = 20
  c.checkpoint.every = 20
  return c
