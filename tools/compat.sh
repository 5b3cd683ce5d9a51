#!/usr/bin/env bash
# Run the tests with one combination of versions, in a virtual environment that is removed again:
#
#   tools/compat.sh PYTHON TORCH NUMPY [PYTEST OPTION ...]
#   tools/compat.sh python3.12 2.13.0 2.4.6
#
# PYTHON is an interpreter, TORCH and NUMPY are versions. pip chooses the other packages, which is
# what somebody gets who installs requirements.txt without constraints.txt. The last line says what
# ran and whether it passed.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: tools/compat.sh PYTHON TORCH NUMPY [PYTEST OPTION ...]" >&2
    exit 2
fi
interpreter=$1 torch=$2 numpy=$3
shift 3
cd "$(dirname "$0")/.."
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python=$venv/bin/python
"$interpreter" -m venv "$venv"
# Without the lower bounds of torch and numpy, so that older ones can be tried.
grep -hvE '^(-r|torch|numpy)' requirements.txt requirements-dev.txt >"$venv/others.txt"
"$python" -m pip install --quiet "torch==$torch" "numpy==$numpy" -r "$venv/others.txt"
result=passed
"$python" -m pytest -q -p no:cacheprovider "$@" || result="failed with status $?"
versions='import platform as p, numpy as n, torch as t
print(f"Python {p.python_version()}, torch {t.__version__}, numpy {n.__version__}, {p.machine()}")'
echo "compat: $("$python" -c "$versions"): $result"
[ "$result" = passed ]
