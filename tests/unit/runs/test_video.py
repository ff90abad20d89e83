"""What is to be seen in a video."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from icnn_rl.runs.video import follow

RUNNERS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Swimmer-v5")


def _frames(env_id, followed):
    """Pictures of the same state, at the start and 30 m away."""
    try:
        env = gym.make(env_id, render_mode="rgb_array", width=120, height=120)
        if followed:
            follow(env)
        env.reset(seed=0)
        frames = [env.render()]
    except Exception as error:
        if any(word in str(error) for word in ("EGL", "OpenGL", "GLContext")):
            pytest.skip(f"no off-screen rendering on this machine: {error}")
        raise
    robot = env.unwrapped
    position = robot.data.qpos.copy()
    position[0] += 30.0
    robot.set_state(position, robot.data.qvel.copy())
    frames.append(env.render())
    env.close()
    return frames


def _reddish(frame):
    """Pixels of the bodies, which are all of one warm colour; floor and sky are grey and blue."""
    red, blue = frame[..., 0].astype(int), frame[..., 2].astype(int)
    return int((red > blue + 30).sum())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("env_id", RUNNERS)
def test_the_camera_goes_along(env_id):
    before, after = (_reddish(frame) for frame in _frames(env_id, followed=True))
    assert before > 30
    assert after == pytest.approx(before, rel=0.5)
    assert _reddish(_frames(env_id, followed=False)[1]) < 0.2 * before  # what the default camera leaves of it


def test_what_has_no_such_camera_is_left_alone():
    for env_id in ("Pendulum-v1", "InvertedPendulum-v5"):
        env = gym.make(env_id, render_mode="rgb_array")
        env.reset(seed=0)
        before = env.render()
        follow(env)
        assert np.array_equal(env.render(), before)
        env.close()
