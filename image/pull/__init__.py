"""From a name, or an archive, to an image in the store. The facade of the package."""

from image.pull.images import Images
from image.pull.layers import Layers
from image.pull.progress import LayerProgress, PullProgress

__all__ = ["Images", "LayerProgress", "Layers", "PullProgress"]
