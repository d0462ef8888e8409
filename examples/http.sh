#!/usr/bin/env bash
# A walk through the HTTP API with curl, against a running server:
#   fleetcore serve &                                       # prints the address and, once, the password
#   FLEETCORE_PASSWORD=... examples/http.sh [http://127.0.0.1:7070]
set -euo pipefail
server=${1:-http://127.0.0.1:7070}
: "${FLEETCORE_PASSWORD:?set it to the password of admin}"
api=$server/api/v1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { printf '\n== %s\n' "$*"; }
field() { python3 -c 'import json,sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
# The password goes through a file: arguments of a program can be seen by everybody on the machine.
json() { python3 -c 'import json,sys; print(json.dumps(dict(a.split("=", 1) for a in sys.argv[1:])))' "$@"; }

say "log in, make a token for this script"
(umask 077; PASSWORD=$FLEETCORE_PASSWORD python3 -c \
    'import json,os; print(json.dumps({"user": "admin", "password": os.environ["PASSWORD"]}))' >"$work/login")
curl -fsS -c "$work/cookies" -H 'content-type: application/json' -d @"$work/login" "$api/login" >/dev/null
made=$(curl -fsS -b "$work/cookies" -H "origin: $server" -H 'content-type: application/json' \
    -d '{"name": "http.sh", "scopes": ["read", "run", "files"], "expires_in_s": 600}' "$api/tokens")
(umask 077; printf 'header = "authorization: Bearer %s"\n' "$(field secret <<<"$made")" >"$work/curlrc")
call() { curl -fsS -K "$work/curlrc" "$@"; }
post() { call -H 'content-type: application/json' "$@"; }

say "targets"
call "$api/targets"; echo

say "a command, waited for"
post -d '{"target": "local", "argv": ["uname", "-sr"], "wait": {"timeout_ms": 5000}}' "$api/commands"; echo

say "a command with an id of our own: asking twice starts it once"
id=$(python3 -c 'import uuid; print(uuid.uuid4())')
body='{"id": "'$id'", "target": "local", "shell": "for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done"}'
post -o /dev/null -w '%{http_code}\n' -d "$body" "$api/commands"
post -o /dev/null -w '%{http_code}\n' -d "$body" "$api/commands"

say "its output, live"
call -N -H 'accept: text/event-stream' "$api/commands/$id/output"

say "the same from byte 14 on, as after a lost connection"
call -N -H 'accept: text/event-stream' -H 'last-event-id: 14' "$api/commands/$id/output"

say "raw bytes, and a part of them"
call "$api/commands/$id/output"
call -H 'range: bytes=7-13' "$api/commands/$id/output"

say "a recording for asciinema"
call "$api/commands/$id/output.cast" | head -n 3

say "a command that reads its input; then one that is cancelled"
id=$(post -d '{"target": "local", "argv": ["tr", "a-z", "A-Z"], "stdin": true}' "$api/commands" | field id)
call -X POST --data-binary 'shout' "$api/commands/$id/stdin?close=true"
call "$api/commands/$id/output"; echo
id=$(post -d '{"target": "local", "argv": ["sleep", "1000"]}' "$api/commands" | field id)
call -X POST -o /dev/null "$api/commands/$id/cancel"
call "$api/commands/$id?wait_ms=10000" | field state

say "history: what was cancelled"
call "$api/commands?state=cancelled&limit=1"; echo

say "a session keeps its directory"
session=example-$$
post -o /dev/null -d "$(json id="$session" target=local)" "$api/sessions"
post -o /dev/null -d '{"command": "cd /tmp"}' "$api/sessions/$session/run"
post -d '{"command": "pwd"}' "$api/sessions/$session/run" | field output
call -X DELETE -o /dev/null "$api/sessions/$session"

say "files"
call -T - -o /dev/null "$api/targets/local/files?path=$work/note" <<<"written over HTTP"
call "$api/targets/local/files?path=$work/note"
call "$api/targets/local/files/stat?path=$work/note"; echo

say "errors are problem documents (RFC 9457) with a stable code"
curl -sS -K "$work/curlrc" -H 'content-type: application/json' \
    -d '{"target": "local", "argv": ["true"], "nonsense": 1}' "$api/commands"; echo

say "the token goes away again"
curl -fsS -b "$work/cookies" -H "origin: $server" -X DELETE -o /dev/null -w '%{http_code}\n' \
    "$api/tokens/$(field id <<<"$made")"
