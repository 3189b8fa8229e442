# SPDX-License-Identifier: Apache-2.0

SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BINARY := build/waggle
# All commands are compiled with the same flags, so that they share what is compiled.
GO_FLAGS := -trimpath
GO_BUILD_FLAGS := $(GO_FLAGS) -ldflags "-s -w -X main.version=$(VERSION)"
GO_BUILD := go build $(GO_BUILD_FLAGS)
CLANG := 19
TOOLS := go tool -modfile=test/tools/go.mod
KUBERNETES := build/kubernetes
KUBERNETES_VERSION := v1.36.3
KUBERNETES_COMMANDS := kube-apiserver kube-controller-manager kube-proxy

.PHONY: help
help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Compile the command to build/waggle
	CGO_ENABLED=0 $(GO_BUILD) -o $(BINARY) ./cmd/waggle

include packaging/release.mk

.PHONY: demo
demo: require-root ## Make a small network, balance real traffic in it, and check every answer (HOLD=1 keeps it up)
	@CGO_ENABLED=0 bash test/demo/run.sh $(patsubst %/,%,$(dir $(BINARY))) $(GO_BUILD_FLAGS)

.PHONY: test
test: require-root require-netfilter require-prometheus require-dig ## Run the tests that need no Kubernetes
	go vet ./...
	go test -count=1 -timeout 25m ./...
	go -C packaging test -count=1 ./...

.PHONY: test-cluster
test-cluster: require-root require-netfilter require-etcd kubernetes ## Run the tests of the contract, in a real cluster where they need one, beside kube-proxy
	WAGGLE_KUBERNETES=$(CURDIR)/$(KUBERNETES) go run ./test/rows -run -show TestOracle

NEIGHBOURS := build/neighbours
# NEIGHBOURS_FLAGS=-fast leaves out what not every submission needs; -only 'flannel' names environments.
.PHONY: test-neighbours
test-neighbours: build require-root require-netfilter require-etcd require-cni kubernetes ## Run waggle beside flannel, CNI plugins and firewalls, and compare it with kube-proxy
	go -C test/neighbours/parts build -trimpath -o $(CURDIR)/$(NEIGHBOURS)/ ./flanneld ./cni
	WAGGLE_KUBERNETES=$(CURDIR)/$(KUBERNETES) WAGGLE_NEIGHBOURS=$(CURDIR)/$(NEIGHBOURS) WAGGLE_BINARY=$(CURDIR)/$(BINARY) \
		go test -count=1 -timeout 30m -v ./test/neighbours $(NEIGHBOURS_FLAGS)

.PHONY: test-kube
test-kube: require-root require-netfilter require-etcd kubernetes ## Run those of them that make test leaves out: beside kube-proxy, with an API server
	go run ./test/rows
	WAGGLE_KUBERNETES=$(CURDIR)/$(KUBERNETES) go test -count=1 -timeout 25m -skip '^TestAddresses' ./test/apiserver ./test/kube
	WAGGLE_KUBERNETES=$(CURDIR)/$(KUBERNETES) go test -count=1 -run '^TestMigration$$' ./test/deploy

.PHONY: test-addresses
test-addresses: require-root require-netfilter require-etcd kubernetes ## Run the tests of pools of addresses with an API server, and MetalLB's and Cilium's definitions
	WAGGLE_KUBERNETES=$(CURDIR)/$(KUBERNETES) go test -count=1 -timeout 25m -v -run '^TestAddresses' ./test/kube

.PHONY: test-bgp
test-bgp: require-root require-bird ## Run the example of docs/bgp.md: BIRD on nodes and on a router announces load balancers' addresses
	go test -count=1 -timeout 10m -v ./test/bgp

KERNEL ?= 6.1
ARCH ?= $(shell go env GOARCH)
# Emulated, a network with its agents takes half a minute. VM_TRAFFIC=. runs all there are, for hours.
VM_TRAFFIC ?= TestMatrix|TestLinks|TestBesideIPVS|TestTakeoverIPVS|TestFragmentedUDP|TestPathMTU|TestRefuse$$

.PHONY: test-vm
test-vm: require-root require-netfilter require-vm ## Run the tests of datapath and traffic on Linux KERNEL (6.1, 6.12, host-like, ...) for ARCH (amd64, arm64), emulated
	@go run ./test/vm -arch $(ARCH) -kernel $(KERNEL) ./maps ./loader ./test/prog
	@go run ./test/vm -arch $(ARCH) -kernel $(KERNEL) -run '$(VM_TRAFFIC)' ./test/traffic
	@go run ./test/vm -arch $(ARCH) -kernel $(KERNEL) -run '^TestOtherUplinks$$' ./test/announce

.PHONY: kubernetes
kubernetes: $(KUBERNETES)/built ## Build the parts of Kubernetes that tests start (8 minutes on two cores, once)

# The release before this one, by its commit.
PREVIOUS_RELEASE := 1e5d5ca
PREVIOUS := build/waggle-$(PREVIOUS_RELEASE)

.PHONY: test-upgrade
test-upgrade: build require-root require-netfilter require-etcd kubernetes $(PREVIOUS) ## Upgrade agents of the previous release, which is built from the history, under traffic
	WAGGLE_PREVIOUS=$(CURDIR)/$(PREVIOUS) WAGGLE_BINARY=$(CURDIR)/$(BINARY) \
		go test -count=1 -timeout 40m -v -run TestUpgrade ./test/traffic
	WAGGLE_PREVIOUS=$(CURDIR)/$(PREVIOUS) WAGGLE_BINARY=$(CURDIR)/$(BINARY) WAGGLE_KUBERNETES=$(CURDIR)/$(KUBERNETES) \
		go test -count=1 -timeout 25m -v -run '^TestMigrationUpgraded$$' ./test/kube

# A plain tree of that commit; its own module, so that nothing here takes part.
$(PREVIOUS):
	set -e; tree=$$(mktemp -d); trap 'rm -rf "$$tree"' EXIT; \
		git archive $(PREVIOUS_RELEASE) | tar -x -C "$$tree"; \
		CGO_ENABLED=0 go -C "$$tree" build -trimpath -ldflags "-s -w -X main.version=$(PREVIOUS_RELEASE)" -o $(CURDIR)/$@ ./cmd/waggle

.PHONY: test-hostile
test-hostile: require-root ## Flood, exhaust and break what an agent stands on: all of docs/robustness.md (10 minutes)
	go test -count=1 -timeout 40m -v ./test/hostile -full

.PHONY: soak
soak: DURATION ?= 30m
soak: require-root ## Churn services for DURATION and fail if the agent grows
	go test -count=1 -timeout 0 -v -run TestSoak ./test/hostile -soak $(DURATION)

FUZZERS := control/reconcile:FuzzRestore control:FuzzObjects control/manifest:FuzzManifest \
	control/manifest:FuzzAllocations control/manifest:FuzzLastGood control/config:FuzzParse \
	control/names:FuzzQuery control/kube:FuzzParseAPIServer control/kube:FuzzAddressFile cmd/waggle:FuzzStatus control/explain:FuzzCapture

.PHONY: fuzz-inputs
fuzz-inputs: DURATION ?= 1m
fuzz-inputs: require-root ## Fuzz every parser of outside input, each for DURATION
	set -e; for f in $(FUZZERS); do \
		go test -run '^$$' -fuzz "^$${f#*:}$$" -fuzztime $(DURATION) ./$${f%%:*}; done

.PHONY: race
race: require-root ## Run the tests of the control plane under the race detector
	go test -race -p 1 -timeout 30m ./control/... ./maps/... ./loader/... ./cmd/...

BENCH := go run ./test/bench -waggle $(BINARY) -kubernetes $(KUBERNETES) $(if $(BENCH_FLAGS),$(BENCH_FLAGS))

.PHONY: bench
bench: build require-root require-netfilter kubernetes ## Measure waggle beside kube-proxy and the limits (BENCH_FLAGS="-only hot -quick")
	@$(BENCH)

.PHONY: bench-check
bench-check: build require-root require-netfilter kubernetes ## Fail if a ratio of the benchmarks is a quarter worse than on record
	@$(BENCH) -check test/bench/ratios.json

.PHONY: bench-packet
bench-packet: require-root ## Measure what one packet that is run over and over costs in each program
	go test -count 1 -run TestCost ./test/prog -cost -v

FAILOVERS ?= 50

.PHONY: test-announce
test-announce: require-root ## Announce addresses with agents that stop, uplinks that come and go, two agents of one name (minutes)
	go test -count=1 -timeout 30m -v ./test/announce -faults

.PHONY: bench-failover
bench-failover: build require-root ## Measure for how long an announced address is silent when it moves, FAILOVERS times for each case
	WAGGLE_BINARY=$(CURDIR)/$(BINARY) go test -count 1 -timeout 0 -run '^TestFailover$$|^TestScale$$' ./test/announce -failover $(FAILOVERS)

DURATION ?= 1m
SEED ?= 0

.PHONY: fuzz
fuzz: require-root ## Send random packets through the datapath and its model for DURATION (from SEED)
	go test -count 1 -run '^TestModel$$' -timeout 0 ./test/prog -fuzz-for $(DURATION) -fuzz-seed $(SEED) -v

ROUNDS ?= 20000

.PHONY: test-two-cpus
test-two-cpus: require-root ## Give the datapath packets on two CPUs at the same time, ROUNDS times for each of its races
	go test -count 1 -run '^TestTwoCPUs|^TestRepairInFullTable$$' -timeout 30m ./test/prog -rounds $(ROUNDS)

.PHONY: check-protocol
check-protocol: require-spin ## Explore the models of protocols, and see that they notice what is broken
	go run ./test/model/checkprotocol

.PHONY: mutations
mutations: require-root require-clang ## Break copies of the datapath in one place each, and see that the model notices
	go run ./test/model/mutate

.PHONY: generate
generate: require-clang ## Compile the datapath and derive its Go types
	go generate ./bpf ./test/bench/probe

.PHONY: check-generated
check-generated: generate chart ## Fail if the committed datapath or chart is not what its source makes
	@git diff --exit-code --stat -- bpf test/bench/probe || { echo "bpf/ or test/bench/probe/: run 'make generate' and commit the result"; exit 1; }
	@git diff --exit-code --stat -- deploy/chart || { echo "deploy/chart: run 'make chart' and commit the result"; exit 1; }

.PHONY: lint
lint: require-clang ## Check formatting, and run the static checkers
	@files=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$files" || { echo "gofmt: $$files"; exit 1; }
	go vet ./...
	$(TOOLS) staticcheck ./...
	$(TOOLS) actionlint -shellcheck= -pyflakes=
	cd packaging && go vet ./... && go tool -modfile=../test/tools/go.mod staticcheck ./...
	clang-format-$(CLANG) --dry-run --Werror bpf/*.c bpf/*.h test/bench/probe/*.c test/bench/probe/*.h

.PHONY: format
format: require-clang ## Format all sources
	gofmt -w $$(git ls-files '*.go')
	clang-format-$(CLANG) -i bpf/*.c bpf/*.h test/bench/probe/*.c test/bench/probe/*.h

.PHONY: clean
clean: ## Remove what the build has made
	rm -rf build

.PHONY: require-root
require-root:
	@test "$$(id -u)" = 0 || { echo "This makes network namespaces and loads eBPF programs: run it as root."; exit 1; }

# Two at a time: the linker takes a gigabyte for each.
$(KUBERNETES)/built: test/kubernetes/go.mod
	go -C test/kubernetes build -p 2 -trimpath -o $(CURDIR)/$(KUBERNETES)/ \
		-ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION) \
			-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36" \
		$(addprefix k8s.io/kubernetes/cmd/,$(KUBERNETES_COMMANDS))
	touch $@

# The API server's store.
.PHONY: require-etcd
require-etcd:
	@which etcd >/dev/null || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends etcd-server; }

# What kube-proxy calls, what tests of its leftovers and of the takeover do as kube-proxy would, and what tests change
# devices and routes with.
.PHONY: require-netfilter
require-netfilter:
	@which nft conntrack iptables-nft iptables-legacy ip >/dev/null || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
			nftables conntrack iptables iproute2; }

# What scrapes an agent in tests, and tests the alerts.
.PHONY: require-prometheus
require-prometheus:
	@which prometheus promtool >/dev/null || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends prometheus; }

# The routing daemon of docs/bgp.md.
.PHONY: require-bird
require-bird:
	@which bird birdc >/dev/null || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends bird2; }

# What asks for names beside the C library.
.PHONY: require-dig
require-dig:
	@which dig >/dev/null || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends bind9-dnsutils; }

# The CNI plugins that attach pods in tests.
.PHONY: require-cni
require-cni:
	@test -x /usr/lib/cni/bridge || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
			containernetworking-plugins; }

# What an emulated machine is made with; its kernel and virtme-ng are only unpacked, in build/.
QEMU_amd64 := qemu-system-x86_64
QEMU_arm64 := qemu-system-aarch64
QEMU_PACKAGE_amd64 := qemu-system-x86
QEMU_PACKAGE_arm64 := qemu-system-arm

.PHONY: require-vm
require-vm:
	@test -n "$(QEMU_$(ARCH))" || { echo "ARCH=$(ARCH): want amd64 or arm64"; exit 1; }
	@which $(QEMU_$(ARCH)) busybox depmod file xz wg ipvsadm >/dev/null && test -e /lib/systemd/systemd-udevd || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
			$(QEMU_PACKAGE_$(ARCH)) busybox-static kmod udev file xz-utils wireguard-tools ipvsadm; }

# What explores the models of protocols: spin makes a C program of each.
.PHONY: require-spin
require-spin:
	@which spin gcc >/dev/null || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
			spin gcc libc6-dev; }

# Only those who change bpf/ need a compiler for it, and the one that the committed object was
# compiled with.
.PHONY: require-clang
require-clang:
	@which clang-$(CLANG) clang-format-$(CLANG) llvm-strip-$(CLANG) >/dev/null && test -e /usr/include/bpf/bpf_helpers.h || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
			clang-$(CLANG) llvm-$(CLANG) clang-format-$(CLANG) libbpf-dev linux-libc-dev; }
