"""Recipes: the packaged ones load, and mistakes are named."""

from __future__ import annotations

import pytest

from weav3r.train.config import (
    load_recipe,
    recipe_from_dict,
    recipe_names,
    recipe_to_dict,
)


def test_packaged_recipes_load() -> None:
    assert {"tiny-cpu", "small-cpu", "small", "small-384"} <= set(recipe_names())
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        for height, width in recipe.data.sizes:
            assert height % 16 == 0 and width % 16 == 0


def test_plain_data_round_trip() -> None:
    recipe = load_recipe("small-cpu")
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


def test_overrides_from_text_and_mapping(tmp_path) -> None:
    texts = ["optimizer.learning_rate=1e-3", "data.sizes=[[32, 48]]", "steps=7", "init=null"]
    recipe = load_recipe("small-cpu", texts)
    assert recipe.optimizer.learning_rate == 1e-3
    assert recipe.data.sizes == ((32, 48),)
    assert (recipe.steps, recipe.init) == (7, None)
    assert load_recipe("small-cpu", {"data.workers": 2}).data.workers == 2
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nloss: {log_points: true}\n")
    assert load_recipe(path).loss.log_points


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"optimiser": {}}, "unknown setting 'optimiser'; expected one of: .*optimizer"),
        ({"data": {"size": 3}}, "unknown setting 'data.size'"),
        ({"data": {"workers": 1.5}}, "data.workers must be a whole number, got 1.5"),
        ({"data": {"shadows": 1}}, "data.shadows must be true or false"),
        ({"data": {"kernel": "fast"}}, "data.kernel must be one of 'auto', .*, got 'fast'"),
        ({"data": {"sizes": [[1, 2, 3]]}}, r"data.sizes\[0\] must have 2 entries"),
        ({"data": {"sizes": 3}}, "data.sizes must be a list"),
        ({"data": {"sizes": []}}, "data.sizes must not be empty"),
        (
            {"data": {"features": ["fog"]}},
            r"data.features\[0\] must be one of 'panoramas', .*'fog'",
        ),
        ({"data": 3}, "data must be a group of settings"),
        ({"seed": True}, "seed must be a whole number"),
        ({"optimizer": {"learning_rate": "high"}}, "learning_rate must be a number, got 'high'"),
    ],
)
def test_mistakes_are_named(data, message) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_from_dict(data)


def test_missing_and_broken_files(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="packaged recipes: .*small-cpu"):
        load_recipe("large")
    with pytest.raises(FileNotFoundError, match="no recipe file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="must hold a mapping"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    with pytest.raises(ValueError, match="looks like key=value"):
        load_recipe("small-cpu", ["steps"])
    with pytest.raises(ValueError, match="'steps' is not a group"):
        load_recipe("tiny-cpu", ["steps.x=1"])
