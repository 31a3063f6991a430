"""The helpers of A1111's API that scripts import."""
