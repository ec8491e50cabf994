from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_vlm import GOOD_REPLY, TAXONOMY, logprobs_of
from tagmoe.annotate.vlm.confidence import (
    Token,
    boolean_probability,
    scaled,
    tag_probabilities,
    vote_shares,
)
from tagmoe.annotate.vlm.wire import read_completion
from tagmoe.schema import Taxonomy, reply_schema
from tagmoe.schema.configs.vlm import Temperatures

LOCAL, GLOBAL, MULTI = TAXONOMY.ids(("local editing", "global editing", "multi region editing"))
ATTRIBUTE, STYLE = TAXONOMY.ids(("attribute editing", "style transfer"))


def tokens_of(text: str, *, at: dict[int, dict[str, float]], size: int = 1) -> tuple[Token, ...]:
    content = logprobs_of(text, at=at, size=size)
    return tuple(
        Token(
            str(item["token"]).encode(),
            tuple((alt["token"].encode(), alt["logprob"]) for alt in item["top_logprobs"]),  # type: ignore[union-attr]
        )
        for item in content
    )


def probs(at: dict[int, dict[str, float]], *, text: str = GOOD_REPLY, size: int = 1):
    return tag_probabilities(TAXONOMY, task="edit", tokens=tokens_of(text, at=at, size=size), text=text)


def place(key: str, text: str = GOOD_REPLY) -> int:
    return text.index(f'"{key}":') + len(key) + 3


def test_certain_tokens_give_zeros_and_ones():
    result = probs({})
    marked = {0, ATTRIBUTE, 13, 14, 16}
    assert [i for i, p in enumerate(result) if p == 1.0] == sorted(marked)
    assert result[17] == 0.0


def test_boolean_is_true_mass_over_true_and_false_mass():
    at = place("attribute editing")
    result = probs({at: {"true": 0.6, "false": 0.2, "t": 0.1, "f": 0.05, "null": 0.05}})
    assert result[ATTRIBUTE] == pytest.approx(0.7 / 0.95)


def test_boolean_inside_a_token_that_begins_earlier():
    at = place("style transfer") - 2
    assert GOOD_REPLY[at : at + 7] == '":false'
    result = probs({at: {'":false': 0.5, '":true': 0.3, '":': 0.1, '" ': 0.1}})
    assert result[STYLE] == pytest.approx(0.3 / 0.8)


def test_an_unlisted_answer_gets_no_more_than_what_is_left():
    at = place("style transfer")
    assert probs({at: {"false": 0.9, "False": 0.04}})[STYLE] == pytest.approx(0.04 / 0.94)
    assert probs({at: {"false": 0.97, "x": 0.02}})[STYLE] == pytest.approx(0.01 / 0.98)
    assert probs({at: {"false": 1.0}})[STYLE] == 0.0


def test_scope_sums_over_token_paths():
    at = place("scope") + 1
    result = probs({at: {"local": 0.4, "l": 0.1, "lo": 0.1, "global": 0.25, "g": 0.05, "mult": 0.1}})
    assert result[LOCAL] == pytest.approx(0.6)
    assert result[GLOBAL] == pytest.approx(0.3)
    assert result[MULTI] == pytest.approx(0.1)
    scopes = [result[tag.id] for tag in TAXONOMY.tier("scope")]
    assert sum(p or 0 for p in scopes) == pytest.approx(1)


def test_scope_ignores_mass_that_spells_no_option():
    at = place("scope") + 1
    result = probs({at: {"local": 0.3, "global": 0.1, "LOCAL": 0.6}})
    assert result[LOCAL] == pytest.approx(0.75)


def _fork_taxonomy() -> Taxonomy:
    names = ("region one", "region two", "whole")
    tags = [{"id": i, "name": name, "tier": "scope", "definition": "d"} for i, name in enumerate(names)]
    return Taxonomy.model_validate({"name": "fork", "version": 1, "tags": tags})


def test_scopes_with_a_common_beginning_are_told_apart_where_they_part():
    taxonomy = _fork_taxonomy()
    text = '{"scope":"region two","types":{},"preservation":{}}'
    start, fork = text.index("region"), text.index("two")
    at = {start: {"region ": 0.5, "reg": 0.3, "region one": 0.1, "whole": 0.1}, fork: {"two": 0.75, "one": 0.25}}
    result = tag_probabilities(taxonomy, task="edit", tokens=tokens_of(text, at=at), text=text)
    # `region ` and `reg` lead to the same two scopes: 0.8 is split 0.75 / 0.25 at the fork, 0.1 more is surely `one`.
    assert result == pytest.approx((0.8 * 0.25 + 0.1, 0.8 * 0.75, 0.1))


@given(st.lists(st.floats(0.01, 1), min_size=6, max_size=6), st.integers(1, 5))
def test_scope_probabilities_are_a_distribution(weights: list[float], size: int):
    total = sum(weights)
    names = ("local", "l", "global editing", "view", "multi region", "style")
    at = {place("scope") + 1: {name: w / total for name, w in zip(names, weights, strict=True)}}
    result = probs(at, size=size) if (place("scope") + 1) % size == 0 else probs(at)
    assert sum(result[tag.id] or 0 for tag in TAXONOMY.tier("scope")) == pytest.approx(1)


def test_white_space_and_key_order_do_not_matter():
    text = '{ "types" : {"attribute editing" :  true}, "scope": "local editing"}'
    at = {text.index("true"): {"true": 0.8, "false": 0.2}}
    result = tag_probabilities(TAXONOMY, task="edit", tokens=tokens_of(text, at=at), text=text)
    assert result[ATTRIBUTE] == pytest.approx(0.8)
    assert result[LOCAL] == 1.0
    assert result[STYLE] is None


def test_tokens_that_do_not_spell_the_reply_tell_nothing():
    tokens = tokens_of('{"scope":"x"}', at={})
    assert set(tag_probabilities(TAXONOMY, task="edit", tokens=tokens, text=GOOD_REPLY)) == {None}


def test_end_token_after_the_text_is_no_obstacle():
    tokens = (*tokens_of(GOOD_REPLY, at={}), Token(b"<|im_end|>", ((b"<|im_end|>", 0.0),)))
    result = tag_probabilities(TAXONOMY, task="edit", tokens=tokens, text=GOOD_REPLY)
    assert result[LOCAL] == 1.0


def test_tokens_may_cut_characters_apart():
    tags = [
        {"id": 0, "name": "größer", "tier": "scope", "definition": "d"},
        {"id": 1, "name": "grün", "tier": "scope", "definition": "d"},
    ]
    taxonomy = Taxonomy.model_validate({"name": "de", "version": 1, "tags": tags})
    text = '{"scope":"größer","types":{},"preservation":{}}'
    data = text.encode()
    cut = data.index("ö".encode()) + 1
    fork = Token(data[cut:], ((data[cut:], math.log(0.9)), ("ü".encode()[1:] + b"n", math.log(0.1))))
    tokens = (Token(data[:cut], ((data[:cut], 0.0),)), fork)
    assert tag_probabilities(taxonomy, task="edit", tokens=tokens, text=text) == pytest.approx((0.9, 0.1))


def test_generation_has_one_possible_scope():
    text = GOOD_REPLY.replace("local editing", "image generation")
    result = tag_probabilities(TAXONOMY, task="generation", tokens=tokens_of(text, at={}), text=text)
    assert result[17] == 1.0
    assert result[LOCAL] == 0.0


def test_flat_boolean():
    text = '{"carried_out":true}'
    tokens = tokens_of(text, at={text.index("true"): {"true": 0.55, "false": 0.45}})
    assert boolean_probability(tokens, text=text, key="carried_out") == pytest.approx(0.55)


def test_votes():
    shares = vote_shares(TAXONOMY, [{0, 7}, {0, 6}, {0, 7}, {1, 7}])
    assert (shares[0], shares[1], shares[7], shares[6], shares[8]) == (0.75, 0.25, 0.75, 0.25, 0.0)


def test_temperature_scaling_by_hand():
    temperatures = Temperatures(name="gold", scope=2.0, types=2.0, preservation=0.5)
    raw: list[float | None] = [None] * TAXONOMY.size
    raw[LOCAL], raw[GLOBAL], raw[ATTRIBUTE], raw[13] = 0.8, 0.2, 0.8, 0.8
    result = scaled(TAXONOMY, raw, temperatures=temperatures)
    assert result[ATTRIBUTE] == pytest.approx(2 / 3)  # odds 4 -> 2
    assert result[13] == pytest.approx(16 / 17)  # odds 4 -> 16
    assert result[LOCAL] == pytest.approx(2 / 3)
    assert result[GLOBAL] == pytest.approx(1 / 3)
    assert result[STYLE] is None


def test_openai_bytes_win_over_token_text():
    entry = {"token": "\ufffd", "bytes": [0xC3], "logprob": 0.0, "top_logprobs": []}
    body = {
        "object": "chat.completion",
        "model": "m",
        "choices": [{"message": {"content": "x"}, "finish_reason": "stop", "logprobs": {"content": [entry]}}],
    }
    import json

    answer = read_completion(json.dumps(body).encode()).answer()
    assert answer.tokens[0] == Token(b"\xc3", ((b"\xc3", 0.0),))  # type: ignore[union-attr]


def test_schema_has_the_order_the_probabilities_assume():
    schema = reply_schema(TAXONOMY, task="edit")
    assert list(schema["properties"]) == ["scope", "types", "preservation"]  # type: ignore[arg-type]
