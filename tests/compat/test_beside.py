"""A program may import any public module beside the functions that the oldest Python is to run."""

import os
import subprocess
import sys

from tests import hosts
from tests.checkout import ROOT

PUBLIC = (
    "aio core debug detach fork futures many master minify os_fork parent profiler select service "
    "setns ssh sudo unix utils"
)
PROGRAM = """
import asyncio, sys
%s

def where():
    return sys.version_info[:2]

async def main():
    async with mitogen.aio.Router() as router:
        child = await router.local(python_path=sys.argv[1])
        below = await router.local(via=child)
        print(await child.call(where), await below.call(where))

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_public_modules_beside_a_function(tmp_path):
    targets = {v: path for v, path in hosts.find_pythons().items() if v >= (3, 6)}
    version, python = min(targets.items())
    script = tmp_path / "program.py"
    imports = "\n".join("import mitogen." + name for name in PUBLIC.split())
    script.write_text(PROGRAM % imports)
    done = subprocess.run(
        [sys.executable, str(script), python],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("{0} {0}\n".format(version), "")
