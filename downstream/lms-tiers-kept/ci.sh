#!/usr/bin/env bash
# What the workflow runs, and what to run by hand before a push.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p reports
python -m pytest
lms-tiers conform kept --profile ci --json reports/conformance.json --html reports/conformance.html \
  --junit reports/junit.xml --badge reports/badge.json
