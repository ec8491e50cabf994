from __future__ import annotations

import json
import threading
import time

import pytest
from support_vlm import (
    BROKEN_REPLY,
    GOOD_IDS,
    GOOD_REPLY,
    MODEL,
    TAXONOMY,
    Act,
    FaultServer,
    Script,
    config_for,
    good,
    is_control,
    logprobs_of,
    pictures_of,
    record,
    reply_of,
    serving,
    text_of,
)
from tagmoe.annotate.base import Failure, Labels
from tagmoe.annotate.vlm import make_vlm
from tagmoe.annotate.vlm.server import ServerAnnotator
from tagmoe.schema import ConfigError, StoppedError


def run(*scripts: Script, records: int = 12, **changes: object) -> tuple[list[Labels | Failure], list[FaultServer]]:
    with serving(*scripts) as servers:
        annotator = make_vlm("server", config_for(*servers, **changes), TAXONOMY)
        try:
            return list(annotator.annotate([record(row) for row in range(records)])), servers
        finally:
            annotator.close()


def first_time(fault: Act) -> Script:
    """Every record's first request meets `fault`; the next one is answered."""
    seen: set[str] = set()
    lock = threading.Lock()

    def script(body: dict, number: int) -> Act:
        with lock:
            fresh = text_of(body) not in seen and not is_control(body)
            seen.add(text_of(body))
        return fault if fresh else good(body, number)

    return script


def only(row: int, fault: Act) -> Script:
    """Record `row` always meets `fault`."""

    def script(body: dict, number: int) -> Act:
        return fault if f"number {row} " in text_of(body) else good(body, number)

    return script


def together(count: int) -> Script:
    """Nothing is answered before `count` requests are under way at once."""
    barrier = threading.Barrier(count, timeout=60)

    def script(body: dict, number: int) -> Act:
        if not is_control(body):
            barrier.wait()
        return good(body, number)

    return script


def ok(results: list[Labels | Failure]) -> list[bool]:
    return [isinstance(result, Labels) and result.tag_ids == GOOD_IDS for result in results]


def test_request_is_what_openai_expects():
    results, [server] = run(good, records=1)
    [body] = server.records
    assert ok(results) == [True]
    assert results[0].usage == (100, 40)  # type: ignore[union-attr]
    assert body["model"] == MODEL
    assert body["temperature"] == 0
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 5, 320)
    shape = body["response_format"]["json_schema"]
    assert (body["response_format"]["type"], shape["strict"]) == ("json_schema", True)
    assert "image generation" not in shape["schema"]["properties"]["scope"]["enum"]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    source, target = pictures_of(body)
    assert source.size == (40, 32)
    assert source.convert("RGB").getpixel((5, 5))[0] > 240
    assert target.convert("RGB").getpixel((5, 5))[1] > 240


def test_vllms_own_field_and_further_fields_reach_the_body():
    _, [server] = run(good, records=1, constraint="structured_outputs", extra_body={"top_k": 1}, pictures__format="png")
    [body] = server.records
    assert body["structured_outputs"]["json"]["required"] == ["scope", "types", "preservation"]
    assert body["top_k"] == 1
    assert "response_format" not in body
    assert pictures_of(body)[0].format == "PNG"


def test_results_keep_the_order_of_the_batch():
    def script(body: dict, number: int) -> Act:
        row = 0 if is_control(body) else int(text_of(body).split("number ")[1].split()[0])
        return Act(content=reply_of([TAXONOMY.by_id[row % 3].name]), hang_seconds=0.01 * ((7 * row) % 5))

    results, _ = run(script, records=30)
    assert [result.tag_ids[0] for result in results] == [row % 3 for row in range(30)]  # type: ignore[union-attr]


def test_concurrency_is_bounded_and_used():
    _, [server] = run(together(5), records=20, concurrency=5)
    assert server.peak == 5


@pytest.mark.parametrize(
    "fault",
    [
        Act(status=429),
        Act(status=429, headers={"retry-after": "0.02"}),
        Act(status=500),
        Act(status=503, headers={"retry-after": "0.02"}),
        Act(hang_seconds=0.7),
        Act(content=GOOD_REPLY, drip_seconds=0.02),
        Act(content=GOOD_REPLY, cut_after=60),
        Act(reset=True),
        Act(raw=b'{"object":"chat.completion","model":"test-vlm","choi'),
        Act(raw=b'{"object":"list","data":[]}'),
        Act(raw=b"<html>gateway</html>"),
        Act(content=GOOD_REPLY, choices=0),
    ],
    ids=["429", "429-after", "500", "503-after", "hang", "drip", "cut", "reset", "torn", "shape", "html", "empty"],
)
def test_a_passing_fault_costs_a_retry_and_no_record(fault: Act):
    # An answer in time may come late on a busy machine, too: that costs tries, hence so many.
    results, [server] = run(first_time(fault), records=6, timeout_seconds=0.5, attempts=50)
    assert ok(results) == [True] * 6
    assert len(server.records) >= 12


def test_retry_after_is_honoured():
    started = time.monotonic()
    results, _ = run(first_time(Act(status=429, headers={"retry-after": "0.4"})), records=2)
    assert ok(results) == [True] * 2
    assert time.monotonic() - started >= 0.4


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_fails_alone_and_is_not_retried(status: int):
    results, [server] = run(only(3, Act(status=status, content="picture too odd")), records=6)
    assert ok(results) == [True, True, True, False, True, True]
    assert isinstance(results[3], Failure)
    assert results[3].reason == "refused_by_endpoint"
    assert "picture too odd" in results[3].detail
    assert len(server.records) == 6


@pytest.mark.parametrize("fault", [Act(status=500), Act(reset=True), Act(choices=0)], ids=["500", "reset", "empty"])
def test_a_record_that_always_fails_is_blamed_only_while_the_endpoint_answers_others(fault: Act):
    results, [server] = run(only(2, fault), records=5, attempts=3, failures_to_leave=50)
    assert ok(results) == [True, True, False, True, True]
    assert isinstance(results[2], Failure)
    assert results[2].reason == "refused_by_endpoint"
    assert "3 tries failed while" in results[2].detail
    tries = [body for body in server.records if "number 2 " in text_of(body)]
    assert len(tries) == 3


def test_a_bad_record_comes_through_although_it_takes_its_endpoint_out_of_the_pool():
    results, _ = run(only(0, Act(status=500)), records=1, attempts=5, failures_to_leave=2)
    assert isinstance(results[0], Failure)
    assert results[0].reason == "refused_by_endpoint"


def test_a_dead_endpoint_leaves_the_pool_and_the_others_do_its_work():
    with serving(good, good) as servers:
        servers[0].stop()
        annotator = make_vlm("server", config_for(*servers), TAXONOMY)
        results = list(annotator.annotate([record(row) for row in range(20)]))
        annotator.close()
        servers[0] = FaultServer(good)  # `serving` stops it again
        assert ok(results) == [True] * 20
        assert len(servers[1].records) == 20


def test_an_endpoint_that_dies_midway_returns_after_it_recovered():
    sick = threading.Event()

    def script(body: dict, number: int) -> Act:
        return Act(status=503) if sick.is_set() else good(body, number)

    with serving(script, good) as servers:
        annotator = make_vlm("server", config_for(*servers), TAXONOMY)
        assert ok(list(annotator.annotate([record(row) for row in range(10)]))) == [True] * 10
        sick.set()
        assert ok(list(annotator.annotate([record(row) for row in range(10, 40)]))) == [True] * 30
        before = len(servers[0].records)
        assert ok(list(annotator.annotate([record(row) for row in range(40, 60)]))) == [True] * 20
        assert len(servers[0].records) == before
        sick.clear()
        deadline = time.monotonic() + 60
        while len(servers[0].records) == before and time.monotonic() < deadline:
            annotator.annotate([record(60), record(61)])
        assert len(servers[0].records) > before
        annotator.close()


def test_all_endpoints_dead_stops_the_run_and_names_them():
    with serving(good) as [server]:
        url = server.url
    annotator = make_vlm("server", config_for(url, patience_seconds=0.3), TAXONOMY)
    with pytest.raises(StoppedError, match=r"no endpoint answered for .*127\.0\.0\.1.*run the same command again"):
        annotator.annotate([record()])
    annotator.close()


def test_endpoints_that_die_for_good_midway_stop_the_run_and_reject_nothing():
    def script(body: dict, number: int) -> Act:
        return good(body, number) if number < 10 else Act(status=500)

    with pytest.raises(StoppedError, match="no endpoint answered"):
        run(script, records=40, patience_seconds=0.4)


def test_busy_forever_stops_the_run():
    with pytest.raises(StoppedError, match="no endpoint answered"):
        run(lambda body, _: Act(status=429), records=4, patience_seconds=0.3)


def test_a_server_that_starts_late_is_waited_for():
    with serving(good) as [server]:
        url, port = server.url, server.port
    annotator = make_vlm("server", config_for(url), TAXONOMY)
    late: list[FaultServer] = []

    def start() -> None:
        time.sleep(0.3)
        late.append(FaultServer(good, port=port))

    thread = threading.Thread(target=start)
    thread.start()
    assert ok(list(annotator.annotate([record(0), record(1)]))) == [True, True]
    thread.join()
    annotator.close()
    late[0].stop()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (lambda *_: Act(content=GOOD_REPLY, model="other"), "answers as model 'other'.*also_answers_as"),
        (lambda *_: Act(status=404, content="no such model"), "404: no such model"),
        (lambda *_: Act(status=401, content="bad key"), "401: bad key"),
        (lambda *_: Act(status=400, content="logprobs not supported"), "refuses even a plain request.*logprobs not"),
    ],
    ids=["wrong-model", "404", "401", "400"],
)
def test_a_configuration_that_cannot_work_is_an_error_before_any_record(script: Script, said: str):
    with serving(script) as [server]:
        annotator = make_vlm("server", config_for(server), TAXONOMY)
        with pytest.raises(ConfigError, match=said):
            annotator.annotate([record()])
        assert server.records == []
        annotator.close()


def test_an_alias_of_the_model_can_be_allowed():
    results, _ = run(lambda *_: Act(content=GOOD_REPLY, model="test-vlm-2026"), also_answers_as=["test-vlm-2026"])
    assert all(ok(results))


def test_one_endpoint_with_the_wrong_model_is_left_out():
    results, servers = run(good, lambda *_: Act(content=BROKEN_REPLY, model="other"), records=10)
    assert all(ok(results))
    assert len(servers[0].records) == 10


def test_a_broken_rule_is_asked_again_by_name_and_mended():
    def script(body: dict, number: int) -> Act:
        return Act(content=GOOD_REPLY if len(body["messages"]) == 4 or is_control(body) else BROKEN_REPLY)

    [result], [server] = run(script, records=1)
    assert isinstance(result, Labels)
    assert result.tag_ids == GOOD_IDS
    assert result.warnings == ("asked_again",)
    assert result.usage == (200, 80)
    said, complaint = server.records[1]["messages"][2:]
    assert said == {"role": "assistant", "content": BROKEN_REPLY}
    assert "background_editing_excludes_background_preservation" in complaint["content"]


@pytest.mark.parametrize(
    ("act", "reason", "requests"),
    [
        (Act(content=BROKEN_REPLY), "rule_violation", 2),
        (Act(content='{"scope":"local editing"}'), "invalid_reply", 2),
        (Act(content=GOOD_REPLY[:-9]), "invalid_reply", 2),
        (Act(content="I think it is local."), "invalid_reply", 2),
        (Act(content=GOOD_REPLY, finish="tool_calls"), "invalid_reply", 2),
        (Act(content=GOOD_REPLY[:50], finish="length"), "reply_too_long", 1),
        (Act(content=GOOD_REPLY, finish="length"), "reply_too_long", 1),
        (Act(refusal="I cannot help with that"), "refused_by_endpoint", 1),
    ],
    ids=["rule", "missing", "truncated", "prose", "finish", "cut", "length-but-whole", "refusal"],
)
def test_replies_that_stay_wrong_become_named_failures(act: Act, reason: str, requests: int):
    [bad, fine], [server] = run(only(0, act), records=2)
    assert isinstance(bad, Failure)
    assert bad.reason == reason
    assert isinstance(fine, Labels)
    assert len(server.records) == requests + 1


def test_reasks_can_be_turned_off():
    [bad], [server] = run(only(0, Act(content=BROKEN_REPLY)), records=1, sampling__reasks=0)
    assert isinstance(bad, Failure)
    assert len(server.records) == 1


def test_probabilities_come_from_log_probabilities():
    at = GOOD_REPLY.index('"attribute editing":true') + len('"attribute editing":')
    tokens = logprobs_of(GOOD_REPLY, at={at: {"true": 0.9, "false": 0.1}})
    [result], _ = run(lambda *_: Act(content=GOOD_REPLY, logprobs=tokens), records=1)
    assert isinstance(result, Labels)
    assert result.tag_probs[7] == pytest.approx(0.9)
    assert result.tag_probs[0] == 1.0
    assert result.tag_probs == result.tag_probs_raw
    assert result.calibration == "none"


def test_without_log_probabilities_there_are_no_probabilities():
    [result], _ = run(good, records=1)
    assert isinstance(result, Labels)
    assert set(result.tag_probs) == {None}
    assert len(result.tag_probs) == TAXONOMY.size


def test_votes_are_shares_with_their_own_seeds():
    replies = [GOOD_REPLY, GOOD_REPLY, reply_of(("global editing", "style transfer"))]

    def script(body: dict, number: int) -> Act:
        return good(body, number) if is_control(body) else Act(content=replies[body["seed"] - 5])

    [result], [server] = run(script, records=1, sampling__votes=3, sampling__seed=5)
    assert isinstance(result, Labels)
    assert result.tag_ids == GOOD_IDS
    assert result.calibration == "votes:3"
    assert result.tag_probs[0] == pytest.approx(2 / 3)
    assert result.tag_probs[8] == pytest.approx(1 / 3)
    assert result.warnings == ("votes_disagree_0.67",)
    assert sorted(body["seed"] for body in server.records) == [5, 6, 7]
    assert {body["temperature"] for body in server.records} == {0.7}


def test_a_majority_that_breaks_a_rule_gives_way_to_a_whole_reply():
    ballots = [
        reply_of(("local editing", "background editing", "object editing")),
        reply_of(("local editing", "background editing", "object editing")),
        reply_of(("local editing", "background preservation", "object editing")),
        reply_of(("local editing", "background preservation", "attribute editing")),
        BROKEN_REPLY,
    ]

    def script(body: dict, number: int) -> Act:
        return good(body, number) if is_control(body) else Act(content=ballots[body["seed"]])

    [result], _ = run(script, records=1, sampling__votes=5)
    assert isinstance(result, Labels)
    assert result.calibration == "votes:4"
    assert not [v for v in TAXONOMY.check(result.tag_ids) if v.severity == "error"]


def test_swap_test_warns_about_a_reversed_pair():
    def script(body: dict, number: int) -> Act:
        if "carried_out" not in json.dumps(body["response_format"]):
            return good(body, number)
        first_red = pictures_of(body)[0].convert("RGB").getpixel((3, 3))[0] > 240
        text = '{"carried_out":false}' if first_red else '{"carried_out":true}'
        at = text.index(":") + 1
        p = 0.2 if first_red else 0.9
        return Act(content=text, logprobs=logprobs_of(text, at={at: {"true": p, "false": 1 - p}}))

    [result], [server] = run(script, records=1, sampling__swap_test=True)
    assert isinstance(result, Labels)
    assert result.warnings == ("swap_test_inconsistent_-0.70",)
    assert len(server.records) == 3
    assert result.usage == (300, 120)


def test_swap_test_is_silent_about_a_pair_in_order_and_without_both_pictures():
    def script(body: dict, number: int) -> Act:
        if "carried_out" not in json.dumps(body["response_format"]):
            return good(body, number)
        first_red = pictures_of(body)[0].convert("RGB").getpixel((3, 3))[0] > 240
        return Act(content='{"carried_out":true}' if first_red else '{"carried_out":false}')

    [result], _ = run(script, records=1, sampling__swap_test=True)
    assert isinstance(result, Labels)
    assert result.warnings == ()
    with serving(script) as [server]:
        annotator = make_vlm("server", config_for(server, sampling__swap_test=True), TAXONOMY)
        annotator.annotate([record(roles=("target",), task="edit")])
        assert len(server.records) == 1
        annotator.close()


def test_calls_from_several_threads_share_one_bounded_pool():
    with serving(together(4)) as [server]:
        annotator = make_vlm("server", config_for(server, concurrency=4), TAXONOMY)
        results: dict[int, list[Labels | Failure]] = {}

        def call(n: int) -> None:
            results[n] = list(annotator.annotate([record(row) for row in range(10 * n, 10 * n + 10)]))

        threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        annotator.close()
        assert all(all(ok(results[n])) for n in range(4))
        assert server.peak == 4
        assert len(server.records) == 40


def test_close_is_clean_before_and_after_use():
    ServerAnnotator(config_for("http://127.0.0.1:9/v1"), taxonomy=TAXONOMY).close()
    with serving(good) as [server]:
        annotator = make_vlm("server", config_for(server), TAXONOMY)
        annotator.annotate([record()])
        annotator.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("tagmoe-server")]
