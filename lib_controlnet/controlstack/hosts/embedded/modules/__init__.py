"""The `modules` that WebUI scripts import, with A1111's names; `embedded.boot` gives it that name."""
