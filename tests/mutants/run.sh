#!/bin/bash
# Plants the bugs of list.toml, one at a time, in a copy of the source, and shows that the tests see each of them.
exec python3 "$(dirname "$0")/run.py" "$@"
