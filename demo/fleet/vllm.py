"""Serves checkpoints of the fleet with real vLLM servers on the CPU, where `deploy/vllm-setup.sh` has been run.

    python -m demo.fleet.vllm calc-llama order-qwen      one server per model, on ports 8510, 8511, ...

About 1.3 GB of memory and 20-30 s of start-up per server (more on a busy machine).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from demo.fleet.launch import free_port, stop, wait_healthy
from demo.fleet.roster import CONTEXT_WINDOW, ROSTER

ENVIRONMENT = Path(__file__).parents[2] / ".vllm"
KV_CACHE_BYTES = 64 * 1024 * 1024
"""Without a limit vLLM takes nearly all memory for its cache."""
FIRST_PORT = 8510


def vllm_python(environment: Path = ENVIRONMENT) -> Path | None:
    """The interpreter of the finished vLLM environment, or None if there is none."""
    python = environment / "bin" / "python"
    return python if python.exists() and (environment / ".ready").exists() else None


def command(python: Path, folder: Path, name: str, port: int) -> list[str]:
    """The command line of one server. The `vllm` script does not work in the CPU build, the module does."""
    return [
        str(python), "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(folder), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--max-model-len", str(CONTEXT_WINDOW), "--enforce-eager",
        "--kv-cache-memory-bytes", str(KV_CACHE_BYTES), "--max-logprobs", "20",
        # Greedy unless a request sets a temperature, as the light server does.
        "--override-generation-config", '{"temperature": 0}',
    ]  # fmt: skip


@contextmanager
def running_vllm(names: Sequence[str], ports: Sequence[int] = (), limit_s: float = 300.0) -> Iterator[dict[str, str]]:
    """One vLLM server per named model while the context lasts; yields their URLs (ending in `/v1`) by model name.

    Raises FileNotFoundError if there is no vLLM environment, RuntimeError if a server does not come up in `limit_s`.
    """
    python = vllm_python()
    if python is None:
        raise FileNotFoundError(f"expected a vLLM environment in {ENVIRONMENT}; make it with `make vllm`")
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    }  # fmt: skip
    with ExitStack() as servers:
        started: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
        for name, port in zip(names, ports or [free_port() for _ in names], strict=True):
            process = subprocess.Popen(command(python, ROSTER[name].folder, name, port), env=environment)
            servers.callback(stop, process)
            started[name] = (process, port)
        for process, port in started.values():
            wait_healthy(process, f"http://127.0.0.1:{port}/health", limit_s)
        yield {name: f"http://127.0.0.1:{port}/v1" for name, (_, port) in started.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve models of the demo fleet with vLLM on the CPU.")
    parser.add_argument("models", nargs="+", choices=list(ROSTER), metavar="NAME")
    names: list[str] = parser.parse_args().models
    with running_vllm(names, range(FIRST_PORT, FIRST_PORT + len(names))) as urls:
        for name, url in urls.items():
            print(f"{name}: {url}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
