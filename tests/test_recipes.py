from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from prunebench import recipes

ANY = {"train": {"lr": 0.3, "clip_norm": None, "milestones": [0.1]}}
OWN = {"train": {"lr": 0.2}}


def settings(recipe: dict[str, Any] | None, model: dict[str, Any] | None = None) -> dict[str, Any]:
    recipes.register()
    phase = {
        "lr": "${recipe:train,lr,0.1}",
        "clip_norm": "${recipe:train,clip_norm,1.0}",
        "milestones": "${recipe:train,milestones,[0.5,0.75]}",
        "epochs": "${recipe:train,epochs,${dataset.epochs}}",
    }
    method = {} if recipe is None else {"recipe": recipe}
    dataset, net = {"name": "digits", "epochs": 30}, {} if model is None else {"recipe": model}
    whole = OmegaConf.create({"dataset": dataset, "model": net, "method": method, "phase": phase})
    found: Any = OmegaConf.to_container(whole, resolve=True)
    return dict(found["phase"])


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (None, {"lr": 0.1, "clip_norm": 1.0, "milestones": [0.5, 0.75], "epochs": 30}),
        ({"mnist": OWN}, {"lr": 0.1, "clip_norm": 1.0, "milestones": [0.5, 0.75], "epochs": 30}),
        # a null is a setting: no clipping
        ({"any": ANY}, {"lr": 0.3, "clip_norm": None, "milestones": [0.1], "epochs": 30}),
        ({"any": ANY, "digits": OWN}, {"lr": 0.2, "clip_norm": None, "milestones": [0.1], "epochs": 30}),
    ],
)
def test_the_data_set_then_any_then_the_value_given(recipe: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    assert settings(recipe) == expected


def test_the_net_has_a_recipe_too() -> None:
    net = {"train": {"lr": 20.0, "clip_norm": 0.25}}
    assert settings(None, net)["lr"] == 20.0
    assert settings({"any": {"train": {"lr": 0.3}}}, net) == {
        "lr": 0.3,
        "clip_norm": 0.25,
        "milestones": [0.5, 0.75],
        "epochs": 30,
    }
