"""Data sets, the image store, augmentation and batches."""
