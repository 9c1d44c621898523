"""Descents on Grain's datasets and loaders, and their resumption."""

import grain.python as grain
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd

ROWS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


class Rows:
    """A data source for Grain."""

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, i):
        return ROWS[i]

    def __repr__(self):  # Grain compares it on resuming
        return "Rows()"


def dataset():
    return grain.MapDataset.source(Rows()).shuffle(seed=3).repeat().batch(8).to_iter_dataset()


def loader():
    sampler = grain.IndexSampler(len(ROWS), shard_options=grain.NoSharding(), shuffle=True, num_epochs=None, seed=3)
    return grain.DataLoader(data_source=Rows(), sampler=sampler, operations=[grain.Batch(8)], worker_count=0)


def loss(params, batch):
    return jnp.mean((batch @ params - 1.0) ** 2)


def descent(data, steps, **options):
    return gd.fit(loss, jnp.zeros(4), gd.adam(0.05), data, steps=steps, progress=False, **options)


@pytest.mark.parametrize("data", [dataset, loader])
def test_a_resumed_descent_continues_from_the_position_of_the_iterator(data, tmp_path):
    uninterrupted = descent(data(), 40)
    for steps in (13, 40):
        resumed = descent(data(), steps, checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.params, uninterrupted.params)
    np.testing.assert_array_equal(resumed.history["loss"], uninterrupted.history["loss"])
    expected = [float(loss(jnp.zeros(4), next(iter(data()))))]
    np.testing.assert_allclose(uninterrupted.history["loss"][:1], expected, rtol=1e-6)


def test_resuming_refuses_an_iterator_without_set_state(tmp_path):
    descent(dataset(), 5, checkpoint=tmp_path)
    with pytest.raises(TypeError, match="holds the state of an iterator, and this one has no set_state"):
        descent((ROWS[:8] for _ in range(99)), 9, checkpoint=tmp_path, resume=True)
