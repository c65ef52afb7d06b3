from __future__ import annotations

import hashlib

import numpy as np
import pytest

from prunebench.errors import UserError
from prunebench.surgery.plan import Plan


def test_json_is_canonical() -> None:
    plan = Plan({"b": (0, 2), "a": ()}, inputs={"c": (1,)})
    text = '{"inputs":{"c":[1]},"keep":{"a":[],"b":[0,2]}}'
    assert plan.to_json() == text
    assert Plan({"a": (), "b": (0, 2)}, {"c": (1,)}).to_json() == text
    assert Plan.from_json(text) == plan
    assert plan.digest() == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert Plan() == Plan.from_json('{"keep":{}}')


def test_numpy_integers_and_lists() -> None:
    plan = Plan({"a": list(np.array([1, 5]))})  # type: ignore[dict-item]
    assert plan.keep == {"a": (1, 5)}
    assert type(plan.keep["a"][0]) is int


def test_the_given_mapping_is_copied() -> None:
    sets = {"a": (0,)}
    plan = Plan(sets)
    sets["a"] = (1,)
    assert plan.keep["a"] == (0,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"keep":{"a":[1,', "must be JSON"),
        ("[]", "with the keys keep and inputs, got list"),
        ('{"inputs":{}}', r"got the keys \['inputs'\]"),
        ('{"keep":{},"kept":{}}', r"got the keys \['keep', 'kept'\]"),
        ('{"keep":[]}', "keep of a plan maps layers to channel indices, got list"),
        ('{"keep":{"a":3}}', r"keep\['a'\] of a plan must be a list of channel indices, got 3"),
        ('{"keep":{"a":[0.5]}}', r"must be a list of channel indices, got \[0.5\]"),
        ('{"keep":{"a":["1"]}}', "must be a list of channel indices"),
        ('{"keep":{"a":[0,true]}}', r"must be a list of channel indices, got \[0, True\]"),
        ('{"keep":{"a":[1,0]}}', r"keep\['a'\] must be ascending indices from 0, each once, got \[1, 0\]"),
        ('{"keep":{},"inputs":{"a":[1,1]}}', r"inputs\['a'\] must be ascending"),
        ('{"keep":{"a":[-1,1]}}', "from 0"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Plan.from_json(text)
