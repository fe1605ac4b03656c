#!/usr/bin/env bash
# Runs on each worker, called by the other scripts:
#
#   worker.sh setup EXTRAS         the environment, unless it is there
#   worker.sh start ATTEMPT WORKDIR ARGUMENT...   `progrpo ARGUMENT...` in tmux
#   worker.sh status               a line: worker NAME ATTEMPT STATE SILENCE
#   worker.sh log LINES            the end of the log
#   worker.sh stop                 asks the run to save and stop
#   worker.sh abort                ends it at once
#   worker.sh tensorboard PORT WORKDIR
#   worker.sh run ATTEMPT WORKDIR ARGUMENT...     what tmux runs
#
# STATE is none, running, lost (it ended without a word), or the exit code;
# SILENCE is the seconds since the last line of its log.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=$HOME/${REMOTE_VENV:-progrpo_venv}
RUNS=$HOME/${REMOTE_RUNS:-progrpo_runs}
COPY_S=${COPY_S:-60}  # between two copies of the log to the bucket
LOG_PART=${LOG_PART:-1048576}  # bytes of the log in one file of the bucket
NOTICE_S=${NOTICE_S:-5}  # between two looks for a notice of the machine's end
METADATA=http://metadata.google.internal/computeMetadata/v1/instance
# The hosts of a TPU are called ...-w-0, ...-w-1 and so on.
WORKER=$(hostname)
WORKER=${WORKER##*-w-}

fail() {
  echo "worker $WORKER: $*" >&2
  exit 1
}

# Makes $VENV with a Python of 3.11 or newer; the image may have none.
make_venv() {
  local python
  for python in python3.11 python3.12 python3.13 python3; do
    if "$python" -c 'import sys, venv, ensurepip
sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$python" -m venv "$VENV"
      return
    fi
  done
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --seed --python 3.11 "$VENV"
}

setup() {
  local stamp lock
  stamp="$PWD $1 $(cat requirements*.lock setup.py | sha256sum)"
  if [[ -e $VENV/stamp && $(<"$VENV/stamp") == "$stamp" ]]; then
    echo "worker $WORKER: the environment is there"
    return
  fi
  command -v tmux >/dev/null || sudo apt-get install -y -qq tmux
  [[ -x $VENV/bin/python ]] || make_venv
  lock=$("$VENV/bin/python" -c 'import sys
print("requirements.lock" if sys.version_info < (3, 12)
      else "requirements-3.12.lock")')
  "$VENV/bin/python" -m pip install --quiet --no-deps -r "$lock"
  # Of one generator of Reasoning Gym; may take a C compiler.
  "$VENV/bin/python" -m pip install --quiet pycosat==0.6.6 2>/dev/null ||
    echo "worker $WORKER: no pycosat, so no zebra_puzzles"
  "$VENV/bin/python" -m pip install --quiet -c "$lock" \
    --no-build-isolation -e ".[$1]"
  echo "$stamp" >"$VENV/stamp"
  echo "worker $WORKER: set up"
}

alive() { tmux has-session -t progrpo 2>/dev/null; }

attempt() { cat "$RUNS/current" 2>/dev/null || true; }

start() {
  if alive; then
    rm -f "$RUNS/$1/env"
    echo "worker $WORKER: a run is going on"
    return
  fi
  [[ -x $VENV/bin/progrpo ]] || fail "not set up: launch/setup.sh"
  mkdir -p "$RUNS/$1"
  rm -f "$RUNS/$1/exit"
  echo "$1" >"$RUNS/current"
  local command
  printf -v command ' %q' env "REMOTE_VENV=${VENV#"$HOME/"}" \
    "REMOTE_RUNS=${RUNS#"$HOME/"}" bash launch/worker.sh run "$@"
  tmux new-session -d -s progrpo "$command"
  echo "worker $WORKER: started"
}

# copy FILE WORKDIR ATTEMPT NAME: to the bucket.
copy() {
  gcloud storage cp --quiet "$1" \
    "$2/logs/$3/worker-$WORKER.$4" >/dev/null 2>&1
}

# copy_log FOLDER WORKDIR ATTEMPT: what is new of the log, in parts named log,
# log.0001, log.0002 and so on: nothing can be appended in a bucket, and the
# log of weeks is not to be sent once a minute. What cannot be copied is copied
# the next time.
copy_log() {
  local number=0 sent=0 size name
  # How many parts are there to the end, and how much of the next.
  [[ ! -e $1/sent ]] || read -r number sent <"$1/sent"
  while true; do
    dd "if=$1/log" "of=$1/part" "bs=$LOG_PART" "skip=$number" count=1 \
      status=none 2>/dev/null || return 0
    size=$(stat -c %s "$1/part")
    ((size > sent)) || return 0
    name=log
    ((number == 0)) || printf -v name 'log.%04d' "$number"
    copy "$1/part" "$2" "$3" "$name" || return 0
    sent=$size
    ((size < LOG_PART)) || { number=$((number + 1)) && sent=0; }
    echo "$number $sent" >"$1/sent"
  done
}

# notice KEY: what the machine's metadata say, or nothing.
notice() {
  curl -sf -m 5 -H 'Metadata-Flavor: Google' "$METADATA/$1" || true
}

# watch_notices PIDFILE: tells the run once that the machine will be taken
# away, and ends. SIGTERM comes with the end itself; this is another signal,
# since a second SIGTERM would mean at once.
watch_notices() {
  while sleep "$NOTICE_S"; do
    if [[ $(notice preempted) == TRUE ||
      $(notice maintenance-event) == TERMINATE_ON_HOST_MAINTENANCE ]]; then
      kill -USR1 "$(<"$1")"
      return
    fi
  done
}

# take_environment FILE: exports what launch/run.sh has put there, NAME=VALUE
# with a zero byte after each, and leaves no copy of it on the disk.
take_environment() {
  local pair
  [[ -e $1 ]] || return 0
  while IFS= read -r -d '' pair; do
    export "${pair%%=*}=${pair#*=}"
  done <"$1"
  rm -f "$1"
}

# Runs the command, keeps its log and its exit code, here and in the bucket.
run() {
  local name=$1 workdir=$2 folder=$RUNS/$1 code=0
  shift 2
  # When the machine goes down everything in it is told, this shell and the
  # run alike: passing the signal on would be the run's second, which means
  # at once. The terminal goes too, which should not matter.
  trap : TERM INT
  # A notice that comes before the run can take it is left out.
  trap '' HUP USR1
  (
    # A copy that is under way is ended first: the last one comes after it.
    trap 'exit 0' TERM INT
    while true; do
      sleep "$COPY_S" &
      wait $!
      copy_log "$folder" "$workdir" "$name"
    done
  ) </dev/null >/dev/null 2>&1 &
  local copier=$!
  (
    trap - TERM INT
    watch_notices "$folder/pid"
  ) </dev/null >/dev/null 2>&1 &
  local watcher=$!
  take_environment "$folder/env"
  export PYTHONHASHSEED=0 PYTHONUNBUFFERED=1
  # In the foreground: a trapped signal then waits for its end.
  bash -c 'echo $$ >"$0"; exec "$@"' "$folder/pid" "$VENV/bin/progrpo" "$@" \
    </dev/null >>"$folder/log" 2>&1 || code=$?
  # Another process may get this number, and must not get the run's signals.
  rm -f "$folder/pid"
  kill "$copier" "$watcher" 2>/dev/null || true
  echo "worker $WORKER $name $code" >"$folder/exit.new"
  mv "$folder/exit.new" "$folder/exit"
  # A run does not fail for want of a copy.
  copy "$folder/exit" "$workdir" "$name" exit || true
  wait "$copier" || true
  copy_log "$folder" "$workdir" "$name"
}

status() {
  local name state=none silence=0
  name=$(attempt)
  if [[ -n $name ]]; then
    if [[ -e $RUNS/$name/exit ]]; then
      state=$(awk '{print $4}' "$RUNS/$name/exit")
    elif alive; then
      state=running
    else
      state=lost
    fi
  fi
  # After an exit code the copies to the bucket may still be under way.
  if [[ $state == [0-9]* ]] && alive; then state=running; fi
  if [[ -e $RUNS/$name/log ]]; then
    silence=$(($(date +%s) - $(stat -c %Y "$RUNS/$name/log")))
  fi
  echo "worker $WORKER ${name:--} $state $silence"
}

log() {
  tail -n "$1" "$RUNS/$(attempt)/log" 2>/dev/null | sed "s/^/[$WORKER] /" ||
    true
}

# signal_run NAME: to the run, if there is one.
signal_run() {
  local pid
  pid=$RUNS/$(attempt)/pid
  if alive && [[ -e $pid ]]; then kill "-$1" "$(<"$pid")" || true; fi
}

stop() { signal_run TERM; }

abort() { signal_run KILL; }

# In an environment of its own: the lock knows nothing of it.
tensorboard() {
  local own=$HOME/progrpo_tensorboard
  if [[ ! -x $own/bin/tensorboard ]]; then
    "$VENV/bin/python" -m venv "$own"
    "$own/bin/python" -m pip install --quiet tensorboard gcsfs setuptools
  fi
  exec "$own/bin/tensorboard" --host localhost --port "$1" --logdir "$2/tb"
}

"$@"
