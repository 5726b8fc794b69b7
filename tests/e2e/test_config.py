"""Options: where they come from, which wins, and what is said of wrong ones."""

import contextlib
import json
import os
import re
import signal
import socket
import tempfile
import unittest

import numpy as np

import harness
from harness import Server, run_server

ANY = ("--bind", "127.0.0.1:0")


class Precedence(unittest.TestCase):
    """Flags win over variables, variables over the file; --threads is told by the start line."""

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def file(self, text):
        path = os.path.join(self.directory.name, "millrace.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def threads(self, *options, env=None):
        with Server(*options, env=env) as server:
            return int(re.search(r"; (\d+) at once", server.start_line).group(1))

    def test_a_flag_alone(self):
        self.assertEqual(self.threads("--threads", "3"), 3)

    def test_a_variable_alone(self):
        self.assertEqual(self.threads(env={"MILLRACE_THREADS": "4"}), 4)

    def test_a_file_alone(self):
        self.assertEqual(self.threads("--config", self.file("threads = 5\n")), 5)

    def test_a_file_named_by_a_variable(self):
        self.assertEqual(self.threads(env={"MILLRACE_CONFIG": self.file("threads = 5\n")}), 5)

    def test_a_variable_wins_over_the_file(self):
        self.assertEqual(self.threads("--config", self.file("threads = 5\n"), env={"MILLRACE_THREADS": "4"}), 4)

    def test_a_flag_wins_over_both(self):
        self.assertEqual(self.threads("--threads", "3", "--config", self.file("threads = 5\n"),
                                      env={"MILLRACE_THREADS": "4"}), 3)

    def test_a_flag_wins_over_the_file_for_repeated_options_too(self):
        with Server("--model", "identity", "--config", self.file('model = ["row_mean_std"]\n')) as server:
            self.assertIn("serving identity (version", server.start_line)
            self.assertNotIn("row_mean_std", server.start_line)

    def test_sizes_and_times_in_a_file(self):
        path = self.file('memory-limit = "2GiB"\ndrain-timeout = 1.5\nlog-format = "json"\n')
        with Server("--config", path) as server:
            self.assertIn("at most 2.00 GiB", json.loads(server.start_line)["message"])

    def test_an_unknown_key_in_the_file_is_an_error(self):
        done = run_server(*ANY, "--config", self.file("threads = 2\nthreds = 5\n"))
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("threds", done.stderr)

    def test_a_broken_value_in_the_file_is_an_error(self):
        done = run_server(*ANY, "--config", self.file('threads = "many"\n'))
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("threads", done.stderr)

    def test_a_missing_file_is_an_error(self):
        done = run_server(*ANY, "--config", os.path.join(self.directory.name, "none"))
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("none", done.stderr)


class WrongOptions(unittest.TestCase):
    """(arguments, environment, what the one line must say); the exit status is 2."""

    CASES = [
        (("--threds", "3"), {}, "--threds"),
        (("surplus",), {}, "surplus"),
        (("--threads", "many"), {}, "many"),
        (("--threads", "-1"), {}, "--threads"),
        (("--threads",), {}, "--threads"),
        (("--memory-limit", "lots"), {}, "lots"),
        (("--memory-limit", "1"), {}, "--memory-limit"),
        (("--max-unary-bytes", "4GiB"), {}, "--max-unary-bytes"),
        (("--log-format", "xml"), {}, "xml"),
        (("--log-level", "loud"), {}, "loud"),
        (("--stall-timeout", "0"), {}, "--stall-timeout"),
        (("--drain-timeout", "-3"), {}, "--drain-timeout"),
        ((), {"MILLRACE_THREADS": "many"}, "many"),
    ]

    def test_each_is_refused_before_anything_starts(self):
        for arguments, environment, text in self.CASES:
            with self.subTest(arguments=arguments, environment=environment):
                done = run_server(*ANY, *arguments, env=environment)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(text, done.stderr)
                self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
                self.assertTrue(done.stderr.startswith("millrace-server: "), done.stderr)

    def test_an_unknown_variable_is_none_of_its_business(self):
        """Kubernetes sets MILLRACE_PORT and more for a service of this name."""
        with Server(env={"MILLRACE_PORT": "tcp://192.0.2.1:8000"}) as server:
            server.alive_and_correct()


class Help(unittest.TestCase):
    OPTIONS = ["bind", "model", "workers", "threads", "timeout", "python", "reload", "memory-limit", "max-request-bytes", "max-unary-bytes", "max-connections",
               "max-connection-calls", "max-requests", "max-waiting", "max-queued", "admission-timeout",
               "request-timeout", "stall-timeout", "header-timeout", "idle-timeout", "trim-after", "drain-timeout",
               "io-threads", "grpc-threads", "grpc-memory-limit", "log-format", "log-level", "config", "version", "help"]

    def test_help_has_every_option_and_its_variable(self):
        done = run_server("--help")
        self.assertEqual(done.returncode, 0)
        for option in self.OPTIONS:
            self.assertIn("--" + option, done.stdout)
            if option not in ("version", "help"):
                self.assertIn("MILLRACE_" + option.upper().replace("-", "_"), done.stdout)

    def test_help_shows_defaults_as_one_would_write_them(self):
        text = run_server("--help").stdout
        for option, default in (("drain-timeout", "30"), ("max-connections", "1024"), ("bind", "127.0.0.1:8000"),
                                ("model", "row_mean_std"), ("log-format", "text"), ("log-level", "info")):
            entry = text[text.index("--" + option + " "):].split("\n  -")[0]
            self.assertIn(default, entry)
            self.assertNotIn("->", entry)

    def test_the_options_in_help_are_those_that_are_tested_here(self):
        found = set(re.findall(r"^\s+(?:-\w,)?--([a-z-]+)", run_server("--help").stdout, re.MULTILINE))
        self.assertEqual(found, set(self.OPTIONS))

    def test_version(self):
        done = run_server("--version")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"^millrace-server \d+\.\d+\.\d+\n$")


class CannotStart(unittest.TestCase):
    """One clear line and a non-zero exit."""

    def refused(self, *options):
        done = run_server(*options)
        self.assertNotEqual(done.returncode, 0)
        self.assertGreater(done.returncode, 0, f"ended by a signal: {done.stderr}")
        lines = done.stderr.strip().splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertTrue(lines[0].startswith("millrace-server: "), lines[0])
        return lines[0]

    def test_a_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            line = self.refused("--bind", address)
        self.assertIn(address, line)
        self.assertIn("in use", line)
        self.assertIn("--bind", line)

    def test_a_port_in_use_by_another_server_leaves_that_one_alone(self):
        with Server() as server:
            self.refused("--bind", server.tcp)
            self.refused("--bind", server.unix)
            server.alive_and_correct()
            with contextlib.closing(server.http(server.unix)) as client:
                self.assertEqual(float(client.predict_raw(harness.TWIN, path="/predict")), 0.0)

    def test_bad_addresses(self):
        with tempfile.TemporaryDirectory() as directory:
            for address, why in [
                    ("unix:" + directory + "/none/socket", "No such file"),
                    ("unix:" + directory, ""),
                    ("unix:", "1 to 107"),
                    ("unix:" + directory + "/" + "x" * 120, "1 to 107"),
                    ("8000", "HOST:PORT"),
                    ("127.0.0.1:port", "port"),
                    ("127.0.0.1:65536", "port"),
                    ("no-such-host.invalid:8000", "host"),
                    ("192.0.2.1:8000", "")]:
                with self.subTest(address=address):
                    line = self.refused("--bind", address)
                    self.assertIn(address, line)
                    self.assertIn(why, line)

    def test_one_bad_address_of_two_starts_nothing(self):
        with tempfile.TemporaryDirectory() as directory:
            path = directory + "/socket"
            self.refused("--bind", "unix:" + path, "--bind", "8000")
            self.assertFalse(os.path.exists(path), "the unix socket of a server that did not start is still there")

    def test_a_file_at_the_unix_path_is_not_removed(self):
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"precious")
            file.flush()
            self.refused("--bind", "unix:" + file.name)
            with open(file.name, "rb") as again:
                self.assertEqual(again.read(), b"precious")

    def test_an_unknown_model_and_a_model_twice(self):
        line = self.refused(*ANY, "--model", "row_mean_sdt")
        self.assertIn("row_mean_sdt", line)
        self.assertIn("row_mean_std", line)
        self.assertIn("identity", self.refused(*ANY, "--model", "identity", "--model", "identity"))


class Binds(unittest.TestCase):
    def test_every_address_speaks_both_protocols(self):
        with tempfile.TemporaryDirectory() as directory:
            paths = [f"unix:{directory}/{name}" for name in "ab"]
            with Server(*(o for bind in ["127.0.0.1:0", "localhost:0", *paths] for o in ("--bind", bind))) as server:
                self.assertEqual(len(server.addresses), 4)
                self.assertEqual(server.addresses[2:], paths)
                for address in server.addresses:
                    with self.subTest(address=address), contextlib.closing(server.http(address)) as client, \
                            contextlib.closing(server.grpc(address)) as grpc_client:
                        self.assertEqual(float(client.predict_raw(harness.TWIN)), 0.0)
                        self.assertEqual(float(grpc_client.predict("stream", "", [harness.TWIN])[0]), 0.0)
            self.assertEqual(os.listdir(directory), [], "unix sockets were left behind")

    def test_a_stale_unix_socket_is_taken_over(self):
        with tempfile.TemporaryDirectory() as directory:
            path = directory + "/socket"
            first = Server("--bind", "unix:" + path)
            first.process.send_signal(signal.SIGKILL)
            first.kill()
            self.assertTrue(os.path.exists(path))
            with Server("--bind", "unix:" + path) as second, contextlib.closing(second.http(second.unix)) as client:
                self.assertEqual(float(client.predict_raw(harness.TWIN)), 0.0)

    def test_the_first_model_is_the_default(self):
        with Server("--model", "identity", "--model", "row_mean_std") as server, \
                contextlib.closing(server.http()) as client:
            answer = client.post("/predict?shape=3&dtype=int8", b"\1\2\3")
            self.assertEqual(answer.body, b"\1\2\3")


class Logs(unittest.TestCase):
    def test_json_lines(self):
        with Server("--log-format", "json", "--log-level", "debug") as server:
            with contextlib.closing(server.http()) as client:
                client.predict_raw(harness.TWIN)
                client.request("POST", "/v1/models/%22%0a%ff%01:predict", b"1234")
            with contextlib.closing(server.grpc()) as client:
                client.predict("unary", "identity", [np.zeros(3, np.int8)], ['"\n\\\u20ac'], request_id='a"b\n\\\u20ac')
            server.wait_for_line("grpc-unary")
            server.terminate()
            self.assertEqual(server.wait(), 0)
        records = [json.loads(line) for line in server.lines]
        self.assertTrue(all({"time", "level", "message"} <= set(record) for record in records))
        self.assertIn("listening on", records[0]["message"])
        self.assertEqual(records[-1]["message"], "stopped")

    def test_debug_has_a_line_for_every_request_and_info_has_none(self):
        for level, expected in (("debug", 2), ("info", 0)):
            with Server("--log-level", level) as server, contextlib.closing(server.http()) as client:
                client.predict_raw(harness.TWIN)
                client.post("/v1/models/none:predict", b"1234")
                server.terminate()
                server.wait()
                self.assertEqual(sum("http" in line for line in server.lines), expected, server.log())

    def test_the_start_line_says_what_it_serves_and_how_much_memory_it_may_use(self):
        with Server("--memory-limit", "1536MiB") as server:
            for text in ("127.0.0.1:", "unix:", "identity (version 1)", "row_mean_std (version 1)", "1.50 GiB"):
                self.assertIn(text, server.start_line)


if __name__ == "__main__":
    harness.run_tests()
