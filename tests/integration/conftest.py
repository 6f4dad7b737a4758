import pytest

from tests.support import models


@pytest.fixture(scope="session")
def real_model_folder(clean_environment: None) -> str:
    return str(models.real_model_folder())
