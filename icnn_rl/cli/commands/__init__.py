"""What the commands do: a module each, of the command's name, with ``run(options)``."""
