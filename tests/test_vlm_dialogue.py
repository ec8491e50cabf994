from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support_vlm import BROKEN_REPLY, GOOD_IDS, GOOD_REPLY, TAXONOMY, config_for, record, reply_of
from tagmoe.annotate.base import Failure, Labels
from tagmoe.annotate.vlm.dialogue import Reply, Request, dialogue
from tagmoe.schema import REASONS

NAMES = [tag.name for tag in TAXONOMY.tags if tag.tier != "scope"]
SCOPES = [tag.name for tag in TAXONOMY.tier("scope")]

valid_shape = st.builds(
    lambda scope, rest: reply_of([scope, *rest]), st.sampled_from(SCOPES), st.sets(st.sampled_from(NAMES))
)
answers = st.one_of(
    st.builds(Reply, valid_shape, st.just("stop")),
    st.builds(Reply, st.text(max_size=60), st.sampled_from(["stop", "length", "content_filter", "none"])),
    st.builds(Reply, st.sampled_from([GOOD_REPLY, BROKEN_REPLY, '{"carried_out":true}']), st.just("stop")),
    st.just(Failure("refused_by_endpoint", "no")),
)


def converse(draw, **changes: object) -> tuple[Labels | Failure, list[list[Request]]]:
    talk = dialogue(record(), taxonomy=TAXONOMY, config=config_for("http://a/v1", **changes))
    rounds = [list(next(talk))]
    while True:
        try:
            rounds.append(list(talk.send([draw() for _ in rounds[-1]])))
        except StopIteration as end:
            return end.value, rounds


@given(st.data(), st.integers(1, 5), st.integers(0, 2), st.booleans())
def test_any_replies_end_in_lawful_labels_or_a_named_failure(data, votes: int, reasks: int, swap: bool):
    result, rounds = converse(
        lambda: data.draw(answers), sampling__votes=votes, sampling__reasks=reasks, sampling__swap_test=swap
    )
    assert len(rounds) <= 1 + reasks
    assert len(rounds[0]) == votes + 2 * swap
    if isinstance(result, Failure):
        assert result.reason in REASONS
        assert "\n" not in result.detail
        return
    assert not [v for v in TAXONOMY.check(result.tag_ids, task="edit") if v.severity == "error"]
    assert list(result.tag_ids) == sorted(set(result.tag_ids))
    assert len(result.tag_probs) == len(result.tag_probs_raw) == TAXONOMY.size
    assert all(p is None or 0 <= p <= 1 for p in result.tag_probs)


def test_a_complaint_carries_the_whole_conversation_and_the_pictures():
    texts = iter([BROKEN_REPLY, BROKEN_REPLY, GOOD_REPLY])
    result, rounds = converse(lambda: Reply(next(texts), "stop"), sampling__reasks=2)
    assert isinstance(result, Labels)
    assert result.tag_ids == GOOD_IDS
    last = rounds[-1][0]
    assert [said for said, _ in last.history] == [BROKEN_REPLY, BROKEN_REPLY]
    assert last.prompt == rounds[0][0].prompt
    assert last.record.pixels == rounds[0][0].record.pixels


def test_only_the_vote_that_broke_a_rule_is_asked_again():
    texts = iter([GOOD_REPLY, BROKEN_REPLY, GOOD_REPLY, GOOD_REPLY])
    result, rounds = converse(lambda: Reply(next(texts), "stop", None, (10, 5)), sampling__votes=3)
    assert [len(asked) for asked in rounds] == [3, 1]
    assert rounds[1][0].seed == rounds[0][1].seed
    assert isinstance(result, Labels)
    assert result.usage == (40, 20)
    assert result.warnings == ("asked_again",)
