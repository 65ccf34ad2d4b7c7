"""A Pod manifest as CRI messages: read strictly, translated as kubelet would, volumes made."""
