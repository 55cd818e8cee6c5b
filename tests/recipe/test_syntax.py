"""The scanner against tomllib on random documents: every key has a place, and the place is right."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.recipe import syntax
from metriclab.registry.toml import toml_string

NAMES = st.one_of(
    st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=4),
    st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=4).map(toml_string),
    st.text('abc .#[]{}="', max_size=4).map(lambda text: f"'{text}'"),
)
SPACES = st.sampled_from(["", " ", "\t "])
REMARKS = st.sampled_from(["", "# a = 1", ' # [b] "', "  # '''"])
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=8).map(toml_string),
    st.sampled_from(
        ["'a = \"1\" # '", '""', '"\\"] # ["', "'''a\n[b]\n'c' = 1 '''''", '"""\n\\"""" [x] \\\\"""', '""""a"""""']
    ),
)
SCALARS = st.one_of(
    TEXTS,
    st.integers(-9, 999).map(str),
    st.sampled_from(["true", "1.5e-3", "0x1F", "inf", "1979-05-27 07:32:00", "07:32:00", "1979-05-27T07:32:00Z"]),
)


@st.composite
def lists(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    breaks = draw(st.sampled_from(["", " ", "\n", " # ], [\n ", "\n\n\t"]))
    parts = draw(st.lists(values, max_size=3))
    end = draw(st.sampled_from(["", ","])) if parts else ""
    return "[" + breaks + f"{breaks},{breaks}".join(parts) + breaks + end + breaks + "]"


@st.composite
def keys(draw: st.DrawFn) -> str:
    space = draw(SPACES)
    return f"{space}.{space}".join(draw(st.lists(NAMES, min_size=1, max_size=3)))


@st.composite
def inline_tables(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    space = draw(SPACES)
    pairs = [f"{draw(keys())}{space}={space}{draw(values)}" for _ in range(draw(st.integers(0, 3)))]
    return "{" + space + f"{space},{space}".join(pairs) + space + "}"


VALUES = st.recursive(SCALARS, lambda values: st.one_of(lists(values), inline_tables(values)), max_leaves=6)


@st.composite
def documents(draw: st.DrawFn) -> str:
    lines = []
    for _ in range(draw(st.integers(0, 8))):
        space, key = draw(SPACES), draw(keys())
        left, right = draw(st.sampled_from([("", ""), ("", ""), ("[", "]"), ("[[", "]]")]))
        rest = "" if left else f"{space}={space}{draw(VALUES)}"
        lines.append(f"{space}{left}{key}{space}{right}{rest}{draw(REMARKS)}")
        try:  # a line that repeats or contradicts an earlier one is taken back
            tomllib.loads("\n".join(lines))
        except tomllib.TOMLDecodeError:
            lines.pop()
    return "\n".join(lines)


def paths(value: Any, path: syntax.KeyPath = ()) -> Iterator[syntax.KeyPath]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield (*path, name)
        yield from paths(part, (*path, name))


@settings(max_examples=300, deadline=None)
@given(documents())
def test_every_key_has_a_place_that_points_at_its_text(text: str) -> None:
    found = syntax.scan(text)
    assert {place.path for place in found} == set(paths(tomllib.loads(text)))
    for place in found:
        name = place.path[-1]
        if isinstance(name, str):
            rest = text[place.key :]
            quoted = syntax._KEY.match(rest)
            assert quoted is not None
            assert tomllib.loads(f"{quoted[0]} = 0") == {name: 0}


@settings(max_examples=200, deadline=None)
@given(documents(), VALUES)
def test_a_value_starts_where_its_text_starts(text: str, value: str) -> None:
    text = f"{text}\n[the.last.table]\nkey = {value}\n"
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    (place,) = (found for found in syntax.scan(text) if found.path == ("the", "last", "table", "key"))
    assert text[place.value :] == f"{value}\n"


@pytest.mark.parametrize(
    ("text", "path", "rest"),
    [
        ("[a]\nb.c = 1", ("a", "b", "c"), "c = 1"),
        ("[[a]]\n[[a]]\nb = 1", ("a", 1, "b"), "b = 1"),
        ("[[a]]\n[a.b]\nc = 1", ("a", 0, "b", "c"), "c = 1"),
        ("a = [{b = 1}, {b = 2}]", ("a", 1, "b"), "b = 2}]"),
        ("a = '''\nb = 1\n'''\nb = 2", ("b",), "b = 2"),
        ("a = 1 # b = 1\nb = 2", ("b",), "b = 2"),
        ("\"a b\".'c d' = 1", ("a b", "c d"), "'c d' = 1"),
    ],
)
def test_places(text: str, path: syntax.KeyPath, rest: str) -> None:
    place = next(place for place in syntax.scan(text) if place.path == path and place.stated)
    assert text[place.key :] == rest
