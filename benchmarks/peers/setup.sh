#!/bin/sh
# Builds benchmarks/peers/.venv from requirements.txt; does nothing if it is there already and up to date.
# PYTHON=... chooses the interpreter (default python3).
set -eu
cd "$(dirname "$0")"
cmp -s requirements.txt .venv/installed.txt && exit 0
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
cp requirements.txt .venv/installed.txt
