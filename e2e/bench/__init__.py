"""`make bench`: podwright beside containerd, in one run, on one machine."""
