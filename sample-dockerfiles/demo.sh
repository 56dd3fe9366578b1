#!/bin/sh
# What `make demo` shows: a base image, a build, its layers, and the result running.
# The store is a temporary one unless LAMINA_ROOT names another.
set -eu
lamina=$1
samples=$(dirname "$0")
case $lamina in */*) PATH=$(cd "$(dirname "$lamina")" && pwd):$PATH ;; esac

if [ -z "${LAMINA_ROOT:-}" ]; then
  LAMINA_ROOT=$(mktemp -d "${TMPDIR:-/tmp}/lamina-demo-XXXXXX")
  trap 'rm -rf "$LAMINA_ROOT"' EXIT
fi
export LAMINA_ROOT
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold= plain=; fi

show() {
  printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"
  "$@"
}
say() { printf '\n%s\n' "$*"; }

say "A base image, made of this machine's own packages:"
show lamina bootstrap busybox
say "A Dockerfile that wastes some room, built:"
show lamina build --progress plain -t demo "$samples/12-waste"
say "What every line of it costs:"
show lamina layers demo
say "The same again: nothing has changed, so nothing is executed:"
show lamina build --progress plain -t demo "$samples/12-waste"
say "And the result, running:"
show lamina run --rm demo
say "Every byte of the store recomputed and compared:"
show lamina fsck
