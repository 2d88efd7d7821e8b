#!/usr/bin/env bash
# Start script of an EC2 instance: runs one attempt of a training, and powers the instance off,
# whatever happens. cloud/user_data.py puts its variables before it; nothing here is a secret.
#
# Each stop works without the others: two timers, set before anything can fail; a watcher that
# outlives this script; the trap at its end; and the guard (cloud/guard.py). Outside, the laptop has
# scheduled a terminate. Powering off terminates: so the instance was launched.

# No -e: a command that fails where nobody thought of it must not keep the next stop from being set.
set -uo pipefail

# The timers come first. There are two, as `shutdown -c` takes back the one and a crash the other.
export ADGAME_MAX_MINUTES="${ADGAME_MAX_MINUTES:-360}"
shutdown -P "+$ADGAME_MAX_MINUTES" "the time of this training is over"
systemd-run --quiet --collect --on-active="${ADGAME_MAX_MINUTES}m" shutdown -P now
trap leave EXIT

export HOME="${HOME:-/root}" # cloud-init sets none
export ADGAME_HOME="${ADGAME_HOME:-/opt/ad-game-classifier}"
export ADGAME_FINAL_UPLOAD_SECONDS="${ADGAME_FINAL_UPLOAD_SECONDS:-90}"
export ADGAME_BUCKET="${ADGAME_BUCKET:-}" ADGAME_RUN="${ADGAME_RUN:-}"
export ADGAME_ATTEMPT="${ADGAME_ATTEMPT:-0}" ADGAME_CODE_SHA256="${ADGAME_CODE_SHA256:-}"
export RUN_URL="s3://$ADGAME_BUCKET/runs/$ADGAME_RUN"
export PLACE="$ADGAME_HOME/on-aws" # cloud/workplace.py
export LOG="$PLACE/log"
export PYTHON="$ADGAME_HOME/.venv/bin/python"
export PYTHONUNBUFFERED=1
export AWS_METADATA_SERVICE_NUM_ATTEMPTS=5 # of boto3, for the keys of the role
ATTEMPT=""
STATE=failed
REASON="the start script ended early"

main() {
  mkdir -p "$PLACE/fetched"
  date +%s >"$PLACE/started"
  : >>"$LOG" || LOG=/dev/null # a disk that can't be written is no reason to stay
  exec 3>&1 >>"$LOG" 2>&1 </dev/null
  tail -n +1 -f --pid=$$ "$LOG" >&3 & # to the console, by way of cloud-init
  setsid bash -c "$(declare -f); watch $$" watcher 3>&- &
  trap 'be_ended TERM' TERM
  trap 'be_ended INT' INT
  trap 'be_ended HUP' HUP
  say "attempt $ADGAME_ATTEMPT of $ADGAME_RUN; off in $ADGAME_MAX_MINUTES minutes at the latest"
  power_off_after_reboot
  head -c 8000000 /dev/zero >"$PLACE/ballast" # room for the last words on a full disk
  step "fetching the code" 600 fetch
  cd "$ADGAME_HOME" || exit
  beat 3>&- &
  local beat=$!
  step "finding a Python" "$(seconds_to_set_up)" get_python
  step "setting up the environment" "$(seconds_to_set_up)" ./run_training.sh set-up
  kill "$beat" 2>/dev/null
  setsid bash -c "until '$PYTHON' -m cloud.guard; do sleep 1; done" guard 3>&- &
  "$PYTHON" -m cloud.attempt 3>&- &
  ATTEMPT=$!
  wait "$ATTEMPT"
  REASON="the process that ran the attempt ended with code $?, without a word"
}

# --- the stops

# Timers and training are gone after a reboot: cloud-init runs what lies in this folder at each boot.
power_off_after_reboot() {
  local folder=/var/lib/cloud/scripts/per-boot
  [[ "$ADGAME_HOME" == /opt/ad-game-classifier && -d "$folder" ]] || return
  printf '#!/bin/sh\nexec shutdown -P now\n' >"$folder/ad-game-classifier"
  chmod +x "$folder/ad-game-classifier"
}

# Waits in a session of its own until the start script is gone, if by kill -9.
watch() {
  while is_running "$1"; do sleep 1; done
  last_words failed "the start script was killed"
  power_off
}

leave() {
  trap - EXIT
  trap '' TERM INT HUP
  last_words "$STATE" "$REASON"
  power_off
}

be_ended() {
  STATE=interrupted
  REASON="SIG$1: the instance is shut down, or was asked to"
  [[ -z "$ATTEMPT" ]] || kill "$ATTEMPT" # it has not much time: Python takes a second to start
  exit 143
}

power_off() {
  trap - TERM INT HUP # the system stops sooner where nobody clings to it
  while true; do
    say "power off"
    shutdown -P now
    sleep 5
  done
}

# Sends what is here and how the attempt ended, unless that was done; bounded in time.
last_words() {
  [[ ! -e "$PLACE/end.json" ]] || return
  say "the end: $1: $2"
  if [[ -x "$PYTHON" && -f "$PLACE/attempt.json" ]]; then
    cd "$ADGAME_HOME" || return
    # Saving, on top of sending, is bounded there.
    timeout -k 5 "$(whole "$ADGAME_FINAL_UPLOAD_SECONDS + 150")" "$PYTHON" -m cloud.attempt end "$1" "$2"
  fi
  [[ ! -e "$PLACE/end.json" ]] || return
  # Without Python, or without its help.
  local dollars seconds
  dollars="$(sed -n 's/.*"dollars_per_hour": *\([0-9.]*\).*/\1/p' "$PLACE/attempt.json" 2>/dev/null)"
  seconds=$(($(date +%s) - $(<"$PLACE/started")))
  dollars="$(awk -v price="${dollars:-0}" -v s="$seconds" 'BEGIN { printf "%.4f", price * s / 3600 }')"
  send "$LOG" "attempts/$ADGAME_ATTEMPT.log"
  printf '{"state": "%s", "reason": "%s", "exit_code": 1, "ended": "%s", "dollars": %s}\n' \
    "$1" "$(plain <<<"$2")" "$(now)" "$dollars" >"$PLACE/end.json"
  # The first end that is written is the one that counts.
  timeout 30 aws s3 ls "$RUN_URL/attempts/$ADGAME_ATTEMPT-end.json" >/dev/null \
    || send "$PLACE/end.json" "attempts/$ADGAME_ATTEMPT-end.json"
}

# --- the steps

# Runs a step, with its output in the log; where it fails, the attempt ends with its last lines.
step() {
  local what="$1" limit="$2" code lines
  shift 2
  say "$what"
  # In the background, as bash heeds no signal while it waits for anything else; by another bash,
  # as timeout runs no functions.
  timeout -k 10 "$limit" bash -c "$(declare -f); \"\$@\"" step "$@" 3>&- &
  wait $!
  code=$?
  [[ $code -ne 0 ]] || return 0
  lines="$(tail -n 4 "$LOG" | plain)"
  if [[ $code -eq 124 ]]; then lines="it took more than $limit s; $lines"; fi
  REASON="$what failed: $lines"
  exit 1
}

# Plan, attempt and code; right after the start, the role of the instance may not be there yet.
fetch() {
  local try to="$PLACE/fetched"
  for try in 1 2 3 4 5 6; do
    if timeout 120 aws s3 cp "$RUN_URL/" "$to" --recursive --only-show-errors --exclude '*' \
      --include plan.json --include code.tar.gz --include "attempts/$ADGAME_ATTEMPT.json" \
      && echo "$ADGAME_CODE_SHA256  $to/code.tar.gz" | sha256sum --check --quiet; then
      mv "$to/plan.json" "$PLACE/plan.json" \
        && mv "$to/attempts/$ADGAME_ATTEMPT.json" "$PLACE/attempt.json" \
        && tar -xzf "$to/code.tar.gz" --no-same-owner -C "$ADGAME_HOME"
      return
    fi
    say "no code yet ($try)"
    sleep $((2 * try))
  done
  echo "the code can't be had whole from $RUN_URL: may the role of the instance read it?"
  return 1
}

# Any that run_training.sh takes; Ubuntu has one to install, Amazon Linux too.
get_python() {
  local version
  if has_python; then return; fi
  export DEBIAN_FRONTEND=noninteractive
  # Another process may be installing just after the start.
  local apt=(apt-get -q -y -o DPkg::Lock::Timeout=600)
  if command -v apt-get >/dev/null; then "${apt[@]}" update; fi
  for version in 3.13 3.12 3.11; do
    if command -v apt-get >/dev/null; then
      "${apt[@]}" install "python$version" "python$version-venv"
    else
      dnf install -q -y "python$version"
    fi
    if has_python; then return; fi
  done
  echo "no Python 3.11 to 3.13 with venv can be installed: choose an image that has one"
  return 1
}

has_python() {
  local name probe='import ensurepip, ssl, sys, venv
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
  for name in python3 python3.13 python3.12 python3.11; do
    if "$name" -c "$probe" 2>/dev/null; then return; fi
  done
  return 1
}

seconds_to_set_up() {
  whole "60 * ${ADGAME_SET_UP_MINUTES:-40} - $(date +%s) + $(<"$PLACE/started")"
}

# --- what is said

say() {
  printf '%(%H:%M:%S)T %s\n' -1 "$*" >>"$LOG"
}

# Heartbeats and the log, until there is a Python for them.
beat() {
  local outbox="$PLACE/outbox"
  mkdir -p "$outbox/attempts"
  while sleep 4 && is_running $$; do
    printf '{"attempt": %d, "time": "%s", "stage": "setting up", "line": "%s"}\n' \
      "$ADGAME_ATTEMPT" "$(now)" "$(tail -n 1 "$LOG" | plain)" >"$outbox/heartbeat.json"
    cp "$LOG" "$outbox/attempts/$ADGAME_ATTEMPT.log"
    timeout 30 aws s3 cp --recursive --only-show-errors "$outbox/" "$RUN_URL/"
  done
}

send() {
  timeout 30 aws s3 cp --only-show-errors "$1" "$RUN_URL/$2"
}

# What it reads, as it can stand between quotation marks in JSON.
plain() {
  LC_ALL=C tr -c '[:print:]' ' ' | sed 's/[\"]/ /g; s/ *$//'
}

now() {
  date -u +%Y-%m-%dT%H:%M:%S+00:00
}

# A sum in whole numbers, rounded up, of at least 1.
whole() {
  awk "BEGIN { x = $1; n = int(x); if (n < x) n++; print (n < 1 ? 1 : n) }"
}

# False for a zombie, too.
is_running() {
  [[ -r "/proc/$1/stat" ]] && ! grep -q ') [ZX] ' "/proc/$1/stat"
}

main
