"""What unit tests share because it is slow to make."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.trained import Trained


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A dataset and the sealed model that one training run made of it; tests copy it."""
    # TensorFlow's import is slow, so only those who ask for the fixture pay for it
    from securetrain.secret import Secret
    from securetrain_trainer import training
    from support.trained import Trained
    from support.trainer_kit import FakeOperator, GivenKeys, run_spec, seal_dataset

    root = tmp_path_factory.mktemp("trained")
    deks = seal_dataset(root / "data")
    keys = GivenKeys(deks, Secret(os.urandom(32)))
    operator = FakeOperator()
    training.run_training(run_spec(root), keys, operator, start=lambda: 1)
    return Trained(root, keys, operator)
