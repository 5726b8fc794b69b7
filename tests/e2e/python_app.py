"""The functions that test_python.py serves, and some that cannot be served.

Tests run as another process: what they wait for is told by files in the folder that MILLRACE_TEST_DIRECTORY names.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

import millrace

DIRECTORY = os.environ.get("APP_DIRECTORY", ".")


def tell(event):
    """Makes a file of its own for what happened."""
    open(os.path.join(DIRECTORY, f"{event}-{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}"), "w").close()


def await_file(name, seconds=60):
    deadline = time.monotonic() + seconds
    while not os.path.exists(os.path.join(DIRECTORY, name)):
        if time.monotonic() > deadline:
            raise TimeoutError(name)
        time.sleep(0.002)


# ---- what is taken and given


def row_mean_std(image: np.ndarray) -> np.ndarray:
    return image.mean(axis=1, dtype=np.float64).std(axis=0).astype(np.float32)


@millrace.model(inputs={"image": ("float32", [-1, 3])}, outputs={"sum": ("float32", [3]), "count": ("int64", [])})
def declared(image):
    return image.sum(axis=0), np.int64(len(image))


def hinted(x: Annotated[np.ndarray, millrace.Tensor("int32", [-1])], y: NDArray[np.float64]):
    return {"sum": x.sum() + y.sum(), "shapes": [x.ndim, y.ndim]}


def two(first, second):
    return {"difference": first - second, "second": second}


def anything(**tensors):
    return {name + "_twice": value + value for name, value in tensors.items()}


def echo(x):
    return x


def twice(x):
    return x + x


def transposed(x):
    return x.T


def big_endian(x):
    return x.astype(x.dtype.newbyteorder(">"))


def scalar(x):
    return 0.5


def texts(x):
    return [[1, 2], [3, 4]]


class Model:
    def __init__(self):
        tell("loaded")
        self.calls = 0

    def predict(self, x):
        self.calls += 1
        return x * 2


class CallableModel:
    def __call__(self, x):
        return x * 3


instance = CallableModel()


def view(x):
    """What the view of the input is: aligned, read-only, and what writing to it says."""
    try:
        x[...] = 0
        wrote = 1
    except ValueError:
        wrote = 0
    try:
        x.flags.writeable = True
        wrote |= 2
    except ValueError:
        pass
    return [x.ctypes.data % 64, int(x.flags.writeable), wrote]


KEPT = []


def keeps(x):
    """The first element of everything that it was ever given."""
    KEPT.append(x)
    return np.array([k.ravel()[0] for k in KEPT], np.float32)


# ---- what goes wrong


def raises(x):
    raise ValueError("no such colour: grün")


def exits(x):
    sys.exit(5)


def returns(x):
    """A wrong result, by number."""
    return [None, np.array([object()]), {"a": None}, {1: x}, (x, x), {}, "text", [[1], [2, 3]], np.zeros(2, "c8"), x,
            np.datetime64("now"), {f"o{i}": x for i in range(257)}, np.zeros((1,) * 17)][int(x.ravel()[0])]


@millrace.model(outputs={"y": ("float32", [2])})
def wrong(x):
    """Not what it declares, by number."""
    return [np.zeros(2), np.zeros(3, "f4"), {"z": np.zeros(2, "f4")}, np.zeros((1, 2), "f4"), (x, x),
            np.zeros(300_000, "f4"), [1, 2]][int(x.ravel()[0])]


def grows(x):
    return np.zeros(int(x.ravel()[0]), np.uint8)


def dies(x):
    """In many ways, by number; -1 lives."""
    way = int(x.ravel()[0])
    if way == 0:
        os._exit(3)
    elif way == 1:
        ctypes.string_at(0)
    elif way == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    elif way == 3:
        os.closerange(3, 1000)
    elif way == 4:
        os.abort()
    return x


def hangs(x):
    if x.ravel()[0] < 0:
        tell("hanging")
        threading.Event().wait(3600)
    return x


def hogs(x):
    """Hangs with the interpreter's lock, and writes its answer late."""
    if x.ravel()[0] < 0:
        ctypes.PyDLL(None).usleep(3600 * 1_000_000 % 2**31)
    return x


def meets(x):
    """Returns when as many calls as x says are here at once."""
    tell("here")
    await_file("go")
    return x


def prints(x):
    for i in range(int(x.ravel()[0])):
        print(f"line {i} of many" + "." * 50)
    print("the last line\nno end of line", end="")
    sys.stdout.flush()
    return x


def prints_oddly(x):
    print("long " + "x" * 10_000)
    print("bell \a and escape \x1b[1m and umlaut ü")
    os.write(1, b"not text: \xff\xfe\n")
    print("to standard error", file=sys.stderr)
    return x


def spawns(x):
    """Leaves a child that holds all that it inherited."""
    if os.fork() == 0:
        time.sleep(3600)
    return x


async def asynchronous(x):
    return x


def takes_nothing(x=1):
    return x


number = 5


class CannotLoad:
    def __init__(self):
        raise RuntimeError("no weights")


@millrace.model(inputs={"a": ("float32", None), "b": ("float32", None)})
def contradicts(x):
    return x


class Flaky:
    """Ends while it loads as long as there is a file "broken"."""

    def __init__(self):
        if os.path.exists(os.path.join(DIRECTORY, "broken")):
            os._exit(7)

    def predict(self, x):
        if x.ravel()[0] < 0:
            os._exit(8)
        return x
