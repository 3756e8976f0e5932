#!/usr/bin/env bash
# One run on a machine of one's own, for a user without root on a machine that others use too: an environment of its
# own, kept for the next run, then onstart.sh as on any other machine. `ups-holds` in its command line tells everybody
# on the machine which GPUs are taken.
set -uo pipefail
umask 077
folder="$UPS_SSH_INSTANCE" holds="${2:-}"
root="${folder%/*/*}" ups="${folder%/*/*/*}"
own="${ups%/.ups}" # the user's home

say() { echo "ups-onstart: $*"; }

# shellcheck disable=SC2329 # the trap calls it
conclude() { # CODE: onstart.sh says how it ended, unless it was killed
  local ending="generation ${UPS_GENERATION:-0}"
  grep -qs "^ups-onstart: exit [0-9]* $ending\$" "$folder/log" || say "exit $1 $ending"
  echo "$1" > "$folder/exit"
}
trap 'conclude $?' EXIT

kept=" PATH LANG LC_ALL TZ LD_LIBRARY_PATH http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY SSL_CERT_FILE
 PIP_INDEX_URL PIP_EXTRA_INDEX_URL UPS_SSH_INSTANCE "
while IFS= read -r name; do
  [[ "$kept" == *" $name "* ]] || unset "$name"
done < <(compgen -e)
# shellcheck source=/dev/null
. "$folder/variables" || exit 1
rm -f -- "$folder/variables" # it holds the keys
for name in "$own/.config/pip/pip.conf" "$own/.pip/pip.conf"; do # a mirror of packages is named there
  [[ ! -f "$name" ]] || export PIP_CONFIG_FILE="$name"
done
export HOME="$folder/home" PIP_CACHE_DIR="$root/cache/pip" UV_CACHE_DIR="$root/cache/uv"
export UV_PYTHON_INSTALL_DIR="$root/cache/python"
[[ "$holds" == cpu ]] || export CUDA_VISIBLE_DEVICES="$holds"
cd "$folder/home" || exit 1

end() { # CODE: it ends once nothing else of the run is left
  local pid is_left
  unset UPS_SSH_INSTANCE # what looks is not looked for
  for _ in {1..50}; do
    LC_ALL=C grep -lszxF -- "UPS_SSH_INSTANCE=$folder" /proc/[0-9]*/environ > "$folder/living"
    is_left=
    while IFS=/ read -r _ _ pid _; do
      [[ "$pid" == "$$" ]] || { kill -KILL "$pid" 2> /dev/null && is_left=yes; }
    done < "$folder/living"
    [[ -n "$is_left" ]] || break
    sleep 0.1
  done
  exit "$1"
}

fail() {
  say "$1"
  end 77
}

make_environment() { # FOLDER
  local program chosen without=()
  chosen="$(readlink "$ups/python" || echo "$ups/python")"
  for program in "$chosen" python3 python3.{13,12,11}; do
    command -v "$program" > /dev/null || continue
    "$program" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || continue
    if [[ "$program" == "$chosen" ]]; then # what is installed there was meant to be used
      "$program" -m pip --version > /dev/null 2>&1 && without=(--without-pip) # it has all that pip needs, and newer
      "$program" -m venv "${without[@]}" --system-site-packages "$1" && see_packages_of "$program" "$1"
    else
      "$program" -m venv "$1"
    fi
    return
  done
  for program in uv "$own/.local/bin/uv"; do
    command -v "$program" > /dev/null || continue
    "$program" venv --quiet --seed --python 3.12 "$1"
    return
  done
  return 1
}

see_packages_of() { # PROGRAM ENVIRONMENT: of a virtual environment too, which --system-site-packages looks past
  local packages
  packages="$("$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || return
  "$2/bin/python3" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' | {
    IFS= read -r own && echo "$packages" > "$own/ups-chosen-python.pth"
  }
}

say "phase installing"
for ((slot = 1; ; slot++)); do # one that no other run is using
  mkdir -p "$root/environments/$slot" || fail "$root cannot be written"
  exec 9> "$root/environments/$slot/lock"
  flock --nonblock 9 && break
done
place="$root/environments/$slot"
if [[ ! -f "$place/complete" ]] || ! "$place/venv/bin/python3" -m pip --version > /dev/null 2>&1; then
  rm -rf -- "$place/venv"
  make_environment "$place/venv" || fail "no Python 3.11 or newer that makes environments; install uv, or link $ups/python"
fi
export PATH="$place/venv/bin:$PATH" VIRTUAL_ENV="$place/venv" UPS_INSTALLED="$place/complete" # it holds what for

timeout --kill-after=60 "${UPS_MAX_SECONDS:-86400}" bash "$folder/onstart.sh"
end $?
