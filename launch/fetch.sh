#!/usr/bin/env bash
# Copies results of the run from the bucket.
#
#   launch/fetch.sh [--dry-run] [--to FOLDER] WHAT...
#
# WHAT: metrics (all curves), report, rollouts, logs, checkpoint=STEP or
# checkpoint=latest (with what `progrpo sample` and `export` need to read it),
# or path=FOLDER for anything else under WORKDIR, such as an export.
# FOLDER is runs/RUN unless said. Run it again for what is new.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

# get PATH...: files or folders under WORKDIR, if the bucket has them.
get() {
  local path found=
  for path in "$@"; do
    if [[ -z $DRY_RUN ]] &&
      ! gcloud storage ls "$WORKDIR/$path" >/dev/null 2>&1; then
      continue
    fi
    found=1
    mkdir -p "$(dirname "$to/$path")"
    gc storage cp --recursive "$WORKDIR/$path" "$(dirname "$to/$path")/"
  done
  [[ -n $found ]] || die 2 "$WORKDIR has no $*: has the run got that far?"
}

checkpoint() {
  local step=$1
  if [[ $step == latest && -z $DRY_RUN ]]; then
    step=$(newest_step "$WORKDIR")
    ((step >= 0)) || die 2 "$WORKDIR has no checkpoint yet"
  fi
  get "checkpoints/$step"
  get config.json model
}

to='' what=()
while (($#)); do
  case $1 in
    --to)
      [[ -n ${2:-} ]] || die 2 "--to needs a folder"
      to=$2
      shift
      ;;
    metrics | report | rollouts | logs | checkpoint=?* | path=?*)
      what+=("$1")
      ;;
    *) only_common_options "$1" ;;
  esac
  shift
done
need WORKDIR
to=${to:-$ROOT/runs/$RUN}
((${#what[@]})) || die 2 "say what: metrics, report, rollouts, logs," \
  "checkpoint=STEP or path=FOLDER"
for one in "${what[@]}"; do
  case $one in
    metrics) get metrics.jsonl metrics eval.jsonl eval config.json tb ;;
    report) get report.html ;;
    checkpoint=*) checkpoint "${one#*=}" ;;
    path=*) get "${one#*=}" ;;
    *) get "$one" ;;
  esac
done
say "in $to"
