#!/bin/bash
# Spends a night, or so many minutes, on the harnesses with fresh seeds, and keeps a ledger of what they did: tests/nightly.sh MINUTES, or --sum.
exec python3 "$(dirname "$0")/nightly.py" "$@"
