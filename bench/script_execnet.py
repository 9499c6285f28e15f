"""The same as script_mitogen.py with execnet: script_execnet.py LIBRARY"""

import sys

sys.path.insert(0, sys.argv[1])

import execnet  # noqa: E402

if __name__ == "__main__":
    gateway = execnet.makegateway("popen")
    assert gateway.remote_exec("import os; channel.send(os.getpid())").receive(10)
    execnet.default_group.terminate(1.0)
