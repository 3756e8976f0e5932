#!/usr/bin/env bash
# What is done on a machine of one's own: read by `bash -s` from ssh's input, behind lines that set `verb` and its
# values, so that nothing of it stands in a command line that others can read. Installs nothing; writes below ~/.ups.
set -uo pipefail
umask 077

verb="${verb:-}" nonce="${nonce:-}" number="${number:-}" label="${label:-}" usd="${usd:-0}" holds="${holds:-}"
onstart="${onstart:-}" run="${run:-}" variables="${variables:-}"
machine="$(uname -n)"
root="$HOME/.ups/$machine" # a home may be shared by several machines
instances="$root/instances"
mark="UPS_SSH_INSTANCE" boot="$(cat /proc/sys/kernel/random/boot_id)"

living() { # FOLDER: the processes that were started for it
  LC_ALL=C grep -lszxF -- "$mark=$1" /proc/[0-9]*/environ | cut -d/ -f3
}

held() { # user and what is held, of every run of ours on this machine (not in a container beside), whoever started it
  local file words
  while IFS= read -r file; do
    mapfile -d '' -t words 2> /dev/null < "$file" || continue
    [[ "${words[1]:-}" != */run.sh || "${words[2]:-}" != ups-holds || "${words[4]:-}" != "$machine" ]] ||
      echo "$(stat -c %U "${file%/*}" 2> /dev/null) ${words[3]:-}"
  done < <(LC_ALL=C grep -lszxF ups-holds /proc/[0-9]*/cmdline) | sort -u
}

describe() { # FOLDER: its number, label and price, and whether it lives; gone: its machine was started anew
  local state=gone name price began
  { IFS= read -r name && IFS= read -r price && IFS= read -r began; } 2> /dev/null < "$1/label" || return 0
  [[ "$began" != "$boot" ]] || state="exit:none" # all of it was killed
  [[ ! -s "$1/exit" ]] || state="exit:$(< "$1/exit")"
  [[ -z "$(living "$1")" ]] || state=living
  echo "instance ${1##*/} $state $price $name"
}

probe() {
  local chosen python candidate
  echo "user $(id -un)"
  if [[ -e "$HOME/.ups" ]]; then
    [[ -O "$HOME/.ups/." && -w "$HOME/.ups/." ]] || echo "owner $(stat -Lc %U "$HOME/.ups")"
  elif [[ ! -w "$HOME" ]]; then
    echo "owner $(stat -Lc %U "$HOME")"
  fi
  echo "disk_kb $(df -Pk "$(readlink -f "$HOME/.ups" || echo "$HOME")" "$HOME" 2> /dev/null | awk 'NR == 2 { print $4 }')"
  awk '$1 == "MemTotal:" { print "ram_kb", $2 }' /proc/meminfo
  chosen="$(readlink "$HOME/.ups/python" || echo "$HOME/.ups/python")" # one link only: what it names may be a link too
  for candidate in "$chosen" python3 python3.{13,12,11} uv "$HOME/.local/bin/uv"; do
    python="$(command -v "$candidate")" && suits "$python" && echo "python $python" && break
  done
  for candidate in setsid flock timeout; do
    command -v "$candidate" > /dev/null || echo "missing $candidate"
  done
  [[ "$(id -u)" == 0 ]] || ! grep -qsE '^KillUserProcesses=(yes|true|on|1)' /etc/systemd/logind.conf{,.d/*.conf} ||
    echo "kills at logout"
  held | sed 's/^/held /'
  command -v nvidia-smi > /dev/null || return 0
  timeout 20 nvidia-smi 2>&1 | sed -n 's/.*CUDA Version: *\([0-9.]*\).*/cuda \1/p'
  timeout 20 nvidia-smi --query-gpu=uuid,memory.total,name --format=csv,noheader,nounits 2>&1 | sed 's/^/gpu /'
  # A desktop takes a little of its GPU too; what says nothing of its memory is taken for much.
  timeout 20 nvidia-smi --query-compute-apps=gpu_uuid,used_memory --format=csv,noheader,nounits 2> /dev/null |
    awk -F', *' '{ used[$1] += $2 ~ /^[0-9]+$/ ? $2 : 1e9 } END { for (one in used) if (used[one] >= 512) print "busy", one }'
}

suits() { # PROGRAM: whether an environment can be made with it
  case "${1##*/}" in
    uv) "$1" --version > /dev/null 2>&1 ;;
    *) "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null ;;
  esac
}

rent() {
  local folder one taken who what
  mkdir -p "$instances" || return 1
  exec 8> "$root/lock" && flock --wait 20 8 || return 1
  for folder in "$instances"/[0-9]*/; do
    folder="${folder%/}"
    [[ -d "$folder" ]] || continue
    one="$(describe "$folder")"
    [[ "$one" != "instance ${folder##*/} gone "* ]] || rm -rf -- "$folder" # its machine was started anew
    [[ "$one" != "instance ${folder##*/} living "*" $label" ]] || { echo "rented ${folder##*/}" && return; }
  done
  while read -r who what; do
    for taken in ${what//,/ }; do
      [[ ",$holds," != *",$taken,"* ]] || { echo "taken $who" && return; }
    done
  done < <(held)
  number=$((1 + $(cat "$root/last" 2> /dev/null || echo 0)))
  echo "$number" > "$root/last" && folder="$instances/$number" && mkdir -p "$folder/home" || return 1
  printf '%s\n%s\n%s\n' "$label" "$usd" "$boot" > "$folder/label" || return 1
  printf '%s' "$variables" > "$folder/variables" || return 1
  printf '%s' "$onstart" > "$folder/onstart.sh" || return 1
  printf '%s' "$run" > "$folder/run.sh" || return 1
  env "$mark=$folder" setsid bash "$folder/run.sh" ups-holds "$holds" "$machine" < /dev/null >> "$folder/log" 2>&1 8>&- &
  disown
  for _ in {1..50}; do
    [[ -z "$(living "$folder")" && ! -s "$folder/exit" ]] || { echo "rented $number" && return; }
    sleep 0.1
  done
  return 1
}

list() {
  local folder
  for folder in "$instances"/[0-9]*/; do
    [[ ! -d "$folder" ]] || describe "${folder%/}"
  done
}

show() {
  describe "$instances/$number"
}

log() {
  [[ ! -f "$instances/$number/log" ]] || tail -c "${bytes:-8000}" -- "$instances/$number/log"
}

destroy() {
  local folder="$instances/$number" pid
  for _ in {1..100}; do
    mapfile -t pids < <(living "$folder")
    if ((${#pids[@]} == 0)); then
      rm -rf -- "$folder" && echo "destroyed"
      return
    fi
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2> /dev/null; done
    sleep 0.1
  done
  echo "stays ${pids[*]}"
}

answer() {
  echo "ups-begin $nonce"
  case "$verb" in
    probe | rent | list | show | log | destroy) "$verb" ;;
    *) false ;;
  esac
  local code=$?
  printf '\nups-end %s %s\n' "$nonce" "$code"
}
