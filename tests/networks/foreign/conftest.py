"""Files that several of these tests read."""

import pytest
from foreign_teachers import entry, make_images, write


@pytest.fixture
def images(tmp_path):
    """A folder; see :func:`foreign_teachers.make_images`."""
    return make_images(tmp_path)


@pytest.fixture
def some_file(tmp_path):
    """A result file of one detection."""
    return write(tmp_path / "found.json", [entry(0, 1)])
