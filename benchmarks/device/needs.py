"""Which packages are missing here, one a line, by the names that pip knows; on stderr what is left out without them."""

from __future__ import annotations

import importlib.util
import sys

_LEARNERS = "everything but greedy actions and quadratic programmes"
_CHEETAH = "HalfCheetah-v5: Pendulum-v1 takes its place"
#: Module -> what pip calls it, and what cannot be done without it.
NEEDS = {
    "numpy": ("numpy", "everything"),
    "gymnasium": ("gymnasium", _LEARNERS),
    "stable_baselines3": ("stable-baselines3", _LEARNERS),
    "pandas": ("pandas", _LEARNERS),
    "cloudpickle": ("cloudpickle", _LEARNERS),
    "farama_notifications": ("farama-notifications", _LEARNERS),
    "matplotlib": ("matplotlib", f"{_LEARNERS}, and the picture"),
    "mujoco": ("mujoco", _CHEETAH),
    "glfw": ("glfw", _CHEETAH),
    "OpenGL": ("pyopengl", _CHEETAH),
    "etils": ("etils", _CHEETAH),
    "absl": ("absl-py", _CHEETAH),
    "imageio": ("imageio", _CHEETAH),
    "scipy": ("scipy", "quadratic programmes"),
    "pytest": ("pytest", "the tests"),
    "hypothesis": ("hypothesis", "some of the tests"),
    "numba": ("numba", "compiled code, on the CPU alone"),
    "qpth": ("qpth", "the comparison with qpth"),
}


def main() -> None:
    for module, (package, without) in NEEDS.items():
        if importlib.util.find_spec(module) is None:
            print(package)
            print(f"missing: {package}, needed for {without}", file=sys.stderr)


if __name__ == "__main__":
    main()
