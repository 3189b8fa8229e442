# SPDX-License-Identifier: Apache-2.0
#
# The image is the command and nothing else: `make image` compiles it and builds this, offline.

FROM scratch
ARG VERSION=devel
LABEL org.opencontainers.image.title="waggle" \
      org.opencontainers.image.description="eBPF service load balancer for Linux nodes" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-only" \
      org.opencontainers.image.version="${VERSION}"
COPY LICENSE /LICENSE
COPY LICENSES /LICENSES
COPY build/waggle /waggle
ENTRYPOINT ["/waggle"]
