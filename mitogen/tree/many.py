"""
Concurrent connections, made by one thread.

Rules
    1. Attempts are started only by the iterating thread. The broker only signals when an attempt
       may start and when it is over.
    2. Leading hops that several specs share are connected once.
    3. When iteration stops, only contexts that were already yielded, and their hops, are kept.

Threads: connect_many() iterates on the caller's thread.
"""

from __future__ import annotations

from collections import deque

from mitogen.calls.chain import CallChain
from mitogen.core.mailbox import Latch
from mitogen.tree import specs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

__all__ = ["Result", "connect_many"]


class Result:
    """
    Outcome of one attempt. It unpacks to three values: `for spec, context, error in ...`.

    `spec` is the requested spec, as given. Either `context` or `error` is None.
    """

    __module__ = "mitogen.many"

    def __init__(self, spec: Any, context: Any = None, error: Any = None) -> None:
        self.spec = spec
        self.context = context
        self.error = error

    def __iter__(self) -> Iterator[Any]:
        return iter((self.spec, self.context, self.error))

    def __repr__(self) -> str:
        return "Result(%r, %r, %r)" % tuple(self)


class _Hop:
    """One connection of a path; paths that start with it wait for it."""

    def __init__(self, above: _Hop | None, method: str, kwargs: dict[str, Any]) -> None:
        self.above = above
        self.method = method
        self.kwargs = kwargs
        self.attempt: Any = None
        self.context: Any = None
        self.error: BaseException | None = None
        self.started = False
        #: Hops connected through this one, and specs that end here.
        self.after: list[_Hop] = []
        self.specs: list[Any] = []

    def start(self, router: Any, done: Any, allowed: Any) -> None:
        kwargs = self.kwargs
        if self.above:
            kwargs = dict(kwargs, via=self.above.context)
        self.attempt = router.connecting(self.method, **kwargs)
        if kwargs.get("via") is not None:
            # Concurrently, in each context that makes several connections.
            self.attempt.chain = CallChain(kwargs["via"], worker=True)
        self.attempt.when_allowed(lambda: allowed(self))
        self.attempt.when_done(lambda: done(self))


def hops_of(spec: Any) -> list[tuple[str, dict[str, Any]]]:
    """
    Return a spec as a list of (method, options).

    :param spec: a text for specs.parse(), a (method, dict of options) pair, or a dict of options
        with the method under the key "method"
    :raises TypeError: `spec` is none of these
    :raises ValueError: the text is malformed
    """
    if isinstance(spec, str):
        return list(specs.parse(spec))
    if isinstance(spec, dict) and "method" in spec:
        options = dict(spec)
        return [(options.pop("method"), options)]
    if isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[1], dict):
        return [spec]
    raise TypeError(
        "%r is not a connection spec: give a text such as 'ssh:host', a (method, options) pair, "
        "or a dict with a 'method'" % (spec,)
    )


def connect_many(router: Any, specs: Iterable[Any], limit: int = 100) -> Iterator[Result]:
    """
    Connect to many contexts; yield a Result for each spec once it is connected or has failed.

    Connections are made concurrently, with at most connecting.MAX_LOGINS logins to one server. If
    the iteration is abandoned, attempts in progress and contexts not yet yielded are ended.

    :param Router router: router of this context
    :param specs: targets, see hops_of(); `via` is among the options
    :param int limit: maximum number of concurrent attempts
    :raises TypeError: a spec has a wrong type; nothing was started
    :raises ValueError: a spec is malformed, or `limit` is less than one; nothing was started
    """
    if limit < 1:
        raise ValueError("limit=%r must be 1 or more" % (limit,))
    return _Many(router, specs, limit).run()


class _Many:
    def __init__(self, router: Any, specs: Iterable[Any], limit: int) -> None:
        self.router = router
        self.limit = limit
        self.all: list[_Hop] = []
        self.waiting: deque[_Hop] = deque()
        self.connecting: set[_Hop] = set()
        self.events = Latch()
        self.pending = 0
        self.ended = False
        shared: dict[Any, _Hop] = {}
        for spec in specs:
            self._add(spec, shared)

    def _add(self, spec: Any, shared: dict[Any, _Hop]) -> None:
        hop = None
        path: Any = ()
        for method, options in hops_of(spec):
            path += ((method, tuple(sorted((k, repr(v)) for k, v in options.items()))),)
            if path not in shared:
                shared[path] = self._new_hop(hop, method, options)
            hop = shared[path]
        assert hop is not None
        if hop.specs:
            # A repeated spec gets a context of its own.
            hop = self._new_hop(hop.above, hop.method, hop.kwargs)
        hop.specs.append(spec)
        self.pending += 1

    def _new_hop(self, above: _Hop | None, method: str, options: dict[str, Any]) -> _Hop:
        hop = _Hop(above, method, options)
        self.all.append(hop)
        (above.after if above else self.waiting).append(hop)
        return hop

    def run(self) -> Iterator[Result]:
        yielded: set[_Hop] = set()
        try:
            while self.pending:
                while self.waiting and len(self.connecting) < self.limit:
                    self._start(self.waiting.popleft())
                what, hop = self.events.get()
                for result in what(hop):
                    self.pending -= 1
                    if result.context is not None:
                        yielded.add(hop)
                    yield result
        finally:
            self._clean_up(yielded)

    def _start(self, hop: _Hop) -> None:
        self.connecting.add(hop)
        try:
            hop.start(
                self.router,
                lambda hop: self.events.put((self._on_done, hop)),
                self._when_allowed,
            )
        except Exception as e:
            self._fail_later(hop, e)

    def _when_allowed(self, hop: _Hop) -> None:
        self.events.put((self._on_allowed, hop))
        if self.ended:
            self._drain()

    def _on_allowed(self, hop: _Hop) -> Iterator[Result]:
        try:
            hop.attempt.start()
            hop.started = True
        except Exception as e:
            self._fail_later(hop, e)
        return iter(())

    def _fail_later(self, hop: _Hop, error: BaseException) -> None:
        hop.error = error
        self.events.put((self._on_done, hop))

    def _on_done(self, hop: _Hop) -> Iterator[Result]:
        self.connecting.discard(hop)
        if hop.error is None:
            try:
                hop.context = hop.attempt.wait()
            except Exception as e:
                hop.error = e
        if hop.error is None:
            self.waiting.extend(hop.after)
            return iter([Result(spec, hop.context) for spec in hop.specs])
        return iter(self._failed(hop, hop.error))

    def _failed(self, hop: _Hop, error: BaseException) -> list[Result]:
        """Return failed Results for all specs that lead through a hop."""
        results = [Result(spec, None, error) for spec in hop.specs]
        for after in hop.after:
            results += self._failed(after, error)
        return results

    def _clean_up(self, yielded: set[_Hop]) -> None:
        self.ended = True
        self._drain()
        for hop in self.connecting:
            if hop.started:
                hop.attempt.give_up()
        wanted = set(yielded)
        for hop in yielded:
            above = hop.above
            while above:
                wanted.add(above)
                above = above.above
        for hop in self.all:
            if hop.context is not None and hop not in wanted:
                hop.context.shutdown()

    def _drain(self) -> None:
        """Release the contexts and logins of events that will not be processed."""
        while not self.events.empty():
            what, hop = self.events.get()
            if what == self._on_done:
                self._on_done(hop)
            else:
                self.connecting.discard(hop)
                self.router.branch.logins.leave(hop.attempt.destination)
