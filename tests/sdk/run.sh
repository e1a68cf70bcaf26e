#!/bin/bash
# The vendor's Python SDK and curl against a running server, with a store that is killed and opened again in between.
# Usage: tests/sdk/run.sh [SNAPDISK]; without it the command is built.
set -euo pipefail
cd "$(dirname "$0")/../.."
snapdisk=${1:-}
if [ -z "$snapdisk" ]; then
    cargo build --features cli,http --bin snapdisk
    snapdisk=${CARGO_TARGET_DIR:-target}/debug/snapdisk
fi
venv=${CARGO_TARGET_DIR:-target}/sdk-venv
dir=$(mktemp -d)
server=
trap 'status=$?; [ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"; exit $status' EXIT
if ! "$venv/bin/python" -c 'import ucloud.services.ucloudstack' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check ucloud-sdk-python3==0.11.150 websocket-client==1.8.0
fi

start() {
    : >"$dir/log"
    "$snapdisk" api "$dir/disks.img" --config "$dir/api.toml" --listen 127.0.0.1:0 "$@" 2>"$dir/log" &
    server=$!
    until url=$(sed -n 's/.*"url":"\(http:[^"]*\)\/".*/\1/p' "$dir/log") && [ -n "$url" ]; do
        kill -0 "$server" || { cat "$dir/log"; exit 1; }
        sleep 0.05
    done
}
stop() {
    kill "-$1" "$server"
    wait "$server" 2>/dev/null || [ "$1" = KILL ]
    server=
}
key() { sed -n "s/^$1_key = \"\(.*\)\"/\1/p" "$dir/api.toml" | head -1; }
passed=0
ok() { passed=$((passed + 1)); }
fail() {
    echo "failed: $*" >&2
    cat "$dir/log" >&2
    exit 1
}

"$snapdisk" init "$dir/disks.img"
head -c 5000000 /dev/urandom >"$dir/raw"
"$snapdisk" import "$dir/disks.img" imported "$dir/raw"
"$snapdisk" api "$dir/disks.img" --init-config "$dir/api.toml"
"$snapdisk" api "$dir/disks.img" --init-config "$dir/api.toml" 2>/dev/null && fail "a configuration was overwritten"
ok
chmod 644 "$dir/api.toml"
"$snapdisk" api "$dir/disks.img" --config "$dir/api.toml" 2>/dev/null && fail "a configuration that others read was accepted"
ok
chmod 600 "$dir/api.toml"

start --adopt imported=1
"$venv/bin/python" tests/sdk/sdk.py "$url" "$dir/api.toml" imported >"$dir/ids"
snapshot=$(sed 's/.*"snapshot": "\([^"]*\)".*/\1/' "$dir/ids")
copy=$(sed 's/.*"copy": "\([^"]*\)".*/\1/' "$dir/ids")

# curl in all three encodings, signed by the shell.
public=$(key public) private=$(key private)
sign() { # name=value...: the signature over them
    printf '%s\n' "$@" "PublicKey=$public" | LC_ALL=C sort -t= -k1,1 | while IFS= read -r pair; do printf '%s%s' "${pair%%=*}" "${pair#*=}"; done |
        { cat; printf '%s' "$private"; } | sha1sum | cut -d' ' -f1
}
expect() { # answer, what it must hold
    case $1 in *"$2"*) ok ;; *) fail "$1 does not hold $2" ;; esac
}
describe=(Action=DescribeSnapshot Region=cn Limit=20 "Keyword=imp" ProjectIDs.0=default)
args=()
for pair in "${describe[@]}" "PublicKey=$public" "Signature=$(sign "${describe[@]}")"; do args+=(--data-urlencode "$pair"); done
expect "$(curl -sS -G "$url/api" "${args[@]}")" '"TotalCount":1'
expect "$(curl -sS "$url/api" "${args[@]}")" '"TotalCount":1'
expect "$(curl -sS "$url/api" "${args[@]}" --data-urlencode Zone=added)" '"RetCode":109'
sum=$(sign "Action=DescribeSnapshot" "Region=cn" "Limit=20" "ProjectIDs=defaultother")
json="{\"Action\":\"DescribeSnapshot\",\"Region\":\"cn\",\"Limit\":20,\"ProjectIDs\":[\"default\",\"other\"],\"PublicKey\":\"$public\",\"Signature\":\"$sum\"}"
expect "$(curl -sS "$url/api" -H 'Content-Type: application/json' -d "$json")" '"TotalCount":1'
expect "$(curl -sS "$url/api" -H 'Content-Type: application/json' -d "{$json")" '"RetCode":4'
expect "$(head -c 10000000 /dev/zero | curl -sS -o /dev/null -w '%{http_code}' "$url/api" --data-binary @-)" 413
curl -sS -D - -o /dev/null "$url/api" | grep -qi '^X-UCLOUD-REQUEST-UUID: ' || fail "no request id"
ok
grep -q "$private" "$dir/log" && fail "a private key in the log"
ok

# Killed, everything acknowledged is there; stopped, it says so.
stop KILL
start
expect "$(curl -sS "$url/api" "${args[@]}")" "$snapshot"
stop TERM
grep -q '"event":"stopped"' "$dir/log" || fail "no graceful stop"
ok
"$snapdisk" export "$dir/disks.img" "imported@$snapshot" "$dir/snapshot.raw"
"$snapdisk" export "$dir/disks.img" "$copy" "$dir/copy.raw"
cmp -n 5000000 "$dir/raw" "$dir/snapshot.raw"
ok
cmp -n 5000000 "$dir/raw" "$dir/copy.raw"
ok
"$snapdisk" check "$dir/disks.img" >/dev/null
ok

# The page, in a browser of the distribution.
if browser=$(command -v chromium || command -v chromium-browser); then
    rm "$dir/disks.img"
    "$snapdisk" init "$dir/disks.img"
    start
    "$venv/bin/python" tests/sdk/page.py "$url" "$dir/api.toml" "$browser" ${PICTURES:+"$PICTURES"}
    stop TERM
else
    echo "no chromium here: the page was not tried in a browser"
fi
echo "$passed passed, 0 failed"
