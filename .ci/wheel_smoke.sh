#!/usr/bin/env bash
# Build the wheel, install it alone into a fresh environment, leave the checkout and use it there.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

.venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/dist" .
.venv/bin/python .ci/check_wheel.py "$work"/dist/*.whl
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet -c constraints.txt torch
"$work/venv/bin/python" -m pip install --quiet -c constraints.txt "$work"/dist/*.whl

cd "$work"
export PYTHONSAFEPATH=1
bin=$work/venv/bin
"$bin/wsi-vmamba" --version
"$bin/python" -m wsi_vmamba doctor
"$bin/python" -c 'import wsi_vmamba, sys; sys.exit(wsi_vmamba.__file__.startswith(sys.argv[1]))' "$checkout"
"$bin/python" - <<'PY'
from pathlib import Path
from wsi_vmamba.datasets.synthetic import CohortSpec, generate_slide
spec = CohortSpec(slides=1, seed=7, width_px=(1024, 1024), height_px=(1024, 1024))
generate_slide(spec, 0, Path("slides"))
PY
"$bin/wsi-vmamba" extract slides --out features
"$bin/wsi-vmamba" extract slides --out features
ls features
echo "wheel smoke test passed"
