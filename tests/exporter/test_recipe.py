"""Recipes survive a round trip, and say what is wrong with a value."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgeport.errors import UsageError
from edgeport_export.recipe import Limits, Recipe


def test_round_trip() -> None:
    recipe = Recipe(task="fill-mask", precisions=("int8",), fixed_shape=(1, 64), limits={"int8": Limits(cosine=0.9)})
    again = Recipe.from_dict(recipe.to_dict())
    assert again.limits["int8"] == Limits(cosine=0.9)
    assert (again.task, again.precisions, again.fixed_shape) == ("fill-mask", ("int8",), (1, 64))


def test_toml_changes_only_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('precisions = ["fp32"]\nopset = 21\n[limits.fp32]\ncosine = 0.5\n')
    recipe = Recipe.from_toml(file)
    assert (recipe.precisions, recipe.opset) == (("fp32",), 21)
    assert recipe.limits["fp32"] == Limits(cosine=0.5)
    assert recipe.limits["int8"] == Recipe().limits["int8"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('precisions = ["int2"]', "precision 'int2' is not known"),
        ('precisions = ["int8", "int8"]', "name each once"),
        ('method = "hqqq"', "choose from rtn, hqq, gptq, awq"),
        ('method = "gptq"', "gptq rounds by what the model does with sample texts: pass --calibration"),
        ('method = "awq"', "awq rounds by what the model does with sample texts: pass --calibration"),
        ('quantize = "statik"', "choose from dynamic, static"),
        ('quantize = "static"', "static int8 sets ranges by what the model does with sample rows: pass --calibration"),
        ("smooth = 0.5", "pass --calibration"),
        ('smooth = 2\ncalibration = "rows.csv"', "--smooth 2 is not between 0 and 1"),
        ('calibrator = "max"', "choose from percentile, minmax, entropy, mse"),
        ("tables = 6", "choose 8 or 4"),
        ("opset = 9", "choose 18 to 23"),
        ("fixed_shape = [1]", "1x128"),
        ("fixed_shape = [0, 8]", "1x128"),
        ("colour = 1", "recipe key 'colour'"),
        ('keep_fp32 = "("', "no regular expression"),
        ("[limits.fp32]\nworst = 1", "wrong type"),
        ("opset = ", "is not TOML"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=says.replace("(", r"\(")):
        Recipe.from_toml(file)


def test_precisions_are_left_to_the_model() -> None:
    assert Recipe().settled(None, generates=False).precisions == ("fp32", "int8")
    assert Recipe().settled(None, generates=True).precisions == ("int8",)
    assert Recipe().settled(4, generates=True).precisions == ("int4",)
    assert Recipe().settled(8, generates=True).precisions == ("int8",)
    assert Recipe(precisions=("fp16",)).settled(4, generates=True).precisions == ("fp16",)
    assert Recipe(precisions=("fp32",)).settled(None, generates=True).precisions == ("fp32",)


def test_what_comes_rounded_is_not_rounded_again() -> None:
    recipe = Recipe(precisions=("int4",), method="awq", calibration="texts.txt")
    with pytest.raises(UsageError, match="4 bits, which int4 keeps: leave --method awq away"):
        recipe.settled(4, generates=True)
    assert recipe.settled(8, generates=True) == recipe  # 8 bits to 4 is another matter
    assert Recipe(method="hqq").settled(4, generates=True).method == "hqq"  # serves what the checkpoint left in floats


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Recipe.from_toml(tmp_path / "none.toml")
