# shellcheck shell=bash
# What the scripts share. Exit codes: 0 done, 1 failed, 2 yours to mend, 75
# worth another try.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$HERE")
# shellcheck source=launch/env.sh
source "$HERE/env.sh"
export DRY_RUN=${DRY_RUN:-} ROOT
ME=$(basename "$0")
exec 3>&1  # where a dry run shows commands, whatever captures the output

say() { printf '%s: %s\n' "$ME" "$*" >&2; }

# die CODE MESSAGE...
die() {
  local code=$1
  shift
  say "$*"
  exit "$code"
}

# nap SECONDS: waits, in the background: a signal that a script handles is then
# handled at once.
nap() {
  [[ -z $DRY_RUN ]] || return 0
  command "$SLEEP" "$1" &
  wait $! || kill $! 2>/dev/null || true
}

# Shows the comment at the head of the script.
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "$0"; }

# common_option ARG: takes what every script takes; 1 for anything else.
common_option() {
  case $1 in
    --dry-run) DRY_RUN=1 ;;
    -h | --help) usage && exit 0 ;;
    *) return 1 ;;
  esac
}

# only_common_options ARG...: for scripts that take nothing else.
only_common_options() {
  local arg
  for arg in "$@"; do
    common_option "$arg" || die 2 "unknown option $arg; --help says more"
  done
}

# need VARIABLE...: each must have a value, of the right form.
need() {
  local name
  for name in "$@"; do
    [[ -n ${!name} ]] || die 2 "$name is not set: export it, or set it in" \
      "launch/env.sh, which describes it"
    case $name in
      BUCKET) matches BUCKET '^gs://[a-z0-9][a-z0-9._-]+$' gs://NAME ;;
      WORKDIR) matches WORKDIR '^gs://[^/]+/.*[^/]$' gs://BUCKET/FOLDER ;;
      MODE) matches MODE '^(ondemand|spot|queued|queued-spot)$' \
        "ondemand, spot, queued or queued-spot" ;;
      REMOTE_*) matches "$name" '^[A-Za-z0-9][A-Za-z0-9._-]*$' \
        "the name of a folder" ;;
    esac
  done
  [[ -n $DRY_RUN ]] || command -v gcloud >/dev/null || die 2 \
    "gcloud is not installed: see https://cloud.google.com/sdk/docs/install"
}

# matches VARIABLE PATTERN FORM
matches() {
  [[ ${!1} =~ $2 ]] || die 2 "$1 is '${!1}', not $3: mend it where it is" \
    "set, in the environment or launch/env.sh"
}

# check_passed: each name in PASS_ENV must be that of a variable that is set.
check_passed() {
  local name
  for name in $PASS_ENV; do
    [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || die 2 "PASS_ENV: '$name' is" \
      "no name of a variable; names alone, with blanks between"
    [[ -n ${!name+x} ]] || die 2 "PASS_ENV names $name, which is not set"
  done
}

queued() { [[ $MODE == queued* ]]; }

# show COMMAND...: as one could type it.
show() {
  {
    printf '+'
    printf ' %q' "$@"
    printf '\n'
  } >&3
}

# gc ARGUMENT...: gcloud. What it says goes through; a failure is explained
# and becomes one of the codes above.
gc() {
  if [[ -n $DRY_RUN ]]; then
    show gcloud "$@"
    return 0
  fi
  local errors code=0
  errors=$(mktemp)
  # The output goes around the pipe, the errors through it.
  { gcloud "$@" 2>&1 >&4 3>&- 4>&- | tee "$errors" >&2; } 4>&1 || code=$?
  if ((code)); then
    # Only gcloud's own words: what a worker says is not about the cloud.
    code=0
    explain "$(sed -n '/^ERROR: (gcloud/,$p' "$errors")" || code=$?
  fi
  rm -f "$errors"
  return "$code"
}

tpus() { gc compute tpus "$@" "--zone=$ZONE" "--project=$PROJECT" --quiet; }

# on_workers COMMAND: runs it on every worker; 0 if all did.
on_workers() { tpus tpu-vm ssh "$NAME" --worker=all "--command=$1"; }

# means CODE PATTERN MESSAGE...: whether $text is an error of this kind.
means() {
  grep -qiE -- "$2" <<<"$text" || return 1
  found=$1
  shift 2
  say "$*"
}

# explain TEXT: says what an error of gcloud means and what to do about it;
# returns its code. The more telling words stand first.
explain() {
  local text=$1 found=1 project="--project=$PROJECT"
  # What its words say of its place and of the account is not the reason.
  means 75 '(nodes|queuedResources)/[^ ]*.*not found' \
    "lost: there is no such TPU any more" ||
    means 2 'auth login|have an active account|reauthentic|invalid_grant' \
    "login: run \`gcloud auth login\`" ||
    means 2 'has not been used|SERVICE_DISABLED|api.* is disabled' \
      "API: off in project $PROJECT; run \`gcloud services enable" \
      "tpu.googleapis.com $project\`" ||
    means 2 'quota (limit|exceeded)|QUOTA_EXCEEDED|exceeded.*quota' \
      "quota: project $PROJECT may not have this much $ACCELERATOR in $ZONE." \
      "Ask at https://console.cloud.google.com/iam-admin/quotas, take a" \
      "smaller ACCELERATOR or another ZONE, or another MODE: spot has a" \
      "quota of its own" ||
    means 75 'no more capacity|insufficient.*capacity|RESOURCE_EXHAUSTED' \
      "capacity: no $ACCELERATOR is free in $ZONE now. Try later, in another" \
      "ZONE, or with MODE=queued or queued-spot" ||
    means 2 '(gs://|bucket).*(not found|not exist)|404.*bucket' \
      "bucket: there is no $BUCKET; make it: \`gcloud storage buckets create" \
      "$BUCKET $project --location=${ZONE%-*}\`" ||
    means 2 'already.?exists' \
      "name: $ZONE has a $NAME already: delete it with launch/delete.sh, or" \
      "choose another NAME" ||
    explain_place
  return "$found"
}

# The second half of `explain`: who and where.
explain_place() {
  means 2 'accelerator.*(not found|not available|invalid|unknown)' \
    "accelerator: $ZONE has no $ACCELERATOR; see \`gcloud compute tpus" \
    "accelerator-types list --zone=$ZONE $project\`" ||
    means 2 '(zone|location)[^/]*(not found|invalid|unknown|not exist)' \
      "zone: no TPUs in '$ZONE'; see \`gcloud compute tpus locations list" \
      "$project\`" ||
    means 2 'runtime.*(not found|invalid|unknown)' \
      "runtime: $ZONE has no version '$RUNTIME'; see \`gcloud compute tpus" \
      "versions list --zone=$ZONE $project\`" ||
    means 2 'project.*(not found|not exist|invalid)' \
      "project: there is no '$PROJECT'; see \`gcloud projects list\`" ||
    means 2 'PERMISSION_DENIED|not have.*permission|forbidden|HTTPError 403' \
      "permission: your account lacks a role in project $PROJECT:" \
      "roles/tpu.admin, roles/storage.admin and roles/iam.serviceAccountUser" \
      "serve" ||
    say "gcloud failed; what it said stands above"
}

# state_of KIND FIELD NAME: a word; MISSING if there is none of that name,
# UNKNOWN if nobody answers.
state_of() {
  local command=(
    gcloud compute tpus "$1" describe "$3" "--format=value($2)"
    "--zone=$ZONE" "--project=$PROJECT" --quiet)
  if [[ -n $DRY_RUN ]]; then
    show "${command[@]}"
    echo READY
    return 0
  fi
  local text code=0
  if text=$("${command[@]}" 2>&1); then
    echo "${text:-UNKNOWN}"
  elif grep -qE '(nodes|queuedResources)/.*not found' <<<"$text"; then
    echo MISSING
  else
    printf '%s\n' "$text" >&2
    explain "$text" || code=$?
    ((code == 2)) && return 2
    echo UNKNOWN
  fi
}

# tpu_state: of the TPU, or of its place in the queue while it has none.
tpu_state() {
  local state=ACTIVE
  ! queued || state=$(state_of queued-resources state.state "$NAME-queue") ||
    return
  [[ $state != ACTIVE && -z $DRY_RUN ]] || state=$(
    state_of tpu-vm state "$NAME") || return
  echo "$state"
}

# kind STATE: ready | lost (delete and make anew) | unknown | waiting.
kind() {
  case $1 in
    READY) echo ready ;;
    MISSING | PREEMPTED | TERMINATED | STOPPED | HIDDEN | FAILED | SUSPENDED)
      echo lost
      ;;
    UNKNOWN | STATE_UNSPECIFIED) echo unknown ;;
    *) echo waiting ;;
  esac
}

# double SECONDS: what to wait after that, within BACKOFF_MAX_S.
double() {
  local next=$(($1 * 2))
  echo $((next < BACKOFF_MAX_S ? next : BACKOFF_MAX_S))
}

# worker_command WORDS...: for the shell of a worker, in the copied tree.
worker_command() {
  local quoted
  printf -v quoted ' %q' "$@"
  # In parentheses: two of them in a row both start at home.
  printf '(cd %q && REMOTE_VENV=%q REMOTE_RUNS=%q bash launch/worker.sh%s)' \
    "$REMOTE_DIR" "$REMOTE_VENV" "$REMOTE_RUNS" "$quoted"
}

# worker_lines: what the workers say, a line each: NAME ATTEMPT STATE SILENCE.
# Fails if one of them cannot be asked.
worker_lines() {
  on_workers "$(worker_command status)" | sed -n 's/^worker //p'
}

# verdict: of such lines on stdin, one word: done, bad (input), again (saved
# and stopped), failed, running, mixed (some have ended badly, some run),
# none (nothing was started).
verdict() {
  awk '
    { lines++; seen[$3]++ }
    $3 != "running" && $3 != "none" && $3 != 0 { ended++ }
    END {
      if (!lines || seen["none"]) print "none"
      else if (seen["running"]) print (ended ? "mixed" : "running")
      else if (seen[0] == lines) print "done"
      else if (seen[2]) print "bad"
      else if (seen[75]) print "again"
      else print "failed"
    }'
}

# newest_step FOLDER: of the newest whole checkpoint of a run, in a bucket or on
# a disk; -1 for none.
newest_step() {
  local step folder=${1%/}
  step=$(
    if [[ $folder == gs://* ]]; then
      gcloud storage ls "$folder/checkpoints/*/commit_success.txt" 2>/dev/null
    else
      # A name that is no step alone is that of an unfinished checkpoint.
      printf '%s\n' "$folder"/checkpoints/*/
    fi | sed -nE 's|.*/([0-9]+)/(commit_success\.txt)?$|\1|p' |
      sort -n | tail -n 1
  ) || true
  echo "${step:--1}"
}

# sees_checkpoints FOLDER: says so if it cannot: the run may reach a bucket with
# credentials that this shell does not have.
sees_checkpoints() {
  local bucket=${1#gs://}
  [[ $1 != gs://* ]] ||
    gcloud storage ls "gs://${bucket%%/*}" >/dev/null 2>&1 ||
    say "gcloud cannot list gs://${bucket%%/*}: a run that fails is started" \
      "again only if gcloud shows its checkpoints"
}

# first_pause: before a second start. Machines of one run notice after
# config.hosts.heartbeat_s that another is lost, and must have ended by then.
first_pause() {
  if ((${JAX_NUM_PROCESSES:-1} > 1 && BACKOFF_S < TOGETHER_S)); then
    echo "$TOGETHER_S"
  else
    echo "$BACKOFF_S"
  fi
}

# worth_a_try FOLDER: counts a failure of its run. False after MAX_FAILS in a
# row without a new checkpoint, and for a run that has never saved one: its
# settings are to blame more often than the machine. Sets best and fails.
worth_a_try() {
  local step
  step=$(newest_step "$1")
  if ((step > best)); then
    best=$step fails=0
  else
    fails=$((fails + 1))
  fi
  ((best >= 0 && fails < MAX_FAILS))
}
