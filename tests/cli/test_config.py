import pytest

from progrpo_jax import errors, main, ranges
from progrpo_jax.cli import arguments


def _parse(*argv, needed=True):
  return arguments.parse(
    arguments.parser("train", ""), list(argv), needed=needed
  )


def _tiny(*argv):
  return _parse("--config", "configs/tiny.py:grpo", *argv)[0]


def test_values_take_the_type_of_their_key():
  c = _tiny(
    "--config.seed=7",
    "--config.optim.learning_rate",
    "1e-3",
    "--config.log.wandb=True",
    "--config.algo.loss=gspo",
    "--config.data.prompt_buckets=(8,16)",
    "--config.algo.reset.at_steps=5",
    "--config.train.total_steps=3",
    "--config.data.tasks.countdown.options.template=full",
  )
  assert c.seed == 7 and c.optim.learning_rate == 1e-3
  assert c.log.wandb is True and c.algo.loss == "gspo"
  assert c.data.prompt_buckets == (8, 16) and c.algo.reset.at_steps == (5,)
  assert c.data.tasks.countdown.options.template == "full"


@pytest.mark.parametrize(
  ("argument", "said"),
  [
    ("algo.num_generation=4", "did you mean config.algo.num_generations?"),
    ("model.init_form=x", "did you mean config.model.init_from?"),
    ("train.total_steps=many", "'many' is not of type int"),
    ("train.total_steps=1.5", "'1.5' is not of type int"),
    ("optim.learning_rate=fast", "'fast' is not of type float"),
    ("log.wandb=maybe", "'maybe' is not of type bool"),
    ("algo.reset.modes=(", "is not of type tuple"),
    (
      "algo.reset.modes=every",
      """write --config.algo.reset.modes="['every']\"""",
    ),
    (
      "algo.reset.modes=(every)",
      """write --config.algo.reset.modes="['every']\"""",
    ),
    (
      """algo.reset.modes=["every', stall""",
      """write --config.algo.reset.modes="['every', 'stall']\"""",
    ),
    ("algo.reset.modes=evry", "it must be a tuple, values, each 'every' or"),
    ("algo.reset.at_steps=five", "it must be a tuple, values, each at least 1"),
    (
      'data.tasks={"a":{}}',
      "keys: countdown; entries of any name are set in a",
    ),
    (
      'algo.loss_options={"a":1}',
      "config.algo.loss_options is a group; entries of any name are set in a "
      "config file, as c.algo.loss_options = {...}, or by a dict",
    ),
    ("algo.loss_options.cap=5", "loss_options.cap; entries of any name are"),
    ("data.tasks.countdwn.weight=5", "mean config.data.tasks.countdown?"),
    ("algo.reset=1", "config.algo.reset is a group; its keys: at_steps"),
    ("seed.more=1", "no key config.seed.more"),
    ("seed", "--config.seed needs a value"),
  ],
)
def test_bad_key_or_value_is_named(argument, said):
  with pytest.raises(errors.InputError) as caught:
    _tiny(f"--config.{argument}")
  assert said in str(caught.value)


def test_bad_files_are_named(tmp_path):
  broken = tmp_path / "broken.py"
  for text, said in (
    ("def get_config(:", "invalid syntax"),
    ("import no_such_module_here", "no_such_module_here"),
    (
      "from progrpo_jax.settings import defaults\n"
      "def get_config():\n  defaults.get_config().alg.beta = 1",
      "line 3: AttributeError: there is no 'alg'; did you mean 'algo'?",
    ),
    ("x = 1", "defines no get_config"),
    ("def get_config():\n  raise ValueError('not so')", "not so"),
  ):
    broken.write_text(text)
    with pytest.raises(errors.InputError, match="broken.py") as caught:
      _parse("--config", str(broken))
    assert said in str(caught.value)
  with pytest.raises(errors.InputError, match="nowhere.py: no such file"):
    _parse("--config", "nowhere.py")
  broken.write_text("def get_config():\n  return 1")
  with pytest.raises(errors.InputError, match="takes no argument 'arg'"):
    _parse("--config", f"{broken}:arg")


def test_config_is_found_from_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert _tiny().method == "grpo"


def test_command_line_itself(capsys):
  for argv, said in (
    (["train", "--workdir", "x"], "--config FILE is needed"),
    (["train", "--config", "configs/tiny.py"], "--workdir"),
    (["train", "--wrokdir", "x"], "--workdir"),
    (
      ["export", "--policy", "a", "--output", "b", "--config.sed=1"],
      "did you mean config.seed?",
    ),
    (
      ["sample", "--config", "configs/tiny.py", "--policy", "a", "--hot"],
      "unrecognized arguments: --hot; see --help",
    ),
    (["export", "--workdir", "x", "--output", "y"], "as --policy WORKDIR"),
    (["sample", "--workdir=x"], "as --policy WORKDIR"),
    (["evaluate", "--workdir=x"], "x holds no run yet"),
    (["train", "--workdir", "x", "--confg", "y"], "did you mean --config?"),
    (
      ["train", "--workdir", "x", "--learning_rate=1"],
      "did you mean --config.optim.learning_rate or --config.warmup.l",
    ),
    (["compare", "a", "--lables=b"], "did you mean --labels?"),
    (["sample", "--policy", "runs/no"], "there is no directory runs/no"),
    (["trian"], "no command 'trian'"),
  ):
    assert main.main(argv) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
  assert main.main([]) == 2
  assert main.main(["--help"]) == 0
  assert "exit" not in capsys.readouterr().err


def test_a_tilde_in_a_flag_is_home(monkeypatch, tmp_path):
  """No shell expands it after the equals sign."""
  monkeypatch.setenv("HOME", str(tmp_path))
  parser = arguments.plain_parser("progrpo", "")
  parser.add("--workdir", ranges.Place(empty=False), "workdir")
  args = parser.parse_args(["--workdir=~/run"])
  assert args.workdir == f"{tmp_path}/run"
