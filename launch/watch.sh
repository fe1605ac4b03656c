#!/usr/bin/env bash
# Shows the state of the TPU, and of the run and its log on every worker.
#
#   launch/watch.sh [--dry-run] [--every SECONDS] [--stop] [--tensorboard]
#
# --every: again and again. --stop: asks the run to save and stop; it exits
# with 75. --tensorboard: serves the run's curves at
# http://localhost:TENSORBOARD_PORT, through worker 0, until Ctrl-C.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

look() {
  local state
  state=$(tpu_state) || return
  echo "$NAME in $ZONE: $state"
  [[ $state == READY ]] || return 0
  on_workers "$(worker_command status); $(worker_command log "$LINES_SHOWN")"
}

tunnel() {
  local port=$TENSORBOARD_PORT
  say "http://localhost:$port once it says so; Ctrl-C ends it"
  gc compute tpus tpu-vm ssh "$NAME" --worker=0 "--zone=$ZONE" \
    "--project=$PROJECT" --quiet \
    "--command=$(worker_command tensorboard "$port" "$WORKDIR")" \
    -- -L "$port:localhost:$port"
}

every='' action=look
while (($#)); do
  case $1 in
    --every)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die 2 "--every needs seconds"
      every=$2
      shift
      ;;
    --stop) action=stop ;;
    --tensorboard) action=tunnel ;;
    *) only_common_options "$1" ;;
  esac
  shift
done
need PROJECT ZONE NAME MODE
case $action in
  stop) on_workers "$(worker_command stop)" && exit ;;
  tunnel) need WORKDIR && tunnel && exit ;;
esac
look
while [[ -n $every ]]; do
  nap "$every"
  look || say "no answer; going on"
done
