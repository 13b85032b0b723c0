"""The learnable gammatone filterbank, and the ways to compute it."""

from course_lib.layers.gammatone.layer import GammatoneFilterbank

__all__ = ["GammatoneFilterbank"]
