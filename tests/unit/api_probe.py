"""Functions that tests call in children, including those with the oldest Python. It imports nothing
else.
"""

from mitogen import core


@core.takes_econtext
def missing(names, econtext=None):
    """Return which of `names` (Class.attribute) the child's own objects and classes lack."""
    objects = {
        "ExternalContext": econtext,
        "Importer": econtext.importer,
        "Dispatcher": econtext.dispatcher,
        "Router": econtext.router,
        "Broker": econtext.broker,
        "Context": econtext.parent,
        "Stream": econtext.stream,
        "Message": core.Message(),
        "Sender": core.Sender(econtext.parent, 1),
    }
    found = []
    for name in names:
        owner, _, attribute = name.partition(".")
        try:
            getattr(objects.get(owner) or getattr(core, owner), attribute)
        except AttributeError as error:
            found.append("%s: %s" % (name, error))
    return found


def use_old_names():
    """Use the names that core_names.py adds to core's classes, in a context that imported none of
    it.
    """
    import sys

    before = "mitogen.compat.core_names" in sys.modules
    msg = core.Message.pickled(1, "two", dst_id=0, src_id=0, auth_id=0, handle=1)
    values = list(msg.unpickle_iter())
    size = len(msg.pack()) - len(msg.data)
    return before, values, size == core.Message.HEADER_LEN, core.ChannelError.local_msg


@core.takes_econtext
def defer_sync(econtext=None):
    """Return the result of a function run on the broker's thread."""
    return econtext.broker.defer_sync(lambda: econtext.broker.on_thread())


# ---- unit/importing/test_resources.py


def use_resources():
    """Return the results of importlib.resources for the package `resource_pkg`."""
    from importlib import resources

    import resource_pkg.inner

    return (
        resources.read_text("resource_pkg", "text.txt"),
        resources.read_binary("resource_pkg", "data.bin"),
        resources.read_text("resource_pkg.inner", "deep.txt"),
        sorted(resources.contents("resource_pkg")),
        resources.is_resource(resource_pkg, "data.bin"),
        resources.is_resource(resource_pkg, "inner"),
    )


def use_files():
    """Return the results of importlib.resources.files() for the package `resource_pkg`."""
    from importlib import resources

    def error(function, *args):
        try:
            return repr(function(*args))
        except Exception as e:
            return type(e).__name__

    top = resources.files("resource_pkg")
    text = top / "text.txt"
    with resources.as_file(text) as path:
        as_file = path.read_bytes()
    return {
        "name": top.name,
        "text": text.read_text(encoding="utf-8"),
        "latin": text.open("r", encoding="latin-1").read(),
        "bytes": top.joinpath("data.bin").read_bytes(),
        "inner": resources.files("resource_pkg.inner").joinpath("deep.txt").read_text("utf-8"),
        "as_file": as_file,
        "kinds": [[each.is_dir(), each.is_file()] for each in (top, text, top / "missing")],
        "missing": [
            error(top.joinpath(name).read_bytes) for name in ("missing", "../secret.txt", "")
        ],
        "modes": [error(text.open, "w")],
        "names": sorted(each.name for each in top.iterdir()),
        "below a file": list(text.iterdir()),
    }


def read_below():
    """Return what is read below a directory of `resource_pkg` that is not a package."""
    import pkgutil

    import resource_pkg

    def error(path):
        try:
            return pkgutil.get_data("resource_pkg", path)
        except OSError as e:
            return type(e).__name__

    import resource_pkg.inner

    reader = resource_pkg.__loader__.get_resource_reader("resource_pkg")
    top = reader.files()
    plain = top / "plain"
    two = top.joinpath("plain/deeper", "two.txt")
    return {
        "data": reader.open_resource("plain/deeper/two.txt").read(),
        "get_data": pkgutil.get_data("resource_pkg", "plain/deeper/two.txt"),
        "bad": [error("plain/missing"), error("../secret.txt")],
        "inner": pkgutil.get_data("resource_pkg.inner", "deep.txt"),
        "modules": [(m.name, m.ispkg) for m in pkgutil.iter_modules(resource_pkg.__path__, "x.")],
        "walk": [m.name for m in pkgutil.walk_packages(resource_pkg.__path__, "resource_pkg.")],
        "below": [m.name for m in pkgutil.iter_modules(resource_pkg.inner.__path__)],
        "text": two.read_text("utf-8"),
        "names": sorted(each.name for each in plain.iterdir()),
        "kinds": [[each.is_dir(), each.is_file()] for each in (plain, two, plain / "missing")],
    }


def ask(fullname, resource):
    """Return the content that the loader's reader opens, or the text of its error."""
    import resource_pkg

    reader = resource_pkg.__loader__.get_resource_reader(fullname)
    try:
        with reader.open_resource(resource) as fp:
            return fp.read()
    except FileNotFoundError as e:
        return str(e)


def path_of():
    """Return the error raised by a request for a resource's path."""
    import resource_pkg

    try:
        return resource_pkg.__loader__.get_resource_reader("resource_pkg").resource_path("x")
    except FileNotFoundError as e:
        return str(e)


@core.takes_econtext
def ask_raw(data, econtext=None):
    """Send arbitrary bytes as a request for a resource."""
    msg = core.Message(handle=core.GET_RESOURCE, data=data)
    return econtext.master.send_await(msg, 20.0)


# ---- test_profiler.py


def say_nonsense(sender):
    """Send data that is not a profile, then a profile with a hostile name."""
    for value in (None, ["x"], ["x", 5], ["../../x", {("f", "1", "g"): (1, 2)}], ["x", {1: 2}]):
        sender.send(value)
    sender.send(["../../good", {("f", 1, "g"): (1, 1, 0.5, 1, {})}])
