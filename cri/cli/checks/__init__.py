"""What `podwright doctor` looks at. Each check is a function that yields findings."""
