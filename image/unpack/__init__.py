"""tar streams into layer directories. The facade of the package."""

from image.unpack.apply import Result, unpack
from image.unpack.settle import settle

__all__ = ["Result", "settle", "unpack"]
