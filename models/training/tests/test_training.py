import argparse
import contextlib
import hashlib
import io
import json
import os
import tempfile
import unittest

import numpy as np
import torch
import yaml

from bodypart_training import __main__ as command
from bodypart_training import config, dataset, metrics, networks
from bodypart_training.augment import Settings, augment
from bodypart_training.dataset import Row
from bodypart_training.evaluate import choose_thresholds, load_run
from bodypart_training.train import Training, learning_rate, predict

from . import synthetic

EXPERIMENT = {
    "name": "tiny",
    "network": "mobilenet_v1",
    "weights": False,
    "classes": ["spine", "others"],
    "epochs": 2,
    "batch_size": 4,
    "input": {"size": 32},
}


def quietly(*arguments):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return command.main(list(arguments))


class DatasetTest(unittest.TestCase):
    def test_a_patient_never_crosses_a_split(self):
        rows = [Row("a.png", "spine", "train", "p1", "", ""), Row("b.png", "spine", "test", "p1", "", "")]
        with self.assertRaisesRegex(ValueError, "patient p1 is in split train and in split test"):
            dataset.check_splits(rows)
        with self.assertRaisesRegex(ValueError, "listed twice"):
            dataset.check_splits([rows[0], rows[0]])
        with self.assertRaisesRegex(ValueError, "no patient_id"):
            dataset.check_splits([Row("a.png", "spine", "train", "", "", "")])

    def test_drawn_splits_are_by_patient_and_have_their_shares(self):
        drawn = [dataset.draw_split(f"patient {n}") for n in range(4000)]
        self.assertEqual(drawn, [dataset.draw_split(f"patient {n}") for n in range(4000)])
        for name, share in (("train", 0.70), ("val", 0.15), ("test", 0.15)):
            self.assertAlmostEqual(drawn.count(name) / 4000, share, delta=0.03)

    def test_rare_classes_and_hospitals_are_drawn_more_often(self):
        labels = np.array([0] * 90 + [1] * 10)
        hospitals = ["a"] * 80 + ["b"] * 10 + ["c"] * 10
        weights = dataset.draw_weights(labels, hospitals, 0.7, 0.5)
        self.assertAlmostEqual(weights.sum(), 1)
        self.assertAlmostEqual(weights[90:].sum() / weights[:90].sum(), (10 / 90) ** 0.3)
        self.assertAlmostEqual(weights[80:90].sum() / weights[:80].sum(), (10 / 80) ** 0.5)


class MetricsTest(unittest.TestCase):
    def test_scores_of_a_known_matrix(self):
        got = metrics.scores(np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]]))
        self.assertAlmostEqual(got["accuracy"], 0.85)
        np.testing.assert_allclose(got["precision"], [8 / 9, 9 / 11, 0])
        np.testing.assert_allclose(got["f1"], [16 / 19, 18 / 21, 0])
        self.assertAlmostEqual(got["macro_f1"], (16 / 19 + 18 / 21) / 2)  # the absent class is not counted

    def test_bootstrap_interval_of_an_accuracy(self):
        labels = np.zeros(400, dtype=int)
        predicted = np.array([0] * 360 + [1] * 40)
        low, high = metrics.bootstrap(labels, predicted, 2)["accuracy"]
        self.assertAlmostEqual(low, 0.87, delta=0.005)  # 0.9 ± 1.96·sqrt(0.9·0.1/400)
        self.assertAlmostEqual(high, 0.93, delta=0.005)

    def test_temperature_is_found_again(self):
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(20000, 3)) * 2
        labels = np.array([rng.choice(3, p=p) for p in metrics.softmax(logits)])
        self.assertAlmostEqual(metrics.fit_temperature(logits * 1.7, labels), 1.7, delta=0.1)

    def test_threshold_lies_above_the_mistakes(self):
        confidence = np.array([0.99, 0.98, 0.9, 0.8, 0.7])
        right = np.array([True, True, True, False, True])
        got = metrics.threshold(confidence, right, 0.995)
        self.assertTrue(0.8 < got < 0.9, got)
        self.assertEqual(metrics.threshold(confidence, right, 0.995, forgiven=1), 0.7)
        self.assertEqual(metrics.threshold(confidence, ~np.ones(5, bool), 0.995), 1.0)
        self.assertEqual(metrics.threshold(confidence, np.ones(5, bool), 0.995), 0.7)

    def test_one_mistake_is_forgiven_where_there_are_many_pictures(self):
        labels = np.array([0] * 20 + [1] * 5)
        probabilities = np.tile([0.99, 0.01], (25, 1))
        probabilities[20:] = [0.03, 0.97]
        probabilities[24] = [0.02, 0.98]
        labels[3], probabilities[3] = 1, [0.995, 0.005]  # called class 0 with the highest confidence, and wrong
        labels[24] = 0  # called class 1, and wrong
        asked = argparse.Namespace(precision=0.995, floor=0.95, few=10)
        got = choose_thresholds(probabilities, labels, ("many", "few"), asked)
        self.assertAlmostEqual(got["many"]["threshold"], 0.99, places=5)  # the lowest confidence that val holds
        asked.few = 100
        strict = choose_thresholds(probabilities, labels, ("many", "few"), asked)
        self.assertEqual(strict["many"]["threshold"], 1.0)
        self.assertEqual((strict["few"]["threshold"], strict["few"]["val_above"], strict["few"]["supported"]), (1.0, 0, False))


class TrainingTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.cache = os.path.join(self.folder, "cache")
        torch.set_num_threads(1)
        listed = synthetic.data_set(self.folder)
        status = quietly("prepare", "--root", self.folder, "--list", listed, "--out", self.cache, "--side", "40", "--workers", "1")
        self.assertEqual(status, 0)

    def training(self, run):
        return Training(config.from_plain(EXPERIMENT), dataset.Cache(self.cache), os.path.join(self.folder, run), None)

    def test_augmented_pictures_are_letterboxed_like_served_ones(self):
        content = synthetic.scene(60, 90, 255).astype(np.uint8)
        for seed in range(50):
            got = augment(content, 32, Settings(), np.random.default_rng(seed))
            self.assertEqual(max(got.shape), 32)
            self.assertTrue(got.min() >= 0 and got.max() <= 1 and got.dtype == np.float32)

    def test_a_step_lowers_the_loss_of_its_batch(self):
        training = self.training("steps")
        inputs, labels = training.batch(0, training.train, 0)
        training.network.eval()  # without dropout the same batch can be compared
        losses = []
        for _ in range(5):
            loss = torch.nn.functional.cross_entropy(training.network(inputs), labels)
            training.optimiser.zero_grad()
            loss.backward()
            training.optimiser.step()
            losses.append(float(loss))
        self.assertLess(losses[-1], losses[0])

    def test_resumed_run_equals_uninterrupted_run(self):
        with contextlib.redirect_stderr(io.StringIO()):
            whole = self.training("whole")
            whole.run_epoch(), whole.run_epoch()
            self.training("broken").run_epoch()
            broken = self.training("broken")
            self.assertTrue(broken.resume())
            self.assertEqual(broken.epoch, 1)
            broken.run_epoch()
        for name, value in whole.network.state_dict().items():
            self.assertTrue(torch.equal(value, broken.network.state_dict()[name]), name)

    def test_a_second_stage_starts_from_the_first(self):
        with contextlib.redirect_stderr(io.StringIO()):
            first = self.training("first")
            first.run_epoch()
        second = config.from_plain({**EXPERIMENT, "weights": True, "seed": 2})
        started = Training(second, dataset.Cache(self.cache), os.path.join(self.folder, "second"), first.checkpoint)
        for name, value in first.network.state_dict().items():
            self.assertTrue(torch.equal(value, started.network.state_dict()[name]), name)

    def test_a_run_folder_of_another_experiment_is_refused(self):
        with contextlib.redirect_stderr(io.StringIO()):
            self.training("run").run_epoch()
        changed = config.from_plain({**EXPERIMENT, "seed": 2})
        other = Training(changed, dataset.Cache(self.cache), os.path.join(self.folder, "run"), None)
        with self.assertRaisesRegex(ValueError, "another configuration"):
            other.resume()

    def test_from_training_to_the_router_s_model_folder(self):
        experiment, run, out = (os.path.join(self.folder, name) for name in ("tiny.yaml", "run", "model"))
        with open(experiment, "w", encoding="utf-8") as file:
            yaml.safe_dump(EXPERIMENT, file)
        self.assertEqual(quietly("train", experiment, "--data", self.cache, "--run", run, "--device", "cpu"), 0)
        self.assertEqual(quietly("evaluate", "--run", run, "--data", self.cache, "--root", self.folder, "--iterations", "200"), 0)
        self.assertEqual(quietly("export", "--run", run, "--out", out, "--trained-on", "bars", "--created", "2026-01-02"), 0)
        with open(os.path.join(out, "model.yaml"), encoding="utf-8") as file:
            model = yaml.safe_load(file)
        self.assertEqual(
            list(model),
            "name version description file sha256 classes input output temperature thresholds provenance".split(),
        )
        with open(os.path.join(out, "model.onnx"), "rb") as file:
            self.assertEqual(model["sha256"], hashlib.sha256(file.read()).hexdigest())
        self.assertEqual(set(model["thresholds"]), {"spine", "others"})
        self.assertGreaterEqual(model["thresholds"]["spine"], 0.9)  # two pictures support nothing: the cautious side
        ends = {"name": "input", "size": 32, "channels": 1, "layout": "NCHW"}
        self.assertEqual(model["input"], {**ends, "normalisation": "per_image", "mean": 0, "std": 1, "pad": 0})
        self.assertTrue(0 <= model["provenance"]["metrics"]["val_macro_f1"] <= 1)
        self.check_graph(out, load_run(run)[1])

    def check_graph(self, out, network):
        """The graph's ends, and its logits beside PyTorch's."""
        import onnx

        graph = onnx.load(os.path.join(out, "model.onnx")).graph
        self.assertEqual([i.name for i in graph.input], ["input"])
        self.assertEqual([o.name for o in graph.output], ["logits"])
        self.assertEqual(graph.input[0].type.tensor_type.shape.dim[0].dim_param, "N")
        with open(os.path.join(out, "reference.json"), encoding="utf-8") as file:
            reference = json.load(file)
        row, column = np.mgrid[0:32, 0:32]
        inputs = (np.sin(0.05 * row) + np.cos(0.08 * column)).astype(np.float32)[None]
        np.testing.assert_allclose(predict(network, inputs)[0], reference["cases"][0]["logits"], atol=1e-5)
        logits = run_graph(graph, torch.from_numpy(inputs[None]))
        np.testing.assert_allclose(logits.numpy()[0], reference["cases"][0]["logits"], atol=1e-4)


def run_graph(graph, inputs):
    """The logits of an exported graph by the ONNX definition of its few operators."""
    import onnx.numpy_helper

    values = {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in graph.initializer}
    values["input"] = inputs
    for node in graph.node:
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        x, *rest = (values[name] for name in node.input if name) if node.input else (None,)
        if node.op_type == "Constant":
            y = torch.from_numpy(onnx.numpy_helper.to_array(settings["value"]).copy())
        elif node.op_type == "Conv":
            top, left, bottom, right = settings["pads"]
            padded = torch.nn.functional.pad(x, (left, right, top, bottom))
            y = torch.nn.functional.conv2d(padded, *rest, stride=settings["strides"], groups=settings["group"])
        elif node.op_type == "Clip":
            y = torch.clamp(x, float(rest[0]), float(rest[1]))
        elif node.op_type == "ReduceMean":
            y = x.mean(settings["axes"], keepdim=bool(settings["keepdims"]))
        elif node.op_type == "Gemm":
            y = x @ rest[0].T + rest[1]
        else:
            raise AssertionError(f"operator {node.op_type} is new in the graph")
        values[node.output[0]] = y
    return values["logits"]


class NetworkTest(unittest.TestCase):
    def test_starting_weights_fit(self):
        with tempfile.TemporaryDirectory() as folder:
            rng, arrays = np.random.default_rng(0), {}
            shapes = {"conv1": (32, 3, 3, 3)}
            inputs = 32
            for number, (outputs, _) in enumerate(networks.mobilenet_v1.BLOCKS, start=1):
                shapes[f"conv_dw_{number}"], shapes[f"conv_pw_{number}"] = (inputs, 1, 3, 3), (outputs, inputs, 1, 1)
                inputs = outputs
            for name, shape in shapes.items():
                arrays[name + ".weight"] = rng.normal(size=shape).astype(np.float16)
                arrays[name + ".bias"] = rng.normal(size=shape[0]).astype(np.float16)
            path = os.path.join(folder, "w.npz")
            np.savez(path, **arrays)
            network = networks.build("mobilenet_v1", 5, path)
        want = arrays["conv1.weight"].astype(np.float32).sum(1, keepdims=True) * 0.5
        np.testing.assert_allclose(network.stem.conv.weight.detach().numpy(), want)
        np.testing.assert_allclose(network.blocks[12].pointwise.bias.detach().numpy(), arrays["conv_pw_13.bias"].astype(np.float32))

    def test_unknown_network_and_key_are_refused(self):
        with self.assertRaisesRegex(ValueError, "unknown 'alexnet'"):
            networks.build("alexnet", 5)
        with self.assertRaisesRegex(ValueError, "augmentation.flop: unknown key"):
            config.from_plain({**EXPERIMENT, "augmentation": {"flop": 1}})

    def test_one_cycle(self):
        rates = [learning_rate(step, 100, 1e-3, 0.25) for step in range(100)]
        self.assertAlmostEqual(rates[0], 4e-5)
        self.assertAlmostEqual(max(rates), 1e-3)
        self.assertEqual(int(np.argmax(rates)), 25)
        self.assertLess(rates[-1], 1e-5)


if __name__ == "__main__":
    unittest.main()
