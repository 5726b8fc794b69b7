"""The examples of the README run as they stand there, but for the port, and give the right answer."""

import os
import re
import subprocess
import sys
import tempfile
import unittest

import numpy as np

import harness

SOURCE_DIR = os.environ["MILLRACE_SOURCE_DIR"]


def examples():
    """The blocks marked `sh test`, in order."""
    with open(os.path.join(SOURCE_DIR, "README.md"), encoding="utf-8") as readme:
        return re.findall(r"^```sh test\n(.*?)^```", readme.read(), re.DOTALL | re.MULTILINE)


class ReadmeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server()
        cls.directory = tempfile.TemporaryDirectory(prefix="millrace-readme-")
        root = cls.directory.name
        for name in ("proto", "client"):
            os.symlink(os.path.join(SOURCE_DIR, name), os.path.join(root, name))
        os.makedirs(os.path.join(root, "build/release"))
        os.symlink(harness.BIN_DIR, os.path.join(root, "build/release/bin"))
        os.makedirs(os.path.join(root, "path"))
        os.symlink(sys.executable, os.path.join(root, "path/python3"))  # one that has NumPy
        np.save(os.path.join(root, "image.npy"), harness.image())
        harness.image().tofile(os.path.join(root, "image.f32"))

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.directory.cleanup()

    def run_example(self, example):
        """What the example printed, as bytes."""
        root = self.directory.name
        environment = {**os.environ, "PATH": os.path.join(root, "path") + ":" + os.environ["PATH"]}
        environment.pop("PYTHONPATH", None)
        script = "set -e\n" + example.replace("127.0.0.1:8000", self.server.tcp)
        done = subprocess.run(["bash", "-c", script], cwd=root, env=environment, capture_output=True,
                              timeout=120 * harness.PATIENCE, check=False)
        self.assertEqual(done.returncode, 0, example + done.stderr.decode())
        return done.stdout

    def test_every_example_runs(self):
        self.assertGreaterEqual(len(examples()), 4)
        for example in examples():
            with self.subTest(example):
                self.run_example(example)

    def test_a_python_function_answers(self):
        example = next(e for e in examples() if "app:predict" in e)
        self.assertIn(b"0.28867", self.run_example(example))

    def test_the_command_line_prints_the_answer(self):
        for example in examples():
            if "millrace predict" in example:
                self.assertIn(b"0.28867", self.run_example(example))

    def test_python_agrees_with_numpy(self):
        example = next(e for e in examples() if "example.py" in e)
        ours, numpys = re.findall(rb"\d\.\d+(?:e-\d+)?", self.run_example(example))
        self.assertAlmostEqual(float(ours), float(numpys), delta=1e-6)

    def test_curl_gets_every_form(self):
        example = next(e for e in examples() if "curl" in e)
        output = self.run_example(example)
        self.assertAlmostEqual(float(np.frombuffer(output[:4], "<f4")[0]), harness.IMAGE_ANSWER, delta=1e-6)
        self.assertIn(b'"predictions": 1', output)
        self.assertGreater(os.path.getsize(os.path.join(self.directory.name, "image.json")), 10_000_000)


if __name__ == "__main__":
    unittest.main(verbosity=2)
