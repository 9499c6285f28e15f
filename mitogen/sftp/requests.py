"""
File operations of the SFTP server: one method per request. server.py reads requests and sends
replies, and packets.py encodes and decodes packets.

The protocol is draft-ietf-secsh-filexfer-02, with the extensions in section 4 of OpenSSH's PROTOCOL
file. Where they leave a choice, OpenSSH's sftp-server is followed.

Rules
    1. The process is shared: the working directory, the umask, signals and the environment are
       never changed. A relative path is joined to the session's home.
    2. Paths are bytes, and are passed to the system unchanged.
    3. Memory used for a client is bounded: handles, entries read ahead, cached names.
    4. Opening a FIFO, a tty or a device does not block: O_NONBLOCK is always set.

Threads: any, one at a time per object.
"""

from __future__ import annotations

import errno
import grp
import itertools
import logging
import os
import pwd
import stat
import struct
import time

from mitogen.sftp import packets
from mitogen.sftp.packets import (
    MAX_DATA,
    MAX_PACKET,
    Attributes,
    BadMessage,
    Fields,
    OpenFlags,
    Packet,
    Status,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, Union

    # None: a STATUS of OK; int: that Status; bytes: the packet, b"" if it is in `replies` already.
    Reply = Union[None, int, bytes]
    # The method of a request, and the parsers of the fields that follow its id.
    Row = tuple[Callable[..., Reply], tuple[Callable[[Fields], Any], ...]]
    Listed = tuple[bytes, os.stat_result]

__all__ = ["EXTENSIONS", "REQUESTS", "Files", "error_reply"]

LOG = logging.getLogger("mitogen.sftp")

# Flags of statvfs() and open() that PyPy does not define. The values are Linux's; the first two are
# also those of the BSDs.
ST_RDONLY: int = getattr(os, "ST_RDONLY", 1)
ST_NOSUID: int = getattr(os, "ST_NOSUID", 2)
O_PATH: int = getattr(os, "O_PATH", 0o10000000)

#: Directory entries in a reply, as in sftp-server: 64 KB with the longest names.
BATCH_ENTRIES = 100
#: Symlinks followed in one path, as in sftp-server.
MAX_LINKS = 32
#: Bytes in a path including its NUL: PATH_MAX of Linux.
MAX_PATH = 4096
#: Cached names of accounts and groups.
MAX_NAMES = 4096
#: Bytes copied at once by copy-data.
COPY_BYTES = 256 * 1024
#: Seconds: a listing shows the year of files older than half a year, as ls does.
RECENT = 365 * 24 * 60 * 60 // 2
# Not from strftime(), which depends on the locale.
MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()

# errno_to_portable() of sftp-server; all other errors are FAILURE.
STATUS_OF = {
    errno.ENOENT: Status.NO_SUCH_FILE,
    errno.ENOTDIR: Status.NO_SUCH_FILE,
    errno.EBADF: Status.NO_SUCH_FILE,
    errno.ELOOP: Status.NO_SUCH_FILE,
    errno.EPERM: Status.PERMISSION_DENIED,
    errno.EACCES: Status.PERMISSION_DENIED,
    errno.EFAULT: Status.PERMISSION_DENIED,
    errno.ENAMETOOLONG: Status.BAD_MESSAGE,
    errno.EINVAL: Status.BAD_MESSAGE,
    errno.ENOSYS: Status.OP_UNSUPPORTED,
}
# Errors of link() on a file system without it, or with a policy against it for files of others.
NO_LINK = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EPERM, errno.EMLINK)
# Rule 4; and a tty must not become the controlling terminal.
OPEN_ALWAYS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_U32 = struct.Struct(">I")
_LIMITS = struct.Struct(">4Q")
_STATVFS = struct.Struct(">11Q")
_U64_MASK = (1 << 64) - 1


class _RequestError(Exception):
    """A request refused by this module: a Status, and a text that replaces its usual one."""

    def __init__(self, code: int, message: bytes | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


# -- names of accounts, lines of listings


class _Accounts:
    """Cache of account and group names: looking them up may involve a network."""

    def __init__(self) -> None:
        self._names: dict[tuple[Any, int], bytes | None] = {}

    def _name(self, function: Callable[[int], Any], number: int) -> bytes | None:
        key = (function, number)
        if key not in self._names:
            if len(self._names) >= MAX_NAMES:
                self._names.clear()
            try:
                self._names[key] = os.fsencode(function(number)[0])
            except (KeyError, OverflowError):
                self._names[key] = None
        return self._names[key]

    def user(self, uid: int) -> bytes | None:
        return self._name(pwd.getpwuid, uid)

    def group(self, gid: int) -> bytes | None:
        return self._name(grp.getgrgid, gid)


def _when(seconds: int, now: int) -> bytes:
    try:
        local = time.localtime(seconds)
    except (OverflowError, OSError, ValueError):
        return b""
    day = (MONTHS[local.tm_mon - 1], local.tm_mday)
    if now - RECENT < seconds <= now:
        return b"%s %2d %02d:%02d" % (day + (local.tm_hour, local.tm_min))
    return b"%s %2d  %d" % (day + (local.tm_year,))


def _line(name: bytes, found: os.stat_result, accounts: _Accounts, now: int) -> bytes:
    """Return the line of `ls -l` for a file, as sftp-server formats it."""
    uid, gid = found.st_uid, found.st_gid
    return b"%s  %3d %-8s %-8s %8d %s %s" % (
        stat.filemode(found.st_mode).encode(),
        found.st_nlink,
        accounts.user(uid) or b"%d" % uid,
        accounts.group(gid) or b"%d" % gid,
        found.st_size,
        _when(int(found[8]), now),
        name,
    )


# -- paths


def _too_long(path: bytes) -> OSError:
    return OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)


def _realpath(path: bytes, home: bytes) -> bytes:
    """
    Return the absolute path without symlinks. The last component may be missing, as in
    sftp-server.

    :raises OSError: another component is missing or not accessible
    """
    if len(path) >= MAX_PATH:
        raise _too_long(path)
    resolved = b"" if path.startswith(b"/") else home.rstrip(b"/")
    remaining = path.split(b"/")[::-1]
    links = 0
    while remaining:
        part = remaining.pop()
        if part in (b"", b"."):
            continue
        above = resolved
        if part == b"..":
            resolved = above.rpartition(b"/")[0]
            continue
        resolved += b"/" + part
        if len(resolved) >= MAX_PATH:
            raise _too_long(resolved)
        try:
            found = os.lstat(resolved)
        except FileNotFoundError:
            if remaining:
                raise
            break
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(resolved)
            resolved = b"" if target.startswith(b"/") else above
            remaining += target.split(b"/")[::-1]
    return resolved or b"/"


def _chmod_link(path: bytes, mode: int) -> None:
    """Change the mode of `path` itself. An error for symlinks, which have no mode on Linux."""
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(path, mode, follow_symlinks=False)
        return
    fd = os.open(path, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        # As in libc: fchmod() does not accept a descriptor of this kind.
        os.chmod("/proc/self/fd/%d" % fd, mode)
    finally:
        os.close(fd)


# -- objects behind handles


class _File:
    def __init__(self, fd: int, append: bool) -> None:
        self.fd = fd
        self.append = append

    def write(self, data: bytes | memoryview, offset: int) -> int:
        # With O_APPEND, pwrite() appends on Linux, but uses the offset on other systems.
        return os.write(self.fd, data) if self.append else os.pwrite(self.fd, data, offset)

    def close(self) -> None:
        os.close(self.fd)


class _Directory:
    def __init__(self, path: bytes) -> None:
        self._scan = os.scandir(path)
        self._entries = self._read(path)

    def _read(self, path: bytes) -> Generator[Listed, None, None]:
        for name in (b".", b".."):
            try:
                yield name, os.lstat(os.path.join(path, name))
            except OSError:
                continue
        for entry in self._scan:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:  # removed meanwhile or not accessible: omitted, as in sftp-server
                continue
            yield entry.name, found

    def take(self, count: int) -> list[Listed]:
        return list(itertools.islice(self._entries, count))

    def close(self) -> None:
        self._entries.close()
        self._scan.close()


# -- requests


def _open_flags(wanted: int) -> int:
    flags = OPEN_ALWAYS
    if wanted & OpenFlags.WRITE:
        flags |= os.O_RDWR if wanted & OpenFlags.READ else os.O_WRONLY
    for each, flag in (
        (OpenFlags.APPEND, os.O_APPEND),
        (OpenFlags.CREAT, os.O_CREAT),
        (OpenFlags.TRUNC, os.O_TRUNC),
        (OpenFlags.EXCL, os.O_EXCL),
    ):
        if wanted & each:
            flags |= flag
    return flags


def _code_of(error: Exception) -> int:
    if isinstance(error, OSError):
        return STATUS_OF.get(error.errno or 0, Status.FAILURE)
    if isinstance(error, (BadMessage, OverflowError)):
        # A size or offset beyond the system's types. To a C program it would be negative.
        return Status.BAD_MESSAGE
    LOG.error("an SFTP request failed: this is a bug in mitogen", exc_info=error)
    return Status.FAILURE


def error_reply(request: int, error: Exception) -> bytes:
    """
    Return the STATUS for an error.

    :param int request: id of the request
    :param error: exception raised by the request's method
    """
    if isinstance(error, _RequestError):
        return packets.status_reply(request, error.code, error.message)
    return packets.status_reply(request, _code_of(error))


class Files:
    """
    Methods that run requests, one for each type. A method takes the request's id and fields. It
    returns the packet of the reply (b"" if it is in `replies` already), a Status, or None for OK,
    or raises an exception for error_reply().

    :param bytes home: absolute path of the directory in which relative paths begin
    :param Replies replies: replies, to which READ adds the bytes of files; it has room
    :param int max_handles: limit of open files and directories
    :param is_gone: called during a long request; returns whether its client is gone
    """

    def __init__(
        self,
        home: bytes,
        replies: packets.Replies,
        max_handles: int,
        is_gone: Callable[[], bool],
    ) -> None:
        self._replies = replies
        self._home = os.path.realpath(home)
        self._prefix = self._home.rstrip(b"/") + b"/"
        self._max_handles = max_handles
        self._is_gone = is_gone
        self._handles: dict[bytes, _File | _Directory] = {}
        self._numbers = itertools.count()
        self._accounts = _Accounts()

    def close_all(self) -> None:
        """Close the files and directories that the client left open."""
        while self._handles:
            try:
                self._handles.popitem()[1].close()
            except OSError as error:
                LOG.debug("closing a handle that an SFTP client left open failed: %s", error)

    def _path(self, name: bytes) -> bytes:
        # An empty path stays empty: the system rejects it.
        return self._prefix + name if name and not name.startswith(b"/") else name

    # -- handles

    def _check_room(self) -> None:
        if len(self._handles) >= self._max_handles:
            raise _RequestError(Status.FAILURE, b"Too many open handles")

    def _add_handle(self, request: int, opened: _File | _Directory) -> bytes:
        # Numbers are not reused: a client that closes twice must not close another file.
        handle = b"%x" % next(self._numbers)
        self._handles[handle] = opened
        return packets.handle_reply(request, handle)

    def _file(self, handle: bytes, otherwise: int = Status.FAILURE) -> _File:
        opened = self._handles.get(handle)
        if not isinstance(opened, _File):
            raise _RequestError(otherwise)
        return opened

    def open(self, request: int, name: bytes, flags: int, attrs: Attributes) -> Reply:
        self._check_room()
        fd = os.open(self._path(name), _open_flags(flags), attrs.mode(0o666))
        return self._add_handle(request, _File(fd, bool(flags & OpenFlags.APPEND)))

    def opendir(self, request: int, name: bytes) -> Reply:
        self._check_room()
        if not name:  # scandir() would list the working directory
            return Status.NO_SUCH_FILE
        return self._add_handle(request, _Directory(self._path(name)))

    def close(self, request: int, handle: bytes) -> Reply:
        opened = self._handles.pop(handle, None)
        if opened is None:
            return Status.NO_SUCH_FILE
        opened.close()
        return None

    def read(self, request: int, handle: bytes, offset: int, size: int) -> Reply:
        fd = self._file(handle).fd
        # preadv() requires Python 3.7. No other code uses this descriptor's position.
        os.lseek(fd, offset, os.SEEK_SET)
        count = os.readv(fd, [self._replies.data_space(size)]) if size else 0
        if size and not count:
            return Status.EOF
        self._replies.add_data(request, count)
        return b""

    def write(self, request: int, handle: bytes, offset: int, data: memoryview) -> Reply:
        if self._file(handle).write(data, offset) != len(data):
            return Status.FAILURE
        return None

    def readdir(self, request: int, handle: bytes) -> Reply:
        opened = self._handles.get(handle)
        if not isinstance(opened, _Directory):
            return Status.FAILURE
        entries = opened.take(BATCH_ENTRIES)
        if not entries:
            return Status.EOF
        now = int(time.time())
        return packets.names_reply(
            request,
            [(name, _line(name, found, self._accounts, now), found) for name, found in entries],
        )

    # -- attributes

    def stat(self, request: int, name: bytes) -> Reply:
        return packets.attrs_reply(request, os.stat(self._path(name)))

    def lstat(self, request: int, name: bytes) -> Reply:
        return packets.attrs_reply(request, os.lstat(self._path(name)))

    def fstat(self, request: int, handle: bytes) -> Reply:
        return packets.attrs_reply(request, os.fstat(self._file(handle).fd))

    def _change(self, attrs: Attributes, target: int | bytes, chmod: Any, **kwargs: Any) -> None:
        """Change all requested attributes even if some fail; raise the last error."""
        failed: Exception | None = None
        for wanted, change in (
            (attrs.size, lambda size: os.truncate(target, size)),
            (attrs.permissions, lambda mode: chmod(target, mode & 0o7777)),
            (attrs.times, lambda times: os.utime(target, times, **kwargs)),
            (attrs.owner, lambda owner: os.chown(target, owner[0], owner[1], **kwargs)),
        ):
            if wanted is not None:
                try:
                    change(wanted)
                except (OSError, OverflowError) as error:
                    failed = error
        if failed is not None:
            raise failed

    def setstat(self, request: int, name: bytes, attrs: Attributes) -> Reply:
        self._change(attrs, self._path(name), os.chmod)
        return None

    def fsetstat(self, request: int, handle: bytes, attrs: Attributes) -> Reply:
        self._change(attrs, self._file(handle).fd, os.chmod)
        return None

    def lsetstat(self, request: int, name: bytes, attrs: Attributes) -> Reply:
        if attrs.size is not None:  # symlinks have no size to set
            return Status.BAD_MESSAGE
        self._change(attrs, self._path(name), _chmod_link, follow_symlinks=False)
        return None

    # -- names

    def remove(self, request: int, name: bytes) -> Reply:
        os.unlink(self._path(name))
        return None

    def mkdir(self, request: int, name: bytes, attrs: Attributes) -> Reply:
        os.mkdir(self._path(name), attrs.mode(0o777))
        return None

    def rmdir(self, request: int, name: bytes) -> Reply:
        os.rmdir(self._path(name))
        return None

    def rename(self, request: int, old_name: bytes, new_name: bytes) -> Reply:
        old, new = self._path(old_name), self._path(new_name)
        if stat.S_ISREG(os.lstat(old).st_mode) and self._move(old, new):
            return None
        # The draft forbids replacing. Without hard links, POSIX has no atomic way to ensure that.
        if os.path.exists(new):
            return Status.FAILURE
        os.rename(old, new)
        return None

    def _move(self, old: bytes, new: bytes) -> bool:
        """Rename without replacing; return False if the file system has no link()."""
        try:
            os.link(old, new, follow_symlinks=False)
        except OSError as error:
            if error.errno in NO_LINK:
                return False
            raise
        try:
            os.unlink(old)
        except OSError:
            os.unlink(new)
            raise
        return True

    def posix_rename(self, request: int, old: bytes, new: bytes) -> Reply:
        os.rename(self._path(old), self._path(new))
        return None

    def hardlink(self, request: int, old: bytes, new: bytes) -> Reply:
        os.link(self._path(old), self._path(new), follow_symlinks=False)
        return None

    def symlink(self, request: int, target: bytes, name: bytes) -> Reply:
        # In the draft their order is reversed. All clients follow OpenSSH: PROTOCOL, 4.1.
        os.symlink(target, self._path(name))
        return None

    def readlink(self, request: int, name: bytes) -> Reply:
        return packets.path_reply(request, os.readlink(self._path(name)))

    def realpath(self, request: int, name: bytes) -> Reply:
        return packets.path_reply(request, _realpath(name, self._home))

    def expand_path(self, request: int, name: bytes) -> Reply:
        if name.startswith(b"~"):
            user, slash, rest = name[1:].partition(b"/")
            name = (self._home_of(user) if user else self._home) + slash + rest
        return self.realpath(request, name)

    def home_directory(self, request: int, user: bytes) -> Reply:
        return packets.path_reply(request, self._home_of(user) if user else self._home)

    def _home_of(self, user: bytes) -> bytes:
        try:
            return os.fsencode(pwd.getpwnam(os.fsdecode(user)).pw_dir)
        except KeyError:
            raise _RequestError(Status.NO_SUCH_FILE, b"no such user") from None

    # -- other extensions of OpenSSH

    def statvfs(self, request: int, name: bytes) -> Reply:
        return self._space(request, os.statvfs(self._path(name)))

    def fstatvfs(self, request: int, handle: bytes) -> Reply:
        return self._space(request, os.fstatvfs(self._file(handle).fd))

    def _space(self, request: int, found: os.statvfs_result) -> bytes:
        # The protocol defines only these two flags: PROTOCOL, 4.4.
        flag = (1 if found.f_flag & ST_RDONLY else 0) | (2 if found.f_flag & ST_NOSUID else 0)
        body = _STATVFS.pack(
            found.f_bsize,
            found.f_frsize,
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
            found.f_favail,
            getattr(found, "f_fsid", 0) & _U64_MASK,  # since Python 3.7
            flag,
            found.f_namemax,
        )
        return packets.extended_reply(request, body)

    def fsync(self, request: int, handle: bytes) -> Reply:
        os.fsync(self._file(handle, Status.NO_SUCH_FILE).fd)
        return None

    def limits(self, request: int) -> Reply:
        body = _LIMITS.pack(MAX_PACKET, MAX_DATA, MAX_DATA, self._max_handles)
        return packets.extended_reply(request, body)

    def users_groups(self, request: int, uids: bytes, gids: bytes) -> Reply:
        parts = []
        for name, packed in ((self._accounts.user, uids), (self._accounts.group, gids)):
            if len(packed) % _U32.size:
                return Status.BAD_MESSAGE
            names = [name(number) or b"" for (number,) in _U32.iter_unpack(packed)]
            parts.append(packets.string(b"".join(map(packets.string, names))))
        return packets.extended_reply(request, b"".join(parts))

    def copy_data(
        self,
        request: int,
        source_handle: bytes,
        source_offset: int,
        size: int,
        target_handle: bytes,
        target_offset: int,
    ) -> Reply:
        source, target = self._file(source_handle), self._file(target_handle)
        # A file copied to its own end would grow forever.
        if os.path.sameopenfile(source.fd, target.fd):
            return Status.FAILURE
        done = 0
        while not size or done < size:
            piece = min(COPY_BYTES, size - done) if size else COPY_BYTES
            data = os.pread(source.fd, piece, source_offset + done)
            if not data:
                return Status.EOF if size else None
            if target.write(data, target_offset + done) != len(data) or self._is_gone():
                return Status.FAILURE
            done += len(data)
        return None


# Request type to its method and the parsers of the fields that follow its id.
REQUESTS: dict[int, Row] = {
    Packet.OPEN: (Files.open, (Fields.name, Fields.u32, Fields.attrs)),
    Packet.CLOSE: (Files.close, (Fields.string,)),
    Packet.READ: (Files.read, (Fields.string, Fields.u64, Fields.u32)),
    Packet.WRITE: (Files.write, (Fields.string, Fields.u64, Fields.data)),
    Packet.LSTAT: (Files.lstat, (Fields.name,)),
    Packet.FSTAT: (Files.fstat, (Fields.string,)),
    Packet.SETSTAT: (Files.setstat, (Fields.name, Fields.attrs)),
    Packet.FSETSTAT: (Files.fsetstat, (Fields.string, Fields.attrs)),
    Packet.OPENDIR: (Files.opendir, (Fields.name,)),
    Packet.READDIR: (Files.readdir, (Fields.string,)),
    Packet.REMOVE: (Files.remove, (Fields.name,)),
    Packet.MKDIR: (Files.mkdir, (Fields.name, Fields.attrs)),
    Packet.RMDIR: (Files.rmdir, (Fields.name,)),
    Packet.REALPATH: (Files.realpath, (Fields.name,)),
    Packet.STAT: (Files.stat, (Fields.name,)),
    Packet.RENAME: (Files.rename, (Fields.name, Fields.name)),
    Packet.READLINK: (Files.readlink, (Fields.name,)),
    Packet.SYMLINK: (Files.symlink, (Fields.name, Fields.name)),
}
# Name of an extension to its version and a row as above.
EXTENSIONS: dict[bytes, tuple[bytes, Row]] = {
    b"posix-rename@openssh.com": (b"1", (Files.posix_rename, (Fields.name, Fields.name))),
    b"statvfs@openssh.com": (b"2", (Files.statvfs, (Fields.name,))),
    b"fstatvfs@openssh.com": (b"2", (Files.fstatvfs, (Fields.string,))),
    b"hardlink@openssh.com": (b"1", (Files.hardlink, (Fields.name, Fields.name))),
    b"fsync@openssh.com": (b"1", (Files.fsync, (Fields.string,))),
    b"lsetstat@openssh.com": (b"1", (Files.lsetstat, (Fields.name, Fields.attrs))),
    b"limits@openssh.com": (b"1", (Files.limits, ())),
    b"expand-path@openssh.com": (b"1", (Files.expand_path, (Fields.name,))),
    b"copy-data": (
        b"1",
        (
            Files.copy_data,
            (Fields.string, Fields.u64, Fields.u64, Fields.string, Fields.u64),
        ),
    ),
    b"home-directory": (b"1", (Files.home_directory, (Fields.name,))),
    b"users-groups-by-id@openssh.com": (
        b"1",
        (Files.users_groups, (Fields.string, Fields.string)),
    ),
}
