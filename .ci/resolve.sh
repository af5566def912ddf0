#!/usr/bin/env bash
# Every documented install must resolve from the public index alone: local wheels and settings of this machine are
# switched off, and nothing but metadata is downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --upgrade "pip>=25.1" uv
for name in $(compgen -e | grep -E '^(PIP|UV)_' | grep -vE '^PIP_(CERT|DEFAULT_TIMEOUT)$' || true); do unset "$name"; done
export PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CONFIG=1

# What the README and the Makefile say, word for word, with the pip and the Python at hand.
pip() { echo "pip install $*"; "$work/venv/bin/python" -m pip install --quiet --dry-run "$@"; }
pip -c constraints.txt torch
pip -c constraints.txt --group dev .
pip -c constraints.txt --group docs
pip ".[export,remote,download,hpc,timm,hub,triton]"

# Other Pythons and systems, by their markers. mamba-ssm comes as source only; its requirements stand in its metadata.
resolve() { # python platform constraints
  echo "Python $1, $2, constraints $3: the package, every extra, the tools of development and documentation"
  MACOSX_DEPLOYMENT_TARGET=14.0 "$work/venv/bin/uv" pip compile --quiet --no-annotate --no-header \
    --python-version "$1" --python-platform "$2" --only-binary :all: --no-binary mamba-ssm \
    --constraints "$3" --all-extras --group dev --group docs --output-file "$work/resolved.txt" pyproject.toml
}
for python in 3.11 3.12 3.13; do
  for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin; do
    resolve $python $platform constraints.txt
  done
done
resolve 3.13 x86_64-manylinux_2_28 /dev/null # as `pip install .` in an environment of one's own
echo "every documented install resolves from the public index"
