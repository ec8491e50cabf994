"""The `server` annotator against vLLM's own HTTP server, really started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_tiny_vlm import ENVIRONMENT, config_of, make_corpus, make_model
from support_vlm import TAXONOMY, record
from tagmoe.annotate.base import Failure, Labels
from tagmoe.annotate.runner import annotate
from tagmoe.annotate.vlm import make_vlm
from tagmoe.annotate.vlm.dialogue import Reply, first_request
from tagmoe.annotate.vlm.server import ServerAnnotator
from tagmoe.annotate.vlm.wire import chat_body, data_url, read_completion
from tagmoe.schema import ConfigError, Run, parse_reply
from tagmoe.schema.configs.annotate import AnnotateConfig

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]
MODEL = "tiny-qwen3-vl"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = make_model(tmp_path_factory.mktemp("model"), family="qwen3_vl")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(_command(folder, port), stdout=output, stderr=output, env=os.environ | ENVIRONMENT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _command(folder: Path, port: int) -> list[str]:
    structured = {"backend": "xgrammar", "disable_any_whitespace": True}
    options = {
        "--model": str(folder),
        "--served-model-name": MODEL,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": "float32",
        "--max-model-len": "16384",
        "--limit-mm-per-prompt": json.dumps({"image": 4, "video": 0}),
        "--structured-outputs-config": json.dumps(structured),
    }
    flat = [item for pair in options.items() for item in pair]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", *flat]


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(log.read_text(errors="replace")[-4000:])


def annotator_for(endpoint: str, **changes: object) -> ServerAnnotator:
    annotator = make_vlm("server", config_of(MODEL, endpoint=endpoint, **changes), TAXONOMY)
    assert isinstance(annotator, ServerAnnotator)
    return annotator


def asked(endpoint: str, **changes: object) -> Reply:
    """One request as the annotator sends it, without the dialogue around it."""
    import openai

    config = config_of(MODEL, endpoint=endpoint, **changes)
    item = record()
    request = first_request(item, taxonomy=TAXONOMY, config=config)
    body = chat_body(request, pictures=[data_url(p, encoding="jpeg") for p in item.pixels], config=config)
    with openai.OpenAI(base_url=endpoint, api_key="none") as client:
        response = client.chat.completions.with_raw_response.create(**body)  # type: ignore[call-overload]
    answer = read_completion(response.content).answer()
    assert isinstance(answer, Reply)
    return answer


@pytest.mark.parametrize("constraint", ["response_format", "structured_outputs"])
def test_both_ways_to_send_the_schema_constrain_the_reply(endpoint: str, constraint: str):
    reply = asked(endpoint, server__constraint=constraint)
    assert reply.finish == "stop"
    parse_reply(TAXONOMY, reply.text)
    assert reply.tokens is not None
    assert b"".join(token.text for token in reply.tokens).startswith(reply.text.encode())
    assert reply.usage[1] >= len(reply.tokens) - 1


def test_without_a_constraint_the_random_model_is_rejected_not_believed(endpoint: str):
    annotator = annotator_for(endpoint, server__constraint="none", sampling__max_tokens=64)
    [result] = annotator.annotate([record()])
    annotator.close()
    assert isinstance(result, Failure)
    assert result.reason in ("reply_too_long", "invalid_reply")


def test_records_come_back_labelled_or_named(endpoint: str):
    annotator = annotator_for(endpoint)
    too_long = record(3, instruction="word " * 20000)
    results = annotator.annotate([record(0), record(1), record(2), too_long])
    annotator.close()
    for result in results[:3]:
        assert isinstance(result, Labels) or result.reason == "rule_violation"
    assert isinstance(results[3], Failure)
    assert results[3].reason == "refused_by_endpoint"
    assert "400" in results[3].detail


def test_votes_differ_and_are_counted(endpoint: str):
    annotator = annotator_for(endpoint, sampling__votes=5, sampling__vote_temperature=2.0, sampling__seed=-1)
    [result] = annotator.annotate([record()])
    annotator.close()
    assert isinstance(result, Failure) or result.calibration.startswith("votes:")


def test_swap_test_runs(endpoint: str):
    annotator = annotator_for(endpoint, sampling__swap_test=True, sampling__reasks=0)
    results = annotator.annotate([record(0), record(1)])
    annotator.close()
    assert len(results) == 2


def test_a_whole_run_and_the_same_run_again(endpoint: str, tmp_path: Path):
    vlm = config_of(MODEL, endpoint=endpoint).model_dump()
    corpus = make_corpus(tmp_path / "corpus", records=16)
    config = AnnotateConfig.model_validate(
        {"corpus": {"uri": str(corpus)}, "annotator": "server", "workers": 1, "vlm": vlm}
    )
    first = annotate(config, out=tmp_path / "run", quiet=True)
    run = Run.open(tmp_path / "run")
    assert sorted(item.row for item in [*run.annotations(), *run.rejects()]) == list(range(16))
    assert [item.reason for item in run.rejects() if item.row == 15] == ["missing_image"]
    again = annotate(config, out=tmp_path / "run", quiet=True)
    assert again.run_hash == first.run_hash


def test_a_wrong_model_name_is_a_configuration_error(endpoint: str):
    annotator = make_vlm("server", config_of("another-model", endpoint=endpoint), TAXONOMY)
    with pytest.raises(ConfigError, match=r"404.*another-model"):
        annotator.annotate([record()])
    annotator.close()
