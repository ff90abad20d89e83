"""Environments, wrappers and adapters of icnn_rl."""

if __name__ != "icnn_rl.envs":
    raise ImportError(
        f"This package was imported as {__name__!r}. Import it as icnn_rl.envs: under its bare folder name every "
        "class would exist twice. "
        "If icnn_rl.envs is missing, install the project (pip install -e .): the checkout has no symbolic links."
    )
