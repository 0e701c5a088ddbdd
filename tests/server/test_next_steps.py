"""Rule tables: what ships is sound, what follows is explained, what is not a table is refused."""

import re

import pytest

from scanseg.errors import DataError
from scanseg.server.next_steps import (
    CASE_FACTS,
    LABEL_FACTS,
    apply_tables,
    parse_table,
    shipped_tables,
    tables_for,
)

RULE = "{code: N-X, for: label, when: label.touches_border, text: 'cut {label.name}', reason: r, source: s}"


def label(name: str = "liver", **facts):
    return {**dict.fromkeys(LABEL_FACTS), "label.name": name, "label.value": 1, "place": [1, 2, 3], **facts}


def case(**facts):
    return {**dict.fromkeys(CASE_FACTS), **facts}


def test_shipped_tables_are_sound() -> None:
    tables = shipped_tables()
    assert {table.name for table in tables} == {
        "generic", "hippocampus", "left ventricle", "multiple sclerosis lesions",
    }  # fmt: skip
    codes = [rule.code for table in tables for rule in table.rules]
    assert len(codes) == len(set(codes))
    for table in tables:
        assert table.version
        for rule in table.rules:
            assert re.fullmatch(r"[NI]-[A-Z-]+", rule.code)
            assert rule.reason
            assert rule.source
            assert not re.search(r"\b(diagnos(e|is) (is|of) |treat|therapy|dose)\b", rule.text, re.IGNORECASE)


def test_every_statement_cites() -> None:
    reference = re.compile(r"\bdoi:10\.\d{4,9}/[^\s\"]+|\bhttps://[\w.-]+\.[a-z]{2,}/\S+")
    for table in shipped_tables():
        assert int(table.version) >= 2, f"{table.name}: bump the version when a statement changes"
        for rule in table.rules:
            assert reference.search(rule.source), f"{rule.code}: {rule.source}"
            for doi in re.findall(r"doi:(\S+)", rule.source):
                assert doi.rstrip(".").count("(") == doi.count(")"), doi
        for label, entries in table.information.items():
            for entry in entries:
                assert reference.search(entry["reference"]), f"{label}: {entry}"


def test_a_source_is_the_same_wherever_it_is_cited() -> None:
    """One DOI stands for one place in one journal."""
    places: dict[str, set[str]] = {}
    for table in shipped_tables():
        for rule in table.rules:
            for place, doi in re.findall(r"([\w ]+ \d{4};[^.]*)\. doi:(10\.\S+)", rule.source):
                places.setdefault(doi.rstrip("."), set()).add(place.strip())
    assert len(places) >= 12
    assert {doi: found for doi, found in places.items() if len(found) > 1} == {}


def test_tables_are_chosen_by_labels(tmp_path) -> None:
    names = [table.name for table in tables_for(["Anterior", "Posterior"], None)]
    assert names == ["generic", "hippocampus"]
    assert [table.name for table in tables_for(["lesion"], None)] == ["generic", "multiple sclerosis lesions"]
    (tmp_path / "rules.yaml").write_text("{version: '3', name: own}")
    assert [table.name for table in tables_for(["cell"], tmp_path)] == ["generic", "own"]


def test_a_rule_tells_why() -> None:
    table = parse_table(f"rules: [{RULE}]", "t")
    found = apply_tables([table], case(), [label(**{"label.touches_border": True}), label("spleen")])
    assert len(found) == 1
    assert found[0]["text"] == "cut liver"
    assert found[0]["because"] == {"label.touches_border": True}
    assert (found[0]["where_mm"], found[0]["reason"], found[0]["source"]) == ([1, 2, 3], "r", "s")


def test_rules_can_be_limited_to_labels_and_are_sorted() -> None:
    text = (
        "rules:\n"
        " - {code: N-B, for: label, labels: [Liver], when: label.present, text: b, reason: r, source: s,"
        " priority: 2}\n"
        " - {code: N-A, when: case.empty, text: a, reason: r, source: s, priority: 1}\n"
    )
    facts = {"label.present": True}
    found = apply_tables(
        [parse_table(text, "t")], case(**{"case.empty": True}), [label(**facts), label("x", **facts)]
    )
    assert [entry["code"] for entry in found] == ["N-A", "N-B"]


def test_information_on_labels_needs_a_reference() -> None:
    good = "labels: {Liver: {aetiology: {text: t, reference: 'doi:1'}}}"
    assert parse_table(good, "t").information == {
        "liver": [{"kind": "aetiology", "text": "t", "reference": "doi:1"}]
    }
    for bad in ("{text: t}", "{text: t, reference: ''}", "{text: t, reference: r, more: 1}", "t"):
        with pytest.raises(DataError, match="reference"):
            parse_table(f"labels: {{Liver: {{aetiology: {bad}}}}}", "t")


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]", "a: b", "rules: 3", "rules: [3]", "rules: [{code: N-X}]",
        "!!python/object/apply:os.system [ls]",
        "a: &x [1]\nrules: *x", "{", "rules: [{code: 1, when: x}]", "applies_to: liver",
        "rules: [{code: N-X, when: nonsense, text: t, reason: r, source: s}]",
        "rules: [{code: N-X, when: case.empty, text: '{case.__class__}', reason: r, source: s, kind: x}]",
        "rules: [{code: N-X, when: label.present, text: t, reason: r, source: s}]",
        "labels: {Liver: {diagnosis: {text: t, reference: r}}}",
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused(text) -> None:
    with pytest.raises(DataError) as caught:
        parse_table(text, "rules.yaml")
    assert caught.value.code in ("E-RULES-TABLE", "E-RULES-CONDITION")


@pytest.mark.parametrize("hole", ["{__class__}", "{0}", "{case.empty.real}", "{label.name}"])
def test_texts_name_known_facts_only(hole) -> None:
    text = f"rules: [{{code: N-X, when: case.empty, text: '{hole}', reason: r, source: s}}]"
    with pytest.raises(DataError, match="unknown facts"):
        parse_table(text, "t")


def test_other_braces_stay_as_they_are() -> None:
    text = "rules: [{code: N-X, when: case.empty, text: '{case.empty} {a!r} {}', reason: r, source: s}]"
    found = apply_tables([parse_table(text, "t")], case(**{"case.empty": True}), [])
    assert found[0]["text"] == "True {a!r} {}"
