"""The command line as a person uses it, and the examples that the client libraries come with."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import unittest

import numpy as np

import harness
from harness import CLI, IMAGE_ANSWER, PATIENCE, TWIN, image, row_mean_std

WAYS = ([], ["--stream"], ["--unary"], ["--http"])


def run(*arguments, stdout=subprocess.PIPE, **options):
    return subprocess.run([CLI, *arguments], stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True,
                          timeout=60 * PATIENCE, check=False, **options)


class CliTestCase(harness.ServerTestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def path(self, name):
        return os.path.join(self.directory, name)

    def save(self, name, array):
        np.save(self.path(name), array)
        return self.path(name)

    def predict(self, *arguments, url=None, **options):
        return run("predict", "--url", url or self.server.tcp, *arguments, **options)

    def good(self, done):
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")
        return done.stdout

    def failed(self, done, *words, status=1):
        """One clear line, and the exit status of a failure."""
        self.assertEqual(done.returncode, status, done.stderr)
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertTrue(lines[0].startswith("millrace: "), lines[0])
        for word in words:
            self.assertIn(word, lines[0])


class Predict(CliTestCase):
    def test_image_and_twin_by_every_way_over_tcp_and_unix(self):
        big, small = self.save("image.npy", image()), self.save("twin.npy", TWIN)
        for way in WAYS:
            for url in (self.server.tcp, self.server.unix):
                with self.subTest(way=way, url=url):
                    out = self.good(self.predict("--model", "row_mean_std", *way, big, url=url))
                    name = "output" if way == ["--http"] else "std"  # raw bytes have no name
                    self.assertRegex(out, rf"^{name}: float32\[\] [0-9.]+\n$")
                    self.assertAlmostEqual(float(out.split()[-1]), IMAGE_ANSWER, delta=1e-6)
                    self.assertEqual(self.good(self.predict(*way, small, url=url)), name + ": float32[] 0\n")

    def test_small_answers_are_printed_whole_and_large_ones_by_their_beginning(self):
        path = self.save("a.npy", np.array([[1, 2], [3, 4]], np.int16))
        self.assertIn("int16[2,2] [[1,2],[3,4]]", self.good(self.predict("--model", "identity", path)))
        path = self.save("b.npy", np.arange(100_000, dtype=np.int32))
        out = self.good(self.predict("--model", "identity", path))
        self.assertIn("int32[100000]", out)
        self.assertIn("0, 1, 2, 3", out)
        self.assertIn("--out", out)
        self.assertLess(len(out), 500)

    def test_out_writes_what_numpy_reads(self):
        generator = np.random.default_rng(4)
        for way in WAYS:
            for array in (image(), generator.integers(0, 255, (3, 0, 2), np.uint8), np.float64(1.5),
                          generator.integers(0, 2, 17).astype(bool)):
                array = np.asarray(array)
                with self.subTest(way=way, shape=array.shape):
                    self.good(self.predict("--model", "identity", *way, "--out", self.path("out.npy"),
                                           self.save("in.npy", array)))
                    np.testing.assert_array_equal(np.load(self.path("out.npy")), array, strict=True)

    def test_raw_elements(self):
        path = self.path("image.f32")
        image().tofile(path)
        for way in WAYS:
            out = self.good(self.predict(*way, "--shape", "3000,2500", "--dtype", "float32", path))
            self.assertAlmostEqual(float(out.split()[-1]), IMAGE_ANSWER, delta=1e-6)

    def test_several_named_inputs_and_outputs(self):
        first, second = self.save("a.npy", np.arange(3)), self.save("b.npy", np.ones((2, 2), np.float32))
        self.good(self.predict("--model", "identity", "--input", "x=" + first, "--input", "y=" + second,
                               "--out", "y=" + self.path("y.npy"), "--out", "x=" + self.path("x.npy")))
        np.testing.assert_array_equal(np.load(self.path("x.npy")), np.arange(3), strict=True)
        np.testing.assert_array_equal(np.load(self.path("y.npy")), np.ones((2, 2), np.float32), strict=True)

    def test_fifty_in_a_row_and_how_long_they_took(self):
        out = self.good(self.predict("--repeat", "50", self.save("image.npy", image())))
        answer, times = out.splitlines()
        self.assertAlmostEqual(float(answer.split()[-1]), IMAGE_ANSWER, delta=1e-6)
        self.assertRegex(times, r"^50 requests of 30\.0 MB: median [\d.]+ ms \([\d.]+ GB/s\), min .* ms, max .* ms$")

    def test_models(self):
        out = self.good(run("models", "--url", self.server.tcp))
        self.assertRegex(out, r"(?m)^row_mean_std 1$")
        self.assertRegex(out, r"(?m)^  in   image: float32\[any,any\]")
        self.assertRegex(out, r"(?m)^  out  std: float32\[\]$")
        self.assertRegex(out, r"(?m)^identity 1$\n  in   any tensors$")
        one = self.good(run("models", "--url", self.server.unix, "row_mean_std"))
        self.assertIn("row_mean_std", one)
        self.assertNotIn("identity", one)

    def test_help(self):
        for arguments in (["--help"], ["predict", "--help"], ["models", "--help"]):
            self.assertIn("--url" if arguments[0] != "--help" else "predict", self.good(run(*arguments)))


class Progress(CliTestCase):
    def on_a_terminal(self, *arguments):
        """(exit status, what a terminal of 100 columns got)"""
        terminal, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        process = subprocess.Popen([CLI, "predict", "--url", self.server.tcp, *arguments], stdin=child, stdout=child,
                                   stderr=child)
        os.close(child)
        drawn = b""
        with contextlib.suppress(OSError):  # EIO: the other end was closed.
            while data := os.read(terminal, 1 << 16):
                drawn += data
        os.close(terminal)
        return process.wait(30), drawn.decode()

    def test_a_terminal_gets_a_bar_with_bytes_speed_and_time_left(self):
        status, drawn = self.on_a_terminal("--repeat", "100", self.save("image.npy", image()))
        self.assertEqual(status, 0, drawn)
        lines = drawn.split("\r")
        bars = [line for line in lines if re.search(r"\[[=> ]{10,}\]", line)]
        self.assertTrue(bars, drawn)
        self.assertRegex(bars[0], r"\d+%  [\d.]+ [kMG]?B of 3\.0 GB  [\d.]+ GB/s")
        self.assertTrue(any(re.search(r"\d:\d\d left", line) for line in bars), drawn)
        self.assertTrue(all(len(line) < 100 for line in bars), "a bar is wider than the terminal")
        self.assertRegex(drawn, r"\r +\rstd: ", "the bar is wiped before the answer is printed")

    def test_a_pipe_gets_none(self):
        done = self.predict("--repeat", "100", self.save("image.npy", image()))
        self.assertNotIn("\r", self.good(done))


class Failures(CliTestCase):
    def test_files_that_cannot_be_read(self):
        big_endian = self.save("big.npy", np.ones((2, 2), ">f4"))
        fortran = self.save("fortran.npy", np.asfortranarray(np.ones((2, 3), np.float32)))
        objects = self.path("objects.npy")
        np.save(objects, np.array([None]), allow_pickle=True)
        text = self.path("text.npy")
        with open(text, "w", encoding="ascii") as file:
            file.write("no npy file")
        cut = self.path("cut.npy")
        with open(self.save("whole.npy", TWIN), "rb") as whole, open(cut, "wb") as file:
            file.write(whole.read()[:-1])
        empty = self.path("empty.npy")
        open(empty, "wb").close()
        for path, *words in ((self.path("none.npy"), "No such file"), (self.directory, "regular file"),
                             (text, "--shape"), (cut, "4 bytes", "3"), (empty,), (big_endian, "big-endian"),
                             (fortran, "Fortran"), (objects, "O")):
            with self.subTest(path=path):
                self.failed(self.predict(path), path, *words)

    def test_raw_elements_of_another_size(self):
        path = self.path("raw")
        with open(path, "wb") as file:
            file.write(bytes(23))
        self.failed(self.predict("--shape", "2,3", "--dtype", "float32", path), "24", "23")

    def test_what_the_server_refuses_by_every_way(self):
        path = self.save("image.npy", np.ones((2, 3, 4), np.float32))
        for way in WAYS:
            with self.subTest(way=way):
                self.failed(self.predict("--model", "unheard_of", *way, path), "unheard_of")
                self.failed(self.predict(*way, path), "[2,3,4]")

    def test_unknown_model_of_models(self):
        self.failed(run("models", "--url", self.server.tcp, "unheard_of"), "unheard_of")

    def test_a_server_that_is_not_there(self):
        path = self.save("twin.npy", TWIN)
        with harness.socket.create_server(("127.0.0.1", 0)) as listener:
            address = "127.0.0.1:%d" % listener.getsockname()[1]
        for url in (address, "unix:" + self.path("none"), "no-such-host.invalid:80"):
            for way in WAYS:
                with self.subTest(url=url, way=way):
                    self.failed(self.predict(*way, path, url=url), url.removeprefix("unix:"))
        self.failed(run("models", "--url", address), address)

    def test_no_address(self):
        path = self.save("twin.npy", TWIN)
        for url in ("8000", "127.0.0.1:port", "unix:", "127.0.0.1:99999"):
            with self.subTest(url=url):
                self.failed(self.predict(path, url=url))

    def test_a_server_that_says_nothing_is_given_up_at_the_timeout(self):
        path = self.save("twin.npy", TWIN)
        with harness.socket.create_server(("127.0.0.1", 0)) as listener:
            for way in WAYS:
                with self.subTest(way=way):
                    watch = harness.Stopwatch()
                    self.failed(self.predict(*way, "--timeout", "0.5", path,
                                             url="127.0.0.1:%d" % listener.getsockname()[1]))
                    self.assertLess(watch.seconds(), 8 * PATIENCE)

    def test_a_full_disk(self):
        path = self.save("image.npy", image())
        self.failed(self.predict("--model", "identity", "--out", "/dev/full", path), "/dev/full", "No space left")
        with open("/dev/full", "w", encoding="ascii") as full:
            self.failed(self.predict(path, stdout=full), "No space left")
            self.failed(run("models", "--url", self.server.tcp, stdout=full), "No space left")

    def test_a_directory_that_is_not_there(self):
        path = self.save("twin.npy", TWIN)
        self.failed(self.predict("--out", self.path("none/out.npy"), path), "No such file")

    def test_a_closed_pipe(self):
        path = self.save("twin.npy", TWIN)
        for arguments in (["predict", "--url", self.server.tcp, path], ["models", "--url", self.server.tcp]):
            reader, writer = os.pipe()
            os.close(reader)
            try:
                self.failed(run(*arguments, stdout=writer), "Broken pipe")
            finally:
                os.close(writer)

    def test_wrong_arguments_have_status_2(self):
        path = self.save("twin.npy", TWIN)
        for arguments in ([], ["predcit"], ["predict"], ["predict", "--htp", path], ["predict", "--unary", "--http", path],
                          ["predict", "--repeat", "0", path], ["predict", "--shape", "2,3", path],
                          ["predict", "--shape", "2,x", "--dtype", "float32", path],
                          ["predict", "--shape", "1", "--dtype", "float33", path], ["predict", path, path],
                          ["models", "a", "b"]):
            with self.subTest(arguments=arguments):
                self.failed(run(*arguments), "--help" if arguments[1:2] != [path] else "", status=2)


class LargerThanMemoryMayBe(CliTestCase):
    """The file is mapped, not read: the command needs little more than its pieces."""

    @unittest.skipIf(harness.SANITIZER, "a sanitizer has memory of its own")
    def test_a_sparse_file_of_1_gib(self):
        path = self.path("sparse")
        with open(path, "wb") as file:
            file.truncate(1 << 30)
        limited = ["/bin/sh", "-c", f'ulimit -d {256 << 10}; exec "$@"', "--", CLI]
        done = subprocess.run([*limited, "predict", "--url", self.server.tcp, "--shape", "16384,16384", "--dtype",
                               "float32", path], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(self.good(done), "std: float32[] 0\n")


class Examples(CliTestCase):
    """What the client libraries come with, used from outside."""

    def environment(self):
        return {**os.environ, "no_proxy": "*"}

    def test_python(self):
        example = os.path.join(os.environ["MILLRACE_SOURCE_DIR"], "client/python/example.py")
        for arguments in ([], ["http"]):
            with self.subTest(arguments=arguments):
                done = subprocess.run([sys.executable, example, self.server.tcp, *arguments], capture_output=True,
                                      text=True, timeout=60 * PATIENCE, env=self.environment(), check=False)
                self.assertEqual(done.returncode, 0, done.stderr)
                answer, expected = re.match(r"(\S+) ; NumPy says (\S+)$", done.stdout).groups()
                self.assertAlmostEqual(float(answer), float(expected), delta=1e-7)

    def test_cpp_against_an_installed_tree(self):
        prefix, build = self.path("installed"), self.path("build")
        source = os.path.join(os.environ["MILLRACE_SOURCE_DIR"], "client/cpp/example")
        self.tool("cmake", "--install", os.environ["MILLRACE_BUILD_DIR"], "--prefix", prefix)
        self.tool("cmake", "-S", source, "-B", build, "-DCMAKE_PREFIX_PATH=" + prefix)
        self.tool("cmake", "--build", build)
        done = subprocess.run([os.path.join(build, "predict"), self.server.tcp], capture_output=True, text=True,
                              timeout=60 * PATIENCE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = np.repeat(np.arange(3000, dtype=np.float32)[:, None], 2, axis=1)
        self.assertAlmostEqual(float(re.search(r"float32\[\] (\S+)", done.stdout).group(1)), row_mean_std(rows),
                               delta=0.01)
        self.check_the_installed_binaries(prefix)

    def check_the_installed_binaries(self, prefix):
        out = subprocess.run([os.path.join(prefix, "bin/millrace"), "models", "--url", self.server.tcp],
                             capture_output=True, text=True, timeout=60, check=True).stdout
        self.assertIn("row_mean_std", out)
        subprocess.run([os.path.join(prefix, "bin/millrace-server"), "--version"], capture_output=True, timeout=60,
                       check=True)

    def tool(self, *command):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        self.assertEqual(done.returncode, 0, done.stdout[-3000:] + done.stderr[-3000:])


if __name__ == "__main__":
    harness.run_tests()
