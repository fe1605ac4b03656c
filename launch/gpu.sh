#!/usr/bin/env bash
# Trains on all GPUs of this machine; starts again what was stopped and saved.
#
#   launch/gpu.sh [--dry-run] [--config FILE] --workdir FOLDER [...]
#
# Everything but --dry-run goes to `progrpo train`, which goes on in a workdir
# without --config. Exit codes are its own: 0 done, 1 gave up, 2 bad input, 75
# stopped and saved, by Ctrl-C or SIGTERM to this script or MAX_TRIES times.
# CUDA_VISIBLE_DEVICES chooses among the GPUs.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

PROGRPO=${PROGRPO:-$ROOT/.venv/bin/progrpo}
# Of each GPU's memory, what JAX takes at the start. Less than its usual 0.75
# where others use the GPU too, or where NCCL or cuDNN find no room.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}
export PYTHONHASHSEED=0

# train ARGUMENT...: sets code. A signal ends `wait`, not the run.
train() {
  local next
  "$PROGRPO" train "$@" &
  child=$! code=127 interrupted=1
  while [[ -n $interrupted ]]; do
    interrupted='' next=0
    wait "$child" || next=$?
    ((next == 127)) || code=$next  # 127: its code was had the time before
  done
  child=''
}

[[ ${1:-} != @(-h|--help) ]] || { usage && exit 0; }
if [[ ${1:-} == --dry-run ]]; then
  DRY_RUN=1
  shift
fi
[[ " $* " == *" --workdir"* ]] ||
  die 2 "no --workdir FOLDER; --help says more"
if [[ -n $DRY_RUN ]]; then
  show "$PROGRPO" train "$@"
  exit 0
fi
[[ -x $PROGRPO ]] || die 2 "there is no $PROGRPO: run \`make setup\` and" \
  "\`.venv/bin/pip install -e '.[cuda12]'\`, or set PROGRPO"
nvidia-smi -L >&2 ||
  say "nvidia-smi knows no GPU here; JAX takes what it finds"
stopped='' child=''
# Ctrl-C also reaches the run by itself; one of each kind still means "save".
trap 'stopped=1 interrupted=1; [[ -z $child ]] || kill -TERM "$child"' TERM INT
delay=$BACKOFF_S
for ((try = 1; try <= MAX_TRIES; try++)); do
  train "$@"
  [[ $code == 75 && -z $stopped ]] || exit "$code"
  ((try < MAX_TRIES)) || break
  say "stopped and saved; start $((try + 1)) in $delay s"
  nap "$delay"
  [[ -z $stopped ]] || exit 75
  delay=$(double "$delay")
done
die 75 "stopped $MAX_TRIES times (MAX_TRIES)"
