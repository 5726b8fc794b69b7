"""Python functions on worker processes: what they take and give, what goes wrong, and who dies with whom."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest

import grpc
import numpy as np

import harness
from harness import GRPC_WAYS, Server, Stopwatch, header_of, image, pb, run_server, wait_until
from test_predict import NPY, from_npy, npy

HERE = os.path.dirname(os.path.abspath(__file__))
X = np.arange(6, dtype=np.float32).reshape(2, 3)
LARGE = np.arange(300_000, dtype=np.float32).reshape(1000, 300)
NEGATIVE = np.array([-1], np.float32)


def environment(**more):
    path = os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **more}


def serve(*functions, workers=1, threads=1, options=(), env=None, **arguments):
    targets = [f if ":" in f or f.startswith("--") else "python_app:" + f for f in functions]
    return Server(*targets, "--python", sys.executable, "--workers", str(workers), "--threads", str(threads), *options,
                  env=environment(**(env or {})), **arguments)


def ask(client, model, *arrays, names=None, way="unary", timeout=20):
    """The outputs, by name."""
    tensors, payload = client.send(way, header_of(model, arrays, names), harness.payload_of(arrays), timeout=timeout)
    return dict(zip([t.name for t in tensors], harness.to_arrays(tensors, payload)))


def is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def slabs_mapped_by(pid):
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps:
        return sum("millrace-slab" in line for line in maps)


class PythonTestCase(unittest.TestCase):
    """One server for all tests of the class; the rule of the house follows each."""

    FUNCTIONS = ()
    WORKERS = THREADS = 1
    OPTIONS = ()

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory(prefix="millrace-python-")
        cls.server = serve("row_mean_std", *cls.FUNCTIONS, workers=cls.WORKERS, threads=cls.THREADS,
                           options=cls.OPTIONS, env={"APP_DIRECTORY": cls.directory.name})
        cls.client = cls.server.grpc()

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.stop()
        cls.directory.cleanup()

    def tearDown(self):
        self.server.alive_and_correct()

    def ask(self, model, *arrays, **arguments):
        return ask(self.client, model, *arrays, **arguments)

    def assert_equal(self, actual, expected):
        np.testing.assert_array_equal(actual, expected)
        self.assertEqual(actual.dtype, np.asarray(expected).dtype)

    def assert_fails(self, code, text, model, *arrays, **arguments):
        with self.assertRaises(grpc.RpcError) as caught:
            self.ask(model, *arrays, **arguments)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertRegex(caught.exception.details(), text)
        return caught.exception.details()

    def events(self, name):
        return [file for file in os.listdir(self.directory.name) if file.startswith(name + "-")]


INTERNAL = grpc.StatusCode.INTERNAL
INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class TakesAndGives(PythonTestCase):
    FUNCTIONS = ("declared", "hinted", "two", "anything", "echo", "twice", "transposed", "big_endian", "scalar", "texts",
                 "Model", "instance", "view", "keeps", "numpys_mean=numpy:mean")

    def test_the_image_by_every_way_in(self):
        for way in GRPC_WAYS:
            with self.subTest(way):
                self.assertAlmostEqual(float(self.ask("row_mean_std", image(), way=way)["output"]),
                                       harness.IMAGE_ANSWER, delta=1e-6)
        with contextlib.closing(self.server.http()) as client:
            self.assertAlmostEqual(float(client.predict_raw(image())), harness.IMAGE_ANSWER, delta=1e-6)
            self.assertAlmostEqual(float(from_npy(client.post("/predict", npy(image()), NPY).body)), harness.IMAGE_ANSWER,
                                   delta=1e-6)
            answer = client.post("/predict", json.dumps({"inputs": X.tolist()}), {"Content-Type": "application/json"})
            self.assertAlmostEqual(json.loads(answer.body)["outputs"], 1.5, delta=1e-6)

    def test_large_outputs_by_every_way(self):
        for way in GRPC_WAYS:
            with self.subTest(way):
                self.assert_equal(self.ask("twice", LARGE, way=way)["output"], LARGE * 2)
        with contextlib.closing(self.server.http()) as client:
            self.assert_equal(client.predict_raw(LARGE, "twice"), LARGE * 2)
            self.assert_equal(from_npy(client.post("/v1/models/twice:predict", npy(LARGE), NPY).body), LARGE * 2)

    def test_every_type_of_any_shape(self):
        for name in harness.DTYPES:
            for shape in ((), (0,), (3, 0), (5,), (2, 3, 4), (40, 1000)):
                with self.subTest(dtype=name, shape=shape):
                    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(name)
                    self.assert_equal(self.ask("echo", array)["output"], array)

    def test_bfloat16_comes_and_goes_as_uint16(self):
        array = np.array([0x3f80, 0x4000], np.uint16)
        header = header_of("echo", [array])
        header.tensors[0].data_type = pb.DATA_TYPE_BFLOAT16
        tensors, payload = self.client.send("unary", header, array.tobytes())
        self.assertEqual(tensors[0].data_type, pb.DATA_TYPE_UINT16)
        self.assertEqual(payload, array.tobytes())

    def test_layouts_that_are_not_rows_of_native_numbers(self):
        for array in (X, LARGE):
            self.assert_equal(self.ask("transposed", array)["output"], array.T)
            self.assert_equal(self.ask("big_endian", array)["output"], array)

    def test_several_inputs_and_outputs(self):
        self.assertEqual(list(self.ask("two", X, X, names=["first", "second"])), ["difference", "second"])
        answer = self.ask("two", LARGE, X[:1, :1], names=["second", "first"])
        self.assert_equal(answer["difference"], X[:1, :1] - LARGE)
        self.assert_equal(answer["second"], LARGE)

    def test_tensors_of_any_name(self):
        answer = self.ask("anything", X, LARGE, names=["a", 'odd "name" ü'])
        self.assert_equal(answer["a_twice"], X * 2)
        self.assert_equal(answer['odd "name" ü_twice'], LARGE * 2)

    def test_numbers_and_lists_become_arrays(self):
        self.assert_equal(self.ask("scalar", X)["output"], np.float64(0.5))
        self.assert_equal(self.ask("texts", X)["output"], np.array([[1, 2], [3, 4]]))

    def test_a_class_is_loaded_once(self):
        for _ in range(3):
            self.assert_equal(self.ask("Model", X)["output"], X * 2)
        self.assertEqual(len(self.events("loaded")), 1)

    def test_what_can_be_called_without_a_signature_of_its_own(self):
        self.assert_equal(self.ask("instance", X)["output"], X * 3)
        self.assert_equal(self.ask("numpys_mean", X)["output"], X.mean())

    def test_the_view_is_aligned_and_read_only(self):
        for array in (X, LARGE, np.zeros((), np.uint8)):
            self.assert_equal(self.ask("view", array)["output"], [0, 0, 0])

    def test_an_input_that_is_kept_keeps_its_values(self):
        expected = []
        for i in range(20):
            expected.append(i)
            array = np.full(LARGE.shape if i % 2 else (3,), i, np.float32)
            self.assert_equal(self.ask("keeps", array)["output"], np.array(expected, np.float32))

    def test_what_is_declared_is_checked(self):
        answer = self.ask("declared", X)
        self.assertEqual(list(answer), ["sum", "count"])
        self.assert_equal(answer["sum"], X.sum(axis=0))
        self.assert_equal(answer["count"], np.int64(2))
        self.assert_fails(INVALID, r"has the shape \[-1,3\]", "declared", X.T)
        self.assert_fails(INVALID, "is float32, but float64", "declared", X.astype(float))
        self.assert_fails(INVALID, "is int32, but float32", "hinted", X[0], X, names=["x", "y"])
        self.assert_fails(INVALID, "takes 2 tensors", "hinted", X)
        self.assert_fails(INVALID, 'has no input "z"', "hinted", X, X, names=["z", "y"])
        answer = self.ask("hinted", np.arange(3, dtype=np.int32), np.ones((2, 2)), names=["x", "y"])
        self.assertEqual(float(answer["sum"]), 7)

    def test_the_pages_say_what_is_declared(self):
        model = self.client.stub.GetModel(pb.GetModelRequest(name="declared"), timeout=10).model
        self.assertEqual([(t.name, t.data_type, list(t.shape), t.any_shape) for t in model.inputs],
                         [("image", pb.DATA_TYPE_FLOAT32, [-1, 3], False)])
        self.assertEqual([t.name for t in model.outputs], ["sum", "count"])
        model = self.client.stub.GetModel(pb.GetModelRequest(name="two"), timeout=10).model
        self.assertEqual([(t.name, t.data_type, t.any_shape) for t in model.inputs],
                         [("first", 0, True), ("second", 0, True)])
        with contextlib.closing(self.server.http()) as client:
            page = json.loads(client.get("/v1/models/hinted").body)
        self.assertEqual(page["inputs"], [{"name": "x", "dtype": "int32", "shape": [-1]},
                                          {"name": "y", "dtype": "float64", "shape": None}])

    def test_bytes_without_a_type_are_floats_in_a_row(self):
        with contextlib.closing(self.server.http()) as client:
            raw = {"Content-Type": "application/octet-stream"}
            answer = client.post("/v1/models/echo:predict", X.tobytes(), raw)
            self.assertEqual((answer.status, answer.headers["Millrace-Shape"], answer.headers["Millrace-Dtype"]),
                             (200, "6", "float32"))
            answer = client.post("/v1/models/echo:predict?shape=3,2", X.tobytes(), raw)
            self.assertEqual((answer.status, answer.headers["Millrace-Shape"]), (200, "3,2"))
            answer = client.post("/v1/models/echo:predict", b"12345", raw)
            self.assertEqual(answer.status, 400)
            self.assertIn(b"dtype=", answer.body)


class WrongResults(PythonTestCase):
    FUNCTIONS = ("raises", "exits", "returns", "wrong", "grows", "prints_oddly")
    OPTIONS = ("--memory-limit", "64MiB")

    def test_an_exception_is_told_with_its_type_and_message(self):
        details = self.assert_fails(INTERNAL, "^ValueError: no such colour: gr", "raises", X)
        self.assertNotIn("Traceback", details)
        self.server.wait_for_line("raises worker 1: Traceback")
        self.assertNotIn("_worker.py", self.server.log())
        self.server.wait_for_line("raises worker 1: ValueError: no such colour: grün")
        self.assert_fails(INTERNAL, "^SystemExit: 5", "exits", X)

    def test_what_cannot_be_sent(self):
        for number, text in enumerate((
                "python_app:returns returned nothing", "array of object", "returned None for output 'a'",
                "name is no text of", "returned a tuple; declare", "returned 0 outputs", "array of str", "is no array",
                "array of complex64", None, "array of datetime64", "returned 257 outputs", "dimensions|17")):
            with self.subTest(text):
                x = np.array([number], np.float32)
                if text is None:
                    self.assert_equal(self.ask("returns", x)["output"], x)
                else:
                    self.assert_fails(INTERNAL, text, "returns", x)

    def test_what_is_not_as_declared(self):
        for number, text in enumerate((
                r"returned y: float64\[2\]; it declares y: float32\[2\]", r"returned y: float32\[3\]; it declares",
                r"returned z: float32\[2\]; it declares", r"returned y: float32\[1,2\]; it declares",
                "returned 2 outputs; it declares y", r"returned y: float32\[300000\]; it declares", None)):
            with self.subTest(text):
                x = np.array([number], np.float32)
                if text is None:
                    self.assert_equal(self.ask("wrong", x)["y"], np.array([1, 2], np.float32))
                else:
                    self.assert_fails(INTERNAL, text, "wrong", x)

    def test_an_output_that_is_too_large(self):
        self.assertEqual(self.ask("grows", np.array([30e6]))["output"].size, 30_000_000)
        self.assert_fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "--memory-limit", "grows", np.array([100e6]))
        self.assert_fails(INTERNAL, "MemoryError", "grows", np.array([1e15]))
        self.assertEqual(self.ask("grows", np.array([30e6]))["output"].size, 30_000_000)

    def test_the_log_has_what_workers_print(self):
        self.ask("prints_oddly", X)
        for text in ("prints_oddly worker 1: long xxx", "bell   and escape  [1m and umlaut ü", "not text: ",
                     "prints_oddly worker 1: to standard error"):
            self.server.wait_for_line(text)
        self.assertLess(max(map(len, self.server.lines)), 2500)


class Workers(PythonTestCase):
    FUNCTIONS = ("meets", "prints")
    WORKERS, THREADS = 3, 2

    def test_as_many_run_at_once_as_there_are_workers_times_threads(self):
        self.assertIn("18 at once", self.server.start_line)  # three functions
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            futures = [pool.submit(self.ask, "meets", X, timeout=60) for _ in range(10)]
            wait_until(lambda: len(self.events("here")) >= 6, "six requests run", 30)
            self.server.alive_and_correct()  # other models are not held up
            self.assertEqual(len(self.events("here")), 6)
            self.assertEqual(len({event.split("-")[1] for event in self.events("here")}), 3)
            with open(os.path.join(self.directory.name, "go"), "w", encoding="ascii"):
                pass
            for future in futures:
                self.assert_equal(future.result()["output"], X)

    def test_a_flood_of_output_blocks_nobody(self):
        for _ in range(3):
            self.ask("prints", np.array([50_000.0]), timeout=60)
        self.server.wait_for_line("the last line")

    def test_output_blocks_nobody_even_when_the_log_does(self):
        read, write = os.pipe()
        process = subprocess.Popen(
            [harness.SERVER, "python_app:prints", "--python", sys.executable, "--workers", "1", "--bind",
             "unix:" + os.path.join(self.directory.name, "socket")], stderr=write, env={**os.environ, **environment()})
        os.close(write)
        try:
            with open(read, "rb", buffering=0, closefd=True) as log:
                text = b""
                while b"listening" not in text:
                    text += log.read(1)
                with contextlib.closing(harness.GrpcClient("unix:" + os.path.join(self.directory.name, "socket"))) as client:
                    for _ in range(2):
                        ask(client, "prints", np.array([20_000.0]), timeout=60)  # Nobody reads the log.
                process.kill()
        finally:
            process.kill()
            process.wait(20)


class Ends(PythonTestCase):
    """Workers that end; each function has one."""

    FUNCTIONS = ("dies", "hangs", "hogs", "spawns")
    OPTIONS = ("--timeout", "1", "--trim-after", "0.2")

    def test_each_way_to_end_fails_its_request_with_the_reason(self):
        reasons = ("exited with status 3", "was killed by SIGSEGV", "was killed by SIGKILL",
                   "exited with status 1|closed its connection",
                   "was killed by SIGABRT")
        for number, reason in enumerate(reasons):
            with self.subTest(reason):
                self.assert_fails(UNAVAILABLE, f'worker 1 of model "dies" .*{reason}', "dies",
                                  np.array([number], np.float32))
                self.assert_equal(self.ask("dies", NEGATIVE)["output"], NEGATIVE)  # waits for the next worker

    def test_a_worker_that_is_silent_is_killed(self):
        for function in ("hangs", "hogs"):
            with self.subTest(function):
                watch = Stopwatch()
                self.assert_fails(UNAVAILABLE, r"was killed after 1s without an answer \(--timeout\)", function, NEGATIVE)
                self.assertGreaterEqual(watch.seconds(), 1)
                for i in range(20):  # none of which gets another's answer
                    x = np.full((i + 1,), i, np.float32)
                    self.assert_equal(self.ask(function, x)["output"], x)

    def test_a_child_of_a_worker_that_holds_its_sockets_goes_with_it(self):
        self.ask("spawns", X)
        parent = next(pid for pid in self.server.children() if b"spawns" in cmdline(pid))
        wait_until(lambda: children_of(parent), "the worker has a child")
        child = children_of(parent)[0]
        os.kill(parent, signal.SIGKILL)
        wait_until(lambda: is_gone(child), "the child goes with the worker")
        self.server.wait_for_line("spawns worker 1 was killed by SIGKILL")
        self.assert_equal(self.ask("spawns", X)["output"], X)

    def test_memory_that_the_server_gives_up_is_unmapped(self):
        self.ask("hangs", LARGE)
        worker = next(pid for pid in self.server.children() if b"hangs" in cmdline(pid))
        wait_until(lambda: slabs_mapped_by(worker) == 0, "the worker unmaps")
        self.assert_equal(self.ask("hangs", LARGE)["output"], LARGE)


def cmdline(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
        found = children.read().split()
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as children:
            found += children.read().split()
    return [int(child) for child in found]


class CrashLoop(unittest.TestCase):
    def test_it_backs_off_turns_not_ready_and_recovers(self):
        with tempfile.TemporaryDirectory() as directory:
            with serve("Flaky", options=["--model", "row_mean_std"], env={"APP_DIRECTORY": directory}) as server, \
                    contextlib.closing(server.grpc()) as client, contextlib.closing(server.http()) as http:
                self.assertEqual(http.get("/readyz").status, 200)
                broken = os.path.join(directory, "broken")
                with open(broken, "w", encoding="ascii"):
                    pass
                with self.assertRaises(grpc.RpcError) as caught:
                    ask(client, "Flaky", NEGATIVE)
                self.assertIn("exited with status 8", caught.exception.details())
                server.wait_for_line("another one starts in 200ms")
                with self.assertRaises(grpc.RpcError) as caught:
                    ask(client, "Flaky", X)
                self.assertEqual(caught.exception.code(), UNAVAILABLE)
                self.assertIn("worker 1 exited with status 7", caught.exception.details())
                self.assertEqual(http.get("/readyz").status, 503)
                self.assertFalse(client.stub.GetModel(pb.GetModelRequest(name="Flaky"), timeout=10).model.ready)
                self.assertTrue(client.stub.GetModel(pb.GetModelRequest(name="row_mean_std"), timeout=10).model.ready)
                server.alive_and_correct()
                os.remove(broken)
                wait_until(lambda: http.get("/readyz").status == 200, "the model is ready again", 70)
                np.testing.assert_array_equal(ask(client, "Flaky", X)["output"], X)


class Start(unittest.TestCase):
    """What cannot be served is one clear line and a status of 2."""

    CASES = [
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("python_app:none", "module 'python_app' has no 'none'"),
        ("python_app:number", "is a int, which cannot be called"),
        ("python_app:asynchronous", "is async"),
        ("python_app:takes_nothing", "no parameter that takes a tensor"),
        ("python_app:CannotLoad", "RuntimeError: no weights"),
        ("python_app:contradicts", "takes x, but its decorator declares a, b"),
        ("python_app", "is not written as MODULE:FUNCTION"),
        (":f", "is not written as MODULE:FUNCTION"),
    ]

    def refuse(self, *arguments, **more):
        done = run_server("--bind", "127.0.0.1:0", *arguments, env=environment(**more))
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertTrue(done.stderr.splitlines()[-1].startswith("millrace-server: "), done.stderr)
        return done.stderr.splitlines()[-1]

    def test_each_is_refused(self):
        for target, text in self.CASES:
            with self.subTest(target):
                self.assertIn(text, self.refuse(target, "--python", sys.executable, "--workers", "2"))

    def test_an_interpreter_that_is_missing(self):
        self.assertIn("/no/such/python", self.refuse("python_app:echo", "--python", "/no/such/python"))
        self.assertIn("no_such_python", self.refuse("python_app:echo", "--python", "no_such_python"))
        self.assertIn("/no/such/bin/python", self.refuse("python_app:echo", VIRTUAL_ENV="/no/such"))
        self.assertIn("python3", self.refuse("python_app:echo", PATH="/nowhere"))

    def test_an_interpreter_without_numpy(self):
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "numpy.py"), "w", encoding="ascii") as file:
                file.write("raise ImportError('none here')\n")
            self.assertIn("has no NumPy", self.refuse("python_app:echo", "--python", sys.executable, PYTHONPATH=directory))

    def test_what_is_no_interpreter(self):
        self.assertIn("exited with status", self.refuse("python_app:echo", "--python", "/bin/false"))

    def test_a_start_that_takes_long_can_be_interrupted(self):
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "slow.py"), "w", encoding="ascii") as file:
                file.write("import threading\nprint('loading', flush=True)\nthreading.Event().wait()\n")
            process = subprocess.Popen([harness.SERVER, "slow:f", "--python", sys.executable, "--bind", "127.0.0.1:0"],
                                       cwd=directory, stderr=subprocess.PIPE, text=True,
                                       env={**os.environ, **environment()})
            for line in process.stderr:
                if "loading" in line:
                    break
            process.terminate()
            process.communicate(timeout=20)
            self.assertEqual(process.returncode, 1)


class Reload(unittest.TestCase):
    def write(self, text):
        """As editors do, and so that the time of the change differs."""
        path = os.path.join(self.directory.name, "edited.py")
        with open(path + ".new", "w", encoding="ascii") as file:
            file.write(text)
        os.replace(path + ".new", path)

    def test_a_changed_file_is_served_and_a_broken_one_is_not(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.write("def f(x): return x + 1\n")
        with serve("edited:f", workers=2, options=["--reload"], cwd=self.directory.name) as server, \
                contextlib.closing(server.grpc()) as client:
            self.assertEqual(ask(client, "f", X)["output"][0, 0], 1)
            self.write("def f(x): return x + 2\n")
            wait_until(lambda: ask(client, "f", X)["output"][0, 0] == 2, "the new function answers")
            self.write("def f(x) return x + 3\n")
            server.wait_for_line("could not start: SyntaxError")
            self.assertEqual(ask(client, "f", X)["output"][0, 0], 2)
            self.write("def f(x, y): return x + y + 4\n")
            wait_until(lambda: len(client.stub.GetModel(pb.GetModelRequest(name="f"), timeout=10).model.inputs) == 2,
                       "other inputs are known")
            wait_until(lambda: ask(client, "f", X, X, names=["x", "y"])["output"][0, 0] == 4, "they are taken")
            wait_until(lambda: len(server.children()) == 2, "the old workers are gone")


class Stop(unittest.TestCase):
    def start(self, *functions, **arguments):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        server = serve(*functions, workers=2, env={"APP_DIRECTORY": directory.name}, **arguments)
        self.addCleanup(server.kill)
        return server

    def events(self, name):
        return [file for file in os.listdir(self.directory) if file.startswith(name + "-")]

    def test_a_drain_lets_running_requests_finish(self):
        server = self.start("meets")
        with contextlib.closing(server.grpc()) as client, concurrent.futures.ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(ask, client, "meets", X, timeout=60) for _ in range(2)]
            wait_until(lambda: len(self.events("here")) == 2, "both run")
            workers = server.children()
            server.drain(client)
            with open(os.path.join(self.directory, "go"), "w", encoding="ascii"):
                pass
            for future in futures:
                np.testing.assert_array_equal(future.result()["output"], X)
        self.assertEqual(server.wait(), 0)
        self.assertTrue(all(map(is_gone, workers)))

    def test_a_drain_ends_what_takes_too_long(self):
        server = self.start("hangs", options=["--drain-timeout", "1"])
        with contextlib.closing(server.grpc()) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(ask, client, "hangs", NEGATIVE, timeout=60)
            wait_until(lambda: self.events("hanging"), "it runs")
            watch = Stopwatch()
            server.terminate()
            with self.assertRaises(grpc.RpcError) as caught:
                future.result()
            self.assertEqual(caught.exception.code(), UNAVAILABLE)
        self.assertEqual(server.wait(), 0)
        self.assertLess(watch.seconds(), 5 * harness.PATIENCE)

    def test_workers_die_with_a_server_that_is_killed(self):
        server = self.start("hangs")
        with contextlib.closing(server.grpc()) as client:
            future = client.stub.Predict.future(
                pb.PredictRequest(header=header_of("hangs", [NEGATIVE]), payload=NEGATIVE.tobytes()), timeout=60)
            wait_until(lambda: self.events("hanging"), "it runs")
            workers = server.children()
            self.assertEqual(len(workers), 2)
            server.kill()
            wait_until(lambda: all(map(is_gone, workers)), "the workers are gone")
            future.cancel()


if __name__ == "__main__":
    harness.run_tests()
