"""A short run of the benchmark: that answers are right and the results have their shape; never how long anything took.

The build says where the programs are: MILLRACE_BIN_DIR.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

import report
import rows
import targets

KEYS = {"name", "bytes", "clients", "median_ms", "p99_ms", "gb_per_s", "client_cpu_s_per_gb", "server_cpu_s_per_gb",
        "server_peak_bytes", "ratio_to_ceiling"}


class Smoke(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="millrace-bench-")
        cls.addClassCleanup(cls.folder.cleanup)
        run = pathlib.Path(__file__).with_name("run.py")
        cls.done = subprocess.run([sys.executable, run, "--quick", "--rounds", "1", "--out", cls.folder.name,
                                   "--bin", os.environ["MILLRACE_BIN_DIR"]],
                                  capture_output=True, text=True, timeout=280, check=False)
        if cls.done.returncode != 0:
            raise AssertionError(cls.done.stdout + cls.done.stderr)
        cls.results = json.loads(cls.file("results.json").read_text(encoding="utf-8"))

    @classmethod
    def file(cls, name):
        return pathlib.Path(cls.folder.name, name)

    def test_every_row_was_measured_or_its_server_is_missing(self):
        measured = {row["name"] for row in self.results["rows"]}
        skipped = {text.split()[0] for text in self.results["skipped"]}
        self.assertEqual(measured | skipped, set(rows.WAYS))
        ours = {name for name, way in rows.WAYS.items() if way.server in ("ceiling", "millrace")}
        self.assertLessEqual(ours, measured)

    def test_rows_have_their_keys_and_no_nonsense(self):
        for row in self.results["rows"]:
            with self.subTest(row["name"]):
                self.assertEqual(set(row), KEYS)
                for key in KEYS - {"name", "client_cpu_s_per_gb", "server_cpu_s_per_gb"}:
                    self.assertGreater(row[key], 0, key)
                self.assertGreaterEqual(row["p99_ms"], row["median_ms"])

    def test_a_ceiling_is_its_own_ceiling(self):
        ratios = {row["ratio_to_ceiling"] for row in self.results["rows"] if row["name"].startswith("ceiling-")}
        self.assertEqual(ratios, {1.0})

    def test_work_while_bytes_arrive_was_measured_with_and_without(self):
        found = {p["name"]: p["value"] for p in self.results["properties"]}
        for name in ("dense-overlap", "dense-overlap-since-last-byte", "dense-wait", "dense-wait-since-last-byte"):
            self.assertGreater(found[name], 0, name)

    def test_the_machine_is_described(self):
        self.assertLessEqual({"cpu", "cores", "memory_bytes", "kernel", "versions", "commit"}, set(self.results["machine"]))

    def test_the_charts_are_pictures(self):
        for name in ("speed.svg", "scaling.svg"):
            self.assertTrue(xml.etree.ElementTree.parse(self.file(name)).getroot().tag.endswith("svg"))

    def test_the_table_names_every_row(self):
        for row in self.results["rows"]:
            self.assertIn(row["name"], self.done.stdout)


def turn(row, read_size, *milliseconds):
    return {"row": row, "read_size": read_size, "ms": milliseconds, "wall_s": sum(milliseconds) / 1e3, "cpu_s": 0.1,
            "server_cpu_s": 0.2, "server_peak": 5}


class Summary(unittest.TestCase):
    CEILING = rows.Row("ceiling-tcp", 30_000_000, 1, 3, 1)
    STREAM = rows.Row("grpc-stream", 30_000_000, 1, 3, 1)

    def test_the_ceiling_is_the_best_reading_size(self):
        best = rows.summarise([turn(self.CEILING, 1, 9, 9), turn(self.CEILING, 2, 5, 6, 7), turn(self.CEILING, 1, 1)])[0]
        self.assertEqual((best["median_ms"], best["p99_ms"], best["gb_per_s"]), (6, 7, 5))

    def test_ratio_of_one_client_is_of_median_times(self):
        _, stream = rows.summarise([turn(self.CEILING, 1, 6), turn(self.STREAM, 1, 7, 8, 90)])
        self.assertEqual(stream["ratio_to_ceiling"], 0.75)

    def test_ratio_of_several_clients_is_of_all_they_had(self):
        ceiling, stream = self.CEILING._replace(clients=4), self.STREAM._replace(clients=4)
        _, four = rows.summarise([turn(ceiling, 1, 10, 10), turn(stream, 1, 10, 10, 60)])
        self.assertEqual(four["ratio_to_ceiling"], 0.375)

    def test_without_a_ceiling_there_is_no_ratio(self):
        self.assertIsNone(rows.summarise([turn(self.STREAM, 1, 6)])[0]["ratio_to_ceiling"])

    def test_rows_bring_their_ceilings(self):
        self.assertEqual({row.name for row in rows.chosen(True, lambda name: name == "grpc-stream-unix")},
                         {"grpc-stream-unix", "ceiling-unix"})


class Page(unittest.TestCase):
    RESULTS = {"rows": [], "properties": [{"name": "resident-growth", "value": 0.5, "unit": "share"}], "skipped": {},
               "machine": {"date": "", "commit": "", "cpu": "", "cores": 1, "memory_bytes": 1, "system": "", "kernel": "",
                           "versions": {}}, "run": {"rounds": 1, "minutes": 1}}

    def test_what_is_written_by_hand_stays(self):
        page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
        once = report.replace_measured(page, self.RESULTS)
        self.assertTrue(once.startswith("before\n") and once.endswith("\nafter\n") and "old" not in once)
        self.assertEqual(report.replace_measured(once, self.RESULTS), once)

    def test_a_target_that_is_missed_is_marked(self):
        self.assertEqual([judged[-1] for judged in targets.judge(self.RESULTS)], [False])
        self.assertIn("short |", report.measured_part(self.RESULTS))


if __name__ == "__main__":
    unittest.main(verbosity=2)
