"""Training on another device, checked without one: on torch's ``meta`` device.

A tensor there has a shape and no values. Work that mixes it with tensors of the processor raises,
and so does a copy to the host: what runs there needs no round trip on a GPU either.
"""

from unittest.mock import patch

import numpy as np
import pytest
import torch

from mbarl_ros.learning import clones, dynamics, networks, sac
from mbarl_ros.learning.batch import Batch
from mbarl_ros.learning.clones import Clones
from mbarl_ros.learning.dynamics import Ensemble
from mbarl_ros.learning.learner import Learner
from mbarl_ros.learning.sac import Sac
from mbarl_ros.schema.agent import SacConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_agent, override
from mbarl_ros.schema.model import ModelConfig
from mbarl_ros.studies.seeds import SeedRun
from mbarl_ros.task import Task

META = torch.device('meta')


@pytest.fixture
def meta(monkeypatch):
    """Random numbers on the device: torch has no generator for ``meta``."""

    def normal(shape, _):
        return torch.randn(shape, device=META)

    for module in (networks, dynamics):
        monkeypatch.setattr(module, 'standard_normal', normal)
    for module in (sac, dynamics):
        monkeypatch.setattr(module, 'generator_on', lambda *_: None)
    return META


def batch(device, policies=2, observation=4, action=2):
    shapes = ((observation,), (action,), (observation,), (), (), ())
    return Batch(*(torch.zeros(policies, 128, *shape, device=device) for shape in shapes))


@pytest.mark.parametrize('critics', [2, 4])
def test_an_update_needs_nothing_of_the_processor(meta, critics):
    task, _, demonstrations = SeedRun('', 'pointmass', 'mbarl', 0, 0).load()
    with patch.object(clones, 'STEPS_PER_ROW', 1):
        held = Clones(task, demonstrations, [0], [128, 128], 1, 0, meta)
    config = SacConfig(critics=critics)
    of_two = np.array([[0.0, 1.0], [0.0, 1.0]])
    with patch.object(Sac, '_begin_as'):  # copies from the processor, once
        agent = Sac(
            config, ('forward', 'backward'), np.zeros((0, 4), np.float32), 2, of_two, 0,
            clones=held, device=meta,
        )  # fmt: skip
    with patch.object(torch, 'randperm', lambda n, **_: torch.zeros(n, dtype=int, device=META)):
        if critics > 2:
            agent.generator = [torch.Generator()]
        metrics = agent.update(batch(meta))
    assert {value.device for value in metrics.values()} == {META}


def test_gradients_of_the_model_need_nothing_of_the_processor(meta):
    ensemble = Ensemble(Task.load('pointmass'), ModelConfig(), 0, meta)
    members, entries = ensemble._parameters[0].shape[:2]
    inputs, target = torch.zeros(members, 64, entries), torch.zeros(members, 64, 4)
    gradients = ensemble._gradients(inputs.to(meta), target.to(meta))
    ensemble._optimiser.step(gradients)
    assert {gradient.device for gradient in gradients} == {META}


def test_a_gpu_that_is_not_there_is_refused_by_the_key():
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    agent = override(load_agent('mbarl'), {'device': 'cuda'}, 'test')
    task, _, demonstrations = SeedRun('', 'pointmass', 'mbarl', 0, 0).load()
    with pytest.raises(ConfigError, match="key 'device': cuda, but torch finds no GPU"):
        Learner(task, agent, demonstrations, 0)
