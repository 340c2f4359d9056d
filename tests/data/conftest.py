"""The official data sets, small."""

import pytest
from helpers.layouts import write_cub, write_dogs


@pytest.fixture
def cub(tmp_path):
    write_cub(tmp_path / "CUB_200_2011")
    return tmp_path / "CUB_200_2011"


@pytest.fixture
def dogs(tmp_path):
    write_dogs(tmp_path / "stanford_dogs")
    return tmp_path / "stanford_dogs"
