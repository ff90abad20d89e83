"""The faces' loader, the augmentation, and a first step towards completing them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icnn_rl.supervised import fit
from icnn_rl.supervised.imputation import TEST_FACES, AugmentedFaces, ImputationModule, load_faces, mask_left


def test_loader(data_folder):
    faces = load_faces(data_folder)
    assert faces.shape == (400, 1, 64, 64)
    assert faces.dtype == torch.float32
    assert float(faces.min()) >= 0.0
    assert float(faces.max()) <= 1.0


def test_it_improves_on_the_regression_that_it_starts_from(data_folder):
    faces = load_faces(data_folder)[:, :, ::4, ::4]  # 16 x 16
    train, test = faces[:350], faces[TEST_FACES]
    mask = mask_left(train[0])
    masks = mask.expand(test.shape)
    model = ImputationModule((1, 16, 16), (6,), context=(8, 12), latent=16, mirror=True, dropout=0.5)

    def error():
        with torch.no_grad():
            return float((model.eval()(test, masks) - test)[~masks].square().mean()) * 255**2

    model.fit_start_(train)
    mean_face = float((train.mean(0) - test)[~masks].square().mean()) * 255**2
    fit(model, AugmentedFaces(train, mask), epochs=6, batch_size=32, lr=3e-3, progress_bar=False)
    assert error() < mean_face  # about 1200: what a net without a gradient could at best come to


def test_augmentation():
    images = torch.arange(64.0).view(1, 1, 8, 8).repeat(30, 1, 1, 1)
    mask = mask_left(images[0])
    data = AugmentedFaces(images, mask, shift=0)
    seen = {float(data[i][0][0, 0, 0]) for i in range(30)}
    assert seen == {0.0, 7.0}  # as it is, and mirrored
    assert data[0][1] is mask
    moved = AugmentedFaces(images, None, shift=2, fraction=0.5)
    torch.manual_seed(1)
    image, drawn = moved[3]
    assert image.shape == drawn.shape == (1, 8, 8)
    assert 0.2 < float(drawn.float().mean()) < 0.8
    torch.manual_seed(1)
    assert torch.equal(moved[3][0], image)


def test_files_that_are_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_faces(tmp_path / "nowhere")
    np.savez(tmp_path / "olivetti_faces.npz", images=np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"olivetti_faces.npz: expected images, uint8 \(400, 64, 64\)"):
        load_faces(tmp_path)
    (tmp_path / "olivetti_faces.npz").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match=r"olivetti_faces.npz: not a usable .npz file"):
        load_faces(tmp_path)
