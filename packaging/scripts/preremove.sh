#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Ends the agent and removes the datapath, while the command that can do so is there. On an upgrade it
# does nothing: the next version takes the datapath over.
# $1 is "remove" for dpkg and 0 for rpm, if the package is not replaced by another version.
set -e
case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now waggle.service
	fi
	/usr/bin/waggle cleanup
	;;
esac
