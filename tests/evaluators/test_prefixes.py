"""Prefixes: any evaluator's metrics on the leading dimensions, each row of norm 1 again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from metriclab.core.rows import rows
from metriclab.errors import RecipeError
from metriclab.evaluators import Health, Prefixes, Retrieval

LABELS = [0, 1, 2, 0, 1, 2, 0, -1, 3]


def some():
    return torch.randn(9, 6)


def test_each_prefix_is_measured_as_an_embedding_by_itself():
    z = some()
    found = Prefixes(dims=[2, 5, 6])(z, LABELS)
    for dim in (2, 5, 6):
        cut = np.array([row[:dim] / np.linalg.norm(row[:dim]) for row in z.double().numpy()])
        for name, score in Retrieval()(torch.from_numpy(cut), LABELS).items():
            if name != "queries_without_matches":
                assert found[f"dim_{dim}_{name}"].value == pytest.approx(score.value, abs=1e-12)
    assert found["dim_2_map_at_r"].value != found["dim_6_map_at_r"].value
    assert found["queries_without_matches"].value == 1


def test_a_gallery_is_cut_too():
    z, gallery = some(), some()
    found = Prefixes(dims=[3])(z, LABELS, gallery, LABELS)
    assert found["dim_3_r_at_1"].value == Retrieval()(z[:, :3], LABELS, gallery[:, :3], LABELS)["r_at_1"].value


def test_other_evaluators_and_their_parameters():
    parameters = {"k": [2], "whole_ranking": False}
    found = Prefixes(dims=[4], parameters=parameters)(some(), LABELS)
    assert "dim_4_r_at_2" in found
    assert "dim_4_map" not in found
    assert set(Prefixes(dims=[4], evaluator="health")(some(), LABELS)) == {
        f"dim_4_{name}" for name in Health()(some(), LABELS)
    }


def test_dimensions_that_are_not_there_have_no_value():
    score = Prefixes(dims=[4, 8])(some(), LABELS)["dim_8_map_at_r"]
    assert math.isnan(score.value)
    assert score.per_query.numel() == 0
    assert score.definition.startswith("Of the first 8 dimensions, which are not there, as the embedding has 6: MAP@R")


def test_the_definition_says_what_is_cut():
    text = Prefixes(dims=[4])(some(), LABELS)["dim_4_map_at_r"].definition
    assert text.startswith("Of the first 4 dimensions, of norm 1 again: MAP@R")


def test_a_number_beyond_the_prefix_that_is_none_is_not_hidden():
    z = some()
    z[3, 5] = torch.nan
    batch = rows(z, LABELS)
    with pytest.raises(Exception, match="not finite"):
        Prefixes(dims=[2])(batch, batch)


def test_repeated_dims_are_refused():
    with pytest.raises(RecipeError) as caught:
        Prefixes(dims=[4, 2, 4])
    assert (caught.value.message, caught.value.help) == ("dims = [4, 2, 4] has a number twice", "keep one of them")
