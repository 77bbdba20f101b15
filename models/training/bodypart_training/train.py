"""Train the network of one experiment. A run that was interrupted goes on from its last whole epoch, with the same result."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

from . import networks
from .augment import augment
from .config import Config, load
from .dataset import Cache, check_splits, draw_weights
from .metrics import confusion_matrix, scores
from .picture import Picture, letterbox, tensor
from .progress import Progress


def add_arguments(parser) -> None:
    parser.add_argument("config", help="the experiment's YAML file")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="cache written by prepare")
    parser.add_argument("--weights", metavar="FILE", help="starting weights: an .npz, or the checkpoint.pt of an earlier run")
    parser.add_argument("--run", required=True, dest="folder", metavar="FOLDER", help="run folder; an unfinished run in it goes on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")


def learning_rate(step: int, steps: int, peak: float, warm_up: float) -> float:
    """One cycle (Smith, 2018, arXiv 1803.09820) with cosine flanks: peak/25 → peak → peak/10000."""
    top = max(1.0, warm_up * steps)
    if step < top:
        return _cosine(peak / 25, peak, step / top)
    return _cosine(peak, peak / 1e4, (step - top) / max(1.0, steps - top))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2


class Training:
    """One run: the network, its optimiser, and the cache. ``epoch`` counts whole epochs done."""

    def __init__(self, config: Config, cache: Cache, folder: str, weights: str | None, device: str = "cpu", limit: int | None = None):
        self.config, self.cache, self.folder, self.device = config, cache, folder, torch.device(device)
        check_splits(cache.rows)
        unknown = {row.label for row in cache.rows} - set(config.classes)
        if unknown:
            raise ValueError(f"class {sorted(unknown)[0]} stands in the list but not in the experiment's classes")
        self.labels = np.array([config.classes.index(row.label) for row in cache.rows])
        self.train = np.array([i for i, row in enumerate(cache.rows) if row.split == "train"])
        self.val = np.array([i for i, row in enumerate(cache.rows) if row.split == "val"])
        if not len(self.train) or not len(self.val):
            raise ValueError("the list needs pictures in split train and in split val")
        hospitals = [cache.rows[i].hospital for i in self.train]
        self.draw = draw_weights(self.labels[self.train], hospitals, config.class_power, config.hospital_power)
        self.steps = max(1, min(len(self.train), limit or len(self.train)) // config.batch_size)
        torch.manual_seed(config.seed)
        if config.weights and not weights:
            raise ValueError("the experiment starts from weights: give --weights, or set weights: false")
        earlier = config.weights and weights.endswith(".pt")
        self.network = networks.build(config.network, len(config.classes), weights if config.weights and not earlier else None)
        if earlier:
            self.network.load_state_dict(torch.load(weights, map_location="cpu")["network"])
        self.weights_sha256 = _sha256(weights) if config.weights else ""
        self.network.to(self.device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.epoch = 0
        self.history: list[dict] = []

    @property
    def checkpoint(self) -> str:
        return os.path.join(self.folder, "checkpoint.pt")

    def resume(self) -> bool:
        """Load the run folder's checkpoint if there is one. Raises ValueError when it is of another experiment or other data."""
        if not os.path.exists(self.checkpoint):
            return False
        state = torch.load(self.checkpoint, map_location=self.device)
        mine = (self.config.plain(), self.cache.description["data_sha256"], self.weights_sha256)
        if mine != tuple(state[k] for k in ("config", "data_sha256", "weights_sha256")):
            raise ValueError(f"{self.folder} holds a run of another configuration, data or weights; choose another --run folder")
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.history = state["epoch"], state["history"]
        return True

    def save(self) -> None:
        os.makedirs(self.folder, exist_ok=True)
        state = {
            "config": self.config.plain(),
            "data_sha256": self.cache.description["data_sha256"],
            "weights_sha256": self.weights_sha256,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
        }
        torch.save(state, self.checkpoint + ".part")
        os.replace(self.checkpoint + ".part", self.checkpoint)  # a run that is killed while writing keeps its last checkpoint
        with open(os.path.join(self.folder, "run.json"), "w", encoding="utf-8") as file:
            described = {k: state[k] for k in ("config", "data_sha256", "weights_sha256", "epoch", "history")}
            described["torch"] = torch.__version__
            json.dump(described, file, indent=1)
            file.write("\n")

    def batch(self, epoch: int, order: np.ndarray, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs [B, 1, S, S] and labels [B] of one step; a function of seed, epoch and step alone."""
        size = self.config.batch_size
        chosen = order[step * size : (step + 1) * size]
        inputs = np.empty((len(chosen), 1, self.config.input.size, self.config.input.size), dtype=np.float32)
        for place, index in enumerate(chosen):
            rng = np.random.default_rng([self.config.seed, epoch, step, place])
            content = augment(self.cache.content(index), self.config.input.size, self.config.augmentation, rng)
            inputs[place, 0] = letterbox(content, self.config.input)
        return torch.from_numpy(inputs), torch.from_numpy(self.labels[chosen])

    def run_epoch(self) -> dict:
        """Train one epoch, measure on val, save a checkpoint, and return the epoch's line of the curves."""
        config, started = self.config, time.monotonic()
        order = np.random.default_rng([config.seed, self.epoch]).choice(self.train, self.steps * config.batch_size, p=self.draw)
        torch.manual_seed(config.seed * 1_000_003 + self.epoch)  # dropout
        self.network.train()
        total = 0.0
        progress = Progress(self.steps, f"epoch {self.epoch + 1}/{config.epochs}")
        bf16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        with ThreadPoolExecutor(1) as ahead:  # the next batch is made while this one trains
            waiting = ahead.submit(self.batch, self.epoch, order, 0)
            for step in range(self.steps):
                inputs, labels = waiting.result()
                if step + 1 < self.steps:
                    waiting = ahead.submit(self.batch, self.epoch, order, step + 1)
                rate = learning_rate(
                    self.epoch * self.steps + step, config.epochs * self.steps, config.learning_rate, config.warm_up
                )
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                inputs = inputs.to(self.device, memory_format=torch.channels_last)
                with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
                    logits = self.network(inputs)
                loss = F.cross_entropy(logits.float(), labels.to(self.device), label_smoothing=config.label_smoothing)
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
                self.optimiser.step()
                total += float(loss.detach())
                progress.step(f"loss {total / (step + 1):.3f}")
        progress.close()
        self.epoch += 1
        line = {"epoch": self.epoch, "loss": total / self.steps, "learning_rate": rate, **self.measure_val()}
        line["seconds"] = round(time.monotonic() - started, 1)
        self.history.append(line)
        self.save()
        return line

    def measure_val(self) -> dict:
        """Loss, accuracy and F1 on the validation split, from the cache (`evaluate` reads the files themselves)."""
        inputs = np.stack([tensor(_as_picture(self.cache.content(i)), self.config.input) for i in self.val])
        logits = predict(self.network, inputs, self.device)
        labels = self.labels[self.val]
        result = scores(confusion_matrix(labels, logits.argmax(1), len(self.config.classes)))
        loss = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
        f1 = dict(zip(self.config.classes, np.round(result["f1"], 4).tolist()))
        return {"val_loss": loss, "val_accuracy": result["accuracy"], "val_macro_f1": result["macro_f1"], "val_f1": f1}


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _as_picture(content: np.ndarray) -> Picture:
    return Picture(content.astype(np.float32) / 255.0, False, "none")


def predict(network: torch.nn.Module, inputs: np.ndarray, device: torch.device | str = "cpu", batch: int = 64) -> np.ndarray:
    """Logits float32 [N, classes] for inputs [N, S, S], without dropout."""
    network.eval()
    out = []
    with torch.no_grad():
        for start in range(0, len(inputs), batch):
            x = torch.from_numpy(np.ascontiguousarray(inputs[start : start + batch, None], dtype=np.float32))
            out.append(network(x.to(device, memory_format=torch.channels_last)).float().cpu().numpy())
    return np.concatenate(out)


def run(arguments) -> int:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = load(arguments.config)
    training = Training(config, Cache(arguments.data), arguments.folder, arguments.weights, arguments.device)
    if training.resume():
        print(f"{arguments.folder}: going on after epoch {training.epoch} of {config.epochs}", flush=True)
    while training.epoch < config.epochs:
        print(json.dumps(training.run_epoch()), flush=True)
    return 0
