"""`master`: a router for one test; `honest`: its honest child; `forged`: its forged one."""

import pytest

from mitogen import master as master_module
from tests.hostile.forged import Forged
from tests.integration.conftest import info_level, records  # noqa: F401
from tests.unit.programs.conftest import large_values_decoded_by_brokers  # noqa: F401


@pytest.fixture
def master():
    with master_module.Router() as router:
        yield router


@pytest.fixture
def honest(master):
    child = master.local()
    child.call(int)
    return child


@pytest.fixture
def forged(master):
    with Forged(master) as child:
        yield child
