#!/bin/sh
# Peers of bench/test_sandbox.py that the extra `bench` cannot bring: bubblewrap, nsjail, EvalPlus.
set -eu
apt-get update
apt-get install --yes --no-install-recommends bubblewrap
apt-get install --yes --no-install-recommends nsjail || echo "nsjail is not packaged here: skipped"
# Its requirements are for generating samples; its executor needs none of them but these.
"${PYTHON:-.venv/bin/python}" -m pip install --no-deps evalplus
"${PYTHON:-.venv/bin/python}" -m pip install psutil appdirs wget tempdir multipledispatch
