"""Schedules, parameter groups, the moving average, signals and sinks."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from support_train import tiny_transformer
from tagmoe.schema.configs.train import OptimizerConfig
from tagmoe.train.engine.optimizer import Ema, learning_rate, make_optimizer, set_learning_rate
from tagmoe.train.engine.stop import catch_signals
from torch import nn


@pytest.mark.parametrize(
    ("schedule", "at", "expected"),
    [
        ("constant", 100, 1.0),
        ("linear", 55, 0.55),
        ("linear", 100, 0.1),
        ("cosine", 55, 0.55),
        ("cosine", 100, 0.1),
        ("cosine", 5, 0.5),
        ("constant", 10, 1.0),
    ],
)
def test_learning_rates_by_hand(schedule, at, expected):
    config = OptimizerConfig(lr=1.0, schedule=schedule, warmup=10, min_lr_ratio=0.1)
    assert learning_rate(at, steps=100, config=config) == pytest.approx(expected)


def test_groups_decay_matrices_only_and_scale_the_router():
    model = tiny_transformer()
    config = OptimizerConfig(lr=0.5, weight_decay=0.1, router_lr_scale=3.0)
    optimizer = make_optimizer(model, config)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, routers, plain = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert all(".router." in name for name in routers)
    assert len(routers) == 2
    assert "tag_embedding.weight" in plain
    assert all(model.get_parameter(name).ndim > 1 for name in decayed)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.0]
    assert len(decayed) + len(routers) + len(plain) == len(names)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1.5, 0.5]


def test_the_average_is_float32_and_moves_where_bfloat16_would_not():
    layer = nn.Linear(2, 2, bias=False).bfloat16()
    layer.weight.data.fill_(1.0)
    ema = Ema(layer, decay=0.999)
    layer.weight.data.fill_(1.5)
    for _ in range(10):
        ema.update(layer, step=10**6)
    expected = 1.5 - 0.5 * 0.999**10
    assert ema.shadow["weight"].dtype == torch.float32
    assert torch.allclose(ema.shadow["weight"], torch.full((2, 2), expected), atol=1e-6)
    assert expected > 1.004  # bfloat16 next to 1 moves in steps of 0.0078, so each update would round away


def test_frozen_parameters_are_not_averaged():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    assert set(Ema(layer, decay=0.9).shadow) == {"weight"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_become_a_flag_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with catch_signals() as flag:
        assert not flag
        os.kill(os.getpid(), number)
        assert flag.name == number.name
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_signals_are_left_alone():
    seen = []

    def body() -> None:
        with catch_signals() as flag:
            seen.append(bool(flag))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [False]
