"""Public names of PyPI's mitogen 0.3.x, and the reasons for the differences here.

The rows are transcribed, by module, from the documentation of that release. test_compatibility.py
checks every row; docs/generate.py writes docs/reference/compatibility.rst from them.

A row is ``KIND NAME[(PARAMETERS)] [: BASE] [= VALUE] [@MARK]``.

KIND
    ``def`` (function), ``class``, ``error`` (exception class), ``method``, ``classmethod``,
    ``attr`` (of instances), ``const`` (of a module or class), ``name`` (anything), ``signal`` (for
    ``listen()``), ``connect`` (method of the Router, with the options of that connection method).
PARAMETERS
    As in Python, without self and cls. Parameters before a ``/`` have a different name here and
    must be passed by position.
MARK
    The year of the first documentation that has the name: 17 or 18; none if later.

NOT_PROVIDED and WITHOUT give the reason for each missing name or parameter.
"""

import re
from collections import namedtuple

__all__ = ["ABOUT", "NOTES", "NOT_PROVIDED", "ROWS", "WITHOUT", "Row"]

TEXT = {}

TEXT["mitogen"] = """
const __version__ @18
const is_master = True @17
const context_id = 0 @17
const parent_id = None @17
const parent_ids = [] @17
def main(log_level='INFO', profiling=None) @18
"""

TEXT["mitogen.core"] = """
def takes_econtext(func) @17
def takes_router(func) @17
class Blob : bytes
class Secret : str
class Kwargs(dct, /) : dict
def to_text(o)
def now()
def has_parent_authority(msg, _stream=None) @18
def listen(obj, name, func) @17
def unlisten(obj, name, func)
def fire(obj, name, *args, **kwargs) @17
def io_op(func, *args) @17
def pipe(blocking=None)
def socketpair(blocking=None)
def set_cloexec(fd) @17
def get_blocking(fd)
def set_blocking(fd, blocking)
def set_block(fd) @17
def set_nonblock(fd) @17
def import_module(modname, /)
def iter_split(buf, delim, func)
def module_lineage(fullname)
def enable_debug_logging()
def enable_profiling(econtext=None)
name b
name str_partition
name str_rpartition
name bytes_partition
name iteritems
name iterkeys
name itervalues
name range
name next
name all
name any
name BytesIO
name threading__current_thread
name threading__thread_name
name BytesType
name UnicodeType
name AnyTextType
name FsPathTypes
name integer_types
const PY24 = False
const PY3 = True
const IS_WSL
name LOG
name IOLOG
name LOGGERS
const CHUNK_SIZE @17
const IS_DEAD = 999 @17
const GET_MODULE @17
const CALL_FUNCTION @17
const FORWARD_LOG @17
const ADD_ROUTE @17
const DEL_ROUTE @18
const ALLOCATE_ID @17
const SHUTDOWN @17
const LOAD_MODULE @17
const FORWARD_MODULE @18
const DETACHING @18
const CALL_SERVICE @18
const STUB_CALL_SERVICE
const GET_RESOURCE
const LOAD_RESOURCE
def find_deny(module, name)
class Pickler
class Unpickler

error Error(fmt=None, *args) : Exception @17
error CallError(fmt=None, *args) : mitogen.core.Error @17
error ChannelError : mitogen.core.Error @17
const ChannelError.remote_msg @17
const ChannelError.local_msg @17
error LatchError : mitogen.core.Error @18
error StreamError : mitogen.core.Error @17
error TimeoutError : mitogen.core.Error @17
error ModuleDeniedByOverridesError : ModuleNotFoundError
error ModuleDeniedByBlocksError : ModuleNotFoundError
error ModuleUnsuitableError : ModuleNotFoundError
error SecurityError : mitogen.core.Error @17

class Message(**kwargs) @18
attr Message.dst_id @18
attr Message.src_id @18
attr Message.auth_id @18
attr Message.handle @18
attr Message.reply_to @18
attr Message.data @18
attr Message.enc
attr Message.router @18
attr Message.receiver @18
attr Message.is_dead @18
const Message.ENC_MGC
const Message.ENC_PKL
const Message.ENC_BIN
const Message.ENCS
const Message.HEADER_FMT
const Message.HEADER_LEN
const Message.HEADER_MAGIC
classmethod Message.dead(reason=None, **kwargs) @18
classmethod Message.pickled(*args, **kwargs) @18
classmethod Message.encoded(obj, enc, **kwargs)
method Message.pack()
method Message.reply(msg, router=None, **kwargs) @18
method Message.decode(throw=True, throw_dead=True)
method Message.unpickle(throw=True, throw_dead=True, find_class=None) @18
method Message.unpickle_iter(throw=True, throw_dead=True, find_class=None)

class Sender(context, dst_handle) @17
method Sender.send(data, enc=Message.ENC_PKL) @18
method Sender.put(data) @17
method Sender.close() @17
const Sender.explicit_close_msg

class Receiver(router, handle=None, persist=True, respondent=None, policy=None, overwrite=False) @17
attr Receiver.handle @17
attr Receiver.notify = None @17
const Receiver.raise_channelerror
const Receiver.closed_msg
method Receiver.to_sender() @18
method Receiver.close() @17
method Receiver.size()
method Receiver.empty() @17
method Receiver.get(timeout=None, block=True, throw_dead=True) @17
method Receiver.get_data(timeout=None) @17
method Receiver.__iter__() @17
method Receiver.__enter__()

class Channel(router, context, dst_handle, handle=None) : mitogen.core.Sender @17
method Channel.close() @17

class Latch
attr Latch.notify
const Latch.poller_class
method Latch.put(obj=None)
method Latch.get(timeout=None, block=True)
method Latch.close()
method Latch.size()
method Latch.empty()

class Context(router, context_id, name=None) @17
attr Context.context_id @17
attr Context.name @17
attr Context.remote_name
attr Context.router @17
attr Context.via
method Context.send(msg) @17
method Context.send_async(msg, persist=False) @17
method Context.send_await(msg, deadline=None) @17
method Context.call_service(service_name, method_name, **kwargs)
method Context.call_service_async(service_name, method_name, **kwargs)
method Context.on_disconnect()
signal Context.disconnect @17

class Router(broker) @17
attr Router.broker @17
attr Router.context_class
attr Router.max_message_size = 134217728
attr Router.unidirectional = False @18
const Router.refused_msg
const Router.invalid_handle_msg
const Router.too_large_msg
const Router.respondent_disconnect_msg
const Router.broker_exit_msg
const Router.no_route_msg
const Router.unidirectional_msg
const Router.duplicate_handle_msg
method Router.add_handler(fn, handle=None, persist=True, policy=None, respondent=None,
    overwrite=False) @17
method Router.del_handler(handle) @18
method Router.route(msg) @17
method Router._async_route(msg, in_stream=None) @17
method Router.stream_by_id(dst_id) @17
method Router.register(context, stream) @17
method Router.context_by_id(context_id, via_id=None, create=True, name=None) @17
method Router.myself() @17

class Broker(poller_class=None, activate_compat=True) @17
const Broker.shutdown_timeout = 3.0 @17
attr Broker.timers
attr Broker.poller
method Broker.defer(func, *args, **kwargs) @17
method Broker.defer_sync(func)
method Broker.start_receive(stream) @17
method Broker.stop_receive(stream) @17
method Broker._start_transmit(stream)
method Broker._stop_transmit(stream)
method Broker.start_transmit(stream) @17
method Broker.stop_transmit(stream) @17
method Broker.keep_alive() @17
method Broker.shutdown() @17
method Broker.join() @17
signal Broker.before_shutdown
signal Broker.shutdown @17
signal Broker.exit

class Stream
name BasicStream @17
attr Stream.receive_side @17
attr Stream.transmit_side @17
attr Stream.protocol
attr Stream.conn
attr Stream.name @17
method Stream.set_protocol(protocol)
method Stream.accept(rfp, wfp)
method Stream.on_receive(broker) @17
method Stream.on_transmit(broker) @17
method Stream.on_shutdown(broker) @17
method Stream.on_disconnect(broker) @17
method Stream.construct() @17
method Stream.connect() @17
signal Stream.disconnect @17
signal Stream.shutdown @17
class Side(stream, fp, cloexec=True, keep_alive=True) @17
attr Side.fd @17
attr Side.fp
attr Side.closed
attr Side.keep_alive @17
method Side.close() @17
method Side.read(n=CHUNK_SIZE) @17
method Side.write(s) @17
method Side.fileno() @17
class Protocol
const Protocol.stream_class
attr Protocol.stream
attr Protocol.read_size
classmethod Protocol.build_stream(*args, **kwargs)
method Protocol.on_shutdown(broker)
method Protocol.on_disconnect(broker)
class DelimitedProtocol : mitogen.core.Protocol
const DelimitedProtocol.delimiter = b'\\n'
method DelimitedProtocol.on_receive(broker, buf)
method DelimitedProtocol.on_line_received(line)
method DelimitedProtocol.on_partial_line_received(line)
class BufferedWriter(broker, protocol)
method BufferedWriter.write(s)
method BufferedWriter.on_transmit(broker)
class MitogenProtocol(router, remote_id, auth_id=None, local_id=None, parent_ids=None)
attr MitogenProtocol.is_privileged
attr MitogenProtocol.on_message
attr MitogenProtocol.remote_id @17
attr MitogenProtocol.auth_id @17
attr MitogenProtocol.sent_modules
attr MitogenProtocol.egress_ids
method MitogenProtocol.on_receive(broker, buf)
method MitogenProtocol.pending_bytes()
method MitogenProtocol.on_transmit(broker)
method MitogenProtocol.send(msg)
method MitogenProtocol._send(msg)
method MitogenProtocol.on_shutdown(broker)
const MitogenProtocol.corrupt_msg
class Waker(broker) @17
classmethod Waker.build_stream(broker)
method Waker.defer(func, *args, **kwargs) @17
attr Waker.keep_alive
const Waker.broker_shutdown_msg
class IoLoggerProtocol
classmethod IoLoggerProtocol.build_stream(name, dest_fd)
def IoLogger(broker, name, dest_fd) @17
class Poller @17
const Poller.SUPPORTED
attr Poller.readers
attr Poller.writers
method Poller.close()
method Poller.start_receive(fd, data=None)
method Poller.stop_receive(fd)
method Poller.start_transmit(fd, data=None)
method Poller.stop_transmit(fd)
method Poller.poll(timeout=None)
class LogHandler(context) : logging.Handler @17
method LogHandler.uncork()
method LogHandler.emit(record) @17
class PidfulStreamHandler : logging.StreamHandler
const PidfulStreamHandler.template = '/tmp/mitogen.%s.%s.log'

class Importer(router, context, core_src, policy) @17
method Importer.find_module(fullname, path=None) @17
method Importer.find_spec(fullname, path, target=None)
method Importer.create_module(spec)
method Importer.exec_module(module)
method Importer.load_module(fullname) @17
method Importer.get_filename(fullname) @18
method Importer.get_source(fullname) @17
method Importer.get_resource_reader(fullname)
method Importer.builtin_find_module(fullname)
const Importer.MITOGEN_PKG_CONTENT
const Importer.ALWAYS_BLACKLIST
class ImportPolicy(overrides=(), blocks=())
method ImportPolicy.denied(fullname)
method ImportPolicy.denied_raise(fullname)
method ImportPolicy.overriden(fullname)
class ResourceRequester(router, context)
class ResourceReader(requester, fullname)
method ResourceReader.open_resource(resource)
method ResourceReader.resource_path(resource)
method ResourceReader.is_resource(name)
method ResourceReader.contents()
class Dispatcher(econtext)
attr Dispatcher.recv
method Dispatcher.forget_chain(chain_id, econtext)
method Dispatcher.run()
class ExternalContext(config) @17
attr ExternalContext.broker @17
attr ExternalContext.context @17
attr ExternalContext.channel @17
attr ExternalContext.importer @17
attr ExternalContext.stdout_log @17
attr ExternalContext.stderr_log @17
attr ExternalContext.router @17
attr ExternalContext.master @17
attr ExternalContext.parent @17
attr ExternalContext.stream @17
attr ExternalContext.dispatcher
attr ExternalContext.config
attr ExternalContext.detached = False @18
method ExternalContext.detach() @18
method ExternalContext.main() @17
"""

TEXT["mitogen.parent"] = """
class Context(router, context_id, name=None) : mitogen.core.Context
method Context.call(fn, *args, **kwargs) @17
method Context.call_async(fn, *args, **kwargs) @17
method Context.call_no_reply(fn, *args, **kwargs) @18
method Context.shutdown(wait=False) @18
attr Context.via
attr Context.default_call_chain
const Context.call_chain_class
class CallChain(context, pipelined=False) @18
method CallChain.call(fn, *args, **kwargs)
method CallChain.call_async(fn, *args, **kwargs)
method CallChain.call_no_reply(fn, *args, **kwargs)
method CallChain.reset()
method CallChain.make_msg(fn, *args, **kwargs)
method CallChain.make_chain_id()
method CallChain.__enter__()
attr CallChain.chain_id
const CallChain.closures_msg
const CallChain.lambda_msg
const CallChain.method_msg
class Router(broker) : mitogen.core.Router
method Router.upgrade(importer, parent)
method Router.get_streams()
method Router.disconnect(context)
method Router.add_route(target_id, stream) @17
method Router.del_route(target_id) @18
method Router.allocate_id() @17
method Router.connect(method_name, name=None, **kwargs)
method Router.proxy_connect(via_context, method_name, name=None, **kwargs)
attr Router.debug = False
attr Router.profiling = False
attr Router.id_allocator
attr Router.responder
attr Router.log_forwarder
attr Router.route_monitor
def upgrade_router(econtext)
def get_connection_class(name)
def is_immediate_child(msg, stream) @18
def get_log_levels(loggers)
def get_sys_executable()
def get_default_remote_name()
const BROKER_SHUTDOWN_MSG
def get_core_source_partial()
def returncode_to_str(n)
def create_child(args, merge_stdio=False, stderr_pipe=False, escalates_privilege=False,
    preexec_fn=None) @17
def tty_create_child(args) @17
def hybrid_tty_create_child(args, escalates_privilege=False)
def create_socketpair(size=None, blocking=None)
def create_best_pipe(escalates_privilege=False, blocking=None)
def popen(**kwargs)
def openpty()
def cfmakeraw(tflags)
def flags(names)
def disable_echo(fd)
class Timer(when, func)
attr Timer.active
method Timer.cancel()
class TimerList
method TimerList.get_timeout()
method TimerList.schedule(when, func)
method TimerList.expire()
class PartialZlib(s)
method PartialZlib.append(s)
class PollPoller : mitogen.core.Poller
class EpollPoller : mitogen.core.Poller
class KqueuePoller : mitogen.core.Poller
name PREFERRED_POLLER
name POLLERS
name POLLER_LIGHTWEIGHT
class Options(max_message_size, name=None, remote_name=None, python_path=None, debug=False,
    connect_timeout=None, profiling=False, unidirectional=False, old_router=None)
class Connection(options, router)
const Connection.options_class
const Connection.stream_protocol_class
const Connection.diag_protocol_class
attr Connection.proc
attr Connection.stdio_stream
attr Connection.stderr_stream
attr Connection.create_child
const Connection.create_child_args
attr Connection.detached
const Connection.child_is_immediate_subprocess
const Connection.name_prefix
attr Connection.exception
const Connection.eof_error_hint
const Connection.eof_error_msg
method Connection.get_python_argv()
method Connection.get_boot_command() @17
method Connection.get_econtext_config()
method Connection.get_preamble() @17
method Connection.start_child()
method Connection.on_stdio_disconnect()
method Connection.on_stderr_disconnect()
method Connection.stream_factory()
method Connection.stderr_stream_factory()
method Connection.connect(context)
method Connection._first_stage()
class RegexProtocol
const RegexProtocol.PATTERNS
const RegexProtocol.PARTIAL_PATTERNS
method RegexProtocol.on_unrecognized_line_received(line)
method RegexProtocol.on_unrecognized_partial_line_received(line)
class BootstrapProtocol(broker)
const BootstrapProtocol.EC0_MARKER
const BootstrapProtocol.EC1_MARKER
const BootstrapProtocol.EC2_MARKER
class LogProtocol
class LineLoggingProtocolMixin
class MitogenProtocol
class ChildIdAllocator(router)
method ChildIdAllocator.allocate()
class RouteMonitor(router, parent=None)
method RouteMonitor.notice_stream(stream)
method RouteMonitor.get_routes(stream)
class Reaper(broker, proc, kill, wait_on_shutdown)
method Reaper.reap()
class Process(pid, stdin, stdout, stderr=None)
method Process.poll()
method Process.send_signal(sig)
method Process.terminate()
method Process.kill()
signal Process.exit
class PopenProcess(proc, stdin, stdout, stderr=None) : mitogen.parent.Process
class ModuleForwarder(router, parent_context, importer)
class ResourceForwarder(router, parent_context, requester)
class Argv(argv)
class CallSpec(fn, args, kwargs)
error EofError : mitogen.core.StreamError
error CancelledError : mitogen.core.StreamError
"""

TEXT["mitogen.master"] = """
class Broker(install_watcher=True) : mitogen.core.Broker @17
const Broker.shutdown_timeout = 5.0 @17
method Broker.shutdown() @17
class Router(broker=None, max_message_size=None) : mitogen.parent.Router @17
const Router.broker_class
attr Router.profiling = False @17
method Router.upgrade()
method Router.get_stats()
method Router.enable_debug() @17
method Router.__enter__() @17
method Router.disconnect_stream(stream)
method Router.disconnect_all()
attr Router.id_allocator @17
attr Router.responder @17
attr Router.resource_responder
attr Router.log_forwarder @17
attr Router.route_monitor @18
class IdAllocator(router)
method IdAllocator.allocate() @17
method IdAllocator.allocate_block()
method IdAllocator.on_allocate_id(msg)
const IdAllocator.BLOCK_SIZE = 1000
class LogForwarder(router)
class ThreadWatcher(target, on_join)
classmethod ThreadWatcher.watch(target, on_join)
method ThreadWatcher.install()
method ThreadWatcher.remove()
class ImportPolicy(overrides=(), blocks=())
class ModuleResponder(router, policy)
method ModuleResponder.add_source_modifier(fullname, callable, /)
method ModuleResponder.add_source_override(fullname, path, source, is_pkg)
method ModuleResponder.whitelist_prefix(fullname)
method ModuleResponder.blacklist_prefix(fullname)
method ModuleResponder.neutralize_main(path, src)
method ModuleResponder.forward_modules(context, fullnames)
attr ModuleResponder.get_module_count
attr ModuleResponder.get_module_secs
attr ModuleResponder.good_load_module_count
attr ModuleResponder.good_load_module_size
attr ModuleResponder.bad_load_module_count
attr ModuleResponder.minify_secs
class ResourceResponder(router)
class ModuleFinder
method ModuleFinder.add_source_modifier(fullname, modifier)
method ModuleFinder.add_source_override(fullname, path, source, is_pkg)
method ModuleFinder.get_module_source(fullname) @17
method ModuleFinder.resolve_relpath(fullname, level)
method ModuleFinder.generate_parent_names(fullname)
method ModuleFinder.find_related_imports(fullname)
method ModuleFinder.find_related(fullname)
attr ModuleFinder.get_module_methods
class FinderMethod
method FinderMethod.find(fullname)
class DefectivePython3xMainMethod : mitogen.master.FinderMethod
class PkgutilMethod : mitogen.master.FinderMethod
class SysModulesMethod : mitogen.master.FinderMethod
class ParentImpEnumerationMethod : mitogen.master.FinderMethod
class ParentSpecEnumerationMethod : mitogen.master.FinderMethod
class ParentEnumerationMethod : mitogen.master.FinderMethod
def get_child_modules(path, fullname) @17
def is_stdlib_name(modname)
def is_stdlib_path(path)
def minimize_source(source) @17
def write_all(fd, s, deadline=None) @17
def iter_read(fd, deadline=None) @17
class ProcessMonitor @17
class Select(receivers=(), oneshot=True) @17
class Context @17

connect Router.local() @17
connect Router.ssh(hostname, username=None, ssh_path='ssh', port=None, check_host_keys='enforce',
    password=None, identity_file=None, compression=True, ssh_args=None, keepalive_enabled=True,
    keepalive_count=3, keepalive_interval=15, identities_only=True, ssh_debug_level=None) @17
connect Router.sudo(username='root', sudo_path='sudo', password=None, preserve_env=False,
    set_home=False, sudo_args=None, login=False, selinux_role=None, selinux_type=None) @17
connect Router.su(username='root', password=None, su_path='su', password_prompt='password:',
    incorrect_prompts=...) @18
connect Router.doas(username='root', password=None, doas_path='doas', password_prompt='Password:',
    incorrect_prompts=...)
connect Router.docker(container=None, image=None, docker_path='docker', username=None) @18
connect Router.podman(container=None, podman_path='podman', username=None)
connect Router.buildah(container=None, buildah_path='buildah', username=None)
connect Router.kubectl(pod, kubectl_path='kubectl', kubectl_args=None)
connect Router.jail(container, jexec_path='/usr/sbin/jexec', username=None) @18
connect Router.lxc(container, lxc_attach_path='lxc-attach') @18
connect Router.lxd(container, lxc_path='lxc')
connect Router.incus(container, incus_path='incus')
connect Router.setns(container, kind, username='root', docker_path='docker', lxc_path='lxc',
    lxc_info_path='lxc-info', machinectl_path='machinectl') @18
connect Router.fork(on_fork=None, on_start=None) @18
"""

_METHOD = """
class Options
class Connection : mitogen.parent.Connection
method Connection.get_boot_command()
"""

for _name in "docker podman buildah kubectl jail lxc lxd incus".split():
    TEXT["mitogen." + _name] = _METHOD

TEXT["mitogen.ssh"] = (
    _METHOD
    + """
error PasswordError : mitogen.core.StreamError @17
error HostKeyError : mitogen.core.StreamError @18
name auth_incorrect_msg
name password_incorrect_msg
name password_required_msg
name hostkey_config_msg
name hostkey_failed_msg
"""
)
TEXT["mitogen.sudo"] = _METHOD + "error PasswordError : mitogen.core.StreamError @17"
TEXT["mitogen.su"] = _METHOD + "error PasswordError : mitogen.core.StreamError @18"
TEXT["mitogen.doas"] = _METHOD + "error PasswordError : mitogen.core.StreamError"
TEXT["mitogen.setns"] = (
    _METHOD
    + """
error Error : mitogen.core.StreamError
def setns(kind, fd)
def get_docker_pid(path, name)
def get_lxc_pid(path, name)
def get_lxd_pid(path, name)
def get_machinectl_pid(path, name)
"""
)

TEXT["mitogen.select"] = """
error Error : mitogen.core.Error
class Event
attr Event.source
attr Event.data
class Select(receivers=(), oneshot=True) @17
classmethod Select.all(receivers)
method Select.add(recv) @17
method Select.remove(recv) @17
method Select.close() @17
method Select.size()
method Select.empty() @17
method Select.get(timeout=None, block=True) @17
method Select.get_event(timeout=None, block=True)
method Select.iter_data()
method Select.iter_events()
method Select.__iter__() @17
method Select.__bool__() @17
method Select.__enter__()
attr Select.notify = None
const Select.loop_msg
const Select.owned_msg
const Select.not_present_msg
const Select.empty_msg
"""

TEXT["mitogen.service"] = """
error Error : Exception
class Policy
method Policy.is_authorized(service, msg)
class AllowAny : mitogen.service.Policy
class AllowParents : mitogen.service.Policy
def expose(policy)
def arg_spec(spec)
def no_reply()
def validate_arg_spec(spec, args)
class Service(router)
classmethod Service.name()
const Service.invoker_class
attr Service.select
const Service.NO_REPLY
method Service.on_message(event)
method Service.on_shutdown()
class Invoker(service)
method Invoker.invoke(method_name, kwargs, msg)
class SerializedInvoker(service) : mitogen.service.Invoker
class DeduplicatingInvoker(service) : mitogen.service.Invoker
method DeduplicatingInvoker.key_from_request(method_name, kwargs)
class Activator
method Activator.is_permitted(mod_name, class_name, msg)
method Activator.activate(pool, service_name, msg)
class Pool(router, services=(), size=1, overwrite=False, recv=None)
attr Pool.size
method Pool.add(service)
method Pool.stop(join=True)
method Pool.join()
method Pool.get_invoker(name, msg)
method Pool.get_service(name)
method Pool.defer(func, *args, **kwargs)
attr Pool.closed
const Pool.activator_class
def get_or_create_pool(size=None, router=None, context=None)
def call(service_name, method_name, call_context=None, **kwargs)
class FileService(router) : mitogen.service.Service
method FileService.register(path)
method FileService.register_prefix(path)
method FileService.fetch(path, sender, msg)
method FileService.acknowledge(size, msg)
classmethod FileService.get(context, path, out_fp)
const FileService.window_size_bytes = 1048576
const FileService.IO_SIZE
class PushFileService(router) : mitogen.service.Service
method PushFileService.get(path)
method PushFileService.propagate_to(context, path, overridden_source=None)
method PushFileService.propagate_paths_and_modules(context, paths, overridden_sources=None,
    extra_sys_paths=None)
method PushFileService.store_and_forward(path, data, context)
method PushFileService.forward(path, context)
"""

TEXT["mitogen.utils"] = """
def setup_gil()
def disable_site_packages() @17
def log_get_formatter()
def log_levels_configure(default='INFO')
def log_to_file(path=None, level='INFO') @17
def run_with_router(func, *args, **kwargs) @17
def with_router(func) @17
def cast(obj) @18
name PASSTHROUGH
"""

TEXT["mitogen.unix"] = """
class Listener
classmethod Listener.build_stream(router, path=None, backlog=100)
def connect(path, broker=None)
def is_path_dead(path)
def make_socket_path()
error Error : mitogen.core.Error
error ConnectError : mitogen.unix.Error
"""

TEXT["mitogen.fakessh"] = """
def run(dest, router, args, deadline=None, econtext=None) @17
"""

TEXT["mitogen.fork"] = """
error Error : mitogen.core.StreamError
def on_fork()
def fixup_prngs()
def reset_logging_framework()
def handle_child_crash()
const FORK_SUPPORTED = True
class Process
class Options
class Connection : mitogen.parent.Connection
"""

TEXT["mitogen.os_fork"] = """
class Corker(brokers=(), pools=())
method Corker.cork()
method Corker.uncork()
def wrap_os__fork()
"""

TEXT["mitogen.debug"] = """
def install_handler()
def dump_to_logger(secs=5)
def format_stacks()
def get_snapshot()
def get_routers()
def get_router_info()
def get_stream_info(router_id)
def enable_evil_interrupts()
def disable_evil_interrupts()
class ContextDebugger(router)
"""

TEXT["mitogen.minify"] = """
def minimize_source(source)
"""

TEXT["mitogen.imports"] = """
def codeobj_imports(co)
"""

TEXT["mitogen.profiler"] = """
def main()
"""

#: Purposes of modules whose names are not self-explanatory.
ABOUT = {
    "mitogen.profiler": "`python -m mitogen.profiler record|report|stat`",
    "mitogen.setns": "Containers entered with setns(2)",
}

_CBOR = "values are sent as CBOR (RFC 8949), which names no classes: nothing to pickle or to deny"
_CONNECTING = (
    "internal; `mitogen.tree.connecting.Connecting` connects; a Connection only starts a child"
)
_HANDSHAKE = "internal; `mitogen.bootstrap.handshake.Handshake` conducts the handshake"
_IMPORTER = "internal; the Importer finds the target's own modules through `sys.meta_path`"
_MADE = "created only by the Router, which has it as an attribute; the name exists"
_MADE_IN_CHILD = "created only by a child, from its parent's configuration, as `econtext.importer`"
_POLLER = "`Poller.watch(fd, read, write)` takes callbacks; programs use `Broker.start_receive()`"
_PROTOCOL = (
    "internal; `mitogen.core.Stream` is both stream and protocol; send with `Router.route()`"
)
_RELAY = "internal; `mitogen.parent.Branch` holds the routes and forwards modules"

#: Dotted name to the reason why it is missing. A name includes everything below it; with `()`
#: appended, it means its signature only.
NOT_PROVIDED = {
    "mitogen.core.find_deny": _CBOR,
    "mitogen.core.Pickler": _CBOR,
    "mitogen.core.Unpickler": _CBOR,
    "mitogen.core.Latch.poller_class": "a Latch waits on a lock and does not poll",
    "mitogen.core.Stream.construct": _CONNECTING,
    "mitogen.core.Stream.connect": _CONNECTING,
    "mitogen.core.MitogenProtocol()": _PROTOCOL,
    "mitogen.core.MitogenProtocol.is_privileged": _PROTOCOL,
    "mitogen.core.MitogenProtocol.on_message": _PROTOCOL,
    "mitogen.core.MitogenProtocol.send": _PROTOCOL,
    "mitogen.core.MitogenProtocol._send": _PROTOCOL,
    "mitogen.core.MitogenProtocol.corrupt_msg": _PROTOCOL,
    "mitogen.core.Poller.SUPPORTED": _POLLER,
    "mitogen.core.Poller.readers": _POLLER,
    "mitogen.core.Poller.writers": _POLLER,
    "mitogen.core.Poller.close": _POLLER,
    "mitogen.core.Poller.start_receive": _POLLER,
    "mitogen.core.Poller.stop_receive": _POLLER,
    "mitogen.core.Poller.start_transmit": _POLLER,
    "mitogen.core.Poller.stop_transmit": _POLLER,
    "mitogen.core.Poller.poll": _POLLER,
    "mitogen.core.Importer()": _MADE_IN_CHILD,
    "mitogen.core.Importer.builtin_find_module": _IMPORTER,
    "mitogen.core.Importer.MITOGEN_PKG_CONTENT": _IMPORTER,
    "mitogen.core.Importer.ALWAYS_BLACKLIST": _IMPORTER,
    "mitogen.core.Dispatcher.recv": "internal; calls wait in `econtext.dispatcher.queue`",
    "mitogen.core.ExternalContext.channel": "internal; calls wait in `econtext.dispatcher.queue`",
    "mitogen.parent.Options()": "options are keyword-only; the default connect timeout is 30 s",
    "mitogen.parent.Connection.stream_protocol_class": _CONNECTING,
    "mitogen.parent.Connection.diag_protocol_class": _CONNECTING,
    "mitogen.parent.Connection.stdio_stream": _CONNECTING,
    "mitogen.parent.Connection.stderr_stream": _CONNECTING,
    "mitogen.parent.Connection.create_child": _CONNECTING,
    "mitogen.parent.Connection.create_child_args": _CONNECTING,
    "mitogen.parent.Connection.detached": _CONNECTING,
    "mitogen.parent.Connection.child_is_immediate_subprocess": _CONNECTING,
    "mitogen.parent.Connection.name_prefix": _CONNECTING,
    "mitogen.parent.Connection.exception": _CONNECTING,
    "mitogen.parent.Connection.get_econtext_config": _CONNECTING,
    "mitogen.parent.Connection.get_preamble": _CONNECTING,
    "mitogen.parent.Connection.start_child": _CONNECTING,
    "mitogen.parent.Connection.on_stdio_disconnect": _CONNECTING,
    "mitogen.parent.Connection.on_stderr_disconnect": _CONNECTING,
    "mitogen.parent.Connection.stream_factory": _CONNECTING,
    "mitogen.parent.Connection.stderr_stream_factory": _CONNECTING,
    "mitogen.parent.Connection.connect": _CONNECTING,
    "mitogen.parent.Connection._first_stage": _CONNECTING,
    "mitogen.parent.BootstrapProtocol": _HANDSHAKE,
    "mitogen.parent.RouteMonitor": _RELAY,
    "mitogen.parent.ModuleForwarder": _RELAY,
    "mitogen.parent.ResourceForwarder": "internal; children request resources from the master",
    "mitogen.master.IdAllocator.on_allocate_id": _RELAY,
    "mitogen.master.LogForwarder()": _MADE,
    "mitogen.master.ModuleResponder()": _MADE,
    "mitogen.master.ProcessMonitor": "internal; `mitogen.parent.Reaper` reaps processes",
}

#: Dotted name to {parameter: the reason why it is not accepted}.
WITHOUT = {
    "mitogen.core.Message.unpickle": {"find_class": _CBOR},
}

#: Dotted name to a note for readers of the page.
NOTES = {}


class Row(namedtuple("Row", "module name kind parameters base value mark")):
    """A name, as described in the module docstring. `parameters`, `base`, `value`: str or None."""

    @property
    def dotted(self):
        """Module and name."""
        return "%s.%s" % (self.module, self.name)

    @property
    def owner(self):
        """The class the name belongs to, or ""."""
        return self.name.rpartition(".")[0]

    @property
    def signature(self):
        """The name with its parameters, as written in a program."""
        return self.name + ("" if self.parameters is None else "(%s)" % self.parameters)

    @property
    def why_other_signature(self):
        """The reason why the parameters differ, or None."""
        return NOT_PROVIDED.get(self.dotted + "()")

    @property
    def why_not(self):
        """The reason why the name is missing, or None."""
        name = self.dotted
        while name:
            if name in NOT_PROVIDED:
                return NOT_PROVIDED[name]
            name = name.rpartition(".")[0]
        return None


_ROW = re.compile(
    r"(?P<kind>[a-z]+) (?P<name>[\w.]+)(?:\((?P<parameters>.*)\))?"
    r"(?: : (?P<base>[\w.]+))?(?: = (?P<value>.+?))?(?: @(?P<mark>\d\d))?$"
)


def _rows():
    for module, text in TEXT.items():
        for line in re.sub(r"\n {4,}", " ", text).splitlines():
            if line:
                yield Row(module, **_ROW.match(line).groupdict())


ROWS = tuple(_rows())
