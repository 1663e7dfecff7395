"""What every technique gives is what it gave: a change that moves a hash names it, with its reason, in its commit."""

import json

import pytest

from tests.hashes import outcomes

pytestmark = pytest.mark.slow
KEPT = json.loads(outcomes.HASHES.read_text())


def test_every_outcome_has_its_hash():
    assert {(outcome, name) for outcome, names in KEPT.items() for name in names} == set(outcomes.cases())


@pytest.mark.sampled(39)
@pytest.mark.parametrize("outcome, name", [(outcome, name) for outcome, names in KEPT.items() for name in names])
def test_nothing_has_moved(outcome, name):
    assert outcomes.hash_of(outcome, name) == KEPT[outcome][name]
