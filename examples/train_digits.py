"""Train the bundled model: a small CNN on scikit-learn's 1,797 handwritten digits, seconds on one CPU core.

It is the classic case for BatchNorm folding, with the statistics of real training: a convolution *with* bias
→ BatchNorm → ReLU, convolutions *without* bias → BatchNorm → ReLU, a linear layer → BatchNorm. It writes:

    models/digits/1/model.onnx         the model as ONNX, its BatchNormalization nodes kept
    models/digits_pt2/1/model.pt2      the same model as torch.export.save writes it
    models/*/samples.npz               some training images, for the parity gate at load
    models/*/labels.txt                the name of each class, one per line
    data/digits_test.npz               the held-out images, never seen in training, and their labels

Input ``images``: float32 [batch, 1, 8, 8], ink from 0 (paper) to 1, which is scikit-learn's pixel / 16.
Output ``logits``: float32 [batch, 10]; the largest is the digit.
"""

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from foldserve.importing.torch_program import to_onnx
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

EXAMPLES = Path(__file__).resolve().parent
SEED = 20
EPOCHS = 40
BATCH = 64
SAMPLES = 32
REQUIRED_ACCURACY = 0.98


class DigitsNet(nn.Module):
    """Three convolutions and two linear layers, 23 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=True),  # the bias that BatchNorm makes redundant
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(32 * 2 * 2, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Class scores ``logits`` [batch, 10] of ``images`` [batch, 1, 8, 8]."""
        return {"logits": self.classifier(self.features(images))}


def load_data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images float32 [n, 1, 8, 8] in 0…1 and labels int64 [n]: 1,437 to train on, 360 held out."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=360, stratify=digits.target, random_state=SEED
    )
    return train_images, train_labels, test_images, test_labels


def train(images: torch.Tensor, labels: torch.Tensor) -> DigitsNet:
    """A trained network in eval mode; the same one on every run."""
    torch.manual_seed(SEED)
    model = DigitsNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    steps_per_epoch = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * steps_per_epoch)
    for _ in track(range(EPOCHS), description="training"):
        order = torch.randperm(len(images))
        for step in range(steps_per_epoch):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            loss = nn.functional.cross_entropy(model(images[chosen])["logits"], labels[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model: DigitsNet, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of ``images`` whose largest logit is their label."""
    with torch.inference_mode():
        return float((model(images)["logits"].argmax(1) == labels).float().mean())


def export(model: DigitsNet) -> torch.export.ExportedProgram:
    """The model as a program that takes any number of images."""
    example = torch.zeros(2, 1, 8, 8)
    program = torch.export.export(
        model, (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # holds this machine's paths
    return program


def write_model(name: str, samples: np.ndarray) -> Path:
    """Create the repository entry ``name`` with all but the model; returns the folder of its version 1."""
    model = EXAMPLES / "models" / name
    version = model / "1"
    version.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(model / "samples.npz", images=samples)
    (model / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    return version


def main() -> None:
    """Train, check the accuracy on the held-out images and write everything."""
    console = Console()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # that torchvision is not installed is no news
    warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # torch, using itself
    torch.set_num_threads(1)  # sums in one order, so the same model every time
    train_images, train_labels, test_images, test_labels = load_data()
    model = train(torch.from_numpy(train_images), torch.from_numpy(train_labels))
    reached = accuracy(model, torch.from_numpy(test_images), torch.from_numpy(test_labels))
    console.print(f"accuracy on {len(test_images)} held-out images: {reached:.2%}")
    if reached < REQUIRED_ACCURACY:
        raise SystemExit(f"below the required {REQUIRED_ACCURACY:.0%}: nothing written")

    samples = train_images[:SAMPLES]
    with console.status("writing the models"):
        program = export(model)
        torch.export.save(program, write_model("digits_pt2", samples) / "model.pt2")
        ir.save(to_onnx(program), write_model("digits", samples) / "model.onnx")
        (EXAMPLES / "data").mkdir(exist_ok=True)
        np.savez_compressed(EXAMPLES / "data" / "digits_test.npz", images=test_images, labels=test_labels)
    console.print(f"written to {EXAMPLES / 'models'} and {EXAMPLES / 'data'}")


if __name__ == "__main__":
    main()
