"""
Conversion of files and trees to a sequence of records, and of records to files and trees.

    ["file", name, meta, offset]    then its chunks (bytes), then  ["end", size, check]
    ["dir", name, meta]             then its members, then        ["up"]
    ["link", name, target, meta]
    ["skip", name]

The first record's name is empty: the receiver decides on the destination. Names are bytes with a
single component. `meta` is a dict of numbers: mode, size (bytes), mtime and atime (nanoseconds).

Rules
    1. A sender is not trusted with names. A Sink opens each directory by its descriptor, follows no
       symlink that existed before or came with the tree, and accepts no name with a slash in it.
    2. An incomplete file or tree has no name, or is removed, however the transfer ended, except
       with `resume=True`.

Threads: any, one at a time per object.
"""

from __future__ import annotations

import errno
import os
import stat

from mitogen.transfer.chunks import (
    CHUNK,
    OPEN_DIRECTORY,
    OPEN_READ,
    Error,
    Sha256,
    check_for,
    chmod_unfollowed,
    kind_of,
    open_regular,
    read_chunks,
    write_all,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Record = Any

__all__ = ["Attributes", "ObjectSink", "Sink", "records_of", "records_of_object"]

#: Bytes of a file's name used in its temporary name. Names are limited to 255 bytes.
STEM = 200

ZEROS = bytes(CHUNK)
OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


# -- the sending end of trees


def _is_part(part: Any) -> bool:
    # The value comes from another context and may be anything.
    shape = [type(each) for each in part] if isinstance(part, (list, tuple)) else []
    return shape == [int, bytes] and part[0] >= 0


def _meta(found: os.stat_result) -> dict[str, int]:
    return {
        # A sender must not be able to create setuid programs at the receiver.
        "mode": stat.S_IMODE(found.st_mode) & 0o777,
        "size": found.st_size,
        "mtime": found.st_mtime_ns,
        "atime": found.st_atime_ns,
    }


def _state_of(fd: int, limit: int | None = None) -> tuple[int, bytes]:
    """Return (length, SHA-256) of the first `limit` bytes of a file."""
    check, position = Sha256(), 0
    while limit is None or position < limit:
        chunk = os.pread(fd, CHUNK if limit is None else min(CHUNK, limit - position), position)
        if not chunk:
            break
        check.update(chunk)
        position += len(chunk)
    return position, check.value()


def records_of(path: bytes, part: Any = None) -> Iterator[Record]:
    """Yield the records of a file or tree. `part`: (length, SHA-256) of the partial file there."""
    fd = os.open(path, OPEN_READ)
    try:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            yield from _directory(fd, b"", found, path)
        elif stat.S_ISREG(found.st_mode):
            offset = 0
            if _is_part(part) and part[0] <= found.st_size:
                offset = part[0] if _state_of(fd, part[0]) == tuple(part) else 0
            yield from _file(fd, b"", found, path, offset)
        else:
            text = "%r is a %s; only files, directories and symlinks are sent"
            raise Error(text, os.fsdecode(path), kind_of(found.st_mode))
    finally:
        os.close(fd)


def _file(
    fd: int, name: bytes, found: os.stat_result, path: bytes, offset: int = 0
) -> Iterator[Record]:
    yield ["file", name, _meta(found), offset]
    check, size = check_for(found.st_size or None), offset
    for chunk in read_chunks(fd, path, found, offset):
        check.update(chunk)
        size += len(chunk)
        yield chunk
    yield ["end", size, check.value()]


def _directory(fd: int, name: bytes, found: os.stat_result, path: bytes) -> Iterator[Record]:
    yield ["dir", name, _meta(found)]
    for each in sorted(map(os.fsencode, os.listdir(fd))):
        yield from _member(fd, each, os.path.join(path, each))
    yield ["up"]


def _member(parent: int, name: bytes, path: bytes) -> Iterator[Record]:
    fd = -1
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            target = os.fsencode(os.readlink(name, dir_fd=parent))
        elif stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            # No symlink is followed, and a fifo put in its place meanwhile does not block.
            fd = os.open(name, OPEN_READ | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        error.filename = os.fsdecode(path)
        raise
    if stat.S_ISLNK(found.st_mode):
        yield ["link", name, target, _meta(found)]
    elif fd < 0:
        yield ["skip", name]
    else:
        try:
            yield from _opened(fd, name, found, path)
        finally:
            os.close(fd)


def _opened(fd: int, name: bytes, found: os.stat_result, path: bytes) -> Iterator[Record]:
    opened = os.fstat(fd)
    if stat.S_IFMT(opened.st_mode) != stat.S_IFMT(found.st_mode):
        raise Error("%r changed while it was sent", os.fsdecode(path))
    each = _directory if stat.S_ISDIR(opened.st_mode) else _file
    return each(fd, name, opened, path)


def records_of_object(fp: Any) -> Iterator[Record]:
    """Yield the records of a file object, from its current position."""
    yield ["file", b"", {}, 0]
    check, size = Sha256(), 0
    while True:
        chunk = fp.read(CHUNK)
        if chunk is None or isinstance(chunk, str):
            raise TypeError("%r: read() must return bytes, not %r" % (fp, type(chunk).__name__))
        if not chunk:
            break
        # A file object may return more bytes than requested.
        for at in range(0, len(chunk), CHUNK):
            part = bytes(chunk[at : at + CHUNK])
            check.update(part)
            yield part
        size += len(chunk)
    yield ["end", size, check.value()]


# -- the receiving end


class _Umask:
    """The process' umask, read without changing it if the system reports it."""

    def __init__(self) -> None:
        self.mask = -1
        try:
            with open("/proc/self/status") as fp:
                for line in fp:
                    if line.startswith("Umask:"):
                        self.mask = int(line.split()[1], 8)
        except OSError:
            pass
        if self.mask < 0:
            self.mask = os.umask(0o77)
            os.umask(self.mask)


class Attributes:
    """
    Attributes of received files other than their content.

    :param int mode: permissions of every regular file; directories are made searchable wherever it
        makes them readable. None for the sender's, or those of new files
    :param owner: owner of the files, name or uid; None for the receiving account
    :param group: group of the files, name or gid; None for the receiving account's
    :param bool preserve: keep the sender's permissions (without setuid and similar) and times
    :raises Error: there is no such account or group
    """

    def __init__(
        self,
        mode: int | None = None,
        owner: str | int | None = None,
        group: str | int | None = None,
        preserve: bool = True,
    ) -> None:
        self.mode = mode
        self.preserve = preserve
        self.uid = self._number("account", owner)
        self.gid = self._number("group", group)
        self.umask = _Umask().mask

    @staticmethod
    def _number(kind: str, name: str | int | None) -> int:
        if name is None:
            return -1
        if isinstance(name, int):
            return name
        import grp
        import pwd

        try:
            return pwd.getpwnam(name).pw_uid if kind == "account" else grp.getgrnam(name).gr_gid
        except KeyError:
            if name.isdigit():
                return int(name)
            raise Error("there is no %s %r in the receiving context", kind, name) from None

    def _mode(self, meta: dict[str, int], directory: bool) -> int:
        if self.mode is not None:
            search = (self.mode & 0o444) >> 2
            return (self.mode & 0o777) | search if directory else self.mode
        given = meta.get("mode")
        if not isinstance(given, int):
            given = 0o777 if directory else 0o666
        elif self.preserve:
            return given & 0o777
        return given & 0o777 & ~self.umask

    def apply(self, fd: int, meta: dict[str, int], directory: bool = False) -> None:
        """Set the attributes of a descriptor. The owner comes first, as chown clears setuid."""
        if (self.uid, self.gid) != (-1, -1):
            os.fchown(fd, self.uid, self.gid)
        os.fchmod(fd, self._mode(meta, directory))
        if self.preserve and "mtime" in meta:
            os.utime(fd, ns=(meta["atime"], meta["mtime"]))

    def apply_to_link(self, name: bytes, dir_fd: int, meta: dict[str, int]) -> None:
        """Set the owner and times of a symlink. It has no permissions."""
        if (self.uid, self.gid) != (-1, -1):
            os.chown(name, self.uid, self.gid, dir_fd=dir_fd, follow_symlinks=False)
        if self.preserve and "mtime" in meta:
            times = (meta["atime"], meta["mtime"])
            os.utime(name, ns=times, dir_fd=dir_fd, follow_symlinks=False)


def _temporary_name(name: bytes) -> bytes:
    return b"." + name[:STEM] + b"." + os.urandom(6).hex().encode() + b".part"


def _part_name(name: bytes) -> bytes:
    return b"." + name + b".part"


def _open_directory(name: bytes, dir_fd: int) -> int:
    try:
        return os.open(name, OPEN_DIRECTORY, dir_fd=dir_fd)
    except PermissionError:
        # A received directory may have no permissions for its owner.
        chmod_unfollowed(name, 0o700, dir_fd)
        return os.open(name, OPEN_DIRECTORY, dir_fd=dir_fd)


def _remove(name: bytes, dir_fd: int, identity: Any = None) -> None:
    """
    Remove a file or tree as far as possible.

    The names in it may belong to another account already, which may exchange them at any moment.
    So each directory is opened without following, and only its descriptor is used.

    :param identity: see _identity(); a directory that is not this one is left alone
    """
    try:
        fd = _open_directory(name, dir_fd)
    except OSError:
        return _unlink(name, dir_fd)
    try:
        if identity in (None, _identity(fd)):
            for each in os.listdir(fd):
                _remove(os.fsencode(each), fd)
            os.rmdir(name, dir_fd=dir_fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def _unlink(name: bytes, dir_fd: int) -> None:
    try:
        os.unlink(name, dir_fd=dir_fd)
    except OSError:
        pass


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


class _IncomingFile:
    """
    A single file that is being received. It has no name if the system supports that (Linux's
    O_TMPFILE), so that nothing of it is left even if this process is killed.
    """

    def __init__(self, directory: int, name: bytes, resume: bool) -> None:
        self.directory = directory
        self.name = name
        self.resume = resume
        self.temporary: bytes | None = None
        self.fd = self._open_part() if resume else self._open_new()

    def _open_new(self) -> int:
        try:
            flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
            fd = os.open(".", flags, 0o600, dir_fd=self.directory)
            if os.path.exists("/proc/self/fd/%d" % fd):
                return fd
            os.close(fd)
        except (AttributeError, OSError):
            # Not supported by the system or this file system. Other errors recur below.
            pass
        self.temporary = _temporary_name(self.name)
        return os.open(self.temporary, OPEN_NEW, 0o600, dir_fd=self.directory)

    def _open_part(self) -> int:
        import fcntl

        self.temporary = _part_name(self.name)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self.temporary, flags, 0o600, dir_fd=self.directory)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise Error("%r is not a partial file of a transfer", os.fsdecode(self.temporary))
            if found.st_uid != os.geteuid():
                raise Error("%r belongs to another account", os.fsdecode(self.temporary))
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EWOULDBLOCK:
                raise
            text = "%r: another transfer is in progress"
            raise Error(text, os.fsdecode(self.temporary)) from None
        except Error:
            os.close(fd)
            raise
        return fd

    def publish(self) -> None:
        """Rename the file to its final name."""
        if self.temporary is None:
            temporary = _temporary_name(self.name)
            # With dir_fd this is linkat(2), which follows the link in /proc.
            source = "/proc/self/fd/%d" % self.fd
            os.link(source, temporary, dst_dir_fd=self.directory, follow_symlinks=True)
            self.temporary = temporary
        os.rename(self.temporary, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        self.temporary = None

    def discard(self, keep: bool) -> None:
        if self.temporary is not None and not keep:
            _unlink(self.temporary, self.directory)


def _open_parent(path: bytes) -> int:
    try:
        return os.open(path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        text = "the parent directory does not exist; create it first"
        raise FileNotFoundError(errno.ENOENT, text, os.fsdecode(path)) from None


def _is_meta(value: Any) -> bool:
    """Return whether a part of a record is well-formed metadata, or not a dict at all."""
    if type(value) is not dict:
        return True
    return set(value) in (set(), {"mode", "size", "mtime", "atime"}) and all(
        type(each) is int and abs(each) < 1 << 63 for each in value.values()
    )


class Sink:
    """
    Receiver of records that creates a file or tree at `path`, on finish() after the last record.

    As a context manager, it removes an unfinished file or tree at the end.

    :param bytes path: destination; its parent directory must exist
    :param Attributes attributes: attributes of the files
    :param bool resume: continue with the partial file of an earlier transfer, and keep a partial
        file if this transfer fails
    :raises OSError: the parent directory does not exist or is not writable
    :raises Error: `path` exists and cannot be replaced
    """

    def __init__(self, path: bytes, attributes: Attributes, resume: bool = False) -> None:
        self.attributes = attributes
        self.resume = resume
        self.path = os.fsdecode(path)
        parent, self.name = os.path.split(path)
        if self.name in (b"", b".", b".."):
            raise Error("%r is a directory; add the name of the file or tree", self.path)
        #: Descriptors of the directories being filled; the first is the destination's parent.
        self._fds = [_open_parent(parent)]
        #: Names below `path` of the current file, for errors.
        self._names: list[bytes] = []
        self._metas: list[dict[str, int]] = []
        self._root: bytes | None = None
        self._root_identity: tuple[int, int] | None = None
        self._incoming: _IncomingFile | None = None
        self._fd = -1
        self._file: dict[str, Any] = {}
        self._size = 0
        self._hole = False
        self._check: Any = None
        self._keep = resume
        #: Whether all records have been received.
        self.complete = False
        try:
            self._check_target(False)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _check_target(self, tree: bool) -> None:
        try:
            found = os.stat(self.name, dir_fd=self._fds[0], follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise Error("%r is a directory; add the name of the file or tree", self.path)
        if tree or not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            text = "%r exists and is a %s, which is not replaced"
            raise Error(text, self.path, kind_of(found.st_mode))

    def part(self) -> tuple[int, bytes] | None:
        """Return (length, SHA-256) of an earlier transfer's partial file, or None."""
        try:
            fd = open_regular(_part_name(self.name), self._fds[0], False)
        except OSError:
            return None
        try:
            return _state_of(fd)
        finally:
            os.close(fd)

    def feed(self, record: Record) -> None:
        """
        Process one record.

        :raises Error: the record is malformed or out of order
        :raises OSError: a file cannot be written, for example because the disk is full
        """
        try:
            self._feed(record)
        except OSError as error:
            # Show the whole path: a descriptor, or a name relative to it, would not help.
            names = [each for each in self._names if each]
            error.filename = os.path.join(self.path, *map(os.fsdecode, names))
            error.filename2 = None
            raise

    def _feed(self, record: Record) -> None:
        if type(record) is bytes and self._fd >= 0:
            return self._on_chunk(record)
        if self.complete or not isinstance(record, list) or not record:
            raise Error("%r: the sender sent an invalid record", self.path)
        handler, in_file, shapes = _HANDLERS.get(record[0], (None, False, ()))
        shape = tuple(map(type, record[1:]))
        valid = handler and in_file == (self._fd >= 0) and shape in shapes
        if not valid or not all(map(_is_meta, record)):
            raise Error("%r: the sender sent an invalid record: %r", self.path, record[:1])
        if not in_file:
            self._names[len(self._fds) - 1 :] = record[1:2] if record[0] in _NAMED else []
        handler(self, *record[1:])

    def _check_name(self, name: bytes) -> bytes:
        """Return the name to create in the innermost directory."""
        if len(self._fds) == 1:
            return self.name
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise Error("%r: the sender sent the invalid name %r", self.path, name)
        return name

    def on_file(self, name: bytes, meta: dict[str, int], offset: int) -> None:
        name = self._check_name(name)
        if len(self._fds) == 1:
            self._incoming = _IncomingFile(self._fds[0], name, self.resume)
            self._fd = self._incoming.fd
            if offset:
                self._continue_at(offset)
            elif self.resume:
                os.ftruncate(self._fd, 0)
        elif offset:
            raise Error("%r: only single files can be resumed", self.path)
        else:
            self._fd = os.open(name, OPEN_NEW, 0o600, dir_fd=self._fds[-1])
        self._file = meta
        self._size = offset
        self._check = check_for(meta.get("size") or None)

    def _continue_at(self, offset: int) -> None:
        if not self.resume or offset != os.fstat(self._fd).st_size:
            raise Error("%r: the partial file is not the one that the sender continues", self.path)
        os.lseek(self._fd, offset, os.SEEK_SET)

    def _on_chunk(self, chunk: bytes) -> None:
        self._check.update(chunk)
        self._size += len(chunk)
        # A chunk of zeros becomes a hole. The comparison stops at the first other byte.
        self._hole = chunk == ZEROS
        if self._hole:
            os.lseek(self._fd, len(chunk), os.SEEK_CUR)
        else:
            write_all(self._write, chunk)

    def _write(self, chunk: bytes) -> int:
        return os.write(self._fd, chunk)

    def on_end(self, size: int, check: Any) -> None:
        if (size, check) != (self._size, self._check.value()):
            self._keep = False
            raise Error("%r: the received data differs from the data that was sent", self.path)
        if self._hole:
            os.ftruncate(self._fd, size)
        self._hole = False
        self.attributes.apply(self._fd, self._file)
        if self._incoming:
            self.complete = True
        else:
            os.close(self._fd)
        self._fd = -1

    def on_dir(self, name: bytes, meta: dict[str, int]) -> None:
        if len(self._fds) == 1:
            if self.resume:
                raise Error("%r: resume=True is for single files, not for trees", self.path)
            self._check_target(True)
            name = self._root = _temporary_name(self.name)
        else:
            name = self._check_name(name)
        os.mkdir(name, 0o700, dir_fd=self._fds[-1])
        self._fds.append(os.open(name, OPEN_DIRECTORY, dir_fd=self._fds[-1]))
        self._metas.append(meta)
        if len(self._fds) == 2:
            self._check_root()

    def _check_root(self) -> None:
        """Check that the tree's root is the new directory: the parent may be another account's."""
        if os.listdir(self._fds[1]):
            self._root = None
            raise Error("%r: another program exchanged the new directory", self.path)
        self._root_identity = _identity(self._fds[1])

    def on_up(self) -> None:
        if len(self._fds) == 1:
            raise Error("%r: the sender sent an invalid record", self.path)
        fd = self._fds.pop()
        try:
            self.attributes.apply(fd, self._metas.pop(), True)
        finally:
            os.close(fd)
        self.complete = len(self._fds) == 1

    def on_link(self, name: bytes, target: bytes, meta: dict[str, int]) -> None:
        if len(self._fds) == 1:
            raise Error("%r: the sender sent an invalid record", self.path)
        name = self._check_name(name)
        os.symlink(target, name, dir_fd=self._fds[-1])
        self.attributes.apply_to_link(name, self._fds[-1], meta)

    def on_skip(self, name: bytes) -> None:
        """Do nothing: the caller reports the names in the end."""

    def finish(self) -> None:
        """Move the received file or tree to its destination."""
        if not self.complete:
            raise Error("%r: the sender ended early", self.path)
        if self._incoming:
            self._check_target(False)
            self._incoming.publish()
        elif self._root:
            self._check_target(True)
            os.rename(self._root, self.name, src_dir_fd=self._fds[0], dst_dir_fd=self._fds[0])
            self._root = None

    def close(self) -> None:
        """Remove an unfinished file or tree. Idempotent."""
        if self._incoming:
            self._incoming.discard(self._keep and self._size > 0)
            os.close(self._incoming.fd)
        elif self._fd >= 0:
            os.close(self._fd)
        self._incoming, self._fd = None, -1
        if self._root:
            _remove(self._root, self._fds[0], self._root_identity)
            self._root = None
        while self._fds:
            os.close(self._fds.pop())


_NAMED = ("file", "dir", "link")
_HANDLERS: dict[Any, tuple[Any, bool, Any]] = {
    # record: (method, whether within a file, permitted types of the fields after the name)
    "file": (Sink.on_file, False, {(bytes, dict, int)}),
    "end": (Sink.on_end, True, {(int, int), (int, bytes)}),
    "dir": (Sink.on_dir, False, {(bytes, dict)}),
    "up": (Sink.on_up, False, {()}),
    "link": (Sink.on_link, False, {(bytes, bytes, dict)}),
    "skip": (Sink.on_skip, False, {(bytes,)}),
}


def _is_file(record: Record) -> bool:
    shape = [type(each) for each in record] if type(record) is list else []
    return shape == [str, bytes, dict, int] and record[0] == "file" and _is_meta(record[2])


class ObjectSink:
    """
    A Sink that writes one file to a file object. Data written before an error stays written.

    :param fp: file object, open for writing bytes
    """

    complete = False

    def __init__(self, fp: Any) -> None:
        self.fp = fp
        self._size = 0
        self._check: Any = None

    def __enter__(self) -> ObjectSink:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def feed(self, record: Record) -> None:
        if type(record) is bytes and self._check:
            self._check.update(record)
            self._size += len(record)
            write_all(self.fp.write, record)
        elif not self._check and _is_file(record):
            self._check = check_for(record[2].get("size") or None)
        elif self._check and record == ["end", self._size, self._check.value()]:
            self.complete = True
        else:
            raise Error("%r: received data is not a file, or differs from the data sent", self.fp)

    def finish(self) -> None:
        if not self.complete:
            raise Error("%r: the sender ended early", self.fp)
