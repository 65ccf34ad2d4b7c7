"""The CRI validation suite (critest of the cri-tools project) against a node of the tests' own."""
