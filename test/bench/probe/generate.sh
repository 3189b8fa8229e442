#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compiles the benchmarks' programs, as bpf/generate.sh does the datapath.
set -eu
unset SOURCE_DATE_EPOCH # see there
cd "$(dirname "$0")"
compile() {
	stem=$1
	shift
	go tool bpf2go \
		-cc clang-19 -strip llvm-strip-19 -target bpfel \
		-go-package probe -output-stem "$stem" -no-global-types "$@" \
		"$stem" "$stem.c" -- \
		-O2 -g -mcpu=v3 -fno-strict-aliasing -Wall -Wextra -Werror \
		-Wno-unused-parameter -Wno-missing-field-initializers \
		-I/usr/include/"$(uname -m)"-linux-gnu
}
compile probe -type drive
compile table
