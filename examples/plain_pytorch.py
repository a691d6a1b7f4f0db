"""A training loop of your own, in plain PyTorch: three lines of it are angularkd's. Run it: python examples/plain_pytorch.py"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from angularkd import Distiller


def distil(teacher: nn.Module, student: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], epochs: int) -> nn.Module:
    """Train the student on batches of images and labels; the teacher is left as it is."""
    distiller = Distiller(teacher, student)  # any two modules from images to logits
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for epoch in range(epochs):
        distiller.train()  # the teacher stays in evaluation mode
        for images, labels in batches:
            out = distiller(images, labels)
            optimizer.zero_grad()
            out.total.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: " + "  ".join(f"{name} {value:.3f}" for name, value in out.terms.items()))
    return student.eval()


if __name__ == "__main__":
    from sklearn.datasets import load_digits
    from torchvision.models import resnet18

    data = load_digits()
    images, labels = torch.tensor(data.images / 16).float()[:, None].repeat(1, 3, 4, 4), torch.tensor(data.target)
    batches = list(zip(images.split(64), labels.split(64), strict=True))[:4]
    distil(resnet18(num_classes=10), resnet18(num_classes=10), batches, epochs=1)  # in place of your networks
