"""How much of an engine's throughput `tagmoe annotate` keeps, beside bare clients of the same engine.

    python benchmarks/annotate.py server            # beside a bare asyncio client at equal concurrency
    python benchmarks/annotate.py vllm              # beside bare LLM.chat, in the environment of `make test-vllm`
    python benchmarks/annotate.py resume            # killed at 90 %, then the same command again
    python benchmarks/annotate.py memory            # peak memory against corpus size
    python benchmarks/annotate.py parts             # one core's milliseconds a record, step by step
    python benchmarks/annotate.py tokens FILE       # tokens of prompts and replies under a tokenizer.json

`server` asks a stub that answers each request after 0.5 to 1.5 times a set time, as a busy engine of steady speed would;
both arms read, decode, bound and encode the same pictures. Rates are records over the time from the first request's
arrival at the engine to the last answer, so neither arm's start-up counts; whole wall times are printed beside them.
Arms are interleaved.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]

from _annotate_memory import bench_memory  # noqa: E402
from _annotate_parts import bench_parts  # noqa: E402
from _annotate_resume import bench_resume  # noqa: E402
from _annotate_server import bench_server  # noqa: E402
from _annotate_tokens import bench_tokens  # noqa: E402
from _annotate_vllm import bench_vllm  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arms = parser.add_subparsers(dest="arm")
    server = arms.add_parser("server")
    server.add_argument("--records", type=int, default=640)
    server.add_argument("--side", type=int, default=512)
    server.add_argument("--concurrency", type=int, default=32)
    server.add_argument("--latency", type=float, default=1.0)
    server.add_argument("--repeats", type=int, default=3)
    resume = arms.add_parser("resume")
    resume.add_argument("--records", type=int, default=16000)
    resume.add_argument("--side", type=int, default=64)
    resume.add_argument("--concurrency", type=int, default=32)
    resume.add_argument("--latency", type=float, default=0.5)
    engine = arms.add_parser("vllm")
    engine.add_argument("--records", type=int, default=256)
    engine.add_argument("--side", type=int, default=224)
    engine.add_argument("--repeats", type=int, default=5)
    memory = arms.add_parser("memory")
    memory.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000, 50000])
    parts = arms.add_parser("parts")
    parts.add_argument("--records", type=int, default=512)
    parts.add_argument("--repeats", type=int, default=3)
    tokens = arms.add_parser("tokens")
    tokens.add_argument("file", type=Path)
    # Without an arm, as run_all.py calls it: those that need neither vLLM nor a tokenizer.
    given = [[word] for word in ("server", "resume", "memory", "parts")] if len(sys.argv) == 1 else [sys.argv[1:]]
    for words in given:
        run(vars(parser.parse_args(words)))


def run(options: dict[str, Any]) -> None:
    match options.pop("arm"):
        case "server":
            bench_server(**options)
        case "resume":
            bench_resume(**options)
        case "vllm":
            bench_vllm(**options)
        case "memory":
            bench_memory(options["sizes"])
        case "parts":
            bench_parts(**options)
        case "tokens":
            bench_tokens(options["file"])


if __name__ == "__main__":
    main()
