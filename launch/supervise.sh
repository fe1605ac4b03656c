#!/usr/bin/env bash
# Keeps a run going to its end: rents, sets up, runs, and after a preemption
# all of it again, from the last checkpoint in the bucket.
#
#   launch/supervise.sh [--dry-run] [--delete] [-- --config.key=value ...]
#
# --delete gives the TPU back when all is over, well or badly. Killing this
# script does not stop the run; started again, it takes the run up.
#
# Exit codes: 0 the run is done; 2 bad input or settings, with the end of the
# log; 1 the run failed MAX_FAILS times without a new checkpoint, MAX_TRIES
# are used up, or nobody answers.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

ATTEMPT=''  # the last that a worker has named

# ask: sets lines, what the workers say, and ATTEMPT.
ask() {
  lines=$(worker_lines 2>/dev/null) || return
  ATTEMPT=$(awk '$2 != "-" {name = $2} END {print name}' <<<"$lines")
}

# start ARGUMENT...: a run on a TPU that is there, both as they are or new.
start() {
  local state
  state=$(tpu_state) || return 2
  case $(kind "$state") in
    lost) [[ $state == MISSING ]] || "$HERE/delete.sh" --yes || return ;;
    ready)
      if ask && [[ $(verdict <<<"$lines") == @(running|mixed) ]]; then
        say "taking up the run that goes on"
        return 0
      fi
      [[ $outcome != unreachable ]] || "$HERE/delete.sh" --yes || return
      ;;
  esac
  "$HERE/create.sh" || return
  "$HERE/setup.sh" || return
  # The number keeps two starts within a second apart.
  ATTEMPT=$(date -u +%Y%m%dT%H%M%SZ)-$started "$HERE/run.sh" -- "$@"
}

# end_of_lost: what became of a run whose TPU is gone. The bucket may know of
# an end that came before.
end_of_lost() {
  local text=''
  [[ -z $ATTEMPT ]] || text=$(
    gcloud storage cat "$WORKDIR/logs/$ATTEMPT/worker-*.exit" 2>/dev/null) ||
    true
  case $(sed -n 's/^worker //p' <<<"$text" | verdict) in
    'done') echo 'done' ;;
    bad) echo bad ;;
    *) echo preempted ;;
  esac
}

# follow: looks until the run has ended; sets outcome to done, bad, again,
# failed, preempted or unreachable.
follow() {
  local unknown=0 straggling=0 state
  while :; do
    nap "$POLL_S"
    state=$(tpu_state 2>/dev/null) || state=UNKNOWN
    case $(kind "$state") in
      lost)
        say "$NAME is $state"
        outcome=$(end_of_lost)
        return
        ;;
      waiting) continue ;;
      unknown) unknown=$((unknown + 1)) ;;
      ready)
        if ask; then unknown=0; else unknown=$((unknown + 1)); fi
        ;;
    esac
    if ((unknown >= MAX_UNKNOWN)); then
      [[ $(kind "$state") == ready ]] || die 1 "no answer from gcloud" \
        "$unknown times; the run may go on: start this again to take it up"
      outcome=unreachable
      return
    fi
    ((unknown == 0)) || continue
    outcome=$(verdict <<<"$lines")
    case $outcome in
      running)
        straggling=0
        if hangs; then
          say "no worker has written a line for $HANG_S s (HANG_S): ending it"
          abort_run
        fi
        ;;
      mixed)
        straggling=$((straggling + POLL_S))
        if ((straggling >= STRAGGLER_S)); then
          stop_stragglers
          straggling=0
        fi
        ;;
      none) outcome=failed && return ;;
      *) return ;;
    esac
  done
}

# Some workers have ended; JAX ends the others within two minutes, but a
# worker may hang.
stop_stragglers() {
  say "some workers have ended, some have not: asking those to stop"
  abort_run
}

abort_run() {
  on_workers "$(worker_command abort)" >/dev/null 2>&1 || true
}

# hangs: whether all workers have been silent for too long. The first one's log
# has a line after each step, unless another came seconds before, and after each
# evaluation.
hangs() {
  local silence
  silence=$(awk 'NR == 1 || $4 + 0 < least { least = $4 + 0 }
    END { print least + 0 }' <<<"$lines")
  ((HANG_S > 0 && silence >= HANG_S))
}

# finish CODE MESSAGE...: gives the TPU back if asked to, and ends.
finish() {
  local code=$1
  shift
  if ((code)) && [[ $outcome == @(bad|failed) ]]; then
    on_workers "$(worker_command log "$LINES_SHOWN")" 2>/dev/null || true
  fi
  [[ -z $give_back ]] || "$HERE/delete.sh" --yes || true
  die "$code" "$@"
}

# judge: counts what came of a try; ends when there is no more to be done.
judge() {
  local step
  case $outcome in
    'done') finish 0 "done after $started starts; $WORKDIR has the run" ;;
    bad) finish 2 "bad input; the run's own words are in its log" ;;
  esac
  step=$(newest_step "$WORKDIR")
  if ((step > best)); then
    best=$step fails=0 delay=$BACKOFF_S
  elif [[ $outcome != @(again|preempted|capacity) ]]; then
    fails=$((fails + 1))
  fi
  ((fails < MAX_FAILS)) || finish 1 "$outcome $fails times without a new" \
    "checkpoint (newest: $best): see the log above or in $WORKDIR/logs"
  ((started < MAX_TRIES)) || finish 1 "$started starts (MAX_TRIES) and not" \
    "done; the newest checkpoint is $best"
  say "$outcome; newest checkpoint $best; start $((started + 1)) in $delay s"
  nap "$delay"
  delay=$(double "$delay")
}

give_back=''
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --delete) give_back=1 ;;
    *) only_common_options "$1" ;;
  esac
  shift
done
(($# == 0)) || shift
need PROJECT ZONE NAME ACCELERATOR MODE BUCKET WORKDIR CONFIG
if [[ -n $DRY_RUN ]]; then
  "$HERE/create.sh"
  "$HERE/setup.sh"
  "$HERE/run.sh" -- "$@"
  exit 0
fi
outcome='' started=0 fails=0 delay=$BACKOFF_S best=$(newest_step "$WORKDIR")
while :; do
  started=$((started + 1)) code=0
  start "$@" || code=$?
  case $code in
    0) follow ;;
    2) finish 2 "stopped: the reason stands above" ;;
    75) outcome=capacity ;;
    *) outcome=failed ;;
  esac
  judge
done
