#!/usr/bin/env bash
# Brings the code and its environment to every worker; a second time, only
# what has changed. The workers need no login: they act for the VM.
#
#   launch/setup.sh [--dry-run]
#
# SOURCE decides what: this working tree (what git tracks, and new files that
# it does not ignore, at most COPY_MB when packed), or a clone of a repository
# at REF.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "$0")/lib.sh"

# Refuses to change the code under a run.
readonly GUARD='if tmux has-session -t progrpo 2>/dev/null; then
  echo "a run is going on here: launch/watch.sh shows it" >&2; exit 3; fi;'

# too_large LIST: refuses to copy files, of which it names the largest.
too_large() {
  say "this working tree takes more than $COPY_MB MB, packed (COPY_MB). It" \
    "goes to every worker at every start, with all that git does not ignore;" \
    "models and data belong in the bucket, or into .gitignore. The largest:"
  (cd "$ROOT" && xargs -0 du -k <"$1") | sort -rn |
    awk 'NR <= 5 {sub(/^[0-9]+\t/, sprintf("%.0f MB  ", $1 / 1000)); print}' >&2
  exit 2
}

# Copies the working tree.
copy_tree() {
  local folder=$1 list=$1/files
  git -C "$ROOT" ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do
      # What git still lists may be gone.
      [[ ! -e $ROOT/$file && ! -L $ROOT/$file ]] || printf '%s\0' "$file"
    done >"$list"
  # Cut off where it is too large: models and data would be packed for long.
  local code=0 most=$((COPY_MB * 1000000))
  tar -C "$ROOT" --null -T "$list" -czf - | head -c $((most + 1)) \
    >"$folder/tree.tar.gz" || code=$?
  (($(wc -c <"$folder/tree.tar.gz") <= most)) || too_large "$list"
  ((code == 0)) || die 1 "cannot pack $ROOT"
  tpus tpu-vm scp "$folder/tree.tar.gz" "$NAME:progrpo_tree.tar.gz" \
    --worker=all
  on_workers "$GUARD rm -rf $REMOTE_DIR && mkdir -p $REMOTE_DIR &&
    tar -C $REMOTE_DIR -xzf progrpo_tree.tar.gz"
}

# Clones SOURCE, or brings the clone up to date.
clone() {
  local url ref
  printf -v url %q "$SOURCE"
  printf -v ref %q "$REF"
  on_workers "$GUARD set -e
    [ -d $REMOTE_DIR/.git ] || { rm -rf $REMOTE_DIR
      git clone --quiet $url $REMOTE_DIR; }
    cd $REMOTE_DIR
    git remote set-url origin $url
    git fetch --quiet --tags origin
    git checkout --quiet --force --detach origin/$ref 2>/dev/null ||
      git checkout --quiet --force --detach $ref"
}

# A TPU that has just become ready may not take logins yet.
reach() {
  local try delay=5
  for try in 1 2 3 4 5; do
    on_workers true && return
    ((try == 5)) || nap "$delay"
    delay=$(double "$delay")
  done
  die 1 "$NAME does not take logins: is port 22 open to you (docs/tpu.md)?"
}

only_common_options "$@"
need PROJECT ZONE NAME MODE REMOTE_DIR REMOTE_VENV REMOTE_RUNS
reach
if [[ -n $SOURCE ]]; then
  clone
else
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  copy_tree "$folder"
fi
on_workers "$(worker_command setup "$EXTRAS")"
say "$NAME is set up"
