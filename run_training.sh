#!/usr/bin/env bash
# Trains the ad/game classifier, here or on AWS; sets up the environment first, once.
# `./run_training.sh help` shows what it can do.
set -euo pipefail

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
DEFAULT_SCRIPT="cost_optimized_train.py"

# Set-up writes into these two folders only, and into pipenv's own cache.
VENV=".venv"
WORK=".pipenv"
PYTHON="$VENV/bin/python"
STAMP="$VENV/set-up-done"      # says what the environment was made from; written last
UNFINISHED="$WORK/unfinished"  # is there while packages are being written
LOG="$WORK/set-up.log"
PIPENV_VERSION="2026.10.3"     # 2024.4.1 stops at a lock without sources
NEEDED_GB=10                   # 6.3 stay in .venv, the wheels are beside them during set-up
PYTHON_CURE="install 3.11, 3.12 or 3.13 with venv (Debian, Ubuntu: apt install python3 python3-venv)"
STEP=""
TICKER=""

# TMPDIR, because /tmp is too small for torch on many machines.
SET_UP_ENVIRONMENT=(
  PIPENV_IGNORE_VIRTUALENVS=1 PIPENV_VENV_IN_PROJECT=1 PIPENV_YES=1 PIPENV_NOSPIN=1
  PIPENV_INSTALL_TIMEOUT=86400 # not to give up on a slow line
  PIPENV_PIPFILE="$ROOT/Pipfile" PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1
  PIP_COMPILE=0 # on one core; it is done on all afterwards
  TMPDIR="$ROOT/$WORK/tmp" VIRTUALENV_OVERRIDE_APP_DATA="$ROOT/$WORK/virtualenv"
)

# Prints the Python behind this one if it can hold an environment, else what it lacks, and exits 1.
PROBE='
import sys
version = "%d.%d.%d" % sys.version_info[:3]
if not (3, 11) <= sys.version_info[:2] <= (3, int(sys.argv[1])) or sys.maxsize < 2**32:
    print(version)
    sys.exit(1)
try:
    import ensurepip, ssl, venv
except ImportError as error:
    print(version + " without " + error.name)
    sys.exit(1)
print(sys._base_executable)
'

# Like pip it passes over what does not compile: packages hold templates that are named .py, too.
COMPILE='
import compileall, sys
compileall.compile_dir(sys.argv[1], quiet=2, workers=0)
'

main() {
  cd -- "$ROOT"
  local verb="${1:-}"
  [[ $# -eq 0 ]] || shift
  case "$verb" in
    local) run_local "$@" ;;
    prepare) run_prepare "$@" ;;
    check) run_check "$@" ;;
    status) run_status "$@" ;;
    monitor) run_light watch_run.py "$@" ;;
    test) run_tests "$@" ;;
    set-up) set_up "${1:-default}" ;; # what the others do first; or dev, what test does
    lock) make_lock ;;
    aws) run_aws run "$@" ;;
    logs | fetch | stop | resume | reap | upload) run_aws "$verb" "$@" ;;
    help | -h | --help) print_help ;;
    "") print_help; exit 2 ;;
    *) die "unknown verb '$verb': it is one of local, prepare, aws, upload, status, monitor, logs, fetch, stop, resume, reap, check, test, lock, help" ;;
  esac
}

print_help() {
  cat <<'HELP'
Trains a classifier that tells advertisements from the game, on this machine or on AWS.

  ./run_training.sh local                            train with cost_optimized_train.py
  ./run_training.sh local train.py                   train with another script
  ./run_training.sh local -- --epochs 3              change constants; `-- --help` lists them
  ./run_training.sh local train.py -- --fps 4 --resume
  ./run_training.sh prepare [SOURCE]                 decode recordings beforehand; --help says more
  ./run_training.sh status                           the trainings: how far, how good, how they ended
  ./run_training.sh monitor [RUN]                    losses, processor, memory and GPU, live
  ./run_training.sh check                            what training needs, what was found, the cure
  ./run_training.sh test [-- -k split]               style, shell and unit tests
  ./run_training.sh lock                             make Pipfile.lock anew, after changing Pipfile

  ./run_training.sh upload BUCKET                    your videos to s3://BUCKET/data/
  ./run_training.sh check BUCKET                     what a run on AWS needs, and the cure
  ./run_training.sh aws BUCKET --dry-run             what it would cost, and what it would do
  ./run_training.sh aws BUCKET                       train there, fetch the results, end it
  ./run_training.sh aws BUCKET --script train.py --max-cost 2 -- --epochs 3
  ./run_training.sh status RUN                       how far a run on AWS is; without RUN all runs
  ./run_training.sh logs RUN -f                      what it prints
  ./run_training.sh fetch RUN                        what it has made so far, to runs/RUN/
  ./run_training.sh stop RUN                         save, fetch, end the instance
  ./run_training.sh resume RUN                       attach again, or go on where it was
  ./run_training.sh reap                             end what was left behind; prove the rest

Your videos go into data/ads/ and data/games/; with none there, it trains on a small demo set
that it makes. The first run installs Python packages into .venv/ here (some minutes, 10 GB free);
later runs start at once. Results are in runs/latest/; relative paths count from this folder.
HELP
}

run_local() {
  local script="$DEFAULT_SCRIPT"
  if [[ $# -gt 0 && "$1" != -* ]]; then
    script="${1#./}"
    shift
  fi
  if [[ $# -gt 0 ]]; then
    [[ "$1" == "--" ]] || die "local: '$1' has to stand after --: ./run_training.sh local $script -- $*"
    shift
  fi
  [[ "$script" == *.py && "$script" != */* && -f "$script" ]] \
    || die "local: there is no script '$script' here: it is one of $(echo *train.py)"
  set_up default
  # Threads that spin while they wait make training 3 times slower where another program wants a core.
  export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
  local launch=("$PYTHON") gpus
  gpus="$(count_gpus)"
  if [[ "$gpus" -gt 1 ]] && uses_ranks "$script" "$@"; then
    launch+=(-m torch.distributed.run --standalone --nproc-per-node "$gpus")
  fi
  exec "${launch[@]}" "$script" "$@" # takes this process over, with its signals and its exit code
}

run_prepare() {
  [[ "${1:-}" != "--" ]] || shift
  set_up default
  exec "$PYTHON" prepare_data.py "$@"
}

# Prints how many NVIDIA GPUs a program would see.
count_gpus() {
  if [[ -n "${CUDA_VISIBLE_DEVICES+set}" ]]; then
    awk -v list="$CUDA_VISIBLE_DEVICES" 'BEGIN { print split(list, gpus, ",") }'
  else
    { nvidia-smi --list-gpus 2>/dev/null || true; } | awk '/^GPU / { n++ } END { print n + 0 }'
  fi
}

# Whether this script is one that shares its work among processes, and is not just asked for help.
uses_ranks() {
  local word
  for word in "${@:2}"; do
    [[ "$word" != -h && "$word" != --help ]] || return 1
  done
  [[ "$(<"$1")" == *join_ranks* ]]
}

# Of this machine; with BUCKET that of AWS follows, and decides: that machine trains then.
run_check() {
  [[ "${1:-}" != "--" ]] || shift
  if [[ "${1:-}" == -* || -z "${1:-}" ]]; then
    run_light check_setup.py "$@"
  else
    (run_light check_setup.py) || true
    echo
    run_aws check "$@"
  fi
}

# Of runs here; then of those on AWS that were begun here, so that nothing is asked without them.
run_status() {
  local known=(runs/aws/*.json)
  if [[ "${1:-}" == [0-9]* ]]; then
    run_aws status "$@"
  elif [[ $# -eq 0 && -e "${known[0]}" ]]; then
    (run_light show_runs.py)
    echo
    run_aws status
  else
    run_light show_runs.py "$@"
  fi
}

# Runs a verb of train_on_aws.py, which needs boto3 alone, with whatever Python here has it.
run_aws() {
  local python
  for python in "$PYTHON" "$(find_python 13)"; do
    if "$python" -c "import boto3, tqdm" 2>/dev/null; then
      exec "$python" train_on_aws.py "$@"
    fi
  done
  set_up default
  exec "$PYTHON" train_on_aws.py "$@"
}

# Runs a script that needs nothing installed, with the environment's Python or any that will do.
run_light() {
  local python="$PYTHON"
  if ! fingerprint >/dev/null; then
    python="$(find_python 13)" || python=python3 # the check says what is wrong with it
  fi
  "$python" -c "" 2>/dev/null || die "${1%.py}: found no Python: $PYTHON_CURE" 1
  exec "$python" "$@"
}

run_tests() {
  if [[ $# -gt 0 ]]; then
    [[ "$1" == "--" ]] || die "test: '$1' has to stand after --: ./run_training.sh test -- $*"
    shift
  fi
  set_up dev
  local failed=""
  section "ruff check" "$PYTHON" -m ruff check . || failed+=", ruff check"
  section "ruff format" "$PYTHON" -m ruff format --check . || failed+=", ruff format"
  section "shellcheck" check_shell || failed+=", shellcheck"
  # One thread for each worker: more only get in each other's way. A third worker, as some tests mostly wait.
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
  section "pytest" "$PYTHON" -m pytest -n 3 --dist worksteal "$@" || failed+=", pytest"
  if [[ -n "$failed" ]]; then
    die "test: failed: ${failed#, }. Mend it and run ./run_training.sh test again." 1
  fi
  echo "All tests passed in $SECONDS s. Next: commit, or ./run_training.sh local"
}

section() {
  printf '\n== %s\n' "$1"
  shift
  "$@"
}

check_shell() (
  shopt -s nullglob
  "$VENV/bin/shellcheck" .ci/run ./*.sh ./*/*.sh
)

# Locks on the oldest Python we serve, so that nothing is chosen that only newer ones have, and away
# from this machine's pip settings, so that no local wheel or index gets in; then forgets the index.
make_lock() {
  local python folder="$ROOT/$WORK/lock"
  python="$(find_python 11)" \
    || die "lock: found ${python:-no Python}: install Python 3.11, which the lock is made on" 1
  begin_set_up "$python"
  find_pipenv "$python"
  rm -rf "$folder"
  mkdir "$folder"
  cp Pipfile "$folder/"
  run_step "locking" env -u PIP_FIND_LINKS -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL \
    PIP_CONFIG_FILE=/dev/null PIPENV_PIPFILE="$folder/Pipfile" "${PIPENV[@]}" lock --python "$python"
  "$python" - "$folder/Pipfile.lock" <<'PYTHON'
import json, pathlib, sys

path = pathlib.Path(sys.argv[1])
lock = json.loads(path.read_text())
lock["_meta"]["sources"] = []
path.write_text(json.dumps(lock, indent=4, sort_keys=True) + "\n")
PYTHON
  mv "$folder/Pipfile.lock" Pipfile.lock
  rm -rf "$folder"
  echo "Pipfile.lock is new. Next: ./run_training.sh test"
}

# --- the environment ---

# Makes .venv hold what Pipfile.lock says, for `default` or `dev`; does nothing where it does.
set_up() {
  local groups="$1" python
  if is_ready "$groups"; then return; fi
  python="$(find_python 13)" || die "set-up: found ${python:-no Python}: $PYTHON_CURE" 1
  begin_set_up "$python"
  if ! is_ready "$groups"; then # another run may just have made it
    install_packages "$python" "$groups"
  fi
  end_set_up
}

is_ready() {
  local made_from now
  [[ -f "$STAMP" && ! -f "$UNFINISHED" ]] || return
  now="$(fingerprint)" || return
  made_from="$(<"$STAMP")"
  [[ "$made_from" == "$now dev" || "$made_from" == "$now $1" ]]
}

# Prints the version of the environment's Python and the hash of the lock; fails if it can't run.
fingerprint() {
  "$PYTHON" -I -S -c '
import hashlib, sys
print(sys.version.split()[0], hashlib.sha256(open("Pipfile.lock", "rb").read()).hexdigest())
' 2>/dev/null
}

# Takes the lock on the environment. It is one on an open file: it ends with this shell, however
# that ends. A disk without such locks goes without.
begin_set_up() {
  mkdir -p "$WORK/tmp" 2>/dev/null || die "set-up: can't write into $ROOT: clone to a folder of your own" 1
  exec 9>"$WORK/lock-file"
  if ! flock_9 "$1" LOCK_NB; then
    echo "Another run is setting up the environment: waiting for it."
    flock_9 "$1" LOCK_EX || true
  fi
  : >"$LOG"
  trap stop_ticker EXIT
  trap 'stop_ticker; die "Stopped at: $STEP. The same command begins it anew." 130' INT
}

end_set_up() {
  rm -rf "$WORK/tmp"
  trap - INT EXIT
  exec 9>&-
}

flock_9() {
  "$1" -c "import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.$2)" 2>/dev/null
}

# Prints the first Python that will do, else what was found, and fails. python3 comes first: it is
# the one that pyenv, conda or setup-python made current.
find_python() {
  local newest_minor="$1" found="" name answer
  for name in python3 python3.13 python3.12 python3.11; do
    if answer="$("$name" -c "$PROBE" "$newest_minor" 2>/dev/null)"; then
      echo "$answer"
      return
    fi
    [[ -z "$answer" || "$found" == *"$answer"* ]] || found+="${found:+, }Python $answer"
  done
  echo "$found"
  return 1
}

# Sets PIPENV to the machine's own where it is new enough, else to one in a folder of ours.
find_pipenv() {
  local version
  version="$(pipenv --version 2>/dev/null | sed -n 's/^pipenv, version \([0-9]*\).*/\1/p')" || true
  if [[ "${version:-0}" -ge "${PIPENV_VERSION%%.*}" ]]; then
    PIPENV=(pipenv)
    return
  fi
  PIPENV=("$ROOT/$WORK/venv/bin/python" -m pipenv)
  if [[ "$("${PIPENV[@]}" --version 2>/dev/null)" == *" $PIPENV_VERSION" ]]; then return; fi
  rm -rf "$WORK/venv"
  run_step "making a place for pipenv" "$1" -m venv "$WORK/venv"
  run_step "installing pipenv" "$WORK/venv/bin/python" -m pip install --no-cache-dir \
    "pipenv==$PIPENV_VERSION"
}

install_packages() {
  local python="$1" groups="$2" categories="packages" made_from
  if [[ "$groups" == dev ]]; then
    categories="packages dev-packages cluster"
    if command -v c++ >/dev/null; then categories+=" annoy"; fi
  fi
  # A half-written package looks installed to pip: what was interrupted begins anew.
  if [[ -f "$UNFINISHED" ]] || ! fingerprint >/dev/null; then rm -rf "$VENV"; fi
  check_disk
  echo "Setting up the environment in $ROOT/$VENV, once. It takes some minutes."
  find_pipenv "$python"
  touch "$UNFINISHED"
  run_step "installing the packages" "${PIPENV[@]}" sync --python "$python" --categories "$categories"
  run_step "compiling them" "$PYTHON" -I -c "$COMPILE" "$VENV/lib"
  made_from="$(fingerprint)" || fail
  echo "$made_from $groups" >"$WORK/stamp"
  mv "$WORK/stamp" "$STAMP"
  rm -f "$UNFINISHED"
}

check_disk() {
  local free_gb
  free_gb="$(df -Pk . | awk 'NR == 2 { print int($4 / 1000000) }')"
  [[ -d "$VENV" || "$free_gb" -ge "$NEEDED_GB" ]] \
    || die "set-up: $free_gb GB are free in $ROOT, it needs $NEEDED_GB: free some, or clone elsewhere" 1
}

# Runs a command with its output in the log while the time it takes is shown.
run_step() {
  STEP="$1"
  shift
  local start=$SECONDS
  tick "$STEP" 9>&- &
  TICKER=$!
  env "${SET_UP_ENVIRONMENT[@]}" "$@" >>"$LOG" 2>&1 </dev/null || fail
  stop_ticker
  echo "  $STEP: done in $((SECONDS - start)) s"
}

# One line that counts on a terminal, a line every half minute elsewhere.
tick() {
  local seconds=0
  while kill -0 $$ 2>/dev/null; do
    if [[ -t 1 ]]; then
      printf '\r  %s: %d s ' "$1" "$seconds"
    elif [[ $((seconds % 30)) -eq 0 ]]; then
      echo "  $1: $seconds s"
    fi
    sleep 1 >/dev/null 2>&1
    seconds=$((seconds + 1))
  done
}

stop_ticker() {
  [[ -n "$TICKER" ]] || return 0
  kill "$TICKER" 2>/dev/null || true
  wait "$TICKER" 2>/dev/null || true
  TICKER=""
  [[ ! -t 1 ]] || printf '\r\033[K'
}

fail() {
  stop_ticker
  local cure="read the log, mend what it says"
  if grep -q "No space left" "$LOG"; then
    cure="the disk is full: free $NEEDED_GB GB"
  elif grep -qiE "connection|timed out|name resolution|max retries|no matching distribution" "$LOG"; then
    cure="connect to the internet (pip must reach its package index)"
  fi
  tail -n 12 "$LOG" | sed 's/^/    /' >&2
  die "set-up: stopped at: $STEP (log: $ROOT/$LOG). To go on: $cure, then run the same command again." 1
}

die() {
  printf '%s\n' "$1" >&2
  exit "${2:-2}"
}

main "$@"
