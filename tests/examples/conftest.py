"""Data sets with a few images in the official layouts, for the tests of those who read them."""

from helpers.tiny_sets import masks, official, server, voc_files, write_archive, write_voc

__all__ = ["masks", "official", "server", "voc_files", "write_archive", "write_voc"]
