"""Files and services, as seen from children."""

import hashlib
import os
import stat
import threading

import mitogen.core
import mitogen.service

PIECE = 1 << 20


class Null:
    """A file object that keeps only a digest."""

    def __init__(self):
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data):
        self.hash.update(data)
        self.size += len(data)


@mitogen.core.takes_router
def fetch(path, context_id=0, router=None):
    """Fetch a file from another context's FileService; return (ok, metadata, size, SHA-256)."""
    out = Null()
    context = router.context_by_id(context_id)
    ok, metadata = mitogen.service.FileService.get(context, path, out)
    return ok, metadata, out.size, out.hash.hexdigest()


def digest(path):
    """Return (size, SHA-256) of a file."""
    found = Null()
    with open(path, "rb") as fp:
        for piece in iter(lambda: fp.read(PIECE), b""):
            found.write(piece)
    return found.size, found.hash.hexdigest()


def make_directory():
    """Make a directory owned by this account; return its name."""
    import tempfile

    return tempfile.mkdtemp(prefix="mitogen-files-", dir="/tmp")


def remove(path):
    import shutil

    shutil.rmtree(path)


def listing(path):
    """Return the names in a directory, sorted."""
    return sorted(os.listdir(path))


def describe(path):
    """Return (permissions, mtime in ns, uid, bytes) of a file."""
    found = os.lstat(path)
    with open(path, "rb") as fp:
        return stat.S_IMODE(found.st_mode), found.st_mtime_ns, found.st_uid, fp.read()


def make_tree(path):
    """Make a tree with one entry of each kind."""
    os.makedirs(os.path.join(path, "a", "empty"))
    with open(os.path.join(os.fsencode(path), b"a", b"\xff\n"), "wb") as fp:
        fp.write(b"odd")
    with open(os.path.join(path, "large"), "wb") as fp:
        fp.write(os.urandom(300000))
    os.symlink("../large", os.path.join(path, "a", "link"))


def tree(path):
    """Return the entries of the tree made by make_tree(), by name."""
    found = {}
    for directory, names, files in os.walk(os.fsencode(path)):
        for name in names + files:
            full = os.path.join(directory, name)
            if os.path.islink(full):
                value = os.readlink(full)
            elif os.path.isdir(full):
                value = None
            else:
                with open(full, "rb") as fp:
                    value = hashlib.sha256(fp.read()).hexdigest()
            found[os.path.relpath(full, os.fsencode(path))] = value
    return found


def put(context, source, target, **kwargs):
    """Send a file from here to another context."""
    context.put(source, target, **kwargs)


def get(context, source, target, **kwargs):
    """Fetch a file to here from another context."""
    context.get(source, target, **kwargs)


@mitogen.core.takes_router
def pushed(path, router):
    """Return a file that was, or will be, pushed to this context."""
    pool = mitogen.service.get_or_create_pool(router=router)
    return pool.get_service("mitogen.service.PushFileService").get(path)


def pushed_unnamed(path):
    """Return a pushed file, called in the way of existing programs."""
    pool = mitogen.service.get_or_create_pool()
    return pool.get_service(mitogen.service.PushFileService).get(path)


@mitogen.core.takes_router
def pushed_here(router):
    """Return the paths in this context's cache, and the total number of files it has passed on."""
    service = mitogen.service.get_or_create_pool(router=router).get_service(
        mitogen.service.PushFileService
    )
    return sorted(service._cache), sum(len(sent) for sent in service._sent.values())


@mitogen.core.takes_router
def pool_size(size=None, router=None):
    """Make a pool here; return its size."""
    return mitogen.service.get_or_create_pool(size=size, router=router).size


@mitogen.core.takes_router
def ask(name, method, kwargs, context_id=None, router=None):
    """Call a service of the parent or of another context."""
    context = None if context_id is None else router.context_by_id(context_id)
    return mitogen.service.call(name, method, context, **kwargs)


def main_thread_is_right():
    """Return whether threading considers this thread, which must be the main thread, to be it."""
    return threading.current_thread() is threading.main_thread()


class Counter(mitogen.service.Service):
    """A service that counts and sends a message when it ends."""

    def __init__(self, router):
        mitogen.service.Service.__init__(self, router)
        self.count = 0
        self.sender = None

    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    @mitogen.service.arg_spec({"by": int})
    def add(self, by, msg):
        self.count += by
        return self.count, msg.src_id, os.getpid()

    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    def say_goodbye_to(self, sender):
        self.sender = sender

    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    def fail(self):
        raise KeyError("counter")

    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    @mitogen.service.no_reply()
    def fail_quietly(self):
        raise KeyError("quiet counter")

    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    def block(self, sender):
        sender.send("blocked")
        threading.Event().wait()

    def on_shutdown(self):
        if self.sender:
            self.sender.send("good-bye")
