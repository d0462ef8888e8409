#!/usr/bin/env bash
# A walk through the command line, on this machine and without a server.
#   FLEETCORE=target/debug/fleetcore examples/cli.sh
set -euo pipefail
fleetcore=${FLEETCORE:-fleetcore}
command -v "$fleetcore" >/dev/null || { echo "no $fleetcore: cargo build -p fleetcore-cli, or set FLEETCORE" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# `--local` never asks a server that may be running.
fc() { printf '\n$ fleetcore %s\n' "$*"; "$fleetcore" --local "$@"; }

fc targets
fc run local -- uname -sr

# Output streams, both channels stay apart, the exit code is the command's.
code=0
fc run local -c 'echo out; echo err >&2; exit 3' 2>"$work/err" || code=$?
echo "exit code $code, stderr: $(cat "$work/err")"

# Input is forwarded; variables and directories are arguments, not parts of a script.
printf 'shout\n' | fc run local -- tr a-z A-Z
fc run local --cwd /tmp --env NAME=world -c 'echo "hello $NAME from $(pwd)"'

# A time limit ends the whole tree; exit code 124, as timeout(1) has it.
code=0
fc run local --timeout 200ms -- sleep 1000 || code=$?
echo "exit code $code"

# Files, and output for programs.
"$fleetcore" --local run local -- hostname >"$work/name"
fc cp "$work/name" "local:$work/copy"
fc --output json ls "local:$work"
