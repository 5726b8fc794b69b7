# Shared by the scripts beside it, which source it: it changes to the repository's root.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# Prints the comment at the head of the calling script, and ends it, if the first argument asks for that.
help_if_asked() {
  case "${1:-}" in
    -h | --help)
      sed -n '2,/^$/s/^# \{0,1\}//p' "scripts/$(basename "$0")"
      exit 0
      ;;
  esac
}

# install_deps GROUP...: what is missing; elsewhere than on Debian, that is up to CMake to say.
install_deps() {
  if command -v apt-get >/dev/null; then scripts/install-deps "$@"; fi
}

# build PRESET [TARGET...]: configures and builds; everything, if no target is named.
build() {
  cmake --preset "$1"
  cmake --build --preset "$1" ${2:+--target "${@:2}"}
}

# Files of ours, by find's tests, one on a line.
our_files() { find proto server client tests scripts .ci -type f "$@" | sort; }
