#!/usr/bin/env bash
# A Prefect server, a worker and `ups watch` on this machine, for one person; Ctrl-C ends all.
set -euo pipefail
port="${PORT:-4200}"
export DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_PLUGINS_ENABLED=false
export PREFECT_SERVER_UI_API_URL="http://127.0.0.1:$port/api"
python3 -m prefect server start --host 127.0.0.1 --port "$port" &
server=$! watch=
trap 'kill "$server" $watch 2> /dev/null; wait' EXIT
export PREFECT_API_URL="http://127.0.0.1:$port/api"
until python3 -c "import urllib.request as r; r.urlopen('$PREFECT_API_URL/health')" 2> /dev/null; do sleep 0.5; done
python3 -m flows.cli watch &
watch=$!
echo "Runs: http://127.0.0.1:$port/runs   Deployments: http://127.0.0.1:$port/deployments"
# A worker that finds no server three times ends: it is started again, until Ctrl-C ends all.
while true; do
  python3 -m prefect worker start --pool ups --type process || [[ $? != 130 && $? != 143 ]] || exit 0
  sleep 2
done
