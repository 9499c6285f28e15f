"""
Files and trees as a sequence of records, and what makes files of these again.

    ["file", name, meta, offset]    then its pieces (bytes), then  ["end", size, check]
    ["dir", name, meta]             then what is in it, then       ["up"]
    ["link", name, target, meta]
    ["skip", name]

The first record's name is empty. Names are bytes, and of one component: who receives decides where
they go. `meta` is a dict of numbers: mode, size (bytes), mtime and atime (nanoseconds).

Rules
    1. A sender is not trusted with names: a Sink opens each directory by its descriptor, follows no
       symlink that was there or came with the tree, and takes no name with a slash in it.
    2. What is not complete has no name, or is removed, whatever ended it - but for `resume=True`.

Threads: any, one at a time per object.
"""

from __future__ import annotations

import errno
import os
import stat

from mitogen.transfer.pieces import (
    OPEN_DIRECTORY,
    OPEN_READ,
    PIECE,
    Error,
    Sha256,
    check_for,
    kind_of,
    open_regular,
    read_pieces,
    write_all,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Record = Any

__all__ = ["Attributes", "ObjectSink", "Sink", "records_of", "records_of_object"]

#: Bytes of a temporary name that come from the file's; a name has 255 at most.
STEM = 200

ZEROS = bytes(PIECE)
OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


# -- the sending end of trees


def _is_part(part: Any) -> bool:
    # It comes from another context, which may say anything.
    shape = [type(each) for each in part] if isinstance(part, (list, tuple)) else []
    return shape == [int, bytes] and part[0] >= 0


def _meta(found: os.stat_result) -> dict[str, int]:
    return {
        # Who receives does not get setuid programs from whoever sent them.
        "mode": stat.S_IMODE(found.st_mode) & 0o777,
        "size": found.st_size,
        "mtime": found.st_mtime_ns,
        "atime": found.st_atime_ns,
    }


def _state_of(fd: int, limit: int | None = None) -> tuple[int, bytes]:
    """Return (length, SHA-256) of the first `limit` bytes of a file."""
    check, position = Sha256(), 0
    while limit is None or position < limit:
        piece = os.pread(fd, PIECE if limit is None else min(PIECE, limit - position), position)
        if not piece:
            break
        check.update(piece)
        position += len(piece)
    return position, check.value()


def records_of(path: bytes, part: Any = None) -> Iterator[Record]:
    """Yield the records of a file or a tree; `part`: (length, SHA-256) of what is there already."""
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
    for piece in read_pieces(fd, path, found, offset):
        check.update(piece)
        size += len(piece)
        yield piece
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
            # No symlink is followed; what was put in its place meanwhile is not waited for.
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
    """Yield the records of a file object, from where it is on."""
    yield ["file", b"", {}, 0]
    check, size = Sha256(), 0
    while True:
        piece = fp.read(PIECE)
        if piece is None or isinstance(piece, str):
            raise TypeError("%r: read() must return bytes, not %r" % (fp, type(piece).__name__))
        if not piece:
            break
        # A file object may return more than it was asked for.
        for at in range(0, len(piece), PIECE):
            part = bytes(piece[at : at + PIECE])
            check.update(part)
            yield part
        size += len(piece)
    yield ["end", size, check.value()]


# -- the receiving end


class _Umask:
    """What new files do not get; read without changing it, where the system says it."""

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
    What received files get besides their content.

    :param int mode: permissions of every regular file; directories can be searched where it lets
        them be read. None for the sender's, or those of new files
    :param owner: account that files belong to: name or uid; None for whoever receives
    :param group: likewise: name or gid
    :param bool preserve: the sender's permissions (without setuid and the like) and times
    :raises Error: there is no such account or group here
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
        """Set them on a descriptor; the owner first, as that takes setuid away."""
        if (self.uid, self.gid) != (-1, -1):
            os.chown(fd, self.uid, self.gid)
        os.chmod(fd, self._mode(meta, directory))
        if self.preserve and "mtime" in meta:
            os.utime(fd, ns=(meta["atime"], meta["mtime"]))

    def apply_to_link(self, name: bytes, dir_fd: int, meta: dict[str, int]) -> None:
        """Set owner and times of a symlink, which has no permissions."""
        if (self.uid, self.gid) != (-1, -1):
            os.chown(name, self.uid, self.gid, dir_fd=dir_fd, follow_symlinks=False)
        if self.preserve and "mtime" in meta:
            times = (meta["atime"], meta["mtime"])
            os.utime(name, ns=times, dir_fd=dir_fd, follow_symlinks=False)


def _temporary_name(name: bytes) -> bytes:
    return b"." + name[:STEM] + b"." + os.urandom(6).hex().encode() + b".part"


def _part_name(name: bytes) -> bytes:
    return b"." + name + b".part"


def _remove(name: bytes, dir_fd: int) -> None:
    """Remove a file or a tree, as far as that goes."""
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            return os.unlink(name, dir_fd=dir_fd)
        # What came may have been without permissions.
        os.chmod(name, 0o700, dir_fd=dir_fd)
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=dir_fd)
    except OSError:
        return
    try:
        for each in os.listdir(fd):
            _remove(os.fsencode(each), fd)
        os.rmdir(name, dir_fd=dir_fd)
    except OSError:
        pass
    finally:
        os.close(fd)


class _Landing:
    """
    A file that is being received at the top: without a name, where the system can do that (Linux's
    O_TMPFILE), so that nothing is left of it even if this process is killed.
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
            # Neither here, or not on this file system: what matters will be said below.
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
                raise Error("%r is no part of a transfer", os.fsdecode(self.temporary))
            if found.st_uid != os.geteuid():
                raise Error("%r is somebody else's", os.fsdecode(self.temporary))
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EWOULDBLOCK:
                raise
            text = "%r: another transfer is under way"
            raise Error(text, os.fsdecode(self.temporary)) from None
        except Error:
            os.close(fd)
            raise
        return fd

    def publish(self) -> None:
        """Give it its name."""
        if self.temporary is None:
            temporary = _temporary_name(self.name)
            # With dir_fd it is linkat(2), which follows the link in /proc.
            source = "/proc/self/fd/%d" % self.fd
            os.link(source, temporary, dst_dir_fd=self.directory, follow_symlinks=True)
            self.temporary = temporary
        os.rename(self.temporary, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        self.temporary = None

    def discard(self, keep: bool) -> None:
        if self.temporary is not None and not keep:
            _remove(self.temporary, self.directory)


def _open_parent(path: bytes) -> int:
    try:
        return os.open(path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        text = "the directory to put it into does not exist; make it first"
        raise FileNotFoundError(errno.ENOENT, text, os.fsdecode(path)) from None


def _is_meta(value: Any) -> bool:
    """Whether a record's part is no dict, or one that tells of a file what it may."""
    if type(value) is not dict:
        return True
    return set(value) in (set(), {"mode", "size", "mtime", "atime"}) and all(
        type(each) is int and abs(each) < 1 << 63 for each in value.values()
    )


class Sink:
    """
    Where records become files: at `path`, once all are there and finish() is called.

    Used as a context manager, it removes what is not finished at the end.

    :param bytes path: destination; what it is below must exist
    :param Attributes attributes: what the files get
    :param bool resume: go on with what an earlier transfer has left, and leave it if this one fails
    :raises OSError: the directory does not exist, or is not to be written to
    :raises Error: `path` can't be replaced by what is received
    """

    def __init__(self, path: bytes, attributes: Attributes, resume: bool = False) -> None:
        self.attributes = attributes
        self.resume = resume
        self.path = os.fsdecode(path)
        parent, self.name = os.path.split(path)
        if self.name in (b"", b".", b".."):
            raise Error("%r names a directory; name what is put into it", self.path)
        #: Descriptors of the directories that are being filled; the first is the destination's.
        self._fds = [_open_parent(parent)]
        #: Names below `path` of what is being made, for errors.
        self._names: list[bytes] = []
        self._metas: list[dict[str, int]] = []
        self._root: bytes | None = None
        self._landing: _Landing | None = None
        self._fd = -1
        self._file: dict[str, Any] = {}
        self._size = 0
        self._hole = False
        self._check: Any = None
        self._keep = resume
        #: Whether all records are there.
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
            raise Error("%r is a directory; name what is put into it", self.path)
        if tree or not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            text = "%r exists: a %s, which is not replaced"
            raise Error(text, self.path, kind_of(found.st_mode))

    def part(self) -> tuple[int, bytes] | None:
        """Return (length, SHA-256) of what an earlier transfer has left, or None."""
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
        Take in one record.

        :raises Error: it is not what may come now
        :raises OSError: the disk is full, or the like
        """
        try:
            self._feed(record)
        except OSError as error:
            # By its whole path; that of a descriptor, or of a name in it, tells nobody anything.
            names = [each for each in self._names if each]
            error.filename = os.path.join(self.path, *map(os.fsdecode, names))
            error.filename2 = None
            raise

    def _feed(self, record: Record) -> None:
        if type(record) is bytes and self._fd >= 0:
            return self._on_piece(record)
        if self.complete or not isinstance(record, list) or not record:
            raise Error("%r: the sender sent nonsense", self.path)
        handler, in_file, shapes = _HANDLERS.get(record[0], (None, False, ()))
        shape = tuple(map(type, record[1:]))
        right = handler and in_file == (self._fd >= 0) and shape in shapes
        if not right or not all(map(_is_meta, record)):
            raise Error("%r: the sender sent nonsense: %r", self.path, record[:1])
        if not in_file:
            self._names[len(self._fds) - 1 :] = record[1:2] if record[0] in _NAMED else []
        handler(self, *record[1:])

    def _check_name(self, name: bytes) -> bytes:
        """Return the name to make in the innermost directory."""
        if len(self._fds) == 1:
            return self.name
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise Error("%r: the sender sent the name %r", self.path, name)
        return name

    def _on_file(self, name: bytes, meta: dict[str, int], offset: int) -> None:
        name = self._check_name(name)
        if len(self._fds) == 1:
            self._landing = _Landing(self._fds[0], name, self.resume)
            self._fd = self._landing.fd
            if offset:
                self._continue_at(offset)
            elif self.resume:
                os.ftruncate(self._fd, 0)
        elif offset:
            raise Error("%r: only single files are resumed", self.path)
        else:
            self._fd = os.open(name, OPEN_NEW, 0o600, dir_fd=self._fds[-1])
        self._file = meta
        self._size = offset
        self._check = check_for(meta.get("size") or None)

    def _continue_at(self, offset: int) -> None:
        if not self.resume or offset != os.fstat(self._fd).st_size:
            raise Error("%r: the part that is here is not the one to go on with", self.path)
        os.lseek(self._fd, offset, os.SEEK_SET)

    def _on_piece(self, piece: bytes) -> None:
        self._check.update(piece)
        self._size += len(piece)
        # A piece of nothing but zeros becomes a hole; the comparison ends at the first other byte.
        self._hole = piece == ZEROS
        if self._hole:
            os.lseek(self._fd, len(piece), os.SEEK_CUR)
        else:
            write_all(self._write, piece)

    def _write(self, piece: bytes) -> int:
        return os.write(self._fd, piece)

    def _on_end(self, size: int, check: Any) -> None:
        if (size, check) != (self._size, self._check.value()):
            self._keep = False
            raise Error("%r: what arrived is not what was sent", self.path)
        if self._hole:
            os.ftruncate(self._fd, size)
        self._hole = False
        self.attributes.apply(self._fd, self._file)
        if self._landing:
            self.complete = True
        else:
            os.close(self._fd)
        self._fd = -1

    def _on_dir(self, name: bytes, meta: dict[str, int]) -> None:
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

    def _on_up(self) -> None:
        if len(self._fds) == 1:
            raise Error("%r: the sender sent nonsense", self.path)
        fd = self._fds.pop()
        try:
            self.attributes.apply(fd, self._metas.pop(), True)
        finally:
            os.close(fd)
        self.complete = len(self._fds) == 1

    def _on_link(self, name: bytes, target: bytes, meta: dict[str, int]) -> None:
        if len(self._fds) == 1:
            raise Error("%r: the sender sent nonsense", self.path)
        name = self._check_name(name)
        os.symlink(target, name, dir_fd=self._fds[-1])
        self.attributes.apply_to_link(name, self._fds[-1], meta)

    def _on_skip(self, name: bytes) -> None:
        """Nothing: the caller names them in the end."""

    def finish(self) -> None:
        """Put what was received in its place."""
        if not self.complete:
            raise Error("%r: the sender ended too early", self.path)
        if self._landing:
            self._check_target(False)
            self._landing.publish()
        elif self._root:
            self._check_target(True)
            os.rename(self._root, self.name, src_dir_fd=self._fds[0], dst_dir_fd=self._fds[0])
            self._root = None

    def close(self) -> None:
        """Remove what is not finished; once."""
        if self._landing:
            self._landing.discard(self._keep and self._size > 0)
            os.close(self._landing.fd)
        elif self._fd >= 0:
            os.close(self._fd)
        self._landing, self._fd = None, -1
        if self._root:
            _remove(self._root, self._fds[0])
            self._root = None
        while self._fds:
            os.close(self._fds.pop())


_NAMED = ("file", "dir", "link")
_HANDLERS: dict[Any, tuple[Any, bool, Any]] = {
    # record: (method, whether within a file, the types that may follow the name)
    "file": (Sink._on_file, False, {(bytes, dict, int)}),
    "end": (Sink._on_end, True, {(int, int), (int, bytes)}),
    "dir": (Sink._on_dir, False, {(bytes, dict)}),
    "up": (Sink._on_up, False, {()}),
    "link": (Sink._on_link, False, {(bytes, bytes, dict)}),
    "skip": (Sink._on_skip, False, {(bytes,)}),
}


def _is_file(record: Record) -> bool:
    shape = [type(each) for each in record] if type(record) is list else []
    return shape == [str, bytes, dict, int] and record[0] == "file" and _is_meta(record[2])


class ObjectSink:
    """
    A Sink that writes one file to a file object; what came before an error stays written.

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
            raise Error("%r: what is received is no file, or not as it was sent", self.fp)

    def finish(self) -> None:
        if not self.complete:
            raise Error("%r: the sender ended too early", self.fp)
