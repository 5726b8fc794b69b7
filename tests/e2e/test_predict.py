"""The main job: the image, its small twin and random tensors, by every way in, with NumPy as the oracle."""

import contextlib
import io
import json
import os
import subprocess
import tempfile

import numpy as np

import harness
from harness import GRPC_WAYS, IMAGE_ANSWER, TWIN, TWIN_ANSWER, image, pb, row_mean_std


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def from_npy(data):
    return np.load(io.BytesIO(data))


RAW = {"Content-Type": "application/octet-stream"}
NPY = {"Content-Type": "application/x-npy"}
JSON = {"Content-Type": "application/json"}


def random_array(generator, shape, dtype):
    """Any bits but those of NaN, which are not equal to themselves."""
    dtype = np.dtype(dtype)
    if dtype == bool:
        return generator.integers(0, 2, shape).astype(bool)
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


class Predict(harness.ServerTestCase):
    def addresses(self):
        return [("tcp", self.server.tcp), ("unix", self.server.unix)]

    def test_image_and_twin_by_every_grpc_way(self):
        for transport, address in self.addresses():
            with contextlib.closing(self.server.grpc(address)) as client:
                for way in GRPC_WAYS:
                    with self.subTest(way=way, transport=transport):
                        self.assertAlmostEqual(float(client.predict(way, "row_mean_std", [image()])[0]), IMAGE_ANSWER,
                                               delta=1e-6)
                        self.assertEqual(float(client.predict(way, "row_mean_std", [TWIN])[0]), TWIN_ANSWER)

    def test_image_and_twin_as_raw_bytes_without_any_description(self):
        for transport, address in self.addresses():
            with self.subTest(transport=transport), contextlib.closing(self.server.http(address)) as client:
                answer = client.predict_raw(image(), path="/predict")
                self.assertEqual(answer.dtype, np.float32)
                self.assertEqual(answer.shape, ())
                self.assertAlmostEqual(float(answer), IMAGE_ANSWER, delta=1e-6)
                self.assertEqual(float(client.predict_raw(TWIN, path="/predict")), TWIN_ANSWER)

    def test_image_and_twin_as_npy(self):
        for transport, address in self.addresses():
            with self.subTest(transport=transport), contextlib.closing(self.server.http(address)) as client:
                for array, expected in ((image(), IMAGE_ANSWER), (TWIN, TWIN_ANSWER)):
                    answer = client.post("/predict", npy(array), NPY)
                    self.assertEqual(answer.status, 200, answer.body)
                    self.assertEqual(answer.headers["Content-Type"], "application/x-npy")
                    self.assertAlmostEqual(float(from_npy(answer.body)), expected, delta=1e-6)

    def test_twin_and_small_image_as_json(self):
        small = harness.small_image()
        for transport, address in self.addresses():
            with self.subTest(transport=transport), contextlib.closing(self.server.http(address)) as client:
                for field, reply in (("inputs", "outputs"), ("instances", "predictions")):
                    answer = client.post("/predict", json.dumps({field: small.tolist()}), JSON)
                    self.assertEqual(answer.status, 200, answer.body)
                    value = np.float32(np.squeeze(json.loads(answer.body)[reply]))
                    self.assertAlmostEqual(float(value), row_mean_std(small), delta=1e-6)

    def test_whole_image_as_json(self):
        with contextlib.closing(self.server.http()) as client:
            answer = client.post("/predict", json.dumps({"inputs": image().tolist()}), JSON)
        self.assertEqual(answer.status, 200, answer.body[:200])
        self.assertAlmostEqual(float(np.squeeze(json.loads(answer.body)["outputs"])), IMAGE_ANSWER, delta=1e-6)

    def test_fifty_in_a_row_on_one_connection(self):
        with contextlib.closing(self.server.grpc()) as client:
            answers = [float(client.predict("stream", "row_mean_std", [image()])[0]) for _ in range(50)]
        np.testing.assert_allclose(answers, IMAGE_ANSWER, atol=1e-6)
        with contextlib.closing(self.server.http()) as client:
            answers = [float(client.predict_raw(image(), path="/predict")) for _ in range(50)]
        np.testing.assert_allclose(answers, IMAGE_ANSWER, atol=1e-6)

    def test_random_images_of_odd_shapes_are_reduced_as_numpy_does(self):
        generator = np.random.default_rng(1)
        with contextlib.closing(self.server.grpc()) as grpc_client, contextlib.closing(self.server.http()) as client:
            for shape in ((1, 1), (1, 7), (7, 1), (3, 5), (33, 257), (1023, 17), (5, 100_003)):
                array = generator.standard_normal(shape).astype(np.float32)
                answers = [grpc_client.predict(way, "row_mean_std", [array], piece=1013)[0] for way in GRPC_WAYS]
                answers.append(client.predict_raw(array))
                answers.append(from_npy(client.post("/predict", npy(array), NPY).body))
                np.testing.assert_allclose(answers, row_mean_std(array), rtol=1e-5, atol=1e-7, err_msg=str(shape))

    def test_identity_gives_every_type_back_bit_for_bit(self):
        generator = np.random.default_rng(2)
        with contextlib.closing(self.server.grpc()) as grpc_client, contextlib.closing(self.server.http()) as client:
            for dtype in harness.DTYPES:
                for shape in ((), (0,), (1,), (17,), (3, 0, 2), (5, 3, 2, 7)):
                    array = random_array(generator, shape, dtype)
                    with self.subTest(dtype=dtype, shape=shape):
                        for way in GRPC_WAYS:
                            answer = grpc_client.predict(way, "identity", [array], piece=13)[0]
                            np.testing.assert_array_equal(answer, array, strict=True)
                        np.testing.assert_array_equal(client.predict_raw(array, "identity"), array, strict=True)
                        answer = client.post("/v1/models/identity:predict", npy(array), NPY)
                        np.testing.assert_array_equal(from_npy(answer.body), array, strict=True)

    def test_identity_gives_bfloat16_back(self):
        bits = np.arange(1 << 16, dtype=np.uint16)
        header = pb.RequestHeader(model="identity", tensors=[
            pb.Tensor(name="x", data_type=pb.DATA_TYPE_BFLOAT16, shape=[256, 256])])
        with contextlib.closing(self.server.grpc()) as client:
            for way in GRPC_WAYS:
                tensors, payload = client.send(way, header, bits.tobytes())
                self.assertEqual(tensors[0].data_type, pb.DATA_TYPE_BFLOAT16)
                self.assertEqual(payload, bits.tobytes())

    def test_identity_gives_several_named_tensors_back_in_order(self):
        generator = np.random.default_rng(3)
        arrays = [random_array(generator, shape, dtype) for shape, dtype in
                  (((3,), "int8"), ((), "float64"), ((0, 4), "bool"), ((1000, 333), "uint16"), ((2, 2), "float16"))]
        names = ["a", "b", "", "image", "mask"]
        with contextlib.closing(self.server.grpc()) as client:
            for way in GRPC_WAYS:
                with self.subTest(way=way):
                    header = harness.header_of("identity", arrays, names, request_id="order-7")
                    tensors, payload = client.send(way, header, harness.payload_of(arrays), piece=101)
                    self.assertEqual([t.name for t in tensors], names)
                    for answer, array in zip(harness.to_arrays(tensors, payload), arrays):
                        np.testing.assert_array_equal(answer, array, strict=True)

    def test_the_answer_repeats_the_request_id_and_says_who_answered(self):
        with contextlib.closing(self.server.grpc()) as client:
            answer = client.stub.Predict(pb.PredictRequest(
                header=harness.header_of("", [TWIN], request_id="id-1"), payload=TWIN.tobytes()), timeout=10)
        self.assertEqual(answer.header.request_id, "id-1")
        self.assertEqual(answer.header.model, "row_mean_std")
        self.assertTrue(answer.header.version)

    def test_the_time_is_accounted_for_over_both_protocols(self):
        timing = r"receive;dur=[\d.]+, queue;dur=[\d.]+, compute;dur=[\d.]+"
        with contextlib.closing(self.server.grpc()) as client:
            _, call = client.stub.Predict.with_call(
                pb.PredictRequest(header=harness.header_of("", [TWIN]), payload=TWIN.tobytes()), timeout=10)
            self.assertRegex(dict(call.trailing_metadata())["millrace-timing"], timing)
        with contextlib.closing(self.server.http()) as client:
            self.assertRegex(client.post("/predict", TWIN.tobytes()).headers["Server-Timing"], timing)

    def test_a_chunked_body_of_unknown_length(self):
        data = image().tobytes()
        pieces = (data[start:start + 100_003] for start in range(0, len(data), 100_003))
        with contextlib.closing(self.server.http()) as client:
            answer = client.post("/predict", pieces, RAW)
        self.assertEqual(answer.status, 200, answer.body)
        self.assertAlmostEqual(float(np.frombuffer(answer.body, np.float32)[0]), IMAGE_ANSWER, delta=1e-6)


class Dense(harness.ServerTestCase):
    """The model that works on an image while it arrives."""

    OPTIONS = ("--model", "row_mean_std", "--model", "dense")

    @staticmethod
    def layer(array):
        i, j = np.arange(2500)[:, None], np.arange(48)
        return array.astype(np.float64) @ (((7 * i + 13 * j) % 31 - 15) / 1024)

    def test_every_way_gives_what_numpy_does(self):
        expected = self.layer(image())
        with contextlib.closing(self.server.grpc()) as client:
            for way in GRPC_WAYS:
                for overlap in ("true", "false"):
                    with self.subTest(way=way, overlap=overlap):
                        answer = client.predict(way, "dense", [image()], parameters={"overlap": overlap})[0]
                        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-3)
        with contextlib.closing(self.server.http()) as client:
            np.testing.assert_allclose(client.predict_raw(image(), "dense"), expected, rtol=1e-4, atol=1e-3)
            answer = client.post("/v1/models/dense:predict", npy(image()), NPY)
            np.testing.assert_allclose(from_npy(answer.body), expected, rtol=1e-4, atol=1e-3)

    def test_clients_that_leave_in_the_middle_harm_nobody(self):
        header = harness.header_of("dense", [image()])
        with contextlib.closing(self.server.grpc()) as client:
            for _ in range(5):
                stream = harness.OpenStream(client)
                stream.send(header=header)
                for _ in range(20):
                    stream.send(payload=bytes(512 << 10))
                stream.cancel()
            answer = client.predict("stream", "dense", [image()])[0]
        np.testing.assert_allclose(answer, self.layer(image()), rtol=1e-4, atol=1e-3)


class Curl(harness.ServerTestCase):
    """The commands of the README, with curl's own Content-Type."""

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def write(self, name, data):
        path = os.path.join(self.directory.name, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def curl(self, *arguments):
        done = subprocess.run(["curl", "-sS", "--noproxy", "*", "--max-time", "60", *arguments], capture_output=True,
                              timeout=90, check=True)
        return done.stdout

    def url(self):
        return f"localhost:{self.server.port}/predict"

    def test_raw_values(self):
        answer = self.curl("--data-binary", "@" + self.write("image.f32", image().tobytes()), self.url())
        self.assertAlmostEqual(float(np.frombuffer(answer, np.float32)[0]), IMAGE_ANSWER, delta=1e-6)

    def test_npy(self):
        answer = self.curl("--data-binary", "@" + self.write("image.npy", npy(image())), self.url())
        self.assertAlmostEqual(float(from_npy(answer)), IMAGE_ANSWER, delta=1e-6)

    def test_json(self):
        text = json.dumps({"instances": harness.small_image().tolist()})
        answer = self.curl("-H", "Content-Type: application/json", "-d", text, self.url())
        self.assertAlmostEqual(float(np.squeeze(json.loads(answer)["predictions"])),
                               row_mean_std(harness.small_image()), delta=1e-6)

    def test_raw_values_answered_with_json(self):
        answer = self.curl("-H", "Accept: application/json", "--data-binary",
                           "@" + self.write("image.f32", image().tobytes()), self.url())
        self.assertAlmostEqual(float(np.squeeze(json.loads(answer)["outputs"])), IMAGE_ANSWER, delta=1e-6)

    def test_over_the_unix_socket(self):
        answer = self.curl("--unix-socket", self.server.unix_path, "--data-binary",
                           "@" + self.write("twin.f32", TWIN.tobytes()), "localhost/predict")
        self.assertEqual(float(np.frombuffer(answer, np.float32)[0]), TWIN_ANSWER)

    def test_a_pipe_of_unknown_length(self):
        answer = self.curl("-T", self.write("image.f32", image().tobytes()), "-X", "POST",
                           "-H", "Transfer-Encoding: chunked", self.url())
        self.assertAlmostEqual(float(np.frombuffer(answer, np.float32)[0]), IMAGE_ANSWER, delta=1e-6)


class Pages(harness.ServerTestCase):
    """What an operator asks."""

    def test_health_readiness_and_models_over_http(self):
        with contextlib.closing(self.server.http()) as client:
            self.assertEqual(client.get("/healthz").status, 200)
            self.assertEqual(client.get("/readyz").status, 200)
            self.assertEqual(json.loads(client.get("/v1/models").body), {"models": ["identity", "row_mean_std"]})
            model = json.loads(client.get("/v1/models/row_mean_std").body)
            self.assertEqual(model["name"], "row_mean_std")
            self.assertEqual(model["inputs"][0]["dtype"], "float32")

    def test_models_over_grpc(self):
        with contextlib.closing(self.server.grpc()) as client:
            answer = client.stub.ListModels(pb.ListModelsRequest(), timeout=10)
            self.assertEqual([m.name for m in answer.models], ["identity", "row_mean_std"])
            self.assertEqual(answer.default_model, "row_mean_std")
            model = client.stub.GetModel(pb.GetModelRequest(name="row_mean_std"), timeout=10).model
            self.assertTrue(model.ready)
            self.assertTrue(model.inputs[0].scalar_broadcasts)

    def test_grpc_health_says_serving(self):
        with contextlib.closing(self.server.grpc()) as client:
            self.assertEqual(next(client.health()), "SERVING")

    def test_grpc_reflection_lists_our_service(self):
        request = b"\x3a\x00"  # ServerReflectionRequest { list_services: "" }
        with contextlib.closing(self.server.grpc()) as client:
            call = client.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
            answer = next(iter(call(iter([request]), timeout=10)))
        self.assertIn(b"millrace.v1.PredictionService", answer)


if __name__ == "__main__":
    harness.run_tests()
