"""Moving a run to another taxonomy: what is unambiguous happens, what is not is named, old tags are kept."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_annotate import PROVENANCE, make_labels, make_pair
from tagmoe.annotate.base import Prepared
from tagmoe.annotate.migrate import migrate
from tagmoe.annotate.outcome import to_outcome
from tagmoe.schema import ConfigError, CorpusSpec, Run, RunInfo, load_taxonomy
from tagmoe.schema.migrate import load_migration
from tagmoe.schema.runs import save_part, save_run_info

OLD = load_taxonomy()


@pytest.fixture
def new_taxonomy(tmp_path: Path) -> str:
    """tagmoe-18 with weather split off illumination, the two customizations merged, and local renamed."""
    lines = ['name = "next"', "version = 2"]
    for tag in OLD.tags:
        if tag.name in ("style customization", "illumination editing"):
            continue
        name = {"local editing": "small editing", "content customization": "customization"}.get(tag.name, tag.name)
        lines += ["[[tags]]", f"id = {tag.id}", f'name = "{name}"', f'tier = "{tag.tier}"', 'definition = "d"']
    for i, name in ((18, "weather editing"), (19, "lamp editing")):
        lines += ["[[tags]]", f"id = {i}", f'name = "{name}"', 'tier = "type"', 'definition = "d"']
    lines += ["[[rules]]", 'name = "one"', 'kind = "exactly_one"', 'tier = "scope"', 'text = "one scope"']
    path = tmp_path / "next.toml"
    path.write_text("\n".join(lines))
    return str(path)


CHANGES = """
[[changes]]
kind = "rename"
old = ["local editing"]
new = ["small editing"]
[[changes]]
kind = "merge"
old = ["content customization", "style customization"]
new = ["customization"]
[[changes]]
kind = "split"
old = ["illumination editing"]
new = ["weather editing", "lamp editing"]
"""


@pytest.fixture
def changes(tmp_path: Path) -> Path:
    path = tmp_path / "changes.toml"
    path.write_text(CHANGES)
    return path


def test_each_kind_of_change(new_taxonomy, changes):
    new = load_taxonomy(new_taxonomy)
    migration = load_migration(changes, old=OLD, new=new)
    assert new.names(migration.apply({0, 7, 14})) == ("small editing", "attribute editing", "identity preservation")
    assert new.names(migration.apply({5})) == ("customization",)
    assert migration.apply({1, 11}) is None
    probs = [0.05] * 18
    probs[4], probs[5], probs[0], probs[11] = 0.3, 0.4, 0.25, 0.9
    moved = migration.probabilities(probs)
    assert moved[new.by_name["customization"].id] == pytest.approx(0.7)
    assert moved[new.by_name["small editing"].id] == 0.25
    assert moved[new.by_name["weather editing"].id] is None
    assert len(moved) == new.size == 20


@given(st.sets(st.sampled_from([tag.id for tag in OLD.tags])))
def test_the_empty_migration_changes_nothing(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("m") / "none.toml"
    path.write_text("")
    migration = load_migration(path, old=OLD, new=OLD)
    valid = not any(violation.severity == "error" for violation in OLD.check(ids))
    assert migration.apply(ids) == (frozenset(ids) if valid else None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "rename, merge, split or drop"),
        (CHANGES + '[[changes]]\nkind = "drop"\nold = ["local editing"]\n', "changed twice"),
        ('[[changes]]\nkind = "rename"\nold = ["no such"]\nnew = ["x"]', "unknown tag"),
        ('[[changes]]\nkind = "split"\nold = ["local editing"]\nnew = ["small editing"]', "wrong count"),
        ("[[changes]]\nkind = 3", "expected [[changes]]"),
        ("x = ", "not TOML"),
    ],
)
def test_a_migration_that_does_not_fit_is_named(new_taxonomy, tmp_path, text, says):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_migration(path, old=OLD, new=load_taxonomy(new_taxonomy))
    assert says in str(error.value)


def test_a_run_is_migrated_and_the_ambiguous_records_are_left_for_the_annotator(new_taxonomy, changes, tmp_path):
    tag_sets = [(0, 7, 14), (1, 11, 12), (4, 14), (1, 8, 12), (0, 6)]
    outcomes = [
        to_outcome(Prepared(pair=make_pair(i)), make_labels(*ids), provenance=PROVENANCE, taxonomy=OLD)
        for i, ids in enumerate(tag_sets)
    ]
    root, out = tmp_path / "run", tmp_path / "moved"
    info = RunInfo(
        complete=True, taxonomy=OLD.ref, annotator="a@1", corpus=CorpusSpec(uri="c"), corpus_name="c", fingerprint="f",
        rows=5, parts=[save_part(root, 0, outcomes)],
    )  # fmt: skip
    save_run_info(root, info)
    shown = migrate(root, to=new_taxonomy, changes=changes, out=None)
    assert (shown.unchanged, shown.changed, shown.ambiguous) == (1, 3, 1)
    done = migrate(root, to=new_taxonomy, changes=changes, out=out)
    assert done == shown
    moved = Run.open(out)
    assert [(r.row, r.reason) for r in moved.rejects()] == [(1, "ambiguous_migration")]
    records = {record.row: record for record in moved.annotations()}
    assert records[0].scope == "small editing"
    assert records[0].extra["tags_before"] == "tagmoe-18@1: local editing, attribute editing, identity preservation"
    assert "tags_before" not in records[3].extra
    assert Run.open(root).info.run_hash == info.run_hash
