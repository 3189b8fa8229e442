#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compiles the benchmarks' programs, as bpf/generate.sh does the datapath.
set -eu
cd "$(dirname "$0")"
exec go tool bpf2go \
	-cc clang-19 -strip llvm-strip-19 -target bpfel \
	-go-package probe -output-stem probe -no-global-types \
	-type drive \
	probe probe.c -- \
	-O2 -g -mcpu=v3 -fno-strict-aliasing -Wall -Wextra -Werror \
	-Wno-unused-parameter -Wno-missing-field-initializers \
	-I/usr/include/"$(uname -m)"-linux-gnu
