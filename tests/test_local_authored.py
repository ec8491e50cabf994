"""The shipped authored records, and how they become training examples."""

from __future__ import annotations

from tagmoe.annotate.local.authored import AUTHORS, WEIGHT, authored_examples, read_authored
from tagmoe.annotate.local.grammar import read_text
from tagmoe.annotate.local.intents import KEEPS, TYPES, intents
from tagmoe.annotate.local.known import Known, examples
from tagmoe.schema.taxonomy import load_taxonomy


def test_every_record_obeys_the_taxonomy_and_has_a_source() -> None:
    taxonomy, known = load_taxonomy(), read_authored()
    assert len(known) == len({record.key for record in known}) == 2396
    for author in AUTHORS:
        assert "Licence" in read_text(f"authored_{author}_source.txt")
        assert {record.key[0] for record in read_authored([author])} == {author}
    for record in known:
        assert (record.tags | record.disputed) <= set(taxonomy.by_name), record.key
        broken = [v for v in taxonomy.check(set(taxonomy.ids(record.tags)), task=record.task) if v.severity == "error"]
        assert not [v for v in broken if v.rule != "edits_have_a_type"], (record.key, broken)


def test_generations_teach_nothing_and_folds_keep_a_wording_together() -> None:
    known, found = read_authored(), authored_examples()
    assert len(found) == sum(record.task != "generation" for record in known)
    assert {example.weight for example in found} == {WEIGHT}
    assert {example.group for example in found} == {"authored-0", "authored-1", "authored-2"}
    twice = [
        Known(str(i), text, "edit", 0, frozenset({"local editing"})) for i, text in enumerate(("Hop on", " hop on "))
    ]
    assert len({example.group for example in examples(twice, group="authored", weight=1.0)}) == 1


def test_readings_that_differ_are_left_open() -> None:
    by_text = {example.text: example for example in authored_examples()}
    for record in read_authored():
        if record.task != "generation":
            example = by_text[record.text]
            told = dict(zip((*TYPES, *KEEPS), (*example.types, *example.keeps), strict=True))
            assert {name for name, value in told.items() if value is None} == record.disputed & set(told)
            for name in example.candidates:
                assert example.scope in (None, intents()[name].scope)
