"""Backbones, layers and losses that methods are built from."""
