"""master_names.py: names of mitogen.master in old releases."""

import os
import threading

import pytest

from mitogen import core, master, select
from mitogen.importing import finder


@pytest.fixture
def ends():
    rfd, wfd = os.pipe()
    os.set_blocking(wfd, False)
    os.set_blocking(rfd, False)
    yield rfd, wfd
    for fd in (rfd, wfd):
        try:
            os.close(fd)
        except OSError:
            pass


def test_names_defined_elsewhere():
    assert master.Select is select.Select
    assert master.DefectivePython3xMainMethod is finder.DefectivePython3xMainMethod
    assert master.ParentEnumerationMethod is finder.ParentSpecEnumerationMethod
    assert master.ImportPolicy is core.ImportPolicy


def test_write_all_and_iter_read(ends):
    rfd, wfd = ends
    data = os.urandom(1 << 20)
    got = []
    reader = threading.Thread(target=lambda: got.extend(master.iter_read(rfd)))
    reader.start()
    master.write_all(wfd, data)
    master.write_all(wfd, b"", deadline=core.now() + 20)
    os.close(wfd)
    reader.join()
    assert b"".join(got) == data


@pytest.mark.parametrize("seconds", [-1, 0.01])
def test_deadlines(ends, seconds):
    rfd, wfd = ends
    with pytest.raises(core.TimeoutError):
        list(master.iter_read(rfd, core.now() + seconds))
    with pytest.raises(core.TimeoutError):
        master.write_all(wfd, b"x" * (1 << 20), core.now() + seconds)


def test_write_to_a_closed_reader_fails(ends):
    rfd, wfd = ends
    os.close(rfd)
    with pytest.raises(OSError):
        master.write_all(wfd, b"x")
