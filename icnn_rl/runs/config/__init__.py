"""What defines a run: its record (config.yml), the settings of its agent, the agent built from them, versions."""
