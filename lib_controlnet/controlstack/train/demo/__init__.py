"""The demo models: small nets that paint shaded solids, and the ControlNets that steer them."""
