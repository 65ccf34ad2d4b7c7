"""`make load`: many pods at once with kubelet's habits on top, then thousands of pods' lives."""
