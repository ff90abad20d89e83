"""Defaults of the command line by agent and environment: data, one YAML file an agent."""
