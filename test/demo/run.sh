#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds waggle and the demo, shows how far the build is, and runs the demo. The first build on a machine takes minutes.
# Usage: test/demo/run.sh DIRECTORY [flag of go build]...
#
# On a terminal one line shows the progress. Elsewhere there is a line every 15 seconds.
set -euo pipefail
directory=$1
shift
packages=(./cmd/waggle ./test/demo)
child=
log=$(mktemp)
trap 'rm -f "$log" "$log.stale"' EXIT
# Without job control a background process ignores SIGINT, so Ctrl-C reaches only this shell.
trap 'finish; kill "$child" 2>/dev/null; exit 130' INT TERM

terminal=
if [ -t 2 ] && [ "${TERM:-dumb}" != dumb ]; then terminal=1; fi
SECONDS=0
next=10
took() { if ((SECONDS < 60)); then echo "$SECONDS s"; else echo "$((SECONDS / 60)) min $((SECONDS % 60)) s"; fi; }
show() {
	if [ "$terminal" ]; then
		printf '\r\033[K%s, %s' "$1" "$(took)" >&2
	elif ((SECONDS >= next)); then
		echo "$1, $(took)" >&2
		next=$((SECONDS + 15))
	fi
}
finish() { if [ "$terminal" ]; then printf '\r\033[K' >&2; fi; }

# follow PROGRESS COMMAND... shows what the function PROGRESS prints, until the command has ended.
follow() {
	local progress=$1 status=0
	shift
	"$@" 2>"$log" &
	child=$!
	while kill -0 "$child" 2>/dev/null; do
		show "$($progress)"
		sleep 0.2
	done
	wait "$child" || status=$?
	finish
	if ((status != 0)); then grep -vE "$downloaded|$compiled" "$log" >&2 || true; fi
	return "$status"
}
downloaded='^go: downloading '
compiled='^[a-zA-Z0-9._/-]+$'
count() { grep -cE "$1" "$log" || true; }
downloading() { echo "Downloading Go modules: $(count "$downloaded")"; }
compiling() { if (($(count "$compiled") < stale)); then echo "Compiling package $(count "$compiled") of $stale"; else echo "Linking"; fi; }

if ! which go >/dev/null; then
	echo "make demo needs Go $(awk '$1 == "go" { print $2 }' go.mod) or later: https://go.dev/dl" >&2
	exit 1
fi

# go list knows which packages are not in Go's cache. It downloads the modules first.
list() {
	go list -deps -f '{{if and .Stale (ne .StaleReason "not installed but available in build cache")}}stale{{else}}cached{{end}}' \
		"$@" "${packages[@]}" >"$log.stale"
}
follow downloading list "$@"
stale=$(grep -c stale "$log.stale" || true)
# All packages together take about 400 seconds of processor time.
minutes=$((400 * stale / $(wc -l <"$log.stale") / $(nproc) / 60 + 1))
if ((stale > 100)); then
	echo "Building waggle and the demo: $stale packages are not in Go's cache yet. That takes about $minutes min, once." >&2
fi
follow compiling go build -v "$@" -o "$directory/" "${packages[@]}"
if ((stale > 100)); then echo "Built in $(took)." >&2; fi

rm -f "$log" "$log.stale"
trap - EXIT INT TERM
if [ ! -t 2 ]; then exec "$directory/demo" -waggle "$directory/waggle"; fi
# On a terminal the demo gets a process group of its own. So Ctrl-C reaches the demo, and not make, which would end with
# status 130 whatever the demo's status is.
set -m
"$directory/demo" -waggle "$directory/waggle"
