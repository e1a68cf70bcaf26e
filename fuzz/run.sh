#!/bin/bash
# Runs the fuzz targets, or shows that each finds a bug that is planted for it: see docs/reliability.md.
exec python3 "$(dirname "$0")/run.py" "$@"
