"""One record's conversation, free of any transport: what to ask, how to read it, when to ask again, what to conclude.

A dialogue is a generator: it yields the requests that may run at the same time and receives their replies in order.
The engines differ only in how they carry requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue

from ...schema import InvalidReply, Taxonomy, parse_reply, reply_schema
from ...schema.configs.vlm import VlmConfig
from ...schema.warnings import warning
from ..base import Failure, Labels, Prepared
from .confidence import Token, boolean_probability, scaled, tag_probabilities, vote_shares
from .prompt import DIRECTION_KEY, DIRECTION_SCHEMA, Prompt, complaint, direction_prompt, label_prompt


@dataclass(frozen=True, slots=True)
class Request:
    """One question to the model about one record; the record's pictures are numbered by `prompt`."""

    record: Prepared
    prompt: Prompt
    schema: Mapping[str, JsonValue]
    temperature: float
    seed: int | None
    max_tokens: int
    top_logprobs: int
    history: tuple[tuple[str, str], ...] = ()
    """Earlier replies, each with the complaint that follows it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the text, why it ended, its tokens (None without log-probabilities), prompt and reply tokens."""

    text: str
    finish: str
    tokens: tuple[Token, ...] | None = None
    usage: tuple[int, int] = (0, 0)


Answer = Reply | Failure
Dialogue = Generator[Sequence[Request], Sequence[Answer], Labels | Failure]


_MENDABLE = ("rule_violation", "invalid_reply")
_LONGEST_QUOTE = 4096
"""Characters of a bad reply that are shown to the model again."""


@dataclass(frozen=True, slots=True)
class _Vote:
    """A question, its answer, and the tag ids that were read from it or why not."""

    ask: Request
    answer: Answer
    reading: frozenset[int] | Failure

    @property
    def mendable(self) -> bool:
        return isinstance(self.answer, Reply) and isinstance(self.reading, Failure) and self.reading.reason in _MENDABLE

    def asked_again(self) -> Request:
        """The same question, continued by the answer and what is wrong with it."""
        said = self.answer.text if isinstance(self.answer, Reply) else ""
        problem = self.reading.detail if isinstance(self.reading, Failure) else ""
        return replace(self.ask, history=(*self.ask.history, (said[:_LONGEST_QUOTE], complaint(problem))))


def dialogue(record: Prepared, *, taxonomy: Taxonomy, config: VlmConfig) -> Dialogue:
    """Label one record: `votes` replies, each asked again when it breaks a rule, and the swap test if configured."""
    sampling = config.sampling
    asks = [first_request(record, taxonomy=taxonomy, config=config, vote=vote) for vote in range(sampling.votes)]
    direction = _direction_asks(record, config) if sampling.swap_test else []
    answers = yield (*asks, *direction)
    received = list(answers)
    votes = _votes(taxonomy, asks, answers[: len(asks)])
    warnings = _direction_warnings(answers[len(asks) :])
    for _ in range(sampling.reasks):
        broken = [i for i, vote in enumerate(votes) if vote.mendable]
        if not broken:
            break
        asks = [votes[i].asked_again() for i in broken]
        answers = yield asks
        received += answers
        for i, vote in zip(broken, _votes(taxonomy, asks, answers), strict=True):
            votes[i] = vote
    if any(vote.ask.history for vote in votes):
        warnings = [warning("asked_again"), *warnings]
    result = _conclude(taxonomy, config=config, record=record, votes=votes)
    if isinstance(result, Failure):
        return result
    usage = [answer.usage for answer in received if isinstance(answer, Reply)]
    return replace(
        result,
        warnings=(*result.warnings, *warnings),
        usage=(sum(prompt for prompt, _ in usage), sum(reply for _, reply in usage)),
    )


def first_request(record: Prepared, *, taxonomy: Taxonomy, config: VlmConfig, vote: int = 0) -> Request:
    """The question that opens vote number `vote` of a dialogue."""
    sampling = config.sampling
    roles = [info.role for info in record.images] if record.pixels else []
    return Request(
        record=record,
        prompt=label_prompt(taxonomy, pair=record.pair, roles=roles),
        schema=reply_schema(taxonomy, task=record.pair.task),
        temperature=sampling.vote_temperature if sampling.votes > 1 else 0.0,
        seed=sampling.seed + vote if sampling.seed >= 0 else None,
        max_tokens=sampling.max_tokens,
        top_logprobs=sampling.top_logprobs if sampling.votes == 1 else 0,
    )


def _direction_asks(record: Prepared, config: VlmConfig) -> list[Request]:
    roles = [info.role for info in record.images]
    if not record.pixels or "source" not in roles or "target" not in roles:
        return []
    source, target = roles.index("source"), roles.index("target")
    return [
        Request(
            record=record,
            prompt=direction_prompt(record.pair, before=before, after=after),
            schema=DIRECTION_SCHEMA,
            temperature=0.0,
            seed=None,
            max_tokens=min(32, config.sampling.max_tokens),
            top_logprobs=max(config.sampling.top_logprobs, 2),
        )
        for before, after in ((source, target), (target, source))
    ]


def _direction_warnings(answers: Sequence[Answer]) -> list[str]:
    """A warning with P(carried out) as given minus P with the pictures exchanged, where that is negative."""
    if len(answers) != 2 or not all(isinstance(answer, Reply) for answer in answers):
        return []
    given, exchanged = (_carried_out(answer) for answer in answers if isinstance(answer, Reply))
    if given is None or exchanged is None or given >= exchanged:
        return []
    return [warning("swap_test_inconsistent", given - exchanged)]


def _carried_out(reply: Reply) -> float | None:
    if reply.tokens is not None:
        probability = boolean_probability(reply.tokens, text=reply.text, key=DIRECTION_KEY)
        if probability is not None:
            return probability
    compact = "".join(reply.text.split())
    return {f'{{"{DIRECTION_KEY}":true}}': 1.0, f'{{"{DIRECTION_KEY}":false}}': 0.0}.get(compact)


def _votes(taxonomy: Taxonomy, asks: Sequence[Request], answers: Sequence[Answer]) -> list[_Vote]:
    return [_Vote(ask, answer, _read(taxonomy, ask, answer)) for ask, answer in zip(asks, answers, strict=True)]


def _read(taxonomy: Taxonomy, ask: Request, answer: Answer) -> frozenset[int] | Failure:
    if isinstance(answer, Failure):
        return answer
    if answer.finish == "length":
        detail = f"the reply reached {ask.max_tokens} tokens and was cut: {_shown(answer.text)}"
        return Failure("reply_too_long", f"{detail}; raise sampling.max_tokens")
    if answer.finish != "stop":
        return Failure("invalid_reply", f"the reply ended with {answer.finish!r}, expected 'stop'")
    try:
        ids = parse_reply(taxonomy, answer.text)
    except InvalidReply as error:
        return Failure("invalid_reply", f"{error}; got {_shown(answer.text)}")
    broken = [v for v in taxonomy.check(ids, task=ask.record.pair.task) if v.severity == "error"]
    if broken:
        return Failure("rule_violation", " ".join(f"{v.rule}: {v.message}" for v in broken))
    return ids


def _conclude(taxonomy: Taxonomy, *, config: VlmConfig, record: Prepared, votes: Sequence[_Vote]) -> Labels | Failure:
    """Labels if most votes can be read, otherwise the first failure."""
    ballots = [vote.reading for vote in votes if not isinstance(vote.reading, Failure)]
    failures = [vote.reading for vote in votes if isinstance(vote.reading, Failure)]
    if len(failures) >= len(ballots):
        return failures[0]
    if len(votes) > 1:
        return _elected(taxonomy, record=record, ballots=ballots)
    return _single(taxonomy, config=config, record=record, ids=ballots[0], answer=votes[0].answer)


def _single(taxonomy: Taxonomy, *, config: VlmConfig, record: Prepared, ids: frozenset[int], answer: Answer) -> Labels:
    raw: tuple[float | None, ...] = (None,) * taxonomy.size
    if isinstance(answer, Reply) and answer.tokens is not None:
        raw = tag_probabilities(taxonomy, task=record.pair.task, tokens=answer.tokens, text=answer.text)
    known = any(p is not None for p in raw)
    return Labels(
        tag_ids=tuple(sorted(ids)),
        tag_probs=scaled(taxonomy, raw, temperatures=config.calibration),
        tag_probs_raw=raw,
        calibration=config.calibration.name if known else "none",
    )


def _elected(taxonomy: Taxonomy, *, record: Prepared, ballots: Sequence[frozenset[int]]) -> Labels:
    """The majority of each decision where that set obeys the rules, otherwise the most frequent whole reply."""
    shares = vote_shares(taxonomy, ballots)
    scope = max(taxonomy.tier("scope"), key=lambda tag: (shares[tag.id] or 0.0, -tag.id)).id
    scopes = {tag.id for tag in taxonomy.tier("scope")}
    ids = frozenset(i for i, share in enumerate(shares) if i not in scopes and share is not None and share > 0.5)
    elected = ids | {scope}
    if any(v.severity == "error" for v in taxonomy.check(elected, task=record.pair.task)):
        counts = Counter(ballots)
        elected = max(counts, key=lambda ballot: (counts[ballot], [-i for i in sorted(ballot)]))
    agreement = sum(ballot == elected for ballot in ballots) / len(ballots)
    return Labels(
        tag_ids=tuple(sorted(elected)),
        tag_probs=shares,
        tag_probs_raw=shares,
        calibration=f"votes:{len(ballots)}",
        warnings=() if agreement == 1 else (warning("votes_disagree", agreement),),
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 160 else f"{text[:80]} ... {text[-60:]}")
