"""The taxonomy: ids fixed by the released embedding table, rules that name what they forbid."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tagmoe.schema import ConfigError, InvalidReply, load_taxonomy, parse_reply, reply_schema
from tagmoe.schema.reply import scopes_for
from tagmoe.schema.taxonomy import parse_taxonomy

TAXONOMY = load_taxonomy()
IDS = [tag.id for tag in TAXONOMY.tags]


def check(*names: str, task=None) -> list[str]:
    return [violation.rule for violation in TAXONOMY.check(TAXONOMY.ids(names), task=task)]


def test_ids_and_tiers_match_the_released_embedding_table():
    expected = [
        "local editing",
        "global editing",
        "multi region editing",
        "viewpoint editing",
        "content customization",
        "style customization",
        "object editing",
        "attribute editing",
        "style transfer",
        "pose editing",
        "background editing",
        "illumination editing",
        "structure preservation",
        "background preservation",
        "identity preservation",
        "face preservation",
        "style preservation",
        "image generation",
    ]
    assert [tag.name for tag in TAXONOMY.tags] == expected
    assert list(range(18)) == IDS
    assert TAXONOMY.size == 18
    assert TAXONOMY.ref == "tagmoe-18@1"
    assert [tag.id for tag in TAXONOMY.tier("scope")] == [0, 1, 2, 3, 4, 5, 17]
    assert [tag.id for tag in TAXONOMY.tier("type")] == [6, 7, 8, 9, 10, 11]
    assert [tag.id for tag in TAXONOMY.tier("preservation")] == [12, 13, 14, 15, 16]


def test_worked_example_of_the_paper_is_valid():
    assert TAXONOMY.check({0, 7, 14, 13, 16}, task="edit") == []


@pytest.mark.parametrize(
    ("names", "task", "rules"),
    [
        (["object editing"], None, ["exactly_one_scope"]),
        (["local editing", "global editing", "object editing"], None, ["exactly_one_scope"]),
        (["local editing"], None, ["edits_have_a_type"]),
        (
            ["global editing", "background editing", "background preservation"],
            None,
            ["background_editing_excludes_background_preservation"],
        ),
        (
            ["global editing", "style transfer", "style preservation"],
            None,
            ["style_change_excludes_style_preservation"],
        ),
        (["local editing", "object editing", "face preservation"], None, ["face_implies_identity"]),
        (["viewpoint editing", "structure preservation"], None, ["geometry_change_excludes_structure_preservation"]),
        (["image generation", "object editing"], None, ["generation_has_no_other_tag"]),
        (["image generation"], "edit", ["generation_only_without_input"]),
        (["global editing", "style transfer"], "generation", ["generation_only_without_input"]),
        (["image generation"], "generation", []),
    ],
)
def test_each_rule_is_named(names, task, rules):
    assert check(*names, task=task) == rules


def test_advice_does_not_make_a_set_invalid():
    [violation] = TAXONOMY.check(TAXONOMY.ids(["global editing", "style transfer", "attribute editing"]))
    assert (violation.rule, violation.severity) == ("style_transfer_excludes_attribute_editing", "advice")


def test_a_violation_names_the_tags_and_unknown_ids_are_one():
    [violation] = TAXONOMY.check({0, 6, 15})
    assert "face preservation" in violation.message
    assert "identity preservation" in violation.message
    assert TAXONOMY.check({99})[0].rule == "known_tags"


@given(st.sets(st.sampled_from(IDS)))
def test_names_and_ids_are_inverse(ids):
    assert set(TAXONOMY.ids(TAXONOMY.names(ids))) == ids


@given(st.sets(st.sampled_from(IDS)), st.sampled_from(["edit", "generation", "customization"]))
def test_rules_agree_with_their_meaning(ids, task):
    broken = {violation.rule for violation in TAXONOMY.check(ids, task=task)}
    scopes = ids & {0, 1, 2, 3, 4, 5, 17}
    assert ("exactly_one_scope" in broken) == (len(scopes) != 1)
    assert ("face_implies_identity" in broken) == (15 in ids and 14 not in ids)
    assert ("generation_only_without_input" in broken) == ((17 in ids) != (task == "generation"))
    assert ("geometry_change_excludes_structure_preservation" in broken) == (bool(ids & {3, 9}) and 12 in ids)


def test_reply_schema_orders_booleans_by_id_and_restricts_the_scope():
    schema = reply_schema(TAXONOMY, task="edit")
    types = schema["properties"]["types"]
    assert list(types["properties"]) == [tag.name for tag in TAXONOMY.tier("type")] == types["required"]
    assert "image generation" not in schema["properties"]["scope"]["enum"]
    assert scopes_for(TAXONOMY, "generation") == ("image generation",)
    assert len(scopes_for(TAXONOMY, None)) == 7
    assert "uniqueItems" not in json.dumps(schema)


def reply_text(ids: set[int]) -> str:
    answer = {
        "scope": TAXONOMY.names(ids, tier="scope")[0],
        "types": {tag.name: tag.id in ids for tag in TAXONOMY.tier("type")},
        "preservation": {tag.name: tag.id in ids for tag in TAXONOMY.tier("preservation")},
    }
    return json.dumps(answer)


@given(st.sampled_from([0, 1, 2, 3, 4, 5, 17]), st.sets(st.sampled_from(list(range(6, 17)))))
def test_reply_round_trip(scope, others):
    assert parse_reply(TAXONOMY, reply_text({scope, *others})) == {scope, *others}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:-5], "reply"),
        (lambda text: text.replace("local editing", "nowhere editing"), "scope"),
        (lambda text: text.replace('"object editing": true', '"object editing": 1'), "object editing"),
        (lambda text: text.replace('"object editing": true, ', ""), "missing ['object editing']"),
        (lambda text: text.replace('"object editing"', '"objekt editing"'), "not expected ['objekt editing']"),
        (lambda text: text.replace('"scope"', '"extra": 1, "scope"'), "extra"),
        (lambda text: "[1]", "reply"),
        (lambda text: "", "reply"),
    ],
)
def test_a_damaged_reply_is_refused_with_the_place(damage, says):
    with pytest.raises(InvalidReply) as error:
        parse_reply(TAXONOMY, damage(reply_text({0, 6})))
    assert says in str(error.value)


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_is_a_reply_or_invalid(text):
    try:
        parse_reply(TAXONOMY, text)
    except InvalidReply as error:
        assert len(str(error)) < 1000


def test_a_user_can_bring_a_taxonomy(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\nversion = 3\n[[tags]]\nid = 0\nname = "edit"\ntier = "scope"\ndefinition = "x"\n'
        '[[tags]]\nid = 4\nname = "object"\ntier = "type"\ndefinition = "y"\n'
    )
    mine = load_taxonomy(str(file))
    assert (mine.ref, mine.size) == ("mine@3", 5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "not TOML"),
        ('name = "a"\nversion = 1\ntags = []', "tags"),
        ('name = "a"\nversion = 1\n[[tags]]\nid = 0\nname = "x"\ntier = "mood"\ndefinition = "d"', "tier"),
        (
            'name = "a"\nversion = 1\n[[tags]]\nid = 0\nname = "x"\ntier = "type"\ndefinition = "d"\n'
            '[[rules]]\nname = "r"\nkind = "implies"\nwhen = ["x"]\nthen = ["y"]\ntext = "t"',
            "unknown tags ['y']",
        ),
    ],
)
def test_a_bad_taxonomy_names_the_place(text, says):
    with pytest.raises(ConfigError) as error:
        parse_taxonomy(text, origin="t.toml")
    assert says in str(error.value)


def test_an_unknown_taxonomy_says_what_there_is():
    with pytest.raises(ConfigError, match="tagmoe-18@1"):
        load_taxonomy("nope@7")
