#!/usr/bin/env bash
# A Prefect server, a worker and `ups watch` on this machine, for one person; Ctrl-C ends all.
set -euo pipefail
set -m # a process group for each: in this one a background job ignores SIGINT, and Prefect then SIGTERM as well
port="${PORT:-4200}"
export DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_PLUGINS_ENABLED=false
export PREFECT_SERVER_UI_API_URL="http://127.0.0.1:$port/api"
# How often a waiting run checks whether the run before it has ended; 30 s by default.
export PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS=5
trap 'kill $(jobs -p) 2> /dev/null; wait' EXIT
trap 'exit 0' INT TERM
# A script's `&` makes all of this ignore SIGINT, and what Prefect starts then ignores SIGTERM too: it is not handed on.
restore_sigint="import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
with_sigint() { exec python3 -c "$restore_sigint" "$@"; }
# Nobody may read the terminal: a group in the background that does is stopped. Hence /dev/null.
with_sigint python3 -m prefect --no-prompt server start --host 127.0.0.1 --port "$port" < /dev/null &
server=$!
export PREFECT_API_URL="http://127.0.0.1:$port/api"
probe="import urllib.request as r; r.urlopen('$PREFECT_API_URL/health')"
until python3 -c "$probe" 2> /dev/null & wait $!; do
  kill -0 "$server" 2> /dev/null || { echo "no server on port $port; take another: PORT=4201 make server" >&2; exit 1; }
  sleep 0.5
done
with_sigint python3 -m flows.cli watch < /dev/null &
echo "Runs: http://127.0.0.1:$port/runs   Deployments: http://127.0.0.1:$port/deployments"
echo "In another shell: export PREFECT_API_URL=$PREFECT_API_URL; then: ups deploy"
# A worker that finds no server three times ends: it is started again, until Ctrl-C ends all.
while true; do
  with_sigint python3 -m prefect worker start --pool ups --type process < /dev/null &
  wait $! || true
  sleep 2
done
