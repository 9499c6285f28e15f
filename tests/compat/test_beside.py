"""A program may import any public module in the file whose functions run on the oldest Python."""

import json
import os
import subprocess

import pytest

from tests.checkout import ROOT
from tests.compat.versions import MASTERS, OLDEST, find

PUBLIC = (
    "aio cli core debug fakessh files fork futures imports many master minify os_fork parent "
    "process profiler select service setns specs ssh su sudo terminal unix utils"
)
PROGRAM = """
import asyncio, json, sys
%s

def where():
    return "%%d.%%d" %% sys.version_info[:2]

async def main():
    async with mitogen.aio.Router() as router:
        child = await router.local(python_path=json.loads(sys.argv[1]))
        below = await router.local(via=child)
        print(await child.call(where), await below.call(where))

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("master", MASTERS)
def test_a_function_may_be_in_a_file_that_imports_all_public_modules(master, tmp_path):
    script = tmp_path / "program.py"
    imports = "\n".join("import mitogen." + name for name in PUBLIC.split())
    script.write_text(PROGRAM % imports)
    done = subprocess.run(
        [*find(master), str(script), json.dumps(find(OLDEST))],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("{0} {0}\n".format(OLDEST), "")
