"""One process for all tools under test: starting workers takes longer than what they would do."""

import pytest


@pytest.fixture(scope="package", autouse=True)
def one_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CPU_LIMIT", "1")
        yield
