"""A place in the training (seed, epoch, step, sample) in, its own random generator out.

Every sample's randomness depends on that place alone: not on how many threads read, in which order samples
are made, or whether the training was interrupted. So no generator state is ever saved, and a resumed training
draws exactly what the uninterrupted one would have drawn.
"""

import numpy as np


def sample_rng(seed: int, epoch: int, step: int, sample: int) -> np.random.Generator:
    """Generator of sample `sample` of step `step` (counted within its epoch, from 0).

    SeedSequence mixes the four numbers into a key; Philox is counter-based, made for many independent streams.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, step, sample))))
