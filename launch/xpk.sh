#!/usr/bin/env bash
# Trains on TPUs of a GKE cluster, by xpk: all hosts run one container image.
#
#   CLUSTER=NAME IMAGE=REGISTRY/IMAGE launch/xpk.sh [--dry-run] [-- ...]
#
# What stands behind -- goes to `progrpo train`. IMAGE is made of the Dockerfile
# with --build-arg EXTRAS=tpu,gcs, and pushed to where the cluster can pull it.
# The run gets the variables that PASS_ENV names; they stand in the description
# of its pods, which others of the cluster may be allowed to read.
# A job whose hosts are taken away, or that stopped and saved, is started again
# on all of them, at most MAX_TRIES times; xpk does so after any failure.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

folder=''
trap 'rm -rf "$folder"' EXIT

while (($#)) && [[ $1 != -- ]]; do
  only_common_options "$1"
  shift
done
(($# == 0)) || shift
need PROJECT ZONE NAME ACCELERATOR WORKDIR CONFIG CLUSTER IMAGE
check_passed
# In a file, since others of this machine see the words of commands. xpk reads
# it line by line.
folder=$(mktemp -d)
for name in PYTHONHASHSEED $PASS_ENV; do
  value=0
  [[ $name == PYTHONHASHSEED ]] || value=${!name}
  [[ $value != *$'\n'* ]] ||
    die 2 "PASS_ENV: xpk cannot pass $name, which has more than one line"
  printf '%s=%s\n' "$name" "$value"
done >"$folder/env"
printf -v command ' %q' \
  progrpo train --config "$CONFIG" --workdir "$WORKDIR" "$@"
call=(
  xpk workload create
  --workload "$NAME"
  --cluster "$CLUSTER"
  --project "$PROJECT"
  --zone "$ZONE"
  --tpu-type "$ACCELERATOR"
  --num-slices "$SLICES"
  --docker-image "$IMAGE"
  --max-restarts "$MAX_TRIES"
  --restart-on-user-code-failure
  --termination-grace-period-seconds "$GRACE_S"
  --env-file "$folder/env"
  --command "${command# }"
)
if [[ -n $DRY_RUN ]]; then
  show "${call[@]}"
  exit 0
fi
command -v xpk >/dev/null || die 2 "there is no xpk: pip install xpk"
"${call[@]}"
say "submitted; \`xpk workload list --cluster $CLUSTER\` shows it"
