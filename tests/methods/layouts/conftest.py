"""Networks that the files here are made from."""

from typing import Any

import pytest

from tests.support.foreign_files import resnet, vit


@pytest.fixture(scope="module")
def resnet18() -> Any:
    return resnet()


@pytest.fixture(scope="module")
def vit_tiny() -> Any:
    return vit()
