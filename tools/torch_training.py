"""torch's side of bench_translation.py: one optimizer step as jaxlm's, a loop that can be killed, a run's folder at the end."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import torch
from torch_translation import Translator, to_jax, to_torch, views

from jaxlm import config
from jaxlm.data.pipeline import BatchIterator
from jaxlm.train import assembly, optim, parallel
from jaxlm.train import workdir as folders
from jaxlm.train.checkpoint import Checkpointer
from jaxlm.train.signals import StopSignal

STATE, FACTS = "state.pt", "facts.json"


class Trainer:
    """One optimizer step as jaxlm's: loss a target, gradient clipped, Adam, schedule, running average.

    Args:
      config: the model's.
      params: our initial weights, which it starts from.
      optim: train.optim.Config of plain Adam.
      rates: the learning rate of every step.
      smoothing: objective.label_smoothing.
      ema_decay: step.ema_decay.
      layout, num_views: see `views`.
    """

    def __init__(self, config, params, optim, rates, smoothing, ema_decay, layout, num_views, seed):
        if optim.kind != "adamw" or optim.weight_decay:
            raise ValueError("optim: torch is compared with optim.kind=adamw, weight_decay=0: Adam")
        torch.manual_seed(seed)
        self.model = Translator(config).train()
        self.model.load_state_dict(to_torch(params, config))
        self.weights = list(self.model.parameters())
        self.optim, self.rates, self.smoothing = optim, rates, smoothing
        self.layout, self.num_views, self.heads = layout, num_views, config.num_heads
        betas = (optim.b1, optim.b2)
        self.adam = torch.optim.Adam(self.weights, betas=betas, eps=optim.eps, fused=True)
        self.ema_decay = ema_decay
        self.ema = [weight.detach().clone() for weight in self.weights] if ema_decay else []
        self.done, self.tokens, self.seconds = 0, 0, 0.0

    def step(self, batch: Mapping[str, np.ndarray]) -> float:
        """Train on one batch; the smoothed loss a target."""
        total = float(batch["weights"].sum())
        loss_of = torch.nn.CrossEntropyLoss(reduction="sum", label_smoothing=self.smoothing)
        self.adam.zero_grad(set_to_none=True)
        value = 0.0
        for view in views(batch, self.layout, self.num_views, self.heads):
            loss = loss_of(self.model(view), view["targets"]) / total
            loss.backward()
            value += float(loss.detach())
        if self.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.weights, self.optim.clip_norm)
        for group in self.adam.param_groups:
            group["lr"] = float(self.rates[self.done])
        self.adam.step()
        if self.ema:
            decay = min(self.ema_decay, (1 + self.done) / (10 + self.done))  # as steps/gradient.py
            torch._foreach_lerp_(self.ema, [w.detach() for w in self.weights], 1 - decay)
        self.done += 1
        return value

    def averaged(self) -> dict[str, torch.Tensor]:
        """The weights that are scored."""
        named = dict(self.model.named_parameters())
        return dict(zip(named, self.ema, strict=True)) if self.ema else named

    def save(self, path: Path) -> None:
        """Everything that a later process goes on from; whole or not at all."""
        state = {"model": self.model.state_dict(), "adam": self.adam.state_dict(), "ema": self.ema}
        state |= {"counts": (self.done, self.tokens, self.seconds), "rng": torch.get_rng_state()}
        draft = path.with_suffix(".part")
        torch.save(state, draft)
        draft.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.adam.load_state_dict(state["adam"])
        self.ema, (self.done, self.tokens, self.seconds) = state["ema"], state["counts"]
        torch.set_rng_state(state["rng"])


def train(options: argparse.Namespace, setup: Any, end: float) -> bool:
    """Whether torch has done all steps; DIR/torch then is a run with its weights.

    Args:
      options: the tool's command line.
      setup: bench_translation.Setup.
      end: by time.monotonic().
    """
    cfg, info = setup.cfg, setup.parts.task.info
    workdir = folders.open_workdir(options.out / "torch")
    folders.claim(workdir, cfg, info.tokenizer, info.labels)
    trainer, state = make_trainer(options, setup), options.out / "torch" / STATE
    if state.exists():
        trainer.restore(state)
        print(f"torch      goes on at step {trainer.done}", flush=True)
    with StopSignal() as stop, BatchIterator(setup.source, start_step=trainer.done) as batches:
        mark = time.perf_counter()
        while trainer.done < cfg.num_steps and not stop.requested and time.monotonic() < end:
            batch = next(batches)
            loss = trainer.step(batch)
            trainer.tokens += real_tokens(batch)
            now = time.perf_counter()
            trainer.seconds, mark = trainer.seconds + now - mark, now
            if trainer.done % cfg.log_every == 0:
                rate = trainer.tokens / trainer.seconds
                done = f"{trainer.done}/{cfg.num_steps}"
                print(f"torch      step {done}  loss {loss:.4f}  {rate:,.0f} tok/s", flush=True)
            if cfg.checkpoint_every and trainer.done % cfg.checkpoint_every == 0:
                trainer.save(state)
                mark = time.perf_counter()
    trainer.save(state)
    if trainer.done < cfg.num_steps:
        return False
    publish(trainer, setup, workdir)
    return True


def make_trainer(options: argparse.Namespace, setup: Any) -> Any:
    """torch's side, with our first weights."""
    cfg = setup.cfg
    with jax.set_mesh(setup.parts.mesh), nn.logical_axis_rules(parallel.RULES):
        params = assembly.init_state(setup.parts, cfg.seed, setup.shapes).params
    adam = config.build(cfg, "optim")
    schedule = optim.make_schedule(adam, adam.learning_rate, cfg.num_steps)
    return Trainer(
        setup.parts.model.config,
        params,
        adam,
        rates=np.asarray(schedule(np.arange(cfg.num_steps))),
        smoothing=cfg.objective.label_smoothing,
        ema_decay=cfg.step.ema_decay,
        layout=options.layout,
        num_views=options.views,
        seed=cfg.seed,
    )


def publish(trainer: Any, setup: Any, workdir: Any) -> None:
    """A checkpoint of ours with torch's weights."""
    params = to_jax(trainer.averaged(), setup.parts.model.config)
    checkpoints = Checkpointer(workdir / folders.CHECKPOINTS)
    try:
        name = "ema" if setup.cfg.step.ema_decay else "params"
        checkpoints.save({name: params}, {}, trainer.done, blocking=True)
    finally:
        checkpoints.close()
    facts = {"tokens": trainer.tokens, "train_seconds": trainer.seconds}
    (workdir / FACTS).write_text(json.dumps(facts) + "\n")


def real_tokens(batch: Any) -> int:
    """Tokens of source and target that are no filling."""
    return sum(int((batch[name] > 0).sum()) for name in ("segment_ids", "source_segment_ids"))
