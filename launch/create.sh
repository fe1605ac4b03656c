#!/usr/bin/env bash
# Rents the TPU of launch/env.sh and waits until it can be used.
#
#   launch/create.sh [--dry-run]
#
# MODE says how: on demand, spot, or in the queue. A TPU of that name that is
# there is left as it is. Exit codes: 2 yours to mend (quota, zone, bucket,
# ... by name), 75 no room or no end of waiting: try again.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

# Sets RUNTIME by the generation.
choose_runtime() {
  [[ -z $RUNTIME ]] || return 0
  case $ACCELERATOR in
    v5litepod-[1-9]*) RUNTIME=v2-alpha-tpuv5-lite ;;
    v5p-[1-9]*) RUNTIME=v2-alpha-tpuv5 ;;
    v6e-[1-9]*) RUNTIME=v2-alpha-tpuv6e ;;
    *) die 2 "ACCELERATOR is '$ACCELERATOR'; known: v5litepod-N, v5p-N," \
      "v6e-N. For another, set RUNTIME to its software version" ;;
  esac
}

# Asks for the TPU.
request() {
  local flags=("--accelerator-type=$ACCELERATOR")
  [[ $MODE != *spot ]] || flags+=(--spot)
  [[ -z $SERVICE_ACCOUNT ]] || flags+=("--service-account=$SERVICE_ACCOUNT")
  [[ -z $NETWORK ]] || flags+=("--network=$NETWORK")
  if queued; then
    tpus queued-resources create "$NAME-queue" "--node-id=$NAME" \
      "--runtime-version=$RUNTIME" "${flags[@]}"
  else
    tpus tpu-vm create "$NAME" "--version=$RUNTIME" "${flags[@]}"
  fi
}

# Returns once it is ready. Time is what was slept: gcloud's own is not long.
wait_until_ready() {
  local limit=${WAIT_S:-$(queued && echo 259200 || echo 3600)}
  local waited=0 delay=5 state
  while state=$(tpu_state); do
    case $(kind "$state") in
      ready) say "$NAME is ready" && return 0 ;;
      lost) die 75 "$NAME is $state: delete it (launch/delete.sh), try again" ;;
    esac
    ((waited < limit)) || die 75 "$NAME is still $state after $waited s" \
      "(WAIT_S); it stays asked for: run this again to go on waiting, or" \
      "launch/delete.sh"
    say "$NAME is $state; $waited s"
    nap "$delay"
    waited=$((waited + delay))
    delay=$((delay * 2 < POLL_S ? delay * 2 : POLL_S))
  done
  exit 2  # the reason has been said
}

only_common_options "$@"
need PROJECT ZONE NAME ACCELERATOR MODE BUCKET
choose_runtime
gc storage buckets describe "$BUCKET" "--project=$PROJECT" \
  "--format=value(location)"
state=$(tpu_state)
if [[ -n $DRY_RUN || $state == MISSING ]]; then
  request
elif [[ $(kind "$state") == lost ]]; then
  die 75 "$NAME is $state: delete it first (launch/delete.sh)"
fi
wait_until_ready
