#!/usr/bin/env bash
# Starts the run on every worker, each in tmux, and returns.
#
#   launch/run.sh [--dry-run] [-- --config.key=value ...]
#
# What stands behind -- goes to `progrpo train`. A worker on which a run goes
# on keeps that one. Logs and exit codes: on each worker under REMOTE_RUNS,
# and in WORKDIR/logs/ATTEMPT of the bucket.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

while (($#)) && [[ $1 != -- ]]; do
  only_common_options "$1"
  shift
done
(($# == 0)) || shift
need PROJECT ZONE NAME MODE WORKDIR CONFIG
file=${CONFIG%%:*}
[[ -n $SOURCE || -e $ROOT/$file || $file == /* ]] ||
  die 2 "CONFIG: no file $file in $ROOT"
ATTEMPT=${ATTEMPT:-$(date -u +%Y%m%dT%H%M%SZ)}
on_workers "$(worker_command start "$ATTEMPT" "$WORKDIR" \
  train --config "$CONFIG" --workdir "$WORKDIR" "$@")"
say "started as $ATTEMPT; launch/watch.sh shows it"
