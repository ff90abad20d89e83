"""Groups of members side by side: each group's mean is that of a network with these members alone."""

from __future__ import annotations

import pytest
import torch

from icnn_rl.nn import PICNN
from icnn_rl.nn.groups import GroupMeans
from icnn_rl.testing.minimisation import draw

S, E, B, N = 3, 2, 5, 4


@pytest.mark.parametrize("hidden", [(8,), (8, 6)])
def test_every_group_is_the_mean_of_its_members(hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = PICNN(6, N, (16,), hidden, activation="squareplus", ensemble=S * E).double()
    x, y = draw(0, S, B, 6).double(), draw(1, S, B, N).double()
    with torch.no_grad():
        stacked = GroupMeans(net.bind(x.repeat_interleave(E, 0)), S)
        variance = torch.full((S, B, N), 0.1, dtype=torch.float64)
        blur, common = stacked.blur(variance), stacked.blur(variance[0, 0, 0])
        assert blur is not None
        assert common is not None
        for s in range(S):
            own = PICNN(6, N, (16,), hidden, activation="squareplus", ensemble=E).double()
            for part, whole in zip(own.parameters(), net.parameters(), strict=True):
                part.copy_(whole[s * E : (s + 1) * E])
            lone = own.bind(x[s], "mean")
            torch.testing.assert_close(stacked(y)[s], lone(y[s]))
            torch.testing.assert_close(stacked.member_values(y)[s], lone.member_values(y[s]))
            torch.testing.assert_close(stacked.curvature[s], lone.curvature)
            torch.testing.assert_close(stacked.start()[s], lone.start())
            for name in ("value_and_grad", "value_grad_hessian"):
                for part, expected in zip(getattr(stacked, name)(y), getattr(lone, name)(y[s]), strict=True):
                    torch.testing.assert_close(part[s], expected)
            lone_blur = lone.blur(variance[s])
            assert lone_blur is not None
            expected_parts = lone.grad_hessian(y[s], lone_blur)
            for wide in (blur, common):
                for part, expected in zip(stacked.grad_hessian(y, wide), expected_parts, strict=True):
                    torch.testing.assert_close(part[s], expected)


def test_members_that_make_no_groups_are_refused() -> None:
    members = PICNN(6, N, (16,), ensemble=4).bind(draw(0, B, 6))
    with pytest.raises(ValueError, match="members: expected a multiple of 3 with reduction 'none', got 4 with 'none'"):
        GroupMeans(members, 3)
    with pytest.raises(ValueError, match="got 4 with 'mean'"):
        GroupMeans(PICNN(6, N, (16,), ensemble=4).bind(draw(0, B, 6), "mean"), 2)
