#!/bin/bash
# A benchmark ends with status 2, before it measures anything, where figures would mean nothing or its files would not fit.
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(cargo bench --quiet --no-run --bench host --message-format=json | sed -n 's/.*"name":"host".*"executable":"\([^"]*\)".*/\1/p')

# refuses NAME=VALUE... REASON
refuses() {
    local status=0 said
    said=$(env "${@:1:$#-1}" "$host" 2>&1) || status=$?
    if [ "$status" != 2 ] || [[ "$said" != *"${!#}"* ]]; then
        echo "error: ${*:1:$#-1}: status $status instead of 2 with \"${!#}\": $said" >&2
        exit 1
    fi
    echo "$said"
}

refuses SNAPDISK_BENCH_MIB=1000000000 "and the run may write 1000000000 MiB"
refuses SNAPDISK_BENCH_MIB=some "is not a number"
refuses SNAPDISK_BENCH_DIR=/nowhere "is no directory to measure in"
if [ "$(stat -fc %T /dev/shm 2>/dev/null)" = tmpfs ]; then
    refuses SNAPDISK_BENCH_DIR=/dev/shm "is on tmpfs"
else
    echo "no tmpfs at /dev/shm: not run"
fi
