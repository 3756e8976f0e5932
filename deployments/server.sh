#!/usr/bin/env bash
# A Prefect server, a worker and `ups watch`, for one person; each is started again when it dies, Ctrl-C ends all.
set -euo pipefail
set -m # a process group for each: in this one a background job ignores SIGINT, and Prefect then SIGTERM as well
host="${HOST:-127.0.0.1}" port="${PORT:-4200}"
usage='server.sh [--host HOST] [--port PORT]'
while (($#)); do
  [[ $# -gt 1 ]] || { echo "$1: a value is missing; $usage" >&2; exit 2; }
  case "$1" in
    --host) host="$2" ;;
    --port) port="$2" ;;
    *) echo "$1: unknown; $usage" >&2; exit 2 ;;
  esac
  shift 2
done
# A server on all addresses is reached here by loopback, and by a browser elsewhere by the machine's name.
near="$host" far="$host"
case "$host" in 0.0.0.0 | :: | '[::]') near=127.0.0.1 far="$(hostname)" ;; esac
export DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_PLUGINS_ENABLED=false
export PREFECT_API_URL="http://$near:$port/api"
export PREFECT_SERVER_UI_API_URL="${PREFECT_UI_API_URL:-${PREFECT_SERVER_UI_API_URL:-http://$far:$port/api}}"
unset PREFECT_UI_API_URL # its older name, which would win
server='' watch='' worker='' pause=1 ended=0
trap 'kill $(jobs -p) 2> /dev/null; wait' EXIT
trap 'exit 0' INT TERM
# A script's `&` makes all of this ignore SIGINT, and what Prefect starts then ignores SIGTERM too: it is not handed on.
restore_sigint="import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
# Nobody may read the terminal: a group in the background that does is stopped. Hence /dev/null.
with_sigint() { exec python3 -c "$restore_sigint" python3 -m "$@" < /dev/null; }
start_server() { with_sigint prefect --no-prompt server start --host "$host" --port "$port" & server=$!; }
start_watch() { with_sigint flows.cli watch & watch=$!; }
start_worker() { with_sigint prefect worker start --pool ups --type process & worker=$!; }
is_up() { python3 -c "import urllib.request as r; r.urlopen('$PREFECT_API_URL/health')" 2> /dev/null & wait $!; }

start_server
until is_up; do
  kill -0 "$server" 2> /dev/null || { echo "no server on port $port; take another: PORT=4201 make server" >&2; exit 1; }
  sleep 0.5
done
start_watch
start_worker
echo "Runs: http://$far:$port/runs   Deployments: http://$far:$port/deployments"
echo "In another shell: export PREFECT_API_URL=$PREFECT_API_URL; then: ups deploy"
# The pause before the next start doubles up to a minute, and is short again once all have lived for as long.
while true; do
  sleep 1 & wait $!
  dead=''
  kill -0 "$server" 2> /dev/null || dead="$dead server"
  kill -0 "$watch" 2> /dev/null || dead="$dead watch"
  kill -0 "$worker" 2> /dev/null || dead="$dead worker"
  if [[ -z $dead ]]; then
    ((SECONDS - ended < 60)) || pause=1
    continue
  fi
  echo "ended:$dead; started again in $pause s" >&2
  sleep "$pause" & wait $!
  pause=$((pause < 32 ? 2 * pause : 60)) ended=$SECONDS
  for part in $dead; do "start_$part"; done
done
