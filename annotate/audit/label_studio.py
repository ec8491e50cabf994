"""Label Studio in and out: tasks with the run's tags as predictions, a labelling interface, and gold from its exports."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from ...schema import DataError, Taxonomy
from ...schema.taxonomy import TIERS
from .details import Detail
from .gold import GoldRecord

MISSES = "target misses the request"
_ROLES = ("source", "target", "ref0", "ref1", "ref2", "ref3")


def labelling_interface(taxonomy: Taxonomy) -> str:
    """The XML that Label Studio asks for when a project is set up: pictures, instruction, and the tags by tier."""
    lines = ["<View>", '  <Header value="$id"/>', '  <Text name="instruction" value="$instruction"/>']
    lines += ['  <View style="display: flex; gap: 8px">']
    lines += [f'    <Image name="{role}" value="${role}" width="100%"/>' for role in _ROLES[:3]]
    lines += ["  </View>"]
    for tier in TIERS:
        several = ' choice="single" required="true"' if tier == "scope" else ' choice="multiple"'
        lines.append(f'  <Header value="{tier}"/>')
        lines.append(f'  <Choices name="{tier}" toName="instruction"{several} showInline="true">')
        for tag in taxonomy.tier(tier):
            lines.append(f"    <Choice value={quoteattr(tag.name)} hint={quoteattr(tag.definition)}/>")
        lines.append("  </Choices>")
    lines += [
        '  <Choices name="mismatch" toName="instruction" choice="multiple" showInline="true">',
        f'    <Choice value="{MISSES}"/>',
        "  </Choices>",
        '  <TextArea name="why" toName="instruction" placeholder="what is wrong with the target" maxSubmissions="1"/>',
        "</View>",
    ]
    return "\n".join(lines) + "\n"


def make_task(
    detail: Detail, tag_names: Sequence[str], taxonomy: Taxonomy, *, pictures: dict[str, str], model: str
) -> dict[str, Any]:
    """One task with the run's tags as a prediction; `pictures` maps roles to URLs or data URIs."""
    data: dict[str, str] = {
        "corpus": detail.corpus,
        "id": detail.id,
        "uid": detail.uid,
        "task": detail.task,
        "instruction": detail.text,
        **{role: pictures.get(role, "") for role in _ROLES},
    }
    given = {tier: [n for n in tag_names if taxonomy.by_name[n].tier == tier] for tier in TIERS}
    result = [
        {"from_name": tier, "to_name": "instruction", "type": "choices", "value": {"choices": names}}
        for tier, names in given.items()
        if names
    ]
    return {"data": data, "predictions": [{"model_version": model, "result": result}]}


def read_export(path: Path, *, taxonomy: Taxonomy) -> Iterator[GoldRecord]:
    """Gold records from a JSON export of Label Studio.

    Several annotations of one task are compared: tags that all of them gave are right, tags that only some gave are
    disputed. Cancelled annotations and tasks without annotations are left out.

    Raises:
        DataError: not such an export, or a choice that is no tag of the taxonomy; names the task.
    """
    try:
        tasks = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(tasks, list):
        raise DataError(
            f"{path} is no Label Studio export: expected a list of tasks (export format JSON, not JSON_MIN)"
        )
    for number, task in enumerate(tasks):
        place = f"{path} task {number}"
        try:
            data = task["data"]
            answers = [_answer(a["result"]) for a in task.get("annotations", []) if not a.get("was_cancelled")]
            named = {key: str(data.get(key, "")) for key in ("corpus", "id", "uid", "task", "instruction")}
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{place} is no Label Studio task: {type(error).__name__} {error}") from error
        if answers:
            yield _settle(answers, named, taxonomy, place=place)


_Answer = tuple[set[str], bool, str]


def _answer(result: list[dict[str, Any]]) -> _Answer:
    tags: set[str] = set()
    misses, why = False, ""
    for region in result:
        value = region.get("value", {})
        if region.get("from_name") in TIERS:
            tags |= set(value["choices"])
        elif region.get("from_name") == "mismatch":
            misses = MISSES in value["choices"]
        elif region.get("from_name") == "why":
            why = " ".join(value["text"]) if isinstance(value["text"], list) else str(value["text"])
    return tags, misses, why


def _settle(answers: Sequence[_Answer], named: dict[str, str], taxonomy: Taxonomy, *, place: str) -> GoldRecord:
    counts = Counter(tag for tags, _, _ in answers for tag in tags)
    unknown = sorted(set(counts) - set(taxonomy.by_name))
    if unknown:
        raise DataError(f"{place} has choices {unknown} that taxonomy {taxonomy.ref} does not have: give --taxonomy")
    votes = sum(misses for _, misses, _ in answers)
    why = next((text for _, misses, text in answers if misses and text), "marked in Label Studio")
    return GoldRecord(
        **named,
        tags=tuple(tag.name for tag in taxonomy.tags if counts[tag.name] == len(answers)),
        disputed=tuple(tag.name for tag in taxonomy.tags if 0 < counts[tag.name] < len(answers)),
        mismatch=why if votes else None,
        mismatch_disputed=0 < votes < len(answers),
    )


def dump_tasks(tasks: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A JSON list, piece by piece, so that tasks with pictures are never held together."""
    separator = "[\n"
    for task in tasks:
        yield separator + json.dumps(task, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
        separator = ",\n"
    yield "]\n" if separator == ",\n" else "[]\n"
