"""Inverse pairs: the wording rules, the tags, and the way into shards."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_shards import BuildConfig, Rec, build_shards, make_run, picture
from tagmoe.schema import ConfigError, Run, load_taxonomy, make_uid
from tagmoe.schema.taxonomy import Rule, Tag, Taxonomy
from tagmoe.shards.stream import ShardStream, StreamConfig
from tagmoe.train.precompute.commands import register
from tagmoe.train.precompute.inverse import invert, invert_run
from tagmoe.train.precompute.wording import invert_instruction
from typer import Typer
from typer.testing import CliRunner

OBJECT = ["local editing", "object editing", "background preservation"]


@pytest.mark.parametrize(
    ("text", "inverse"),
    [
        ("Add a red hat on the dog's head", "Remove the red hat from the dog's head."),
        ("please remove the hat", "Add the hat."),
        ("Remove all hot air balloons from the sky.", "Add hot air balloons to the sky."),
        ("put two birds next to the tree", "Remove the two birds next to the tree."),
        ("Remove the girl's hat", "Add the girl's hat."),
        ("Add pendant with a ruby around this girl's neck.", "Remove the pendant with a ruby around this girl's neck."),
        ("Take off the glasses", "Add the glasses."),
    ],
)
def test_plain_requests_are_inverted(text, inverse):
    assert invert_instruction(text) == inverse


@pytest.mark.parametrize(
    "text",
    [
        "make it night",
        "Remove the background, and output a PNG image",
        "Remove all UI text elements from the image. Keep the feeling of water.",
        "Add a cat and make it blue",
        "remove it",
        "add",
        "",
        "In <ref_image_0>, add a hat",
        "Add a hat so that she looks older",
        "给这个女生的脖子上戴一个带有红宝石的吊坠。",
        "Add " + "very " * 20 + "big cat",
        "Added value",
    ],
)
def test_anything_else_is_left_alone(text):
    assert invert_instruction(text) is None


words = st.text("abcdefgh", min_size=2, max_size=8).filter(lambda w: w not in ("add",))


@given(thing=words, place=words)
def test_inverting_twice_gives_back_the_request(thing, place):
    once = invert_instruction(f"Remove the {thing} from the {place}")
    assert once == f"Add the {thing} to the {place}."
    assert invert_instruction(once) == f"Remove the {thing} from the {place}."


def record(name, instruction, tags=OBJECT, warnings=()):
    pictures = {role: picture(f"{name}{role}") for role in ("source", "target")}
    return Rec(name, "edit", pictures, instruction, tags=tags, warnings=warnings)


@pytest.fixture
def run(tmp_path):
    records = [
        record("add", "Add a hat to the dog"),
        record("style", "Make it a cartoon", tags=["global editing", "style transfer", "structure preservation"]),
        record("remove", "Remove the car from the street"),
        record("both", "Add a hat and change the colour of the coat"),
        record("doubt", "Add a hat to the cat", warnings=["swapped_pair_0.90"]),
        Rec("gen", "generation", {"target": picture("gen")}, "add a cat", tags=["image generation"]),
        record("attribute", "Add a hat to the man", tags=[*OBJECT[:2], "attribute editing", OBJECT[2]]),
    ]
    return make_run(tmp_path, records)


def test_every_row_ends_in_an_inverse_or_a_reason(run, tmp_path):
    done = invert_run(run.root, out=tmp_path / "inverse")
    assert (done.pairs, done.inverted) == (7, 2)
    assert done.left_out == {
        "not a plain addition or removal": 2,
        "no rule inverts its instruction": 1,
        "warning swapped_pair": 1,
        "not an edit with source and target": 1,
    }
    inverse = Run.open(tmp_path / "inverse")
    rows = Counter([a.row for a in inverse.annotations()] + [r.row for r in inverse.rejects()])
    assert rows == Counter(range(7))
    assert inverse.info.run_hash == inverse.hash_of_parts()
    first = next(iter(inverse.annotations()))
    original = next(iter(run.annotations()))
    assert (first.id, first.instruction) == ("add~inverse", "Remove the hat from the dog.")
    assert first.uid == make_uid("demo", "add~inverse")
    assert (first.types, first.tag_ids, first.scope) == (original.types, original.tag_ids, original.scope)
    assert first.extra["inverse_of"] == "add"
    hashes = {image.role: image.sha256 for image in original.images}
    assert {image.role: image.sha256 for image in first.images} == {
        "source": hashes["target"],
        "target": hashes["source"],
    }
    with pytest.raises(ConfigError, match="exists"):
        invert_run(run.root, out=tmp_path / "inverse")
    with pytest.raises(ConfigError, match="inverse records already"):
        invert_run(tmp_path / "inverse", out=tmp_path / "again")


def test_inverse_records_are_appended_to_shards_in_the_split_of_their_originals(run, tmp_path):
    config = BuildConfig(splits={"val": 0.5})
    build_shards(run, tmp_path / "shards", config=config, quiet=True)
    invert_run(run.root, out=tmp_path / "inverse")
    built = build_shards(Run.open(tmp_path / "inverse"), tmp_path / "shards", config=config, quiet=True)
    assert built.added == 2
    split, images = {}, {}
    for name in built.snapshot.splits:
        stream = ShardStream(tmp_path / "shards", config=StreamConfig(split=name, batch_size=1, shuffle=False))
        for number in range(stream.batches_per_epoch):
            [sample] = stream.batch(number).samples
            split[sample.id], images[sample.id] = name, sample.images
    assert split["add~inverse"] == split["add"]
    assert split["remove~inverse"] == split["remove"]
    assert images["add~inverse"]["source"] == images["add"]["target"]
    assert images["add~inverse"]["target"] == images["add"]["source"]


def test_tags_that_tell_addition_from_removal_are_exchanged(run):
    names = ["local editing", "object addition", "object removal"]
    taxonomy = Taxonomy(
        name="mine",
        version=1,
        tags=tuple(Tag(id=i, name=n, tier="type" if i else "scope", definition=n) for i, n in enumerate(names)),
        rules=(Rule(name="one_scope", kind="exactly_one", tier="scope", text="one"),),
    )
    original = next(iter(run.annotations())).model_copy(
        update={"types": ("object addition",), "tag_ids": (0, 1), "preservation": (), "tag_probs": (0.9, 0.8, 0.1)}
    )
    found = invert(original, taxonomy=taxonomy)
    assert not isinstance(found, str)
    assert (found.types, found.tag_ids) == (("object removal",), (0, 2))
    assert found.tag_probs == pytest.approx((0.9, 0.1, 0.8))


def test_tags_that_would_break_a_rule_are_left_out(run):
    annotation = next(iter(run.annotations())).model_copy(update={"scope": "image generation", "tag_ids": (6, 13, 17)})
    assert invert(annotation, taxonomy=load_taxonomy()) == "its tags would break a rule"


def test_the_command_counts(run, tmp_path):
    app = Typer()
    register(app)
    result = CliRunner().invoke(app, ["inverse-pairs", str(run.root), "--out", str(tmp_path / "i"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["inverted"] == 2
