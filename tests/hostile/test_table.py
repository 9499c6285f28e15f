"""docs/design/trust.rst names tests that exist."""

import re

from tests.checkout import ROOT

PAGE = (ROOT / "docs" / "design" / "trust.rst").read_text(encoding="utf-8")


def test_each_test_in_the_table_exists():
    # Up to the next heading.
    table = re.split(r"\n\n[^\n]+\n-{3,}\n", PAGE[PAGE.index("Limits\n---") :])[0]
    rows = table.split("   * - ")[2:]
    assert len(rows) > 15
    for row in rows:
        (file,) = re.findall(r"``([\w/]+\.py)``", row)
        path = ROOT / file if "/" in file else ROOT / "tests" / "hostile" / file
        text = path.read_text(encoding="utf-8")
        names = re.findall(r"``(test_\w+)``", row)
        assert names or "conftest" in file, row
        for name in names:
            assert "def %s(" % name in text, name
