"""A master that sends a file or a tree and prints its progress; tests kill it meanwhile.

argv: source, target.
"""

import sys

import mitogen.master

reported = []


def progress(path, done, total):
    if done > 8 << 20 and not reported:
        reported.append(True)
        print("under way", flush=True)


if __name__ == "__main__":
    with mitogen.master.Router() as router:
        router.local(via=router.local()).put(sys.argv[1], sys.argv[2], progress)
        print("done", flush=True)
