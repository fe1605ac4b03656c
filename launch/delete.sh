#!/usr/bin/env bash
# Gives the TPU back, and its place in the queue. The bucket stays.
#
#   launch/delete.sh [--dry-run] [--yes]
#
# Asks first, unless --yes. What was not saved to the bucket is lost.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

yes=
while (($#)); do
  case $1 in
    --yes) yes=1 ;;
    *) only_common_options "$1" ;;
  esac
  shift
done
need PROJECT ZONE NAME MODE
state=$(tpu_state)
if [[ $state == MISSING ]]; then
  say "there is no $NAME in $ZONE"
  exit 0
fi
if [[ -z $yes && -z $DRY_RUN ]]; then
  read -r -p "Delete $NAME in $ZONE ($state)? [y/N] " answer || answer=
  [[ $answer == [yY]* ]] || die 2 "nothing is deleted; --yes does not ask"
fi
if queued; then
  # --force takes the TPU along.
  tpus queued-resources delete "$NAME-queue" --force
else
  tpus tpu-vm delete "$NAME"
fi
say "$NAME is deleted; $WORKDIR stays"
