"""A worker process of millrace-server: runs a user's function on tensors that lie in the server's memory.

    python FOLDER MODULE:OBJECT CONTROL_FD SLOT_FD...

Each slot is a SOCK_SEQPACKET socket with a thread that answers one request at a time.  A message is four bytes with the
size of a JSON text, the text, and small raw bytes.  server/workers/message.h says what stands in it.
"""

import ctypes
import functools
import importlib
import inspect
import json
import mmap
import os
import socket
import sys
import threading
import traceback
import typing
import weakref

import millrace

try:
    import numpy as np
except ImportError:
    np = None

VERSION = 1
MAX_MESSAGE = 128 << 10
MAX_MAPS = 253  # the descriptors that one message may carry
MAX_INLINE = 16 << 10
MAX_OUTPUTS = 256
MAX_RANK = 16
MAX_NAME = 1000
MAX_FILES = 500
MAX_ERROR = 1000
MAX_TRACEBACK = 20000


# ---- messages


def send(sock, message, tail=b""):
    text = json.dumps(message, separators=(",", ":")).encode()
    sock.sendmsg([len(text).to_bytes(4, "little"), text, tail])


def receive(sock, buffer):
    """A message and the descriptors that came with it; None when the server has closed."""
    size, ancillary, _, _ = sock.recvmsg_into([buffer], socket.CMSG_SPACE(4 * MAX_MAPS), socket.MSG_CMSG_CLOEXEC)
    if size == 0:
        return None, []
    fds = [int.from_bytes(data[i:i + 4], sys.byteorder)
           for level, kind, data in ancillary if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
           for i in range(0, len(data) // 4 * 4, 4)]
    length = int.from_bytes(buffer[:4], "little")
    return json.loads(bytes(buffer[4:4 + length]).decode("utf-8", "replace")), fds


# ---- memory


class Memory:
    """The server's slabs that are mapped here, by id and whether they may be written."""

    def __init__(self):
        self._maps = {}

    def add(self, described, fds):
        try:
            for entry, fd in zip(described, fds):
                prot = mmap.PROT_READ | (mmap.PROT_WRITE if entry["writable"] else 0)
                self._maps[entry["memory"], entry["writable"]] = mmap.mmap(fd, entry["size"], mmap.MAP_SHARED, prot)
        finally:
            for fd in fds:
                os.close(fd)

    def array(self, place, dtype, shape, writable):
        """An array over the memory, which it keeps mapped."""
        if "memory" not in place:
            return np.empty(shape, dtype)
        return np.ndarray(shape, dtype, self._maps[place["memory"], writable], place["offset"])

    def has(self, memory):
        return (memory, False) in self._maps

    def forget(self, ids):
        for memory in ids:
            for writable in (False, True):
                self._maps.pop((memory, writable), None)

    def detach(self, memory, size):
        """Gives the arrays over the memory's first bytes, which are kept beyond their call, a copy where they are."""
        mapped = self._maps.pop((memory, False))
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        copy = libc().mmap(None, len(mapped), mmap.PROT_READ | mmap.PROT_WRITE,
                           mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        if copy == MAP_FAILED:
            raise MemoryError("no memory for a copy of the inputs that the function keeps")
        ctypes.memmove(copy, address, size)
        libc().mprotect(copy, len(mapped), mmap.PROT_READ)
        libc().mremap(copy, len(mapped), len(mapped), MREMAP_MAYMOVE | MREMAP_FIXED, ctypes.c_void_p(address))


MAP_FAILED = ctypes.c_void_p(-1).value
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2


@functools.lru_cache(maxsize=None)
def libc():
    library = ctypes.CDLL(None, use_errno=True)
    size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    library.mmap.argtypes, library.mmap.restype = [pointer, size, number, number, number, ctypes.c_long], pointer
    library.mprotect.argtypes = [pointer, size, number]
    library.mremap.argtypes, library.mremap.restype = [pointer, size, size, number, pointer], pointer
    return library


# ---- the function


class WrongFunction(Exception):
    """The object cannot be served; the text says why."""


class WrongResult(Exception):
    """What the function returned cannot be sent; the text says why."""


class Function:
    """What MODULE:OBJECT names, with what it takes and gives."""

    def __init__(self, target):
        self.target = target
        self._call = find(target)
        declared_inputs, declared_outputs = getattr(self._call, "__millrace__", None) or getattr(
            getattr(self._call, "__self__", None), "__millrace__", (None, None))
        hints = hints_of(self._call)
        self._by_position, self.any_tensors, names = parameters_of(target, self._call)
        self.inputs = {name: tensor_of(name, hints.get(name)) or millrace.Tensor() for name in names}
        if declared_inputs is not None:
            self._declare(declared_inputs)
        output = tensor_of("output", hints.get("return"))
        self.outputs = declared_outputs or ({"output": output} if output else None)

    def _declare(self, inputs):
        if not self.any_tensors and set(inputs) != set(self.inputs) and (len(inputs), len(self.inputs)) != (1, 1):
            raise WrongFunction(f"{self.target} takes {', '.join(self.inputs)}, but its decorator declares "
                                f"{', '.join(inputs) or 'nothing'}")
        if self._by_position:  # in the function's order, which names may not tell
            inputs = {name: inputs[name] for name in self.inputs} if len(inputs) > 1 else inputs
        self.inputs, self.any_tensors = inputs, False

    def __call__(self, inputs):
        """The outputs, as a list of (name, type, array)."""
        result = self._call(*inputs.values()) if self._by_position else self._call(**inputs)
        return [self._checked(name, value) for name, value in self._named(result)]

    def _named(self, result):
        declared = list(self.outputs) if self.outputs else None
        if result is None:
            raise WrongResult(f"{self.target} returned nothing")
        if isinstance(result, dict):
            in_order = declared if declared and set(declared) == set(result) else list(result)
            named = [(name, result[name]) for name in in_order]
        elif isinstance(result, tuple):
            if declared is None:
                raise WrongResult(f"{self.target} returned a tuple; declare its outputs, or return a dict")
            if len(result) != len(declared):
                raise WrongResult(f"{self.target} returned {len(result)} outputs; it declares {', '.join(declared)}")
            named = list(zip(declared, result))
        else:
            named = [(declared[0] if declared and len(declared) == 1 else "output", result)]
        if not 1 <= len(named) <= MAX_OUTPUTS:
            raise WrongResult(f"{self.target} returned {len(named)} outputs; 1 to {MAX_OUTPUTS} are allowed")
        return named

    def _checked(self, name, value):
        if not isinstance(name, str) or not name or len(clean(name).encode()) > MAX_NAME:
            raise WrongResult(f"{self.target} returned an output whose name is no text of 1 to {MAX_NAME} bytes: "
                              f"{name!r:.100}")
        if value is None:
            raise WrongResult(f"{self.target} returned None for output {name!r:.100}")
        declared = (self.outputs or {}).get(name, millrace.Tensor())
        wanted = None if hasattr(value, "dtype") else array_type(declared.dtype)
        try:
            array = np.asarray(value, wanted)
        except (TypeError, ValueError) as error:
            raise WrongResult(f"{self.target} returned a {type(value).__name__} for output {name!r:.100} that is no "
                              f"array: {error}") from None
        dtype = array.dtype.name
        if dtype == "bfloat16":
            array = array.view(np.uint16)
        elif dtype == "uint16" and declared.dtype == "bfloat16":
            dtype = "bfloat16"
        if array.ndim > MAX_RANK:
            raise WrongResult(f"{self.target} returned an array of {array.ndim} dimensions for output {name!r:.100}; "
                              f"{MAX_RANK} are allowed")
        if dtype not in millrace.DTYPES:
            raise WrongResult(f"{self.target} returned an array of {dtype:.100} for output {name!r:.100}, which is none of "
                              f"{', '.join(millrace.DTYPES)}")
        return name, dtype, array


def find(target):
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise WrongFunction(f"{target!r} is not written as MODULE:FUNCTION")
    found = importlib.import_module(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise WrongFunction(f"module {module_name!r} has no {path!r}")
        found = getattr(found, name)
    if hasattr(found, "wsgi_app"):
        raise WrongFunction(f"{target} is a web application; name the function that predicts")
    if inspect.isclass(found):
        found = found()
    call = getattr(found, "predict", found)
    if not callable(call):
        raise WrongFunction(f"{target} is a {type(found).__name__}, which cannot be called and has no predict()")
    if inspect.iscoroutinefunction(call):
        raise WrongFunction(f"{target} is async; write it as a plain function: each thread runs one request")
    return call


def parameters_of(target, call):
    """Whether it is called by position, whether it takes tensors of any name, and the names of those it takes."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except ValueError:  # some builtins do not tell
        return True, False, ["input"]
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if required:
        alone = len(required) == 1 and required[0].kind != inspect.Parameter.KEYWORD_ONLY
        by_position = alone or any(p.kind == p.POSITIONAL_ONLY for p in required)
        return by_position, False, [p.name for p in required]
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        return False, True, []
    raise WrongFunction(f"{target} has no parameter that takes a tensor: those with a default do not count")


def hints_of(call):
    try:
        return typing.get_type_hints(call if inspect.isroutine(call) else call.__call__, include_extras=True)
    except (AttributeError, NameError, TypeError):  # names that only type checkers know
        return {}


def tensor_of(name, hint):
    """What a type hint says of a tensor; None if nothing."""
    for said in getattr(hint, "__metadata__", ()):
        if isinstance(said, millrace.Tensor):
            return millrace.checked(name, *said)
    hint = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
    if hint is np.ndarray:
        return millrace.Tensor()
    if typing.get_origin(hint) is not np.ndarray:
        return None
    element = typing.get_args(typing.get_args(hint)[-1])
    dtype = getattr(element[0], "__name__", "").rstrip("_") if element else ""
    return millrace.Tensor(dtype if dtype in millrace.DTYPES else None)


def array_type(dtype):
    return {"bfloat16": "uint16"}.get(dtype, dtype)


# ---- answering


class Worker:
    def __init__(self, function):
        self.memory = Memory()
        self._function = function

    def serve(self, sock):
        buffer = bytearray(MAX_MESSAGE)
        while True:
            message, fds = receive(sock, buffer)
            if message is None:
                return
            self._answer(sock, message, fds, buffer)

    def _answer(self, sock, message, fds, buffer):
        leases = []
        try:
            self.memory.add(message["maps"], fds)
            reply, tail = self._run(sock, message, leases, buffer)
        except WrongResult as wrong:
            reply, tail = {"error": clean(str(wrong))}, b""
        except BaseException as failure:
            print_from_user(failure)
            reply, tail = {"error": one_line(failure)}, b""
        missing = [entry["memory"] for entry in message["maps"] if not self.memory.has(entry["memory"])]
        reply.update(run=message["run"], dropped=self._detach_kept(leases) + missing)
        send(sock, reply, tail)

    def _run(self, sock, message, leases, buffer):
        outputs = self._function(self._inputs(message["inputs"], leases))
        described = [{"name": clean(name), "dtype": dtype, "shape": array.shape} for name, dtype, array in outputs]
        if sum(array.nbytes for _, _, array in outputs) <= MAX_INLINE:
            tail = b"".join(np.ascontiguousarray(array, array.dtype.newbyteorder("=")).tobytes()
                            for _, _, array in outputs)
            return {"outputs": described, "inline": True}, tail
        send(sock, {"run": message["run"], "outputs": described})
        room, fds = receive(sock, buffer)
        if room is None:
            os._exit(0)
        if not room["outputs"]:
            raise WrongResult("the server has no room for the outputs")
        self.memory.add(room["maps"], fds)
        for (_, dtype, array), place in zip(outputs, room["outputs"]):
            np.copyto(self.memory.array(place, array_type(dtype), array.shape, True), array, "equiv")
        return {"written": True}, b""

    def _inputs(self, described, leases):
        inputs = {}
        for entry in described:
            array = self.memory.array(entry, array_type(entry["dtype"]), entry["shape"], False)
            array.flags.writeable = False
            if "memory" in entry:
                leases.append((weakref.ref(array), entry["memory"], entry["offset"] + array.nbytes))
            inputs[entry["name"]] = array
        return inputs

    def _detach_kept(self, leases):
        """Memory whose arrays the function has kept, and which is a copy of its own from now on."""
        kept = {memory for array, memory, _ in leases if array() is not None}
        for memory in kept:
            self.memory.detach(memory, max(end for _, other, end in leases if other == memory))
        return sorted(kept)


def clean(text):
    return text.encode("utf-8", "replace").decode()[:MAX_ERROR]


def one_line(failure):
    return clean(f"{type(failure).__name__}: {failure}".rstrip(": "))


def print_from_user(failure):
    """The traceback, without the frames that are this file's."""
    trace = failure.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    traceback.print_exception(type(failure), failure, trace)


def own_files():
    """The files of modules that lie under the current directory."""
    here = os.path.join(os.getcwd(), "")
    files = {os.path.abspath(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
    return sorted(file for file in files if file.startswith(here) and "site-packages" not in file)[:MAX_FILES]


def specs(tensors):
    return None if tensors is None else [{"name": n, "dtype": t.dtype, "shape": t.shape} for n, t in tensors.items()]


def start(target):
    if np is None:
        raise WrongFunction(f"{sys.executable} has no NumPy: install it there, or name another interpreter "
                            "(--python)")
    return Function(target)


def main():
    target, *fds = sys.argv[1:]
    sys.argv[1:] = []
    control, *slots = [socket.socket(fileno=int(fd)) for fd in fds]
    for sock in (control, *slots):
        sock.set_inheritable(False)
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.path.insert(0, os.getcwd())
    try:
        worker = Worker(start(target))
    except WrongFunction as wrong:
        send(control, {"version": VERSION, "failed": clean(str(wrong)), "traceback": "", "files": own_files()})
        sys.exit(1)
    except BaseException as failure:
        send(control, {"version": VERSION, "failed": one_line(failure), "files": own_files(),
                       "traceback": traceback.format_exc()[-MAX_TRACEBACK:]})
        sys.exit(1)
    for sock in slots:
        threading.Thread(target=worker.serve, args=(sock,), daemon=True).start()
    function = worker._function
    send(control, {"version": VERSION, "any_tensors": function.any_tensors, "inputs": specs(function.inputs),
                   "outputs": specs(function.outputs), "files": own_files()})
    buffer = bytearray(MAX_MESSAGE)
    while True:
        message, _ = receive(control, buffer)
        if message is None:
            return
        worker.memory.forget(message["forget"])
