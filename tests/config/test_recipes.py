from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from prunebench.config import recipes
from prunebench.config.groups import conf_folder
from prunebench.errors import UserError

ANY = {"train": {"lr": 0.3, "clip_norm": None, "milestones": [0.1]}}
OWN = {"train": {"lr": 0.2}}


def settings(
    own: dict[str, Any] | None, model: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **top: Any
) -> dict[str, Any]:
    recipes.register()
    phase = {
        "lr": "${recipe:train,lr,0.1}",
        "clip_norm": "${recipe:train,clip_norm,1.0}",
        "milestones": "${recipe:train,milestones,[0.5,0.75]}",
        "epochs": "${recipe:train,epochs,${dataset.epochs}}",
    }
    method = {} if own is None else {"recipe": own}
    dataset = {"name": "digits", "epochs": 30, **({} if data is None else {"recipe": data})}
    net = {} if model is None else {"recipe": model}
    whole = OmegaConf.create({"dataset": dataset, "model": net, "method": method, "phase": phase, **top})
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


def test_the_net_has_one_for_each_data_set() -> None:
    net = {"train": {"lr": 20.0, "clip_norm": 0.25}, "digits": {"train": {"lr": 3.0}}, "mnist": {"train": {"lr": 4.0}}}
    assert (settings(None, net)["lr"], settings(None, net)["clip_norm"]) == (3.0, 0.25)
    assert settings({"any": OWN}, net)["lr"] == 0.2


def test_the_data_set_has_one_for_those_who_have_none() -> None:
    data = {"train": {"lr": 0.7, "clip_norm": 2.0}}
    assert (settings(None, data=data)["lr"], settings(None, data=data)["epochs"]) == (0.7, 30)
    assert settings({"digits": OWN}, {"train": {"clip_norm": 0.25}}, data) == settings(
        {"digits": OWN}, {"train": {"clip_norm": 0.25}}
    )
    assert settings({"digits": OWN}, data=data, recipe="common")["lr"] == 0.7


def test_a_common_recipe_leaves_out_the_methods() -> None:
    assert settings({"digits": OWN, "any": ANY}, recipe="common") == settings(None)
    net = {"train": {"lr": 20.0}}
    assert settings({"digits": OWN}, net, recipe="common")["lr"] == 20.0  # the net's own is no method's
    with pytest.raises(UserError, match="recipe must be common or null, got 'comon'; did you mean common"):
        recipes.check(OmegaConf.create({"recipe": "comon"}))


def test_a_key_that_a_recipe_wins_over_is_refused() -> None:
    def refused(*given: str) -> None:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            cfg = compose("config", overrides=["dataset=cifar10", *given])
        recipes.refuse_overruled(cfg, given)

    with pytest.raises(UserError, match=r"dataset.batch_size=512 has no effect on the phase \w+: .*l1norm.* says 64"):
        refused("method=l1norm", "dataset.batch_size=512")
    with pytest.raises(UserError, match=r"use schedule.phases.finetune.epochs=3, or recipe=common"):
        refused("method=l1norm", "dataset.epochs.finetune=3")
    refused("method=l1norm", "dataset.batch_size=512", "recipe=common")
    refused("method=random", "dataset.batch_size=512", "dataset.epochs.train=2")  # it has no recipe
    refused("method=l1norm", "dataset.batch_size=64")  # says the same
