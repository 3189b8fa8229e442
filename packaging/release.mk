# SPDX-License-Identifier: Apache-2.0
#
# What users install, and the tools that make it, which are a module of their own: packaging/go.mod.

ARCHITECTURES := amd64 arm64
REVISION := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# Whatever has a date in it has this one, so that a commit always makes the same files.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
BUILT_TOOLS := build/tools
LINUX_BINARIES := $(ARCHITECTURES:%=build/linux-%/waggle)

# go decides whether there is something to compile.
.PHONY: $(LINUX_BINARIES)
$(LINUX_BINARIES): build/linux-%/waggle:
	CGO_ENABLED=0 GOOS=linux GOARCH=$* $(GO_BUILD) -o $@ ./cmd/waggle

IMAGE ?= waggle:$(VERSION)
IMAGE_ARCHIVE ?= build/waggle-image.tar

.PHONY: image
image: $(LINUX_BINARIES) ## Write the container image IMAGE, for all architectures, to IMAGE_ARCHIVE (needs no docker)
	go -C packaging build -trimpath -o $(CURDIR)/$(BUILT_TOOLS)/ ./image
	$(BUILT_TOOLS)/image -output $(IMAGE_ARCHIVE) -name $(IMAGE) -version $(VERSION) -revision $(REVISION) \
		-date $(SOURCE_DATE_EPOCH) -file LICENSE -file LICENSES $(foreach a,$(ARCHITECTURES),$(a)=build/linux-$(a)/waggle)

.PHONY: chart
chart: ## Derive the Helm chart's template from deploy/waggle.yaml
	go -C packaging run ./chart


PACKAGING_TOOLS := helm.sh/helm/v4/cmd/helm github.com/goreleaser/nfpm/v2/cmd/nfpm sigs.k8s.io/kustomize/kustomize/v5 \
	github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod

.PHONY: packaging-tools
packaging-tools: ## Compile helm, kustomize, nfpm and cyclonedx-gomod (minutes, once)
	go -C packaging build -p 2 -trimpath -ldflags "-s -w" -o $(CURDIR)/$(BUILT_TOOLS)/ $(PACKAGING_TOOLS) ./image

RELEASE := build/release
# A version that dpkg and rpm can compare: what has no tag is older than every release.
PACKAGE_VERSION := $(if $(filter v%,$(VERSION)),$(VERSION:v%=%),0.0.0-dev+$(VERSION))
HOST_BINARY := build/linux-$(shell go env GOARCH)/waggle

.PHONY: packages
packages: $(LINUX_BINARIES) packaging-tools ## Make the Debian and RPM packages in build/release
	rm -rf build/stage
	mkdir -p build/stage/man $(RELEASE)
	go test -count=1 -run '^TestManPages$$' ./cmd/waggle -man $(CURDIR)/build/stage/man
	gzip -9n build/stage/man/*
	for shell in bash zsh fish; do $(HOST_BINARY) completion $$shell > build/stage/waggle.$$shell || exit 1; done
	for arch in $(ARCHITECTURES); do cp build/linux-$$arch/waggle build/stage/waggle-$$arch || exit 1; done
	cp -r packaging/systemd/* LICENSE LICENSES README.md docs build/stage/
	find build/stage -exec touch -h -d @$(SOURCE_DATE_EPOCH) {} +
	for arch in $(ARCHITECTURES); do for packager in deb rpm; do \
		PACKAGE_ARCH=$$arch PACKAGE_VERSION=$(PACKAGE_VERSION) \
			$(BUILT_TOOLS)/nfpm package -f packaging/nfpm.yaml -p $$packager -t $(RELEASE)/ || exit 1; \
	done; done

.PHONY: chart-archive
chart-archive: packaging-tools
	mkdir -p $(RELEASE)
	$(BUILT_TOOLS)/helm package deploy/chart/waggle --version $(PACKAGE_VERSION) --app-version $(VERSION) -d $(RELEASE)

.PHONY: sbom
sbom: $(LINUX_BINARIES) packaging-tools ## List the modules that each binary holds, as CycloneDX has it
	mkdir -p $(RELEASE)
	for arch in $(ARCHITECTURES); do \
		GOPROXY=off $(BUILT_TOOLS)/cyclonedx-gomod bin -json -licenses -std -noserial -notimestamp -version $(VERSION) \
			-output $(RELEASE)/waggle-$(VERSION)-linux-$$arch.cdx.json build/linux-$$arch/waggle || exit 1; \
	done

# tar and gzip write nothing of the machine that they run on.
TAR := tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$(SOURCE_DATE_EPOCH) --format=ustar

.PHONY: binary-archives
binary-archives: $(LINUX_BINARIES)
	mkdir -p $(RELEASE)
	for arch in $(ARCHITECTURES); do \
		$(TAR) -cf - LICENSE LICENSES README.md deploy docs -C build/linux-$$arch waggle \
			| gzip -9n > $(RELEASE)/waggle-$(VERSION)-linux-$$arch.tar.gz || exit 1; \
	done

.PHONY: release
release: ## Make all that is published of VERSION (vX.Y.Z) in build/release, with checksums
	@[[ "$(VERSION)" =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$$ ]] || { echo "VERSION=$(VERSION): want vX.Y.Z"; exit 1; }
	rm -rf $(RELEASE)
	mkdir -p $(RELEASE)
	$(MAKE) image IMAGE_ARCHIVE=$(RELEASE)/waggle-$(VERSION)-image.tar
	$(MAKE) binary-archives packages chart-archive sbom
	cd $(RELEASE) && sha256sum -- * > SHA256SUMS
	@cat $(RELEASE)/SHA256SUMS

.PHONY: test-packages
test-packages: require-root require-rpm require-systemd require-netfilter require-etcd kubernetes ## Make a release, and install, run, upgrade and remove what is in it
	$(MAKE) release VERSION=v0.0.1-test
	WAGGLE_RELEASE=$(CURDIR)/$(RELEASE) WAGGLE_TOOLS=$(CURDIR)/$(BUILT_TOOLS) WAGGLE_KUBERNETES=$(CURDIR)/$(KUBERNETES) \
		go test -count=1 -timeout 25m -v -run 'Chart|Kustomize|DryRun|Package|Release|Image|SBOM' ./test/deploy

.PHONY: test-systemd
test-systemd: require-root require-systemd ## Install the Debian package where systemd is the init, and have systemd run the agent
	rm -rf $(RELEASE)
	$(MAKE) packages VERSION=v0.0.1-test
	WAGGLE_RELEASE=$(CURDIR)/$(RELEASE) WAGGLE_TOOLS=$(CURDIR)/$(BUILT_TOOLS) \
		go test -count=1 -timeout 10m -v -run '^TestDebianPackageSystemd$$' ./test/deploy

# Installed, and not started: it is the init of the test's machines.
.PHONY: require-systemd
require-systemd:
	@test -x /lib/systemd/systemd || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends systemd; }

.PHONY: require-rpm
require-rpm:
	@which rpm >/dev/null || { \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends rpm; }
