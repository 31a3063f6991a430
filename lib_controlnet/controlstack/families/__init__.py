"""The kinds of control weights, one file each."""
