#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Does not start the agent on a new installation: it is to be configured first. On an upgrade it
# replaces an agent that runs. The datapath stays attached meanwhile.
# $1 is "configure" for dpkg, and a number for rpm.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart waggle.service
fi
