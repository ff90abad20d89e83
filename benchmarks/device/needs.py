"""Which packages are missing here, one a line, by the names that pip knows; on stderr what is left out without them."""

from __future__ import annotations

import importlib.util
import sys

#: Module -> what pip calls it, and what cannot be done without it.
NEEDS = {
    "numpy": ("numpy", "everything"),
    "gymnasium": ("gymnasium", "everything but the quadratic programmes"),
    "stable_baselines3": ("stable-baselines3", "everything but the quadratic programmes"),
    "pandas": ("pandas", "everything but the quadratic programmes"),
    "cloudpickle": ("cloudpickle", "everything but the quadratic programmes"),
    "farama_notifications": ("farama-notifications", "everything but the quadratic programmes"),
    "mujoco": ("mujoco", "HalfCheetah-v5: Pendulum-v1 takes its place"),
    "glfw": ("glfw", "HalfCheetah-v5: Pendulum-v1 takes its place"),
    "OpenGL": ("pyopengl", "HalfCheetah-v5: Pendulum-v1 takes its place"),
    "etils": ("etils", "HalfCheetah-v5: Pendulum-v1 takes its place"),
    "absl": ("absl-py", "HalfCheetah-v5: Pendulum-v1 takes its place"),
    "imageio": ("imageio", "HalfCheetah-v5: Pendulum-v1 takes its place"),
    "scipy": ("scipy", "the quadratic programmes"),
    "matplotlib": ("matplotlib", "everything but the quadratic programmes, and the pictures"),
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
