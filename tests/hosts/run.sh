#!/bin/bash
# The engine on real filesystems that fail: shutdowns, writeback errors, full disks, kill -9, files changed by others.
exec python3 "$(dirname "$0")/run.py" "$@"
