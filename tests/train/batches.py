"""Batches from memory, with the interface of the data pipeline."""

import numpy as np

from jaxcodec.data.pipeline import Batch
from tests.micro import MICRO


class Batches:
    """Noise, a pure function of seed and place; `part` of `parts` of every batch."""

    def __init__(self, batch_size=2, seed=0, part=0, parts=1, level=0.1):
        self.batch_size, self.seed, self.place = batch_size, seed, 0
        self.part, self.parts, self.level = part, parts, level

    def at(self, place):
        rng = np.random.default_rng((self.seed, place))
        shape = (self.batch_size, MICRO.clip_samples(60))
        rows = (self.level * rng.normal(size=shape)).astype(np.float32)
        return np.split(rows, self.parts)[self.part]

    def __iter__(self):
        return self

    def __next__(self):
        self.place += 1
        return Batch(self.at(self.place - 1))

    def state(self):
        return {"place": self.place}

    def restore(self, state):
        self.place = state["place"]

    def fork(self, seed):
        return Batches(self.batch_size, seed, self.part, self.parts, self.level)
