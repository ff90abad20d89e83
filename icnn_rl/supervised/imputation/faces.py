"""The Olivetti faces: 400 images of 64 x 64 pixels, 10 of each of 40 people.

The images are AT&T Laboratories Cambridge's (F. Samaria, A. Harter, Parameterisation of a stochastic model for human
face identification, 1994).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from icnn_rl.supervised.training.data_files import find_file
from icnn_rl.supervised.training.npz import read_npz

__all__ = ["TEST_FACES", "AugmentedFaces", "load_faces"]

#: The paper's test set: the last five people.
TEST_FACES = slice(350, 400)


def load_faces(path: str | Path | None = None) -> Tensor:
    """All faces (400, 1, 64, 64), float32 in [0, 1], in scikit-learn's order.

    Args:
        path: olivetti_faces.npz or a folder with it. None: the folder named by ICNN_RL_DATA if it has one, otherwise
            ``sklearn.datasets.fetch_olivetti_faces``, which downloads once, checks the sum and keeps it in a cache.

    Raises:
        FileNotFoundError: no such file. ValueError: the file is damaged or something else; the text names it.
    """
    try:
        file = find_file("olivetti_faces.npz", path)
    except FileNotFoundError:
        if path is not None:
            raise
        from sklearn.datasets import fetch_olivetti_faces

        return torch.from_numpy(np.asarray(fetch_olivetti_faces().images, np.float32)).unsqueeze(1)
    images = read_npz(file, ["images"])["images"]
    if images.shape != (400, 64, 64) or images.dtype != np.uint8:
        raise ValueError(f"{file}: expected images, uint8 (400, 64, 64), got {images.dtype} {images.shape}.")
    return torch.from_numpy(images.astype(np.float32) / 255.0).unsqueeze(1)


class AugmentedFaces(Dataset[tuple[Tensor, Tensor]]):
    """Samples (image, mask): mirrored with probability 1/2 and moved by up to ``shift`` pixels, under a fixed mask.

    Draws from torch's generator, so that ``fit`` makes it repeatable. A mask None: every draw hides each pixel with
    probability ``fraction``.
    """

    def __init__(self, images: Tensor, mask: Tensor | None, shift: int = 1, fraction: float = 0.5) -> None:
        self.images, self.mask, self.shift, self.fraction = images, mask, shift, fraction

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        draw = torch.rand(3)
        if draw[0] < 0.5:
            image = image.flip(-1)
        dy, dx = (int(d * (2 * self.shift + 1)) for d in draw[1:])
        padded = F.pad(image, (self.shift,) * 4, mode="replicate")
        image = padded[:, dy : dy + image.shape[1], dx : dx + image.shape[2]]
        mask = torch.rand(image.shape) >= self.fraction if self.mask is None else self.mask
        return image, mask
