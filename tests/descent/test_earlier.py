"""Printed forms and checkpoints of before are still read.

`earlier/` holds what commit 4dc6049 printed and saved, before modules and keywords were renamed. The arrays of a
checkpoint are those after 4 of the 8 steps below.
"""

import json
import pathlib
import tarfile

import chex
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd

EARLIER = pathlib.Path(__file__).parent / "earlier"
OPTIMIZERS = {
    "accumulate": "accumulate(adam(0.1), 2)",
    "adamw": "chain(clip_by_global_norm(1.0), adamw(warmup_cosine(0.1, 2, 10), weight_decay=0.01, mask='w'))",
    "by_path": "by_path({'w': adafactor(0.1, min_dim_size_to_factor=2), '.*': sgd(0.1, momentum=0.9)})",
    "muon": "muon(0.1)",
    "packed": "packed(adam(0.1), below=64)",
    "params_ema": "params_ema(mars_adamw(0.1), 0.9)",
    "prodigy": "prodigy()",
    "psgd": "scale_by_psgd_kron()",
    "schedule_free": "schedule_free_adamw(0.1)",
    "shampoo": "scale_by_shampoo(eps=0.3, every=1, root='eigh')",
    "soap": "scale_by_soap(every=2)",
    "watch": "watch(lookahead(adam(0.1), 2, 0.5))",
}
REWRITTEN = ("compressed_mean(", "scale_by_shampoo(")
"""Calls that print another form today: `quantized_mean` or `low_rank_mean`, and `root=eigh_root(...)`."""


@pytest.mark.parametrize("text", json.loads((EARLIER / "printed.json").read_text()))
def test_a_printed_form_is_read(text):
    tx = gd.parse(text)
    assert gd.parse(repr(tx)) == tx
    assert text.startswith(REWRITTEN) or repr(tx) == text


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(EARLIER / "checkpoints.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_descent_resumes_from_a_checkpoint(name, checkpoints):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 4)).astype(np.float32)
    data = x, x @ rng.normal(size=(4, 3)).astype(np.float32)

    def loss(params, batch):
        return jnp.mean((batch[0] @ params["w"] + params["b"] - batch[1]) ** 2)

    def fit(**options):
        params = {"w": jnp.full((4, 3), 0.1), "b": jnp.zeros(3)}
        tx = gd.parse(OPTIMIZERS[name])
        return gd.fit(loss, params, tx, data, batch_size=8, steps=8, key=1, progress=False, **options)

    resumed = fit(checkpoint=checkpoints / name, resume=True)
    assert len(resumed.history["loss"]) == 8
    chex.assert_trees_all_close(resumed.params, fit().params, rtol=1e-4)  # other flags of XLA compiled the first 4
