# shellcheck shell=bash
# Settings of a launch: what to rent, what to run on it, how patient to be.
# Edit the defaults here, or set a variable in the environment, which wins:
#   ZONE=us-east5-b NAME=second launch/create.sh
# Every script reads this file.

set -a

# -- What to rent ----------------------------------------------------------

: "${PROJECT:=}"  # of Google Cloud; `gcloud projects list` shows yours
: "${ZONE:=}"  # one that offers the accelerator, such as us-west4-a
: "${NAME:=progrpo}"  # of the TPU VM
# v5litepod-N (v5e) and v6e-N count chips; v5p-N counts cores, two a chip.
# Up to 8 chips of v5e or v6e, and v5p-8, are a single host; more are a pod.
: "${ACCELERATOR:=v5litepod-8}"
# ondemand | spot | queued | queued-spot. Spot may be taken back at any time;
# queued waits in line until there is room.
: "${MODE:=spot}"
: "${RUNTIME:=}"  # software of the VM; empty: by the generation
: "${SERVICE_ACCOUNT:=}"  # empty: the project's; must write to the bucket
: "${NETWORK:=}"  # empty: default

# -- What to run -----------------------------------------------------------

: "${BUCKET:=}"  # gs://NAME, best in the region of the zone
: "${RUN:=run}"  # folder of the run in the bucket
: "${WORKDIR:=${BUCKET:+$BUCKET/$RUN}}"
: "${CONFIG:=}"  # a path in this repository, such as configs/tiny.py:progrpo
: "${SOURCE:=}"  # git URL to clone; empty: this working tree is copied
: "${REF:=main}"  # commit, tag or branch of SOURCE
: "${EXTRAS:=tpu,gcs}"  # of setup.py
: "${COPY_MB:=200}"  # the most that this working tree may take, packed
# Your variables that the run gets on each worker, with blanks between, such as
# "WANDB_API_KEY HF_TOKEN LIBTPU_INIT_ARGS".
: "${PASS_ENV:=}"

# -- For launch/xpk.sh alone ------------------------------------------------

: "${CLUSTER:=}"  # of GKE, made by `xpk cluster create`
: "${IMAGE:=}"  # container image of the Dockerfile, in a registry
: "${SLICES:=1}"  # each of ACCELERATOR
: "${GRACE_S:=300}"  # seconds to save in once the cluster wants hosts back

# -- Patience, in seconds --------------------------------------------------

: "${WAIT_S:=}"  # for the TPU; empty: an hour, or three days in the queue
: "${POLL_S:=60}"  # between two looks
: "${BACKOFF_S:=30}"  # before the second try; doubles
: "${BACKOFF_MAX_S:=1800}"  # and stays below this
: "${STRAGGLER_S:=600}"  # for the others once a worker has ended
: "${HANG_S:=21600}"  # for a line in any worker's log; 0: for ever
: "${TOGETHER_S:=150}"  # before machines with GPUs start again together
: "${MAX_TRIES:=100}"  # starts of the run, in all
: "${MAX_FAILS:=3}"  # failures in a row without a new checkpoint
: "${MAX_UNKNOWN:=10}"  # looks in a row without an answer
: "${SLEEP:=sleep}"  # the command that waits

# -- On the workers, relative to the home directory -------------------------

: "${REMOTE_DIR:=progrpo_jax}"
: "${REMOTE_VENV:=progrpo_venv}"
: "${REMOTE_RUNS:=progrpo_runs}"  # logs and exit codes

: "${TENSORBOARD_PORT:=6006}"
: "${LINES_SHOWN:=10}"  # of each worker's log

set +a
