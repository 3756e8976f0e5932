#!/usr/bin/env bash
# Runs at every start of a rented machine: fetch the job from W&B, train, report how it ended, destroy the machine.
# All that it needs comes in the environment (UPS_*); it holds no secret. Idempotent: every start may run it again.
set -uo pipefail
work="$HOME/ups"
mkdir -p "$work" && cd "$work" || exit 1

say() { echo "ups-onstart: $*"; }

# Bytes received and sent over every network device but the machine's own loop.
network_bytes() {
  local name bytes sent all_received=0 all_sent=0
  while IFS=': ' read -r name bytes _ _ _ _ _ _ _ sent _; do
    [[ "$bytes" =~ ^[0-9]+$ && "$name" != lo ]] || continue
    all_received=$((all_received + bytes)) all_sent=$((all_sent + sent))
  done 2> /dev/null < /proc/net/dev
  echo "$all_received $all_sent"
}
read -r received_before sent_before < <(network_bytes)
beat() {
  local received sent
  read -r received sent < <(network_bytes)
  say "alive $SECONDS s received $((received - received_before)) sent $((sent - sent_before))"
}

destroy_machine() {
  [[ -n "${CONTAINER_API_KEY:-}${UPS_DESTROY:-}" ]] || return 0
  say "destroying this machine"
  for _ in {1..40}; do
    if [[ -n "${UPS_DESTROY:-}" ]]; then
      bash -c "$UPS_DESTROY" && return 0
      sleep 15
      continue
    fi
    python3 - << 'PY' && return 0
import os, urllib.request
url = f"{os.environ.get('VAST_URL', 'https://console.vast.ai').rstrip('/')}/api/v0/instances/{os.environ['CONTAINER_ID']}/"
key = {"Authorization": f"Bearer {os.environ['CONTAINER_API_KEY']}", "Content-Type": "application/json"}
urllib.request.urlopen(urllib.request.Request(url, b"{}", key, method="DELETE"), timeout=20)
PY
    sleep 15
  done
}

finish() {
  beat
  say "exit $1 generation $UPS_GENERATION"
  if [[ "$UPS_SHUTDOWN" == always || ("$UPS_SHUTDOWN" == success && "$1" == 0) ]]; then
    sleep "${2:-0}"
    destroy_machine
  fi
  exit "$1"
}

# The controller may be gone for good: the machine ends by itself.
( sleep "$UPS_MAX_SECONDS" && say "the time limit is reached" && destroy_machine ) &
# The log shows that this script lives, however silent its job is.
( while kill -0 $$ 2> /dev/null; do beat; sleep "${UPS_HEARTBEAT_S:-60}"; done ) &

if [[ ! -f "ready-$UPS_JOB" ]]; then
  say "phase installing"
  python3 -c 'import wandb' 2> /dev/null || python3 -m pip install --quiet 'wandb>=0.31' || finish 77 120
  say "phase downloading"
  rm -rf job code
  python3 - << 'PY' || finish 77 120
import os, wandb
wandb.Api().artifact(os.environ["UPS_ARTIFACT"], type="training-job").download(root="job", skip_cache=True)
PY
  echo "$UPS_JOB  job/SHA256SUMS" | sha256sum --check --quiet - || finish 77 120
  (cd job && sha256sum --check --quiet SHA256SUMS) || finish 77 120
  say "phase installing"
  python3 -m pip install --quiet --no-deps --no-index --target code job/*.whl || finish 77 120
fi
export PYTHONPATH="$work/code${PYTHONPATH:+:$PYTHONPATH}"
export WANDB_DATA_DIR="$work/wandb-data" WANDB_CACHE_DIR="$work/wandb-cache"
# An environment that is kept for the next job, UPS_INSTALLED, is brought to the versions of each.
has_packages() { python3 -c 'import flows.pipeline, h5py, matplotlib, torch' 2> /dev/null; }
if [[ ! -f "ready-$UPS_JOB" ]]; then
  kept="${UPS_INSTALLED:-}" pins="$(cat code/*.dist-info/METADATA job/constraints.txt 2> /dev/null | sha256sum)"
  if ! has_packages || [[ -n "$kept" && "$(cat "$kept" 2> /dev/null)" != "$pins" ]]; then
    rm -f "$kept"
    if ! python3 -m tasks.services.rental.machine install job; then
      has_packages || finish 77 120
      pins="others"
    fi
  fi
  [[ -z "$kept" ]] || echo "$pins" > "$kept"
  touch "ready-$UPS_JOB"
fi

mapfile -t arguments < job/arguments
# Whoever rents a GPU trains on it, or on the next machine: never on the processor beside it.
has_cuda() { [[ "$UPS_DEVICE" == cpu ]] || python3 -m tasks.services.rental.machine cuda; }
has_cuda || finish 76 120
[[ "$UPS_DEVICE" == cpu ]] || arguments+=(--set runtime.device=cuda)

cd job || finish 77 120
python3 -m flows.cli train "${arguments[@]}"
code=$?
[[ "$code" == 0 || "$code" == 75 ]] || has_cuda || code=76
python3 -m tasks.services.rental.outcome "$code" || say "W&B could not be told the exit code"
finish "$code" 20
