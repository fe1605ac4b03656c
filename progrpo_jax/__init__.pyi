from progrpo_jax.api import compare as compare
from progrpo_jax.api import evaluate as evaluate
from progrpo_jax.api import load_policy as load_policy
from progrpo_jax.api import sample as sample
from progrpo_jax.api import train as train
from progrpo_jax.api import warmup as warmup
from progrpo_jax.run import load_run as load_run

__version__: str
