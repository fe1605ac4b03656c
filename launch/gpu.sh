#!/usr/bin/env bash
# Trains on all GPUs of this machine; starts again what was stopped and saved,
# and what failed and has saved a checkpoint that it can go on from.
#
#   launch/gpu.sh [--dry-run] [--config FILE] --workdir FOLDER [...]
#
# Everything but --dry-run goes to `progrpo train`, which goes on in a workdir
# without --config. Exit codes are those of its last start: 0 done, 2 bad input,
# 75 stopped and saved, by Ctrl-C or SIGTERM to this script; any other code if
# it failed before its first checkpoint, or MAX_FAILS times in a row without a
# new one. It is started MAX_TRIES times at the most. CUDA_VISIBLE_DEVICES
# chooses among the GPUs.
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
workdir='' before=''
for arg in "$@"; do
  case $before/$arg in
    --workdir/*) workdir=$arg ;;
    */--workdir=*) workdir=${arg#*=} ;;
  esac
  before=$arg
done
[[ -n $workdir ]] || die 2 "no --workdir FOLDER; --help says more"
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
((MAX_TRIES > 0)) || die 2 "MAX_TRIES is $MAX_TRIES: at least one start"
sees_checkpoints "$workdir"
delay=$(first_pause) fails=0 best=$(newest_step "$workdir")
for ((try = 1; try <= MAX_TRIES; try++)); do
  train "$@"
  [[ -z $stopped ]] || exit "$code"
  case $code in
    0 | 2) exit "$code" ;;
    75) end="stopped and saved" ;;
    *)
      end="failed with code $code"
      worth_a_try "$workdir" || die "$code" "$end; failures without a new" \
        "checkpoint: $fails"
      ((fails)) || delay=$(first_pause)
      ;;
  esac
  ((try < MAX_TRIES)) || break
  say "$end; start $((try + 1)) in $delay s"
  # A signal may have come while checkpoints were looked for.
  [[ -n $stopped ]] || nap "$delay"
  [[ -z $stopped ]] || exit "$code"
  delay=$(double "$delay")
done
die "$code" "$end; these were $MAX_TRIES starts (MAX_TRIES)"
