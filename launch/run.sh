#!/usr/bin/env bash
# Starts the run on every worker, each in tmux, and returns.
#
#   launch/run.sh [--dry-run] [-- --config.key=value ...]
#
# What stands behind -- goes to `progrpo train`. A worker on which a run goes
# on keeps that one. It gets the variables that PASS_ENV names. Logs and exit
# codes: on each worker under REMOTE_RUNS, and in WORKDIR/logs/ATTEMPT of the
# bucket.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

folder=''
trap 'rm -rf "$folder"' EXIT

# pass_environment: brings the variables of PASS_ENV to the workers, in a file
# that only its owner reads, since others see the words of commands.
pass_environment() {
  local name file=$REMOTE_RUNS/$ATTEMPT/env quoted
  check_passed
  folder=$(mktemp -d)
  for name in $PASS_ENV; do
    printf '%s=%s\0' "$name" "${!name}"
  done >"$folder/env"
  printf -v quoted %q "$file"
  # scp keeps the mode of a file that is there.
  on_workers "umask 077 && mkdir -p $REMOTE_RUNS && mkdir -p ${quoted%/env} &&
    : >$quoted"
  tpus tpu-vm scp "$folder/env" "$NAME:$file" --worker=all
}

while (($#)) && [[ $1 != -- ]]; do
  only_common_options "$1"
  shift
done
(($# == 0)) || shift
need PROJECT ZONE NAME MODE WORKDIR CONFIG REMOTE_RUNS
file=${CONFIG%%:*}
[[ -n $SOURCE || -e $ROOT/$file || $file == /* ]] ||
  die 2 "CONFIG: no file $file in $ROOT"
ATTEMPT=${ATTEMPT:-$(date -u +%Y%m%dT%H%M%SZ)}
[[ -z $PASS_ENV ]] || pass_environment
on_workers "$(worker_command start "$ATTEMPT" "$WORKDIR" \
  train --config "$CONFIG" --workdir "$WORKDIR" "$@")"
say "started as $ATTEMPT; launch/watch.sh shows it"
