"""Convolutional networks that are convex in some of their inputs."""
