"""Training a ControlNet: a locked base, a copy of its encoder behind zero convolutions. See `docs/train.md`.

The parts that other programs use are `trainer.train`, `config.Config`, `samples.Example`, `folder.load` and
`encoder_copy.copy`.
"""
