#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that Stipple is built with (docs/dependencies.md says what each is for). Does nothing when all are
# there. Without root or sudo it prints the one command that is missing and exits 2.
#
#   launch/install_deps.sh            what building and running needs
#   launch/install_deps.sh --tests    what the tests need, too
set -euo pipefail

packages=(g++ cmake ninja-build pkg-config libopenmpi-dev openmpi-bin libyaml-cpp-dev libfmt-dev libcli11-dev
  nlohmann-json3-dev libdnnl-dev ocl-icd-opencl-dev libxxhash-dev libpng-dev libzip-dev)
case "${1:-}" in
  "") ;;
  --tests) packages+=(libgtest-dev libbenchmark-dev libboost-context-dev procps slurm-wlm munge ccache clang-format-14 clang-tidy-14 python3-torch python3-pandas) ;;
  *) echo "usage: $0 [--tests]" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null; then
  echo "This is not Debian. Install what docs/dependencies.md lists and build with: launch/build.sh cpu" >&2
  exit 2
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

install="apt-get install -y --no-install-recommends ${missing[*]}"
sudo=""
if [ "$(id -u)" != 0 ]; then
  if sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null && sudo -v; }; then
    sudo="sudo"
  else
    echo "Some packages are missing. Run this as root, then start again:" >&2
    echo "  apt-get update && $install" >&2
    exit 2
  fi
fi

echo "Installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for attempt in 1 2 3 4 5; do
  $sudo apt-get update -qq >"$log" 2>&1 && break
  [ "$attempt" = 5 ] && { cat "$log" >&2; echo "apt-get update failed" >&2; exit 1; }
  sleep 3  # another apt may hold the lists
done
if ! $sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
  install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
  cat "$log" >&2
  echo "Installing packages failed: $install" >&2
  exit 1
fi
