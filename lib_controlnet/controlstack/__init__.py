"""ControlStack: ControlNet units for Stable Diffusion WebUIs."""

__version__ = "0.1.0"
