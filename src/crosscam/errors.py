"""What can go wrong, as a tree.

    CrosscamError               every error this package raises on purpose
    ├── InputError              the user gave something that cannot be used (also a ValueError)
    │   ├── DataError           a data set, folder or list is missing, incomplete or inconsistent
    │   ├── NotFoundError       a sighting, person or camera asked for is not in the gallery
    │   ├── ImageError          one picture cannot be decoded or is out of bounds
    │   ├── FeatureError        features or labels handed to retrieval do not fit
    │   └── RecipeError         a setting is unknown, mistyped or contradictory
    ├── MissingExtraError       an optional package is needed for this (also an ImportError)
    ├── CheckpointError         a run folder or weights file cannot be read or does not fit
    ├── GalleryError            a gallery cannot be opened, is in use or does not fit the model
    ├── ExportError             an encoder disagrees with the network it was made of
    ├── DiskError               a file cannot be written (the disk is full or read-only)
    └── TrainingError           training cannot go on (a loss is not finite)

A message says what came, what is needed and what to do.  The command line prints it without
a traceback.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "CrosscamError",
    "DataError",
    "DiskError",
    "ExportError",
    "FeatureError",
    "GalleryError",
    "ImageError",
    "InputError",
    "MissingExtraError",
    "NotFoundError",
    "RecipeError",
    "TrainingError",
]


class CrosscamError(Exception):
    """Base of every error raised on purpose."""


class InputError(CrosscamError, ValueError):
    """The user gave something that cannot be used."""


class DataError(InputError):
    """A data set, folder or list is missing, incomplete or inconsistent."""


class NotFoundError(InputError):
    """A sighting, person or camera asked for is not in the gallery."""


class ImageError(InputError):
    """One picture cannot be decoded or is out of bounds."""


class FeatureError(InputError):
    """Features or labels handed to retrieval do not fit."""


class RecipeError(InputError):
    """A setting is unknown, mistyped or contradictory."""


class MissingExtraError(CrosscamError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


class CheckpointError(CrosscamError):
    """A run folder or weights file cannot be read or does not fit."""


class GalleryError(CrosscamError):
    """A gallery cannot be opened, is in use by another process or does not fit the model."""


class ExportError(CrosscamError):
    """An encoder disagrees with the network it was made of, or cannot be made of it."""


class DiskError(CrosscamError):
    """A file cannot be written; what was there before is untouched."""


class TrainingError(CrosscamError):
    """Training cannot go on."""
