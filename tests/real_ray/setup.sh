#!/usr/bin/env bash
# Make the environment of `make test-ray`. Usage: tests/real_ray/setup.sh [FOLDER]   (default .venv-ray; under 1 GB)
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
venv="${1:-$root/.venv-ray}"
stamp="$venv/.ready"
wanted="$(cat "$here/setup.sh" "$root/pyproject.toml" | sha256sum | cut -d' ' -f1)"
if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
    echo "Ray environment $venv is ready"
    exit 0
fi
rm -f "$stamp"
[[ -x "$venv/bin/python" ]] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip --disable-pip-version-check -qq install 'ray==2.60.0' pytest pytest-timeout --editable "$root[server]"
"$venv/bin/python" -c "import ray; print('Ray', ray.__version__)"
echo "$wanted" >"$stamp"
