"""
Capture of a program's output for run(): check options before the program starts, collect its
output or pass it to callbacks, and produce the results and errors of subprocess.run().

Threads: any, one at a time for each Capture.
"""

from __future__ import annotations

from subprocess import DEVNULL, PIPE, CalledProcessError, CompletedProcess, TimeoutExpired

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Callback = Callable[[Any], object]

__all__ = ["Capture"]


def _decoder(text: bool) -> Any:
    """Return the function that converts a whole output to the type requested by the caller."""
    if not text:
        return lambda data: data
    import locale

    encoding = locale.getpreferredencoding(False)

    def decode(data: bytes) -> str:
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")

    return decode


def _piece_callback(call: Callback, text: bool) -> Callback:
    """Return a callback for pieces of bytes that calls `call` with bytes or, for `text`, str."""
    if not text:
        return lambda data: call(bytes(data))
    import codecs
    import locale

    decode = codecs.getincrementaldecoder(locale.getpreferredencoding(False))("replace").decode

    def callback(data: bytes) -> None:
        part = decode(bytes(data))
        if part:
            call(part)

    return callback


def _input_bytes(input: Any, text: bool) -> Any:
    if input is None:
        return None
    if text:
        if not isinstance(input, str):
            raise TypeError("input must be str if text=True, not %s" % type(input).__name__)
        import locale

        return input.encode(locale.getpreferredencoding(False))
    if isinstance(input, str):
        raise TypeError("input must be bytes, not str; pass text=True to send str")
    return memoryview(input).cast("B")


class Capture:
    """The output of one program. The arguments are those of process.run()."""

    __module__ = "mitogen.process"

    def __init__(
        self,
        *,
        input: Any = None,
        check: bool = False,
        capture_output: bool = True,
        text: bool = False,
        on_stdout: Callback | None = None,
        on_stderr: Callback | None = None,
    ) -> None:
        self.input = _input_bytes(input, text)
        self.check = check
        self.capture_output = capture_output
        self.decode = _decoder(text)
        self.chunks: list[list[bytes]] = [[], []]
        #: Callbacks for each piece of output, and of error output.
        self.sinks = [
            self._sink(keep, _piece_callback(callback, text) if callback else None)
            for keep, callback in zip(self.chunks, (on_stdout, on_stderr))
        ]
        where = [PIPE if capture_output or each else None for each in (on_stdout, on_stderr)]
        #: Arguments for Popen.
        self.options: dict[str, Any] = {
            "stdin": PIPE if self.input else DEVNULL,
            "stdout": where[0],
            "stderr": where[1],
        }

    def _sink(self, chunks: list[bytes], callback: Callback | None) -> Callback:
        def take(data: bytes) -> None:
            if self.capture_output:
                chunks.append(data)
            if callback:
                callback(data)

        return take

    def _printed(self, finish: Callable[[bytes], Any]) -> list[Any]:
        return [finish(b"".join(c)) if self.capture_output else None for c in self.chunks]

    def result(self, popen: Any) -> CompletedProcess[Any]:
        """Return the result of run(), or raise CalledProcessError."""
        out, err = self._printed(self.decode)
        status = popen.returncode or 0
        if self.check and status:
            raise CalledProcessError(status, popen.args, out, err)
        return CompletedProcess(popen.args, status, out, err)

    def timeout_error(self, popen: Any, timeout: float) -> TimeoutExpired:
        """Return the error for an expired timeout, with the output so far."""
        out, err = self._printed(lambda data: data or None)
        return TimeoutExpired(popen.args, timeout, out, err)
